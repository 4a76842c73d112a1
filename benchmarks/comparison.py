"""A comparison runs its systems in turn, so background load hits all of them. Rounds accumulate."""

from __future__ import annotations

import datetime
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import materials
from benchmarks.workload import Workload
from distsent import __version__, fingerprint
from distsent.operators import library

SOFTWARE = ("torch", "transformers", "horovod", "onnxruntime")
System = Callable[[Workload, Path], dict[str, Any]]
Check = Callable[["Comparison", Workload, Path], dict[str, str]]


class ResultsDiffer(Exception):
    """Systems that should compute the same results did not."""


@dataclass(frozen=True)
class Comparison:
    name: str
    title: str
    work: Workload
    systems: Mapping[str, System]  # the first one is the reference, the others are baselines
    check: Check  # before the first round; raises ResultsDiffer unless all compute the same
    prepare: Callable[[Workload, Path], Workload] | None = None  # runs once, before all rounds

    def measure(self, rounds: int, record: Path) -> dict[str, Any]:
        """Append rounds to the record. A failing baseline is recorded; the rounds go on.

        Another workload, software version or machine starts a new record.
        """
        kept = self._open(record)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            work = replace(
                self.work,
                dataset=str(materials.dataset(self.work, folder / "dataset")),
                encoder=str(materials.encoder(self.work.encoder, folder / "encoder")),
            )
            if self.prepare is not None:
                work = self.prepare(work, folder / "prepared")
            if "check" not in kept:
                kept["check"] = self.check(self, work, folder / "check")
                for name, outcome in kept["check"].items():
                    print(f"{name}: {outcome}", flush=True)
            for _ in range(rounds):
                number = len(kept["rounds"])
                seeded = replace(work, seed=work.seed + number)
                kept["rounds"].append(self._round(seeded, folder / f"round{number}"))
                record.parent.mkdir(parents=True, exist_ok=True)
                record.write_text(json.dumps(kept, indent=1) + "\n")
        return kept

    def _open(self, record: Path) -> dict[str, Any]:
        setting = {
            "title": self.title,
            "work": asdict(self.work),
            "machine": machine(),
            "software": software(),
        }
        if record.is_file():
            kept = json.loads(record.read_text())
            if all(kept[key] == value for key, value in setting.items()):
                return kept
        return {**setting, "rounds": []}

    def _round(self, work: Workload, folder: Path) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for name, run_system in self.systems.items():
            try:
                found = run_system(work, folder / str(len(results)))
                results[name] = {k: v for k, v in found.items() if isinstance(v, int | float)}
                outcome = f"{found['examples_per_second']:.1f} examples/s"
            except RuntimeError as error:
                results[name], outcome = {"failed": str(error)}, f"failed: {error}"
            print(f"{self.name}, seed {work.seed}: {name}: {outcome}", flush=True)
        return {"date": str(datetime.date.today()), "results": results}


def machine() -> str:
    pairs = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    found = {key.strip(): value.strip() for key, _, value in pairs}
    extra = [name for name in ("avx512_bf16", "amx_bf16") if name in found.get("flags", "").split()]
    name = found.get("model name", platform.machine())
    return f"{name} ({', '.join(extra) or 'no bf16 units'}), {len(os.sched_getaffinity(0))} cores"


def cpu_kind() -> str:
    """The folder of this CPU's records: ratios depend on its vector and matrix units."""
    return "amx" if "amx_bf16" in machine() else library.vectors().lower()


def about() -> str:
    """The line below a report's title: date, machine, software."""
    versions = " ".join(f"{name} {number}" for name, number in software().items())
    return f"{datetime.date.today()} · {machine()} · {versions}"


def software() -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "distsent": f"{__version__} ({fingerprint()[:8]})",
    }
    for name in SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
