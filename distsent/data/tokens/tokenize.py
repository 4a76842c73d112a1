"""From texts to tokens: blocks of a dataset go to part files, and these into a token store.

Any number of processes may write the parts; the store has the same bytes whatever their number.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from xxhash import xxh3_128_hexdigest

from distsent.data.checks import row_lines
from distsent.data.dataset import Split, TextDataset
from distsent.data.labels.targets import count_classes, summary
from distsent.data.row_arrays import BLOCK, blocks, row_array
from distsent.data.tokens.content import NO_TEXT, TokenContent
from distsent.errors import FAILED, UserError
from distsent.storage import appears, exists, sync

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
        self.content = TokenContent(tokenizer, pairs)
        content = f"{self._backend.to_str()} {side} {types} {self.content.special.tolist()}"
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
    found = {name: PartFindings() for name in splits}
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
                _write(files, splits[name], rows, encode, found[name])
                done += rows.stop - rows.start
                report(done, total)
    content = {name: asdict(some) for name, some in found.items()}
    _part(to, "part", "json", rank).write_text(json.dumps(content))


@dataclass
class PartFindings:
    """What tokenizing some rows of a split found."""

    truncated: int = 0
    unknown: int = 0  # rows of unknown tokens alone
    empty: list[int] = field(default_factory=list)  # rows without a token of their text: left out


def _write(
    files: Mapping[str, BinaryIO],
    split: Split,
    rows: slice,
    encode: BatchTokenizer,
    found: PartFindings,
) -> None:
    """Append some rows, but those without a token of their text."""
    encodings = encode(split.texts(rows), split.pairs(rows))
    ids, lengths = _ids(encodings, encode)
    empty = encode.content.find_empty(encodings, ids, lengths)
    if empty.any():
        found.empty += (rows.start + np.flatnonzero(empty)).tolist()
        encodings = [encodings[i] for i in np.flatnonzero(~empty)]
        ids, lengths = _ids(encodings, encode)
    files["lengths"].write(lengths.tobytes())
    files["ids"].write(ids.tobytes())
    if "types" in files:
        types = chain.from_iterable(encoding.type_ids for encoding in encodings)
        files["types"].write(np.fromiter(types, encode.streams["types"]).tobytes())
    found.unknown += encode.content.count_unknown(ids, lengths)
    found.truncated += sum(bool(encoding.overflowing) for encoding in encodings)


def _ids(encodings: Sequence[Any], encode: BatchTokenizer) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int32)
    ids = chain.from_iterable(encoding.ids for encoding in encodings)
    return np.fromiter(ids, encode.streams["ids"], int(lengths.sum())), lengths


def join_parts(
    folder: Path, dataset: TextDataset, encode: BatchTokenizer, parts: int, warnings: list[str]
) -> None:
    """Join the parts to arrays, then write `meta.json`: the folder is then a complete store."""
    written = [_part(folder, "part", "json", part) for part in range(parts)]
    if not appears(lambda: all(map(exists, written)), folder):
        what = f"{folder}: rank 0 does not see what other ranks have written"
        raise UserError(f"{what}; data.store must be shared", code=FAILED)
    found = _findings(folder, parts)
    splits, dropped = drop_empty(dataset, {name: some.empty for name, some in found.items()})
    warnings = [*warnings, *dropped]
    names = list(dataset.label_names)
    # No times, no paths: equal stores have equal bytes
    meta: dict[str, Any] = {"format": FORMAT, "corpus": dataset.fingerprint}
    meta |= {"tokenizer": encode.digest, "max_length": encode.max_length}
    meta |= {"warnings": warnings, "label_names": names, "label_values": dataset.label_values}
    if dataset.data.task != "single_label":  # the bytes of older stores have no task
        meta["task"] = dataset.data.task
    meta |= {"splits": {}, "files": {}}
    meta["read_as"] = {name: how.stored() for name, how in dataset.read_as.items()}
    for name, split in splits.items():
        paths = [_part(folder, name, "lengths", part) for part in range(parts)]
        lengths = row_array(np.int32, chain.from_iterable(map(_lengths, paths)))
        if len(lengths) != len(split):
            raise RuntimeError(f"{name}: {len(lengths)} of {len(split)} rows tokenized; report it")
        offsets = row_array(np.int64, _offsets(lengths))
        tokens = int(offsets[-1])
        for what, dtype in encode.streams.items():
            _join([_part(folder, name, what, part) for part in range(parts)], dtype, tokens)
        for what, array in (("offsets", offsets), ("labels", split.labels), ("rows", split.rows)):
            _save(folder / f"{name}.{what}.npy", array)
        meta["splits"][name] = {
            "rows": len(split),
            "tokens": tokens,
            "longest": max(int(lengths[some].max()) for some in blocks(len(lengths))),
            "truncated": found[name].truncated,
            "unknown": found[name].unknown,
            "texts": xxh3_128_hexdigest(split.hashes.data),
            **summary(split.labels, len(names)),
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


def _lengths(path: Path) -> Iterator[np.ndarray]:
    with open(path, "rb") as file:
        while piece := file.read(4 * BLOCK):
            yield np.frombuffer(piece, np.int32)


def _offsets(lengths: np.ndarray) -> Iterator[np.ndarray]:
    total = np.zeros(1, np.int64)
    yield total
    for some in blocks(len(lengths)):
        sums = total[-1] + np.cumsum(lengths[some], dtype=np.int64)
        yield sums
        total = sums


def _findings(folder: Path, parts: int) -> dict[str, PartFindings]:
    """What all parts found, per split, in the order of the rows."""
    out: dict[str, PartFindings] = {}
    for part in range(parts):
        for name, some in json.loads(_part(folder, "part", "json", part).read_text()).items():
            total = out.setdefault(name, PartFindings())
            total.truncated += some["truncated"]
            total.unknown += some["unknown"]
            total.empty += some["empty"]
    return out


def drop_empty(
    dataset: TextDataset, empty: Mapping[str, list[int]]
) -> tuple[dict[str, Split], list[str]]:
    """The splits without these of their rows, and a line for each that loses some.

    Raises UserError, naming the rows, unless the job drops bad rows.
    """
    splits = dict(dataset.splits)
    lost = {name: np.array(rows, dtype=np.int64) for name, rows in empty.items() if rows}
    if lost and not dataset.data.drop_bad_rows:
        lines = [
            line
            for name, rows in lost.items()
            for line in row_lines(splits[name].source, splits[name].rows[rows], NO_TEXT)
        ]
        lines[-1] += "; data.drop_bad_rows = true leaves such rows out"
        raise UserError(*lines, fix={"data.drop_bad_rows": True})
    warnings = []
    for name, rows in lost.items():
        split = splits[name]
        splits[name] = left = split.without(rows)
        warnings.append(f"{name}: dropped {len(rows):,} of {len(split):,} rows with {NO_TEXT}")
        n = len(dataset.label_names)
        before, after = (count_classes(some.labels, n) for some in (split, left))
        gone = np.flatnonzero((before > 0) & (after == 0))
        if len(left) == 0 or (name == "train" and len(gone)):
            what = f"class {dataset.label_names[gone[0]]!r}" if len(left) else f"the {name} split"
            raise UserError(f"{what} has no rows left: all have {NO_TEXT}")
    return splits, warnings


def _save(path: Path, array: np.ndarray) -> None:
    """Write an array file. Raises OSError: of a file of its own, numpy drops what the disk says."""
    with open(path, "wb") as file:
        np.save(_Sink(file.write), array)


@dataclass(frozen=True)
class _Sink:
    write: Callable[[bytes], object]


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
