"""Datasets of the Hugging Face hub, or of its local cache where there is no network."""

import hashlib
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from distsent.data.arrow import explain, silenced
from distsent.data.layouts.split_names import choose_splits
from distsent.data.rows import SPLITS, Columns, Part
from distsent.data.sample import table_columns
from distsent.errors import UserError
from distsent.formats.column_choice import SAMPLE, Column
from distsent.formats.compression import data_suffix
from distsent.formats.open import TABLES
from distsent.job.known_datasets import KNOWN_DATASETS
from distsent.job.schema import DataSection
from distsent.storage import exists


class Hub:
    """A dataset by its hub id. Splits with other names (imdb's `unsupervised`) are not read."""

    def __init__(self, data: DataSection) -> None:
        name, known = data.source, KNOWN_DATASETS.get(data.source)
        self.asked, self.name = name, known.hub_id if known else name
        self.config, self.revision = data.config or (known and known.config), data.revision
        self._named = {split: getattr(data, split) for split in SPLITS}
        same = f"./{name} is not read; data.source=./{name} reads it"
        note = f"data.source = {name!r} is {self.name} of the hub: {same}"
        self.notes = (note,) if exists(name) else ()

    @property
    def splits(self) -> tuple[str, ...]:
        return (*self._chosen,)

    @cached_property
    def _chosen(self) -> dict[str, list[str]]:
        """For each split the splits of the hub that it consists of."""
        where = f"data.source = {self.asked!r}"
        return choose_splits(self._named, [*map(str, self._data)], where)

    def fingerprint(self) -> str:
        # Of commit, configuration and split
        named = [(split, name) for split, names in self._chosen.items() for name in names]
        kept = [(split, self._data[name]._fingerprint) for split, name in named]
        content = ("hub", self.name, self.config, self.revision, kept)
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def columns(self, split: str) -> list[tuple[str, list[str]]]:
        return [(f"{self.name} {n}", self._data[n].column_names) for n in self._chosen[split]]

    def sample(self, split: str, most: int | None = SAMPLE) -> list[tuple[str, list[Column]]]:
        """(name, the columns with the values of `most` rows) of the split."""
        tables = {n: self._data[n].data.table.slice(0, most) for n in self._chosen[split]}
        return [(f"{self.name} {n}", table_columns(table)) for n, table in tables.items()]

    def parts(self, split: str, columns: Columns) -> list[Part]:
        return [self._part(name, columns) for name in self._chosen[split]]

    def _part(self, split: str, columns: Columns) -> Part:
        rows = self._data[split]
        names = columns.in_file(rows.column_names)
        features = (rows.features[names[column]] for column in columns.of_labels)
        named = (getattr(getattr(one, "feature", one), "names", None) for one in features)
        classes = next(filter(None, named), None)
        table = rows.data.table.select([*names.values()]).rename_columns([*names])
        return Part(f"{self.name} {split}", table, classes and tuple(classes))

    @cached_property
    def _data(self) -> Any:
        from datasets import load_dataset

        try:
            with silenced(), _offline_without_network():
                data = load_dataset(self.name, self.config, revision=self.revision)
        except Exception as error:
            raise self._explain(error) from error
        commit = Path(next(iter(data.values())).cache_files[0]["filename"]).parent.name
        wanted = self.revision or ""
        # Without network the datasets library takes whatever version the cache has
        if re.fullmatch("[0-9a-f]{7,40}", wanted) and not commit.startswith(wanted):
            found = f"the local cache has {self.name} in version {commit} only"
            raise UserError(f"data.revision = {wanted!r}: {found}")
        return data

    def _explain(self, error: Exception) -> BaseException:
        from datasets.exceptions import DatasetNotFoundError

        asked = f"data.source = {self.asked!r}"
        text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        if isinstance(error, ConnectionError):
            lack = f"{self.name} is not in the local cache and the hub cannot be reached"
            fix = "or name a folder with train, validation and test files"
            path = "; local paths start with ./" if data_suffix(Path(self.asked)) in TABLES else ""
            fix = f"run once online with a shared HF_HOME, {fix}{path}"
            return UserError(f"{asked}: {lack}; {fix}")
        if isinstance(error, DatasetNotFoundError):
            lack = f"no such folder, and no such dataset on the hub ({text})"
            return UserError(f"{asked}: {lack}; local paths start with ./")
        # An unknown data.config, or a dataset that is a script
        if isinstance(error, ValueError | RuntimeError):
            config = f" (data.config = {self.config!r})" if "onfig" in text else ""
            return UserError(f"{asked}: {text}{config}")
        return explain(error, self.name)


@contextmanager
def _offline_without_network() -> Iterator[None]:
    """Use the local cache at once if the hub's name does not resolve: trying takes 30 seconds."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if not getproxies():  # a proxy resolves names for us
        try:
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
        except OSError:
            config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
