"""A sweep for people and for programs: table, csv, JSON, the best job, a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distsent.job.keys import to_toml_value
from distsent.reporting.markdown import markdown_table, titles
from distsent.runtime.strict_json import strict_json
from distsent.search.sampling import importance
from distsent.search.sweep_folder import Sweep
from distsent.search.trials import Trial, best_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = "markdown", "csv", "json"
ORDER = "finished", "pruned", "failed", "running"
MOST_LETTERS = 195  # of the job's name in that of the best one, which may have 200


def in_words(parameters: Mapping[str, Any]) -> str:
    """Parameters for a line of the log."""
    words = (f"{key} = {_short(value)}" for key, value in parameters.items())
    return ", ".join(words) or "the job's own keys"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else to_toml_value(value)[:60]


@dataclass(frozen=True)
class Report:
    """The trials of a sweep, the best one, and how much each key matters."""

    sweep: Sweep
    trials: Sequence[Trial]
    best: Trial | None
    importance: Mapping[str, float]

    @classmethod
    def of(cls, sweep: Sweep, trials: Sequence[Trial]) -> Report:
        search = sweep.space.search
        lower = search.lower_is_better

        def rank(trial: Trial) -> tuple[Any, ...]:
            value = trial.value if trial.value is not None else 0.0
            return ORDER.index(trial.state), value if lower else -value, trial.number

        ordered = sorted(trials, key=rank)
        return cls(sweep, ordered, best_of(trials, lower), importance(sweep.space, trials))

    def text(self, style: str) -> str:
        """As markdown, csv or json."""
        if style == "json":
            return strict_json(self.to_dict(), indent=1) + "\n"
        return self._csv() if style == "csv" else self._markdown()

    def to_dict(self) -> dict[str, Any]:
        search = self.sweep.space.search
        return {
            "sweep": str(self.sweep.folder.path),
            "metric": search.metric,
            "split": "validation",
            "lower_is_better": search.lower_is_better,
            "folds": search.folds,
            "best": None if self.best is None else self.best.number,
            "importance": dict(self.importance),
            "trials": [self._record(trial) for trial in self.trials],
        }

    def _record(self, trial: Trial) -> dict[str, Any]:
        record: dict[str, Any] = {"trial": trial.number, "state": trial.state}
        record["value"] = trial.value
        if self.sweep.space.search.folds:
            record["spread"] = trial.spread
            record["folds"] = [run.value for run in trial.runs]
        runs = [str(self.sweep.folder.trial(run.name).files.path) for run in trial.runs]
        record |= {"parameters": dict(trial.parameters), "scores": list(trial.scores)}
        return {**record, "reason": trial.reason, "runs": runs}

    def _markdown(self) -> str:
        search, keys = self.sweep.space.search, [d.key for d in self.sweep.space.dimensions]
        rows = []
        for trial in self.trials:
            value = "-" if trial.value is None else f"{trial.value:.4f}"
            value += f" ± {trial.spread:.4f}" if trial.spread is not None else ""
            row = [f"{trial.number:04}", trial.state, value]
            rows.append([*row, *(_short(trial.parameters[key]) for key in keys), trial.reason])
        head = ["trial", "state", *titles(search.metric), *keys, "reason"]
        if not any(trial.reason for trial in self.trials):
            head, rows = head[:-1], [row[:-1] for row in rows]
        over = f", means over {search.folds} folds ± their deviation" if search.folds else ""
        text = f"{search.metric} on validation{over}.\n\n{markdown_table(head, rows)}"
        if self.importance:
            shares = [[key, f"{share:.2f}"] for key, share in self.importance.items()]
            text += f"\n{markdown_table(['key', 'importance'], shares)}"
        return text

    def _csv(self) -> str:
        out, keys = io.StringIO(), [d.key for d in self.sweep.space.dimensions]
        names = ["trial", "state", "value", "spread", *keys, "reason"]
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        for trial in self.trials:
            row = {name: getattr(trial, name) for name in ("state", "value", "spread", "reason")}
            values = {key: _plain(trial.parameters[key]) for key in keys}
            writer.writerow({"trial": trial.number, **row, **values})
        return out.getvalue()

    def best_job(self) -> str:
        """The best job as TOML; empty if no trial has finished."""
        best, search = self.best, self.sweep.space.search
        if best is None:
            return ""
        name = f"{self.sweep.job.job.name[:MOST_LETTERS]}-best"
        runs = ", ".join(run.name for run in best.runs)
        how = f"# {search.metric} {best.value} on validation: {runs} of {self.sweep.folder.path}\n"
        return how + self.sweep.job_with(best.parameters, name).to_toml()

    def picture(self) -> Figure:
        """The value of each trial and the best so far; what each key explains."""
        from matplotlib.figure import Figure  # without pyplot: no window system, no state

        search = self.sweep.space.search
        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        found = sorted(
            (t.number, t.value, t.spread or 0.0) for t in self.trials if t.value is not None
        )
        numbers, values = [x[0] for x in found], [x[1] for x in found]
        if search.folds:
            left.errorbar(numbers, values, [x[2] for x in found], fmt="o", label="mean and spread")
        else:
            left.plot(numbers, values, "o", label="finished")
        choose = min if search.lower_is_better else max
        best = [choose(values[: i + 1]) for i in range(len(values))]
        left.step(numbers, best, where="post", color="gray", label="best so far")
        pruned = [(t.number, t.scores[-1]) for t in self.trials if t.state == "pruned" and t.scores]
        if pruned:
            left.plot(*zip(*pruned, strict=True), "x", color="C3", label="pruned")
        left.set(title=f"{search.metric} on validation", xlabel="trial")
        left.legend(fontsize="small")
        shares = [*self.importance.items()][::-1]
        right.barh([key for key, _ in shares], [share for _, share in shares])
        right.set(title="importance of each key" if shares else "too few trials for importances")
        return figure


def _plain(value: Any) -> Any:
    """Lists and tables as TOML; all other values as they are."""
    return to_toml_value(value) if isinstance(value, list | dict) else value
