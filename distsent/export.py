"""Export a finished run's model:  python -m distsent.export RUN --format onnx|openvino [--int8]

The folder (RUN/onnx, RUN/onnx-int8 ...) has the model, its tokenizer, label names and a card. It
runs in onnxruntime or OpenVINO without distsent; evaluate and predict accept it, too. --int8
calibrates on training texts. Before anything is called exported, the test split is scored by both:
labels must agree on 99 % of its rows, and accuracy must be at most 0.5 points lower. Otherwise
the exit code is 4, a table says what was lost, and nothing is written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from distsent import cli
from distsent.distributed.launchers import find_launch
from distsent.errors import FINISHED, Stopped, UserError
from distsent.runtime.signals import GRACE, StopSignal

FORMATS = ("onnx", "openvino")


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if (launch := find_launch()).size > 1:
        raise UserError(f"export runs in one process: start it alone, not with {launch.why}")
    stop = StopSignal(GRACE)
    # Heavy imports, only for a valid command line
    from distsent.distributed.world import World
    from distsent.exporting.exporter import Exporter
    from distsent.runtime.device import share_cores

    precision = "int8" if options.int8 else "float32"
    exporter = Exporter.open(Path(options.run), options.format, precision, stop)
    share_cores(World())
    name = options.format + ("-int8" if options.int8 else "")
    target = Path(options.out) if options.out else exporter.run.folder.path / name
    try:
        lines = exporter.export(target, options.rows)
    except Stopped as error:
        raise Stopped(f"{error}; nothing was exported: run the same command again") from None
    for line in lines:
        print(f"distsent: {line}", file=sys.stderr)
    print(target)
    return FINISHED


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = cli.Parser("export", __doc__)
    add = parser.add_argument
    add("run", metavar="RUN", help="the folder of a finished run")
    add("--format", choices=FORMATS, default="onnx", help="onnx (default) or openvino")
    add("--int8", action="store_true", help="8-bit weights and activations of linear layers")
    add("--rows", type=int, metavar="N", help="check N rows of the test split (all of it)")
    add("--out", metavar="FOLDER", help="where the export goes (RUN/FORMAT, or RUN/FORMAT-int8)")
    options = parser.parse_args(arguments)
    if options.rows is not None and options.rows < 1:
        raise UserError(f"--rows {options.rows}: expected 1 or more")
    return options


if __name__ == "__main__":
    cli.run(main)
