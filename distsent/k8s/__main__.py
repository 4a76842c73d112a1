"""Kubernetes: manifests before they are applied, and the first processes of a job's pods.

python -m distsent.k8s lint [PATH ...]         check manifests (k8s/); --cluster: ask it, too
python -m distsent.k8s doctor [FOLDER]         check the cluster for the jobs of a folder
python -m distsent.k8s write [--check] [K8S]   write the manifests that are generated
python -m distsent.k8s launch ... -- COMMAND   in the launcher: run the command on the workers
python -m distsent.k8s serve [--grace S]       in a worker: run sshd, save on SIGTERM
"""

import argparse
import sys
from pathlib import Path

from distsent import cli
from distsent.errors import FAILED, FINISHED, USAGE_ERROR, UserError
from distsent.pods.elastic import ScalingHosts
from distsent.pods.evicted import keep_deleting
from distsent.pods.launch import launch, run_on_named_hosts
from distsent.pods.restarts import Ending, keep_running
from distsent.pods.serve import SSHD_CONFIG, serve
from distsent.pods.training_command import Training, refused_options


def main(arguments: list[str]) -> int:
    parser = cli.Parser("k8s", __doc__)
    commands = parser.add_subparsers(required=True, parser_class=argparse.ArgumentParser)
    lint = commands.add_parser("lint", help="check manifests")
    lint.set_defaults(run=run_lint)
    lint.add_argument("paths", nargs="*", type=Path, default=[Path("k8s")], help="(k8s)")
    lint.add_argument("--crd", action="append", default=[], help="the operator's CRD, or: cluster")
    lint.add_argument("--cluster", action="store_true", help="ask the cluster, as a dry run")
    doctor = commands.add_parser("doctor", help="check the cluster")
    doctor.set_defaults(run=run_doctor)
    doctor.add_argument("folder", nargs="?", type=Path, default=Path("k8s"), help="(k8s)")
    write = commands.add_parser("write", help="write the generated manifests")
    write.set_defaults(run=run_write)
    write.add_argument("folder", nargs="?", type=Path, default=Path("k8s"), help="k8s, beside jobs")
    write.add_argument("--check", action="store_true", help="only name the files that differ")
    start = commands.add_parser("launch", help="the launcher's first process")
    start.set_defaults(run=run_launch)
    start.add_argument("--wait", type=float, default=600, help="seconds to wait for workers (600)")
    start.add_argument("--elastic", metavar="SCRIPT", help="run on the hosts that it prints")
    start.add_argument("--slots", type=int, default=1, help="elastic: processes on each host (1)")
    start.add_argument("--min-np", type=int, default=1, help="elastic: fewest processes (1)")
    start.add_argument("--max-np", type=int, help="elastic: most processes (all that fit)")
    start.add_argument("--poll", type=float, default=20, help="elastic: seconds between looks (20)")
    start.add_argument("--keep-workers", action="store_true", help="leave them to a JobSet")
    start.add_argument("--delete-evicted", action="store_true", help="the job's evicted workers")
    start.add_argument("command", nargs="+", help="horovodrun and its arguments, after --")
    worker = commands.add_parser("serve", help="a worker's first process")
    worker.set_defaults(run=lambda o: serve(o.sshd_config, o.grace, o.left))
    worker.add_argument("--grace", type=float, default=150, help="seconds to wait for ranks (150)")
    worker.add_argument("--left", type=int, default=FINISHED, help="exit code after SIGTERM (0)")
    worker.add_argument("--sshd-config", default=SSHD_CONFIG, help="(%(default)s)")
    options = parser.parse_args(arguments)
    return int(options.run(options))


def run_lint(options: argparse.Namespace) -> int:
    from distsent.k8s.lint import lint  # the image lacks what these import: the extra k8s
    from distsent.k8s.schema import read_definitions

    crds = dict(pair for source in options.crd for pair in read_definitions(source).items())
    findings, count = lint(options.paths, crds, options.cluster)
    print("".join(f"{finding}\n" for finding in findings), end="")
    number = f"{len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}"
    print(f"{count} manifests, {number}", file=sys.stderr)
    return USAGE_ERROR if findings else FINISHED


def run_doctor(options: argparse.Namespace) -> int:
    from distsent.k8s.doctor import check_cluster

    code = FINISHED
    for check in check_cluster(options.folder):
        fix = f"  ->  {check.fix}" if check.fix else ""
        print(f"{check.state:<4}  {check.what:<17}  {check.found}{fix}", flush=True)
        code = FAILED if check.state == "fail" else code
    return code


def run_write(options: argparse.Namespace) -> int:
    from distsent.k8s.write import stale_manifests

    stale = stale_manifests(options.folder)
    if options.check and stale:
        raise UserError(*(f"{path} differs: run python -m distsent.k8s write" for path in stale))
    for path, text in stale.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"written: {path}")
    return FINISHED


def run_launch(options: argparse.Namespace) -> int:
    command, wait, script = options.command, options.wait, options.elastic
    if problems := [*refused_options(command)]:
        raise UserError(*problems)
    if options.delete_evicted:
        keep_deleting()
    hosts = ScalingHosts(script, options.slots, options.min_np, options.max_np, options.poll)

    def run(training: Training) -> Ending:
        if not script:
            return run_on_named_hosts(training, command, wait)
        return keep_running(training, lambda: hosts.start(training, command, wait), is_elastic=True)

    return launch(run, keep_workers=options.keep_workers)


if __name__ == "__main__":
    cli.run(main)
