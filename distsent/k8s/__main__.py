"""Kubernetes from both ends: manifests before they are applied, and the first process of a job's pods.

python -m distsent.k8s lint [PATH ...]         what is wrong with manifests, with file and line (default: k8s/)
python -m distsent.k8s write [--check] [K8S]   write what k8s/ takes from jobs/ and from its own files (or: say what is stale)
python -m distsent.k8s launch ... -- COMMAND   in the launcher: wait for the workers, run the command, pass a stop on
python -m distsent.k8s serve [--grace S]       in a worker: sshd, and on SIGTERM the word to this pod's ranks that they save
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from distsent import cli
from distsent.errors import FINISHED, USAGE_ERROR, UserError
from distsent.k8s.launch import Elastic, launch
from distsent.k8s.serve import SSHD, serve


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    return int(options.run(options))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m distsent.k8s",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    doors = parser.add_subparsers(required=True, metavar="lint | write | launch | serve")

    one = doors.add_parser("lint", help="check manifests")
    one.add_argument(
        "paths",
        nargs="*",
        type=Path,
        default=[Path("k8s")],
        help="folders (with those below) or files",
    )
    one.set_defaults(run=run_lint)

    one = doors.add_parser("write", help="write the generated manifests")
    one.add_argument(
        "folder", nargs="?", type=Path, default=Path("k8s"), help="the folder k8s, beside jobs"
    )
    one.add_argument(
        "--check", action="store_true", help="write nothing, name the files that differ"
    )
    one.set_defaults(run=run_write)

    one = doors.add_parser("launch", help="the launcher's first process")
    one.add_argument(
        "--wait",
        type=float,
        default=600,
        metavar="S",
        help="longest wait for workers (%(default)s s)",
    )
    one.add_argument(
        "--elastic", metavar="SCRIPT", help="run on the hosts that this script prints, however many"
    )
    one.add_argument(
        "--slots", type=int, default=1, help="elastic: processes on each host (%(default)s)"
    )
    one.add_argument(
        "--min-np",
        type=int,
        default=1,
        help="elastic: fewest processes to start with (%(default)s)",
    )
    one.add_argument(
        "--max-np", type=int, default=None, help="elastic: most processes (all that fit)"
    )
    one.add_argument(
        "--poll",
        type=float,
        default=20,
        metavar="S",
        help="elastic: time between looks at the hosts (%(default)s s)",
    )
    one.add_argument("command", nargs="+", help="horovodrun and its arguments, after --")
    one.set_defaults(run=run_launch)

    one = doors.add_parser("serve", help="a worker's first process")
    one.add_argument(
        "--grace",
        type=float,
        default=150,
        metavar="S",
        help="longest wait for ranks that save (%(default)s s)",
    )
    one.add_argument("--sshd-config", default=SSHD, metavar="FILE", help="(%(default)s)")
    one.set_defaults(run=lambda options: serve(options.sshd_config, options.grace))
    return parser.parse_args(arguments)


def run_lint(options: argparse.Namespace) -> int:
    from distsent.k8s.lint import lint  # needs PyYAML, which the pods' side does not

    findings, files = lint(options.paths)
    for finding in findings:
        print(finding)
    print(
        f"{files} manifests, {len(findings) or 'no'} {'finding' if len(findings) == 1 else 'findings'}",
        file=sys.stderr,
    )
    return USAGE_ERROR if findings else FINISHED


def run_write(options: argparse.Namespace) -> int:
    from distsent.k8s.write import differing, manifests

    wanted = manifests(options.folder)
    stale = differing(wanted)
    if options.check and stale:
        raise UserError(
            *(
                f"{path} differs from what it is made of: run python -m distsent.k8s write"
                for path in stale
            )
        )
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
        print(f"written: {path}")
    return FINISHED


def run_launch(options: argparse.Namespace) -> int:
    elastic = None
    if options.elastic:
        elastic = Elastic(
            options.elastic, options.slots, options.min_np, options.max_np, options.poll
        )
    return launch(options.command, options.wait, elastic)


if __name__ == "__main__":
    cli.run(main)
