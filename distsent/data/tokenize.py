"""Texts to tokens: each part of a corpus to files of its own, then all parts joined to the arrays of a token store.

The parts may be written by any number of processes; the joined files have the same bytes whatever their number.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from xxhash import xxh3_128_hexdigest

from distsent.data.dataset import Split, TextDataset
from distsent.errors import UserError
from distsent.fsync import sync

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[int, int], None]  # rows done, rows in all

FORMAT = 2  # of the files below; another number, another key: old stores are then left alone
BATCH = 1000  # texts held in memory at once
HEADER = 128  # bytes of an array file before its values


class BatchTokenizer:
    """A tokenizer, stripped to what decides the tokens. `digest`: hash of all that, `dtype`: of token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, pairs: bool) -> None:
        from tokenizers import Tokenizer

        self.max_length = max_length
        # A copy: truncation and padding are state of the tokenizer, and others use it, too.
        self._backend: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        side = tokenizer.truncation_side
        self.types = pairs and "token_type_ids" in tokenizer.model_input_names
        self.digest = hashlib.sha256(
            f"{self._backend.to_str()} {side} {self.types}".encode()
        ).hexdigest()
        special = self._backend.num_special_tokens_to_add(pairs)
        if max_length <= special:
            raise UserError(
                f"data.max_length = {max_length}: the tokenizer's own {special} special tokens fill that"
            )
        self._backend.enable_truncation(max_length, direction=side)
        self.dtype = np.dtype(
            np.uint16 if max(self._backend.get_vocab().values()) < 65536 else np.int32
        )

    def __call__(self, texts: list[str], pairs: list[str] | None) -> list[Any]:
        """An encoding with `ids`, `type_ids` and `overflowing` for each text."""
        return self._backend.encode_batch_fast(
            texts if pairs is None else list(zip(texts, pairs, strict=True))
        )


def write_part(
    folder: Path,
    corpus: TextDataset,
    encode: BatchTokenizer,
    part: int,
    parts: int,
    progress: Progress,
) -> None:
    """Tokenise block `part` of `parts` of each split, a stretch of consecutive rows, into files of its own."""
    blocks = {name: _block(len(split), part, parts) for name, split in corpus.splits.items()}
    total, done = sum(len(block) for block in blocks.values()), 0
    truncated = {}
    for name, split in corpus.splits.items():
        files = {what: open(_part(folder, name, what, part), "wb") for what in _streams(encode)}  # noqa: SIM115
        try:
            if part == 0:
                for what in ("ids", "types"):
                    files[what].write(bytes(HEADER)) if what in files else None
            truncated[name] = 0
            for start in range(blocks[name].start, blocks[name].stop, BATCH):
                rows = slice(start, min(start + BATCH, blocks[name].stop))
                truncated[name] += _write(files, split, rows, encode)
                done += rows.stop - rows.start
                progress(done, total)
        finally:
            for file in files.values():
                file.close()
    _part(folder, "part", "json", part).write_text(json.dumps(truncated))


def _write(files: Mapping[str, BinaryIO], split: Split, rows: slice, encode: BatchTokenizer) -> int:
    """Append a few rows; returns how many of them were cut."""
    encodings = encode(split.texts(rows), split.pairs(rows))
    lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int32)
    if not lengths.all():
        row = rows.start + int(lengths.argmin())
        raise UserError(f"{split.origin(row)}: the tokenizer makes no token of this text")
    files["lengths"].write(lengths.tobytes())
    files["ids"].write(
        np.fromiter(chain.from_iterable(e.ids for e in encodings), encode.dtype).tobytes()
    )
    if "types" in files:
        files["types"].write(
            np.fromiter(chain.from_iterable(e.type_ids for e in encodings), np.uint8).tobytes()
        )
    return sum(1 for encoding in encodings if encoding.overflowing)


def join_parts(
    folder: Path, corpus: TextDataset, encode: BatchTokenizer, parts: int, about: dict[str, Any]
) -> None:
    """Make one array of the parts of each, and `meta.json`, last: the folder is then a complete token store."""
    cut = [json.loads(_part(folder, "part", "json", part).read_text()) for part in range(parts)]
    meta: dict[str, Any] = {
        **about,
        "label_names": list(corpus.label_names),
        "splits": {},
        "files": {},
    }
    for name, split in corpus.splits.items():
        lengths = np.concatenate(
            [np.fromfile(_part(folder, name, "lengths", part), np.int32) for part in range(parts)]
        )
        if len(lengths) != len(split):
            raise RuntimeError(
                f"{len(lengths)} of {len(split)} rows of {name} were tokenised; this is a bug in distsent"
            )
        for what, dtype in (("ids", encode.dtype), ("types", np.dtype(np.uint8)))[
            : 1 + encode.types
        ]:
            _join(folder, name, what, parts, np.dtype(dtype), int(lengths.sum()))
        small = {
            "offsets": np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
            "labels": split.labels.astype(np.int32),
            "rows": split.rows.astype(np.int64),
        }
        for what, values in small.items():
            np.save(folder / f"{name}.{what}.npy", values)
        meta["splits"][name] = {
            "rows": len(split),
            "tokens": int(lengths.sum()),
            "longest": int(lengths.max()),
            "truncated": sum(truncated[name] for truncated in cut),
            "texts": xxh3_128_hexdigest(split.hashes.tobytes()),
            "classes": np.bincount(split.labels, minlength=len(corpus.label_names)).tolist(),
        }
    for path in sorted(folder.iterdir()):
        if path.suffix != ".npy":
            path.unlink()
            continue
        sync(path)
        meta["files"][path.name] = path.stat().st_size
    (folder / "meta.json").write_text(
        json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    sync(folder / "meta.json")
    sync(folder)


def _join(folder: Path, name: str, what: str, parts: int, dtype: np.dtype, count: int) -> None:
    """Append the other parts to part 0, which already is the array file but for its header: one part copies nothing."""
    path = _part(folder, name, what, 0)
    with open(path, "r+b") as file:
        file.seek(0, os.SEEK_END)
        for part in range(1, parts):
            other = _part(folder, name, what, part)
            with open(other, "rb") as more:
                shutil.copyfileobj(more, file, 8 << 20)
            other.unlink()
        file.seek(0)
        head = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (count,),
        }
        np.lib.format.write_array_header_1_0(file, head)
        if file.tell() != HEADER or path.stat().st_size != HEADER + count * dtype.itemsize:
            raise RuntimeError(
                f"{path.name} has not the size of {count} tokens; this is a bug in distsent"
            )


def _streams(encode: BatchTokenizer) -> tuple[str, ...]:
    return ("ids", "lengths", "types") if encode.types else ("ids", "lengths")


def _part(folder: Path, name: str, what: str, part: int) -> Path:
    return folder / (
        f"{name}.{what}.npy"
        if part == 0 and what in ("ids", "types")
        else f"{name}.{what}.{part:05d}"
    )


def _block(rows: int, part: int, parts: int) -> range:
    return range(rows * part // parts, rows * (part + 1) // parts)
