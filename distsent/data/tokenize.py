"""From texts to tokens: blocks of a dataset go to part files, and these into a token store.

Any number of processes may write the parts; the store has the same bytes whatever their number.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from xxhash import xxh3_128_hexdigest

from distsent.data.dataset import Split, TextDataset
from distsent.errors import UserError
from distsent.fsync import sync

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[int, int], None]  # rows done, rows in all

FORMAT = 4  # of the files below. It is part of the key: stores of other formats are left alone
BATCH = 1000  # texts in memory at once
HEADER = 128  # bytes of an array file before its values


class BatchTokenizer:
    """What decides the tokens of a text. `digest`: its hash; `streams`: arrays of token values."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, pairs: bool) -> None:
        from tokenizers import Tokenizer

        self.max_length = max_length
        # A copy: truncation and padding are state of the tokenizer, which others use, too
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        side = tokenizer.truncation_side
        # XLNet and Funnel give one of a single text's special tokens a type of its own.
        types = pairs or any(self._backend.encode("a").type_ids)
        types = types and "token_type_ids" in tokenizer.model_input_names
        content = f"{self._backend.to_str()} {side} {types}"
        self.digest = hashlib.sha256(content.encode()).hexdigest()
        special = self._backend.num_special_tokens_to_add(pairs)
        if max_length <= special:
            raise UserError(f"data.max_length = {max_length}: {special} special tokens fill that")
        self._backend.enable_truncation(max_length, direction=side)
        largest = max(self._backend.get_vocab().values())
        self.streams = {"ids": np.dtype(np.uint16 if largest < 65536 else np.int32)}
        if types:
            self.streams["types"] = np.dtype(np.uint8)

    def __call__(self, texts: list[str], pairs: list[str] | None) -> list[Any]:
        """An encoding with `ids`, `type_ids` and `overflowing` for each text."""
        rows = texts if pairs is None else list(zip(texts, pairs, strict=True))
        return self._backend.encode_batch_fast(rows)


def write_part(
    to: Path, dataset: TextDataset, encode: BatchTokenizer, rank: int, size: int, report: Progress
) -> None:
    """Tokenize block `rank` of `size` (consecutive rows) of each split into part files."""
    splits = dataset.splits
    bounds = {s: [len(split) * i // size for i in (rank, rank + 1)] for s, split in splits.items()}
    total, done = sum(stop - start for start, stop in bounds.values()), 0
    truncated = dict.fromkeys(splits, 0)
    for name, (start, stop) in bounds.items():
        with ExitStack() as stack:
            files = {
                what: stack.enter_context(open(_part(to, name, what, rank), "wb"))
                for what in ("lengths", *encode.streams)
            }
            for what in encode.streams if rank == 0 else ():
                files[what].write(bytes(HEADER))
            for first in range(start, stop, BATCH):
                rows = slice(first, min(first + BATCH, stop))
                truncated[name] += _write(files, splits[name], rows, encode)
                done += rows.stop - rows.start
                report(done, total)
    _part(to, "part", "json", rank).write_text(json.dumps(truncated))


def _write(files: Mapping[str, BinaryIO], split: Split, rows: slice, encode: BatchTokenizer) -> int:
    """Append some rows; returns how many of them were truncated."""
    encodings = encode(split.texts(rows), split.pairs(rows))
    lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int32)
    if not lengths.all():
        row = rows.start + int(lengths.argmin())
        raise UserError(f"{split.origin(row)}: the tokenizer makes no token of this text")
    files["lengths"].write(lengths.tobytes())
    for what, dtype in encode.streams.items():
        values = (e.ids if what == "ids" else e.type_ids for e in encodings)
        files[what].write(np.fromiter(chain.from_iterable(values), dtype).tobytes())
    return sum(bool(encoding.overflowing) for encoding in encodings)


def join_parts(
    folder: Path, dataset: TextDataset, encode: BatchTokenizer, parts: int, warnings: list[str]
) -> None:
    """Join the parts to arrays, then write `meta.json`: the folder is then a complete store."""
    cuts = [json.loads(_part(folder, "part", "json", part).read_text()) for part in range(parts)]
    names = list(dataset.label_names)
    # No times, no paths: equal stores have equal bytes
    meta: dict[str, Any] = {"format": FORMAT, "corpus": dataset.fingerprint}
    meta |= {"tokenizer": encode.digest, "max_length": encode.max_length}
    meta |= {"warnings": warnings, "label_names": names, "label_values": dataset.label_values}
    meta |= {"splits": {}, "files": {}}
    meta["read_as"] = {name: how.stored() for name, how in dataset.read_as.items()}
    for name, split in dataset.splits.items():
        paths = (_part(folder, name, "lengths", part) for part in range(parts))
        lengths = np.concatenate([np.fromfile(path, np.int32) for path in paths])
        tokens = int(lengths.sum())
        if len(lengths) != len(split):
            raise RuntimeError(f"{name}: {len(lengths)} of {len(split)} rows tokenized; report it")
        for what, dtype in encode.streams.items():
            _join([_part(folder, name, what, part) for part in range(parts)], dtype, tokens)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
        np.save(folder / f"{name}.offsets.npy", offsets)
        np.save(folder / f"{name}.labels.npy", split.labels.astype(np.int32))
        np.save(folder / f"{name}.rows.npy", split.rows.astype(np.int64))
        meta["splits"][name] = {
            "rows": len(split),
            "tokens": tokens,
            "longest": int(lengths.max()),
            "truncated": sum(cut[name] for cut in cuts),
            "texts": xxh3_128_hexdigest(split.hashes.tobytes()),
            "classes": np.bincount(split.labels, minlength=len(names)).tolist(),
        }
    for path in sorted(folder.iterdir()):
        if path.suffix == ".npy":
            sync(path)
            meta["files"][path.name] = path.stat().st_size
        else:
            path.unlink()
    text = json.dumps(meta, indent=1, ensure_ascii=False) + "\n"
    (folder / "meta.json").write_text(text, encoding="utf-8")
    sync(folder / "meta.json")
    sync(folder)


def _join(paths: list[Path], dtype: np.dtype, count: int) -> None:
    """Append all parts to the first, the array file but for its header: one part copies nothing."""
    with open(paths[0], "r+b") as file:
        file.seek(0, os.SEEK_END)
        for path in paths[1:]:
            with open(path, "rb") as more:
                shutil.copyfileobj(more, file, 8 << 20)
            path.unlink()
        size = file.tell()
        file.seek(0)
        head = {"descr": dtype.str, "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(file, head)
        if file.tell() != HEADER or size != HEADER + count * dtype.itemsize:
            raise RuntimeError(f"{paths[0].name} is not {count} tokens; this is a bug in distsent")


def _part(folder: Path, split: str, what: str, part: int) -> Path:
    array = part == 0 and what in ("ids", "types")
    return folder / f"{split}.{what}.{'npy' if array else f'{part:05d}'}"
