"""Label texts:  python -m distsent.predict RUN_OR_MODEL [TEXT ...] [--file FILE]

One JSON object a text on standard output, in the order of the texts: label, score, and the score of every label.
Texts come from the arguments, from --file (txt: one a line; csv, tsv, jsonl, parquet: a column), or from standard input,
one a line, answered as they come. Rows without a text get an "error" in place of a label, and the others their labels.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from distsent import cli
from distsent.errors import FINISHED, UserError

if TYPE_CHECKING:
    from distsent.data.texts import Text, TextFile

CHUNK = 2048  # texts held at once: enough to sort by length, little enough to stream


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    from distsent.data.texts import (
        read_texts,  # heavy imports only for a command line that is right
    )
    from distsent.distributed.world import World
    from distsent.evaluation.predictor import Predictor
    from distsent.runtime.device import share_cores

    file = (
        read_texts(options.file, options.text_column or "text", options.pair_column)
        if options.file
        else None
    )
    share_cores(World())
    predictor = Predictor(options.model, options.precision, max_length=options.max_length)
    bad = total = 0
    progress = Bar(file)
    for part in parts(options, file):
        good = [one for one in part if not one.why]
        pairs = [one.pair or "" for one in good] if options.pair_column else None
        answers = iter(predictor([one.text for one in good], pairs))
        for one in part:
            answer = {"error": f"row {one.row}: {one.why}"} if one.why else next(answers)
            asked = {"text": one.text} if one.pair is None else {"text": one.text, "pair": one.pair}
            print(json.dumps({**asked, **answer}, ensure_ascii=False))
        sys.stdout.flush()
        total += len(part)
        bad += len(part) - len(good)
        progress(total)
    progress.close()
    if bad:
        print(
            f'distsent: {bad:,} of {total:,} rows have no label; their "error" says why',
            file=sys.stderr,
        )
    return FINISHED


def parts(options: argparse.Namespace, file: TextFile | None) -> Iterator[list[Text]]:
    """The texts, some at a time."""
    from distsent.data.stdin_batches import StdinBatches
    from distsent.data.texts import bare_text

    if file is None and not options.text:
        for row, lines in StdinBatches(sys.stdin, CHUNK):
            yield [bare_text(row + i, line) for i, line in enumerate(lines)]
        return
    given = (bare_text(row, text) for row, text in enumerate(options.text, 1))
    rows: Iterable[Text] = given if file is None else file
    iterator = iter(rows)
    while part := list(islice(iterator, CHUNK)):
        yield part


class Bar:
    """How far the file is, on a terminal; silent elsewhere."""

    def __init__(self, file: TextFile | None) -> None:
        self._file = file if sys.stderr.isatty() else None
        self._began = time.perf_counter()

    def __call__(self, texts: int) -> None:
        if self._file is not None:
            speed = texts / (time.perf_counter() - self._began)
            print(
                f"\r{self._file.done():4.0%}  {texts:,} texts  {speed:,.0f}/s  ",
                end="",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        print(file=sys.stderr) if self._file is not None else None


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = cli.Parser("predict", __doc__)
    parser.add_model("TEXT")
    parser.add_argument("--file", help="txt, csv, tsv, jsonl or parquet file of texts")
    parser.add_argument(
        "--text-column", metavar="NAME", help="column of the texts in --file (text)"
    )
    parser.add_argument(
        "--pair-column", metavar="NAME", help="column of second texts, for models of pairs"
    )
    parser.add_argument(
        "--max-length",
        metavar="N",
        type=int,
        help="tokens of a text; the rest is cut off (as in training)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bf16", "fp16"),
        default="float32",
        help="numbers to compute in (float32)",
    )
    options = parser.parse_intermixed_args(arguments)
    options.model, options.text = parser.model_of(options.words)
    if options.text and options.file:
        raise UserError("texts as arguments and --file: give one of them")
    for option, column in (
        ("--text-column", options.text_column),
        ("--pair-column", options.pair_column),
    ):
        if column and not options.file:
            raise UserError(f"{option} {column}: names a column of --file, and there is none")
    return options


if __name__ == "__main__":
    cli.run(main)
