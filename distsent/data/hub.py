"""Corpora of the Hugging Face hub, or of its local cache where there is no network."""

from __future__ import annotations

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

from distsent.data.arrow import explain, silently
from distsent.data.rows import Columns, Part
from distsent.errors import UserError

# What distsent calls by a short name: (hub id, configuration).
KNOWN = {
    "imdb": ("stanfordnlp/imdb", None),
    "emotion": ("dair-ai/emotion", "split"),
    "tweets": ("cardiffnlp/tweet_eval", "sentiment"),
}


class Hub:
    """A corpus by its hub id. Splits other than train, validation and test (imdb's `unsupervised`) are left alone."""

    def __init__(self, name: str, config: str | None, revision: str | None) -> None:
        known, standard = KNOWN.get(name, (name, None))
        self.asked, self.name, self.config, self.revision = (
            name,
            known,
            config or standard,
            revision,
        )

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in ("train", "validation", "test") if split in self._data)

    def fingerprint(self) -> str:
        kept = [
            (split, self._data[split]._fingerprint) for split in self.splits
        ]  # commit, configuration and split
        return hashlib.sha256(
            repr(("hub", self.name, self.config, self.revision, kept)).encode()
        ).hexdigest()

    def columns(self, split: str) -> list[tuple[str, list[str]]]:
        return [(f"{self.name} {split}", self._data[split].column_names)]

    def parts(self, split: str, columns: Columns, drop: bool) -> list[Part]:
        from datasets import ClassLabel

        rows = self._data[split]
        kind = rows.features[columns.label]
        names = tuple(kind.names) if isinstance(kind, ClassLabel) else None
        return [Part(f"{self.name} {split}", rows.data.table, names)]

    @cached_property
    def _data(self) -> Any:
        from datasets import load_dataset

        try:
            with silently(), _offline_without_network():
                data = load_dataset(self.name, self.config, revision=self.revision)
        except Exception as error:
            raise self._explain(error) from error
        commit = Path(next(iter(data.values())).cache_files[0]["filename"]).parent.name
        if re.fullmatch("[0-9a-f]{7,40}", self.revision or "") and not commit.startswith(
            str(self.revision)
        ):
            # Without network datasets takes whatever version the cache has
            raise UserError(
                f"data.revision = {self.revision!r}: the local cache has {self.name} in version {commit} only"
            )
        return data

    def _explain(self, error: Exception) -> BaseException:
        from datasets.exceptions import DatasetNotFoundError

        asked = f"data.source = {self.asked!r}"
        text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        if isinstance(error, ConnectionError):
            return UserError(
                f"{asked}: {self.name} is not in the local cache and the hub cannot be reached; run once where there is "
                "network, with HF_HOME on shared storage, or give a folder with train, validation and test files"
            )
        if isinstance(error, DatasetNotFoundError):
            return UserError(
                f"{asked}: no such folder, and the hub shows no such corpus ({text}); local paths start with ./"
            )
        if isinstance(
            error, ValueError | RuntimeError
        ):  # an unknown data.config, a corpus that is a script
            return UserError(
                f"{asked}: {text}"
                + (f" (data.config = {self.config!r})" if "onfig" in text else "")
            )
        return explain(error, self.name)


@contextmanager
def _offline_without_network() -> Iterator[None]:
    """Look into the local cache at once where the hub's name does not even resolve: trying takes half a minute."""
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
