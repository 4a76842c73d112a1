"""Kubernetes: manifests before they are applied, and the first processes of a job's pods.

python -m distsent.k8s lint [PATH ...]         check manifests (default: k8s/)
python -m distsent.k8s write [--check] [K8S]   write the manifests that are generated
python -m distsent.k8s launch ... -- COMMAND   in the launcher: run the command on the workers
python -m distsent.k8s serve [--grace S]       in a worker: run sshd, save on SIGTERM
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from distsent import cli
from distsent.errors import FINISHED, USAGE_ERROR, UserError
from distsent.k8s.launch import launch
from distsent.k8s.scaling import ScalingHosts, relaunch_on_change
from distsent.k8s.serve import SSHD_CONFIG, serve

K8S = Path("k8s")


def main(arguments: list[str]) -> int:
    options = make_parser().parse_args(arguments)
    return int(options.run(options))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m distsent.k8s", None, __doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="lint | write | launch | serve")

    lint = commands.add_parser("lint", help="check manifests")
    lint.set_defaults(run=run_lint)
    lint.add_argument("paths", nargs="*", type=Path, default=[K8S], help="files, folders")
    text = "the operator's CustomResourceDefinition; cluster: ask the cluster for the MPIJob's"
    lint.add_argument("--crd", metavar="FILE", action="append", default=[], help=text)

    write = commands.add_parser("write", help="write the generated manifests")
    write.set_defaults(run=run_write)
    write.add_argument("folder", nargs="?", type=Path, default=K8S, help="k8s, beside jobs")
    write.add_argument("--check", action="store_true", help="only name the files that differ")

    start = commands.add_parser("launch", help="the launcher's first process")
    start.set_defaults(run=run_launch)
    add_number(start, "--wait", 600.0, "longest wait for workers, in seconds")
    start.add_argument("--elastic", metavar="SCRIPT", help="run on the hosts that it prints")
    add_number(start, "--slots", 1, "elastic: processes on each host")
    add_number(start, "--min-np", 1, "elastic: fewest processes")
    start.add_argument("--max-np", type=int, help="elastic: most processes (all that fit)")
    add_number(start, "--poll", 20.0, "elastic: seconds between looks at the hosts")
    start.add_argument("command", nargs="+", help="horovodrun and its arguments, after --")

    worker = commands.add_parser("serve", help="a worker's first process")
    worker.set_defaults(run=lambda options: serve(options.sshd_config, options.grace))
    add_number(worker, "--grace", 150.0, "longest wait for a save, in seconds")
    worker.add_argument("--sshd-config", default=SSHD_CONFIG, metavar="FILE", help="(%(default)s)")
    return parser


def add_number(parser: argparse.ArgumentParser, name: str, default: float, text: str) -> None:
    text = f"{text} ({default:g})"
    parser.add_argument(name, type=type(default), metavar="N", default=default, help=text)


def run_lint(options: argparse.Namespace) -> int:
    try:
        from distsent.k8s.lint import lint  # what it imports is not in the image
        from distsent.k8s.schema import read_definitions
    except ImportError as error:
        raise UserError(f"{error}: install the extra k8s: pip install 'distsent[k8s]'") from None
    crds = {key: kind for source in options.crd for key, kind in read_definitions(source).items()}
    findings, count = lint(options.paths, crds)
    print(*findings, sep="\n", end="\n" if findings else "")
    number = f"{len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}"
    print(f"{count} manifests, {number}", file=sys.stderr)
    return USAGE_ERROR if findings else FINISHED


def run_write(options: argparse.Namespace) -> int:
    from distsent.k8s.write import generate_manifests, stale_files

    texts = generate_manifests(options.folder)
    stale = stale_files(texts)
    if options.check and stale:
        fix = "differs from its sources: run python -m distsent.k8s write"
        raise UserError(*(f"{path} {fix}" for path in stale))
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[path], encoding="utf-8")
        print(f"written: {path}")
    return FINISHED


def run_launch(options: argparse.Namespace) -> int:
    command, wait, script = options.command, options.wait, options.elastic
    if not script:
        return launch(command, wait)
    bounds = options.slots, options.min_np, options.max_np, options.poll
    scaling = ScalingHosts(script, *bounds)
    return launch(command, wait, lambda run: relaunch_on_change(run, command, wait, scaling))


if __name__ == "__main__":
    cli.run(main)
