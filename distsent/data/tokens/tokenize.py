"""From texts to tokens: blocks of a dataset go to part files, and these into a token store.

Any number of processes may write the parts; the store has the same bytes whatever their number.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from xxhash import xxh3_128_hexdigest

from distsent.data.checks import row_lines
from distsent.data.dataset import Split, TextDataset
from distsent.data.labels.targets import count_classes, summary
from distsent.data.row_arrays import BLOCK, blocks, row_array
from distsent.data.tokens.batch_tokenizer import BatchTokenizer, flat, flat_ids
from distsent.data.tokens.content import NO_TEXT
from distsent.data.tokens.places import parts_of, places_of
from distsent.errors import FAILED, UserError
from distsent.storage import appears, exists, sync

Progress = Callable[[int, int], None]  # rows done, rows in all

FORMAT = 5  # of the files below. It is part of the key: stores of other formats are left alone
BATCH = 1000  # texts in memory at once
HEADER = 128  # bytes of an array file before its values


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
                for what in encode.parts
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

    long: int = 0  # rows with more tokens than a window
    truncated: int = 0  # rows with tokens that are in no window
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
    encoded = encode(split.texts(rows), split.pairs(rows))
    ids, lengths = flat_ids(encoded, encode.streams["ids"])
    empty = encode.content.find_empty(encoded, ids, lengths)
    if empty.any():
        found.empty += (rows.start + np.flatnonzero(empty)).tolist()
        encoded = [encoded[i] for i in np.flatnonzero(~empty)]
        ids, lengths = flat_ids(encoded, encode.streams["ids"])
    arrays = {"lengths": flat((one.lengths for one in encoded), np.int32), "ids": ids}
    if "windows" in files:
        arrays["windows"] = np.array([len(one.lengths) for one in encoded], dtype=np.int32)
    if "types" in files:
        arrays["types"] = flat((one.type_ids for one in encoded), encode.streams["types"])
    for what, array in arrays.items():
        files[what].write(array.tobytes())
    found.unknown += encode.content.count_unknown(encoded, ids, lengths)
    found.long += sum(one.long for one in encoded)
    found.truncated += sum(one.truncated for one in encoded)


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
    meta |= encode.long_texts.to_dict()
    meta |= {} if encode.template is None else {"template": encode.template}
    meta["read_as"] = {name: how.stored() for name, how in dataset.read_as.items()}
    for name, split in splits.items():
        lengths = _numbers(folder, name, "lengths", parts)
        arrays = {"offsets": row_array(np.int64, _offsets(lengths))}
        arrays |= {"labels": split.labels, "rows": split.rows}
        arrays |= {} if name == "train" else places_of(split)
        if "windows" in encode.parts:
            counts = _numbers(folder, name, "windows", parts)
            arrays["windows"] = row_array(np.int64, _offsets(counts))
            lengths = row_array(np.int64, _row_lengths(arrays["offsets"], arrays["windows"]))
        if len(lengths) != len(split):
            raise RuntimeError(f"{name}: {len(lengths)} of {len(split)} rows tokenized; report it")
        tokens = int(arrays["offsets"][-1])
        for what, dtype in encode.streams.items():
            _join([_part(folder, name, what, part) for part in range(parts)], dtype, tokens)
        for what, array in arrays.items():
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
        if name != "train":
            meta["splits"][name]["parts"] = parts_of(split)
        if "windows" in encode.parts:
            total = int(arrays["windows"][-1])
            meta["splits"][name] |= {"long": found[name].long, "windows": total}
    _complete(folder, meta)


def _complete(folder: Path, meta: dict[str, Any]) -> None:
    """Write `meta.json`, with the sizes of the arrays; delete all other files."""
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


def _numbers(folder: Path, split: str, what: str, parts: int) -> np.ndarray:
    """The numbers of all parts, int32."""
    paths = [_part(folder, split, what, part) for part in range(parts)]
    return row_array(np.int32, chain.from_iterable(map(_read_numbers, paths)))


def _read_numbers(path: Path) -> Iterator[np.ndarray]:
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


def _row_lengths(offsets: np.ndarray, windows: np.ndarray) -> Iterator[np.ndarray]:
    """Tokens of each row, in blocks, from where windows and rows start."""
    for some in blocks(len(windows) - 1):
        yield np.diff(offsets[windows[some.start : some.stop + 1]])


def _findings(folder: Path, parts: int) -> dict[str, PartFindings]:
    """What all parts found, per split, in the order of the rows."""
    out: dict[str, PartFindings] = {}
    for part in range(parts):
        for name, some in json.loads(_part(folder, "part", "json", part).read_text()).items():
            total = out.setdefault(name, PartFindings())
            total.long += some["long"]
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
