"""A contest: contestants in turn, round by round, so that a noisy machine is unfair to nobody. Rounds add to its record."""

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

SOFTWARE = ("torch", "transformers", "horovod", "onnxruntime")
Contestant = Callable[[Workload, Path], dict[str, Any]]
Check = Callable[["Comparison", Workload, Path], dict[str, str]]


class Unequal(Exception):
    """Contestants that were to compute the same did not."""


@dataclass(frozen=True)
class Comparison:
    name: str
    title: str
    work: Workload
    contestants: Mapping[str, Contestant]  # the first one is what the others are held against
    check: Check  # that they compute the same; before the first round. Raises Unequal
    prepare: Callable[[Workload, Path], Workload] | None = None  # what is made once for all rounds

    def hold(self, rounds: int, record: Path) -> dict[str, Any]:
        """Add rounds to the record (begin it anew for other work, software or machine). A failure is recorded, and no end."""
        kept = self._begin(record)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            corpus = str(materials.corpus(self.work, folder / "corpus"))
            work = replace(
                self.work,
                corpus=corpus,
                encoder=str(materials.encoder(self.work.encoder, folder / "encoder")),
            )
            if self.prepare is not None:
                work = self.prepare(work, folder / "prepared")
            if "check" not in kept:
                kept["check"] = self.check(self, work, folder / "check")
                print(
                    *(f"{who}: {said}" for who, said in kept["check"].items()), sep="\n", flush=True
                )
            for _ in range(rounds):
                turn = len(kept["rounds"])
                kept["rounds"].append(
                    self._round(replace(work, seed=work.seed + turn), folder / f"round{turn}")
                )
                record.parent.mkdir(parents=True, exist_ok=True)
                record.write_text(json.dumps(kept, indent=1) + "\n")
        return kept

    def _begin(self, record: Path) -> dict[str, Any]:
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
        for name, compete in self.contestants.items():
            try:
                result = compete(work, folder / str(len(results)))
                results[name] = {
                    key: value for key, value in result.items() if isinstance(value, int | float)
                }
                said = f"{result['examples_per_second']:.1f} examples/s"
            except RuntimeError as error:
                results[name], said = {"failed": str(error)}, f"failed: {error}"
            print(f"{self.name}, seed {work.seed}: {name}: {said}", flush=True)
        return {"date": str(datetime.date.today()), "results": results}


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    found = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    extra = [name for name in ("avx512_bf16", "amx_bf16") if name in found.get("flags", "").split()]
    name = found.get("model name", platform.machine())
    return f"{name} ({', '.join(extra) or 'no bf16 units'}), {len(os.sched_getaffinity(0))} cores"


def about() -> str:
    """The line under a table's title."""
    return f"{datetime.date.today()} · {machine()} · " + " ".join(
        f"{name} {number}" for name, number in software().items()
    )


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
