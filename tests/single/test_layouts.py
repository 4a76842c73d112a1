"""Which files are which split: every layout that public datasets come in, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from distsent.data.dataset import TextDataset, open_dataset
from distsent.formats.open import READERS
from tests.dataset_files import data, mistakes, own_cache, write  # noqa: F401
from tests.layouts import LAYOUTS, ROWS

pytestmark = pytest.mark.usefixtures("own_cache")


def rows_of(dataset: TextDataset) -> dict[str, list[tuple[str, str]]]:
    names = dataset.label_names
    return {
        name: [*zip(split.texts(slice(None)), (names[i] for i in split.labels), strict=True)]
        for name, split in dataset.splits.items()
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_its_rows(tmp_path: Path, name: str):
    layout = LAYOUTS[name]
    if name.startswith("save_to_disk") and "arrow" not in READERS:
        pytest.skip("arrow is not read yet")
    found = rows_of(open_dataset(data(layout.make(tmp_path), **layout.keys), 1))
    expected = layout.rows or ROWS
    if "test_fraction" in layout.keys:
        assert sorted(found["train"] + found["test"]) == sorted(expected["train"])
    else:
        assert found == expected
