"""Label texts:  python -m distsent.predict RUN_OR_MODEL [TEXT ...] [--file FILE data.key=value ...]

Prints one JSON object per text, in their order: label, score, and the score of every label; of
several labels per text those with a score above 0.5; of a regression the number. Texts come from
the arguments, from --file (a file or folder of any kind that training reads; labels are not
needed), or from standard input, one per line, answered as they come. A row without text gets an
"error". A file is read as the run read its own, unless data.key=value says otherwise.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsent import cli
from distsent.errors import FINISHED, Stopped, UserError
from distsent.runtime.signals import GRACE, StopSignal
from distsent.storage import is_file

if TYPE_CHECKING:
    from distsent.data.layouts.text_folder import TextFolder
    from distsent.data.texts import Text, TextFile
    from distsent.evaluation.predictor import Predictor

CHUNK = 2048  # texts in memory at once: enough to sort by length, few enough to stream


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    stop = StopSignal(GRACE)
    # Heavy imports, only for a valid command line
    from distsent.data import missing_words
    from distsent.data.tokens.long_texts import READ
    from distsent.distributed.world import World
    from distsent.evaluation.predictor import Predictor
    from distsent.runtime.device import share_cores

    thresholds, about = choose(options)
    file = open_texts(options) if options.file else None
    missing = missing_of_single(options) if file is None else ()
    share_cores(World())
    poll, length = stop.raise_if_requested, options.max_length
    predictor = Predictor(
        options.model, options.precision, max_length=length, thresholds=thresholds, poll=poll
    )
    for note in (*predictor.notes, *about):
        print(f"distsent: {note}", file=sys.stderr)
    stop.grace = None  # a reader that lets this process wait gets whole lines
    count = Count(file if sys.stderr.isatty() else None)
    try:
        for batch in batches(options, file, missing, poll):
            sys.stdout.write("".join(answer(batch, predictor, file, count)))
            sys.stdout.flush()
            count.add(batch)
    except Stopped as error:
        raise Stopped(f"{error}; {count.end_of_output}") from None
    finally:
        count.close()
    if predictor.long:
        what = f"{predictor.long:,} of {count.rows:,} texts have more than {predictor.max_length}"
        how = READ[predictor.long_texts.long]
        inside = "" if predictor.template is None else ", data.template included,"
        print(f"distsent: {what} tokens{inside} and {how}", file=sys.stderr)
    for word, n in count.words.items() if file and file.na_values is None else ():
        print(f"distsent: {missing_words.question(word, n, options.file)}", file=sys.stderr)
    if count.bad:
        what = f"{count.bad:,} of {count.rows:,} rows have no label"
        print(f'distsent: {what}; see their "error"', file=sys.stderr)
    if (least := predictor.thresholds) is not None:
        what = f"{count.abstained:,} of {count.rows:,} texts"
        print(f"distsent: {what} {below(predictor.task.name, least[0])}", file=sys.stderr)
    return FINISHED


@dataclass
class Count:
    """The rows that are written, and how many of them without a label.

    `shown`: the file whose progress a line on the terminal shows.
    """

    shown: TextFile | TextFolder | None
    rows: int = 0
    bad: int = 0
    abstained: int = 0
    words: Counter[str] = field(default_factory=Counter)  # texts that may mean that there is none
    last: str = ""  # the last row
    started: float = field(default_factory=time.perf_counter)

    def add(self, batch: Sequence[Text]) -> None:
        from distsent.data.missing_words import is_word

        for text in batch:
            texts = {text.text.strip(), (text.pair or "").strip()} if not text.error else ()
            self.words.update(filter(is_word, texts))
        row, *_, name = batch[-1]
        self.rows, self.last = self.rows + len(batch), f"row {row:,}" + (name and f" of {name}")
        if self.shown:
            speed = self.rows / (time.perf_counter() - self.started)
            line = f"\r{self.shown.done():4.0%}  {self.rows:,} texts  {speed:,.0f}/s  "
            print(line, end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.shown:
            print(file=sys.stderr)

    @property
    def end_of_output(self) -> str:
        return f"the output ends with {self.last}" if self.rows else "nothing was written"


def answer(
    batch: Sequence[Text], predictor: Predictor, file: TextFile | TextFolder | None, count: Count
) -> Iterator[str]:
    """A line of JSON for each text."""
    good = [text for text in batch if not text.error]
    pairs = [text.pair or "" for text in good] if file and file.has_pairs else None
    answers = iter(predictor([text.text for text in good], pairs))
    for row, text, pair, error, name in batch:
        found: dict[str, Any] = {"error": error} if error else next(answers)
        if "error" in found:
            found, count.bad = {"error": f"row {row}: {found['error']}"}, count.bad + 1
        elif found.get("label", ...) is None or found.get("labels") == []:
            count.abstained += 1
        asked = {"file": name} if name else {}
        asked |= {"text": text} if pair is None else {"text": text, "pair": pair}
        yield json.dumps({**asked, **found}, ensure_ascii=False) + "\n"


def below(task: str, threshold: float) -> str:
    """What thresholds do to the texts that score below them."""
    if task == "multi_label":
        return "have no label: none of their scores reaches its threshold"
    return f"score below {threshold:.6g}: their label is null"


def choose(options: argparse.Namespace) -> tuple[Any, list[str]]:
    """The least score of each label, or one for all, or None; and lines about them.

    Raises UserError if the model's task has no such thing, or nothing reaches what is asked for.
    """
    from distsent.evaluation.chosen_thresholds import choose_thresholds
    from distsent.evaluation.exported import read_export
    from distsent.evaluation.predictor import find_model_folder
    from distsent.evaluation.tasks.choose import saved_task
    from distsent.evaluation.thresholds import Target

    asked = asked_for(options)
    if not asked:
        return None, []
    folder = find_model_folder(options.model)
    task = saved_task(folder)
    if task == "regression" or (options.best_f1 and task == "single_label"):
        what = "several labels per text" if options.best_f1 else "labels"
        raise UserError(f"{asked[0]}: is for {what}; this model's task is {task!r}")
    if options.threshold is not None:
        return options.threshold, []
    chosen = choose_thresholds(folder, Target(options.min_precision, options.min_recall))
    lines, export = [*chosen.lines], read_export(folder)
    precision = options.precision or "float32"
    if export is not None:
        how = f"the run's model in {chosen.computed_in}; these scores are its export's"
        lines.append(f"measured with {how}, in {export.precision}")
    elif chosen.computed_in != precision:
        how = f"--precision {chosen.computed_in} gives the scores that it was measured with"
        lines.append(f"these scores are in {precision}; {how}")
    return chosen.thresholds, lines


def asked_for(options: argparse.Namespace) -> list[str]:
    """The options about thresholds that are given."""
    names = "best_f1", "min_precision", "min_recall", "threshold"
    values = {name: getattr(options, name) for name in names}
    given = [name for name, x in values.items() if x is not None and x is not False]
    return [f"--{name.replace('_', '-')}" for name in given]


def share(word: str) -> float:
    """A number from 0 to 1."""
    with suppress(ValueError):
        if 0 <= (value := float(word)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"{word!r}: expected a number from 0 to 1, e.g. 0.95")


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


def missing_of_single(options: argparse.Namespace) -> tuple[str, ...]:
    """The texts that mean that there is none, where texts come from arguments or standard input.

    Raises UserError if the model was trained on pairs: these texts have no second one.
    """
    from distsent.evaluation.saved_job import file_section

    data, _ = file_section(options.model, [])
    if data.has_pairs:
        key = "pair_column" if data.pair_position is None else "pair_position"
        trained = f"{options.model} was trained on pairs of texts, and these have no second one"
        raise UserError(f"data.{key} = {getattr(data, key)!r}: {trained}; --file FILE gives both")
    return data.na_values or ()


def batches(
    options: argparse.Namespace,
    file: TextFile | TextFolder | None,
    missing: tuple[str, ...],
    poll: Callable[[], None],
) -> Iterator[list[Text]]:
    """The texts, at most CHUNK at a time. `poll` is called while standard input has none."""
    from distsent.data.stdin_batches import stdin_batches
    from distsent.data.texts import bare_text, without_missing

    def single(row: int, text: str) -> Text:
        return without_missing(bare_text(row, text), missing)

    if file is None and not options.text:
        for row, lines in stdin_batches(sys.stdin, CHUNK, poll):
            yield [single(row + i, line) for i, line in enumerate(lines)]
        return
    given = (single(row, text) for row, text in enumerate(options.text, 1))
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
    length = "tokens that the model reads at once (as in training)"
    add("--max-length", metavar="N", type=int, help=length)
    about = "of the numbers (float32; an export has its own)"
    add("--precision", choices=("float32", "bf16", "fp16"), help=about)
    least = "give no label below the score that reaches this {} on validation"
    add("--min-precision", metavar="P", type=share, help=least.format("precision"))
    add("--min-recall", metavar="R", type=share, help=least.format("recall"))
    best = "of several labels: give each from the score of its best F1 on validation"
    add("--best-f1", action="store_true", help=best)
    add("--threshold", metavar="S", type=share, help="give no label below this score")
    options = parser.parse_intermixed_args(arguments)
    targets = [name for name in asked_for(options) if name.startswith("--min")]
    alone = [name for name in asked_for(options) if name not in targets]
    if len(alone) + bool(targets) > 1:
        others = " and ".join(targets or alone[1:])
        raise UserError(f"{alone[0]}: stands in place of {others}; leave one of them out")
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
    for word in options.text:
        if word.startswith("data.") and "=" in word:
            raise UserError(f"{word}: a key of --file: there is none")
        if Path(word).suffix and is_file(word):
            fix = f"--file {shlex.quote(word)} labels its rows"
            raise UserError(f"{word}: a file, not a text; {fix}")
    return options


if __name__ == "__main__":
    cli.run(main)
