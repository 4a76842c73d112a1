"""Label texts:  python -m distsent.predict RUN_OR_MODEL [TEXT ...] [--file FILE data.key=value ...]

Prints one JSON object per text, in their order: label, score, and the score of every label. Texts
come from the arguments, from --file (a file or folder of any kind that training reads; labels are
not needed), or from standard input, one per line, answered as they come. A row without text gets an
"error". A file is read as the run read its own, unless data.key=value says otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from distsent import cli
from distsent.errors import FINISHED, UserError

if TYPE_CHECKING:
    from distsent.data.layouts.text_folder import TextFolder
    from distsent.data.texts import Text, TextFile

CHUNK = 2048  # texts in memory at once: enough to sort by length, few enough to stream


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    # Heavy imports, only for a valid command line
    from distsent.distributed.world import World
    from distsent.evaluation.predictor import Predictor
    from distsent.runtime.device import share_cores

    file = open_texts(options) if options.file else None
    share_cores(World())
    predictor = Predictor(options.model, options.precision, max_length=options.max_length)
    for note in predictor.notes:
        print(f"distsent: {note}", file=sys.stderr)
    bad = total = 0
    shown = file if sys.stderr.isatty() else None
    start = time.perf_counter()
    for batch in batches(options, file):
        good = [text for text in batch if not text.error]
        pairs = [text.pair or "" for text in good] if file and file.has_pairs else None
        answers = iter(predictor([text.text for text in good], pairs))
        for row, text, pair, error, name in batch:
            answer = {"error": error} if error else next(answers)
            if "error" in answer:
                answer, bad = {"error": f"row {row}: {answer['error']}"}, bad + 1
            asked = {"file": name} if name else {}
            asked |= {"text": text} if pair is None else {"text": text, "pair": pair}
            print(json.dumps({**asked, **answer}, ensure_ascii=False))
        sys.stdout.flush()
        total += len(batch)
        if shown:
            speed = total / (time.perf_counter() - start)
            line = f"\r{shown.done():4.0%}  {total:,} texts  {speed:,.0f}/s  "
            print(line, end="", file=sys.stderr, flush=True)
    if shown:
        print(file=sys.stderr)
    if predictor.truncated:
        cut, most = predictor.truncated, predictor.max_length
        line = (
            f"distsent: {cut:,} of {total:,} texts have more than {most} tokens and are truncated"
        )
        print(line, file=sys.stderr)
    if bad:
        line = f'distsent: {bad:,} of {total:,} rows have no label; see their "error"'
        print(line, file=sys.stderr)
    return FINISHED


def open_texts(options: argparse.Namespace) -> TextFile | TextFolder:
    """The file or folder of texts; standard error says how it is read."""
    from distsent.data.layouts.text_folder import TextFolder
    from distsent.data.texts import TextFile
    from distsent.evaluation.saved_job import file_section

    data, recorded = file_section(options.model, options.keys)
    path = Path(options.file)
    kind = TextFolder if path.is_dir() else TextFile
    file = kind(path, data, recorded)
    for line in (file.read_as.line(), *file.read_as.notes):
        print(f"distsent: {options.file}: {line}", file=sys.stderr)
    return file


def batches(
    options: argparse.Namespace, file: TextFile | TextFolder | None
) -> Iterator[list[Text]]:
    """The texts, at most CHUNK at a time."""
    from distsent.data.stdin_batches import stdin_batches
    from distsent.data.texts import bare_text

    if file is None and not options.text:
        for row, lines in stdin_batches(sys.stdin, CHUNK):
            yield [bare_text(row + i, line) for i, line in enumerate(lines)]
        return
    given = (bare_text(row, text) for row, text in enumerate(options.text, 1))
    iterator = given if file is None else iter(file)
    while batch := list(islice(iterator, CHUNK)):
        yield batch


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = cli.Parser("predict", __doc__)
    parser.add_model("TEXT")
    add = parser.add_argument
    add("--file", metavar="FILE", help="file or folder of texts")
    add("--text-column", metavar="NAME", help="data.text_column: column of the texts in --file")
    add("--pair-column", metavar="NAME", help="data.pair_column: column of the second texts")
    length = "tokens per text; the rest is cut off (as in training)"
    add("--max-length", metavar="N", type=int, help=length)
    precisions = ("float32", "bf16", "fp16")
    add("--precision", choices=precisions, default="float32", help="of the numbers (float32)")
    options = parser.parse_intermixed_args(arguments)
    options.model, options.text = parser.model_of(options.words)
    columns = {f"data.{name}": getattr(options, name) for name in ("text_column", "pair_column")}
    options.keys = [f"{name}={value}" for name, value in columns.items() if value]
    if options.keys and not options.file:
        raise UserError(f"{options.keys[0]}: names a column of --file: there is none")
    if options.file:
        for word in options.text:
            if not word.startswith("data.") or "=" not in word:
                raise UserError(f"{word!r} and --file: give texts or a file, or data.key=value")
        options.keys, options.text = [*options.keys, *options.text], []
    return options


if __name__ == "__main__":
    cli.run(main)
