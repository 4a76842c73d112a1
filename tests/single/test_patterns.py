"""What is on storage: patterns of files, and errors that do not mean absent."""

import errno
import glob
import os
from pathlib import Path
from unittest.mock import patch

import pytest

from distsent import storage

FILES = (
    "a.csv", "b.csv", ".c.csv", "x/a.csv", "x/y/b.csv", "x/.z/c.csv", "[1]/a.csv", "1/d.csv",
    "x/y.csv/e", "*.csv",
)  # fmt: skip
PATTERNS = (
    "*.csv", "*", "**", "**/*.csv", "x/*", "x/**/*.csv", "*/*.csv", "[[]1]/*.csv", "[ab].csv",
    ".*", "x/**", "**/y/*", "none/*", "a.csv/*", "a.csv", "?.csv", "x/../*.csv",
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    return tmp_path


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_names_what_pythons_glob_names(tree: Path, pattern: str) -> None:
    found = storage.matches(tree / pattern)
    expected = {Path(path) for path in glob.glob(str(tree / pattern), recursive=True)}
    assert [*filter(storage.is_file, found)] == sorted(filter(Path.is_file, expected))


def test_a_folder_that_cannot_be_listed_is_not_skipped(tree: Path) -> None:
    """Python's glob would leave its files out without a word, and fewer rows would be trained."""
    real = os.scandir

    def stale(path: str | os.PathLike[str]) -> object:
        if Path(path).name == "y":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return real(path)

    with patch("os.scandir", stale):
        assert len(storage.matches(tree / "*.csv")) == 3
        with pytest.raises(OSError, match="Stale"):
            storage.matches(tree / "**" / "*.csv")
