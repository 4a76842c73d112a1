"""SPACE.toml: mistakes are one line before anything starts; proposals are functions of the past."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distsent.errors import USAGE_ERROR, UserError
from distsent.job import load_job
from distsent.job.keys import ValueType
from distsent.job.load import read_assignments, resolve
from distsent.job.schema import KEYS
from distsent.search.report import Report
from distsent.search.sampling import importance, next_parameters, should_prune
from distsent.search.searchable import reason_against
from distsent.search.space import Space, read_space
from distsent.search.sweep_folder import Sweep
from distsent.search.trials import Trial, TrialRun, best_of, trials_of

LR = "[optim]\nlr = { low = 1e-5, high = 1e-3, log = true }\n"


def space_of(folder: Path, text: str, *overrides: str) -> Space:
    (folder / "space.toml").write_text(text)
    base, errors = read_assignments(None, overrides)
    return read_space(str(folder / "space.toml"), base, resolve(base, errors))


MISTAKES = [  # the space, the line about it
    ("[optim]\nlearning_rate = [1, 2]", "optim.learning_rate: unknown key; did you mean optim.lr?"),
    ("[optin]\nlr = [1]", "\\[optin\\]: unknown section; did you mean \\[optim\\]?"),
    ("lr = [1]", "lr: key without a section; did you mean optim.lr?"),
    ("[search]\nsampler = 'tpe'", "nothing to search: give a key some values"),
    ("", "nothing to search"),
    (
        LR + "[search]\npruner = 'hyper'",
        'pruner = "hyper": expected "none" or "median" or "hyperband"',
    ),
    (LR + "[search]\nprunner = 'none'", "search.prunner: unknown key; did you mean pruner?"),
    ("[search]\ntrials = 5\noptim.lr = [1]", "search.optim: unknown key; keys of the job stand in"),
    (LR + "[search]\ntrials = 0", "search.trials = 0: expected an integer >= 1"),
    (LR + "[search]\ntrials = true", "search.trials = true: expected an integer >= 1"),
    (LR + "[search]\nfolds = 1", "search.folds = 1: expected 0, or 2 to 100"),
    (LR + "[search]\nmetric = 'rmse'", 'search.metric = "rmse": expected'),
    ("search = 3\n" + LR, "expected a section, \\[search\\]"),
    (
        "[run]\ndir = ['a', 'b']",
        "run.dir = .*cannot be searched: it changes how a run computes, not",
    ),
    ("[job]\nname = ['a', 'b']", "cannot be searched: the sweep names its trials"),
    ("[train]\nseed = [1, 2]", "cannot be searched: a seed that scores better is luck"),
    ("[eval]\nmetric = ['f1', 'loss']", "cannot be searched: trials are compared by one metric"),
    ("[data]\nsource = ['a', 'b']", "cannot be searched: trials would be trained or scored on oth"),
    ("[optim]\nlr = 1e-3", "optim.lr = 0.001: one value belongs in the job"),
    ("[optim]\nlr = '1e-5..1e-3'", "one value belongs in the job"),
    ("[optim]\nlr = []", "expected at least one value"),
    ("[optim]\nlr = [1e-3, 1e-3]", "0.001 stands there twice"),
    ("[optim]\nlr = [1e-3, 'x']", 'optim.lr = "x": expected a number > 0'),
    ("[optim]\nlr = [1e-3, 0]", "optim.lr = 0: expected a number > 0"),
    ("[optim]\nlr = [1e-3, nan]", "optim.lr = nan: expected a number > 0"),
    ("[optim]\nlr = { low = 1e-3 }", "a range has two numbers, low and high"),
    ("[optim]\nlr = { min = 1, max = 2 }", "unknown 'min'; a range has low, high, log, step"),
    ("[optim]\nlr = { low = '1', high = 2 }", "a range has two numbers"),
    ("[optim]\nlr = { low = 0, high = 1 }", "optim.lr = 0: expected a number > 0"),
    ("[optim]\nlr = { low = 2e-3, high = 1e-3 }", "low must be less than high"),
    ("[optim]\nlr = { low = 1, high = 2, log = 1 }", "log must be true or false"),
    ("[optim]\nlr = { low = 1, high = 2, step = 0 }", "step must be a number > 0, at most"),
    ("[optim]\nlr = { low = 1, high = 2, step = 5 }", "step must be a number > 0, at most"),
    ("[optim]\nlr = { low = 1, high = 2, log = true, step = 1 }", "log or step, not both"),
    ("[optim]\nlr = { low = 1, high = 2, step = 1e-9 }", "step gives more than 10,000 values"),
    ("[optim]\nweight_decay = { low = 0, high = 1, log = true }", "log = true needs low > 0"),
    ("[train]\nbatch_size = { low = 8, high = 64, step = 0.5 }", "step must be an integer here"),
    ("[train]\nbatch_size = { low = 8.0, high = 64.0 }", "batch_size = 8.0: expected an integer"),
    ("[model]\nname = { low = 1, high = 2 }", "model.name = 1: expected text"),
    (LR + "[search]\nsampler = 'grid'", "a grid needs a list, or a range with step"),
    (LR + "[search]\npruner = 'median'\nfolds = 3", "folds are all trained"),
    ("[data]\nmax_rows = [10, 20]\n[search]\nfolds = 3", "decides what the folds are drawn from"),
    ("[optim]\nwarmup = { low = 0, high = 500 }", "expected a share below 1 or an integer"),
    (
        "[adapter]\nkind = ['none', 'lora']\nbits = ['none', 4]",
        "a trial with adapter.kind = .none., a",
    ),
    ("[model]\nname = ['demo', './nowhere']", "no such file or folder"),
    ("[optim]\nlr = [1e-3", "not TOML: Unclosed array"),
]
TOGETHER = [  # the space, a key of the job, the line about both
    (LR + "[search]\npruner = 'median'", "eval.every=end", "compares evaluations, and eval.every"),
    (
        "[train]\nbatch_size = [8, 16]\n[search]\npruner = 'median'",
        "eval.every=10",
        "have seen as many b",
    ),
    (LR, "train.seed=[1, 2]", "a trial has one seed"),
    ("[train]\nepochs = [1, 2]", "train.max_steps=50", "epochs: has no effect: the job has train"),
    (
        "[train]\nepochs = [1, 2]\nmax_steps = { low = 5, high = 9 }",
        "",
        "train.epochs: has no effect: all trials have train.max_steps",
    ),
    ("[adapter]\nrank = [4, 8]", "adapter.kind=none", "adapter.rank: applies only to adapter.kin"),
    (
        "[adapter]\nkind = ['none']\nalpha = [4, 8]",
        "adapter.kind=lora",
        "adapter.alpha: applies only to adapter.kind",
    ),
    (
        "[data]\nmax_length = [64, 512]",
        "train.token_budget=256",
        "a trial with data.max_length = 512 is w",
    ),
]


@pytest.mark.parametrize(
    ("text", "key", "line"), [*((text, "", line) for text, line in MISTAKES), *TOGETHER]
)
def test_a_mistake_is_a_line(tmp_path: Path, text: str, key: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        space_of(tmp_path, text, *filter(None, [key]))
    assert error.value.code == USAGE_ERROR
    assert any(re.search(line, one) for one in error.value.lines), error.value
    assert all("\n" not in one and len(one) < 400 for one in error.value.lines)


def test_keys_that_have_an_effect_in_some_trials_are_searched(tmp_path: Path) -> None:
    for text in (
        "[train]\nepochs = [1, 2]\nmax_steps = ['none', 50]",
        "[adapter]\nkind = ['none', 'lora']\nrank = [4, 8]",
    ):
        assert space_of(tmp_path, text, "train.max_steps=9").size == 4


def test_a_missing_space_and_a_folder_are_lines(tmp_path: Path) -> None:
    base, _ = read_assignments(None)
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(UserError, match="no such file; a space has the values of each key"):
            read_space(str(path), base, resolve(base))


def test_each_key_is_searched_or_refused_with_a_reason(tmp_path: Path) -> None:
    """No key ends in a traceback, whatever its type."""
    searched = set()
    for key, schema in KEYS.items():
        section, name = key.split(".")
        for text in ("[1, 2]", "{ low = 0.25, high = 0.5 }", "{ low = 4, high = 8 }", "['x', 'y']"):
            try:
                space_of(tmp_path, f"[{section}]\n{name} = {text}")
                searched.add(key)
                assert reason_against(key) is None
            except UserError as error:
                assert reason_against(key) is None or "cannot be searched" in str(error), (
                    key,
                    error,
                )
        assert isinstance(schema.type, ValueType)
    assert {"optim.lr", "train.batch_size", "model.dropout", "data.max_length"} <= searched
    assert not {key for key in searched if key.startswith(("run.", "job.", "log.", "checkpoint."))}


MIXED = """
[search]
trials = 40
[optim]
lr = { low = 1e-5, high = 1e-3, log = true }
betas = [[0.9, 0.999], [0.9, 0.98]]
weight_decay = { low = 0.0, high = 0.3, step = 0.1 }
[model]
dropout = ["none", 0.0, 0.1]
[train]
batch_size = { low = 8, high = 64, step = 8 }
label_smoothing = { low = 0.0, high = 0.2 }
max_steps = { low = 10, high = 1000, log = true }
"""


def trial(number: int, parameters: dict[str, Any], value: float | None, *scores: float) -> Trial:
    state = "finished" if value is not None else "pruned" if scores else "failed"
    return Trial.of([TrialRun(number, parameters, 0, state, value, scores)], 0)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_proposals_are_valid_and_depend_on_the_past_alone(tmp_path: Path, sampler: str) -> None:
    space = space_of(tmp_path, MIXED.replace("trials", f"sampler = '{sampler}'\ntrials"))
    base, _ = read_assignments(None)
    trials: list[Trial] = []
    for number in range(16):
        found = next_parameters(space, number, trials)
        assert found == next_parameters(space, number, trials)
        resolve([*base, *space_keys(found)])
        assert 1e-5 <= found["optim.lr"] <= 1e-3 and found["train.batch_size"] in range(8, 65, 8)
        assert found["optim.weight_decay"] in (0.0, 0.1, 0.2, 0.3)
        assert found["optim.betas"] in ([0.9, 0.999], [0.9, 0.98])
        assert type(found["train.max_steps"]) is int
        assert type(found["train.label_smoothing"]) is float
        value = None if number % 5 == 4 else -abs(found["optim.lr"] - 3e-4)
        trials.append(trial(number, found, value))
    others = replace(space, search=replace(space.search, seed=1))
    assert next_parameters(others, 0, ()) != trials[0].parameters
    running = replace(trials[-1], state="running", value=None)
    assert next_parameters(space, 16, [*trials[:-1], running])  # others still train


def space_keys(parameters: dict[str, Any]) -> list[Any]:
    from distsent.search.space import parameters_as_keys

    return parameters_as_keys("space.toml", parameters)


def test_tpe_learns_where_values_are_good(tmp_path: Path) -> None:
    space = space_of(tmp_path, LR)
    trials: list[Trial] = []
    distances: list[float] = []  # from the best value, of at most one decade
    for number in range(40):
        found = next_parameters(space, number, trials)
        distances.append(abs(math.log10(found["optim.lr"]) + 4))
        trials.append(trial(number, found, -distances[-1]))
    assert sum(distances[20:]) / 20 < 0.25  # 0.5 by chance


def test_a_grid_and_small_spaces_are_tried_completely_and_nothing_twice(tmp_path: Path) -> None:
    small = "[train]\nbatch_size = [8, 16, 32]\nepochs = { low = 1, high = 2, step = 0.5 }\n"
    for sampler in ("grid", "random", "tpe"):
        space = space_of(tmp_path, f"{small}[search]\nsampler = '{sampler}'\ntrials = 500")
        assert space.search.trials == space.size == 9
        trials: list[Trial] = []
        for number in range(9):
            trials.append(trial(number, next_parameters(space, number, trials), 1.0))
        assert len({repr(sorted(one.parameters.items())) for one in trials}) == 9
    assert space.with_trials(4).search.trials == 4 and not space.untried
    lr = "lr = { low = 0.001, high = 0.101, step = 0.001 }"
    large = f"[optim]\n{lr}\nweight_decay = {[*range(100)]}\n[search]\nsampler = 'grid'"
    space = space_of(tmp_path, large)
    assert space.untried == "the grid has 10,100 combinations; a sweep tries the first 10,000"
    assert not space.with_trials(9).untried


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_what_is_worse_than_others_is_pruned(tmp_path: Path, pruner: str, metric: str) -> None:
    space = space_of(tmp_path, f"{LR}[search]\npruner = '{pruner}'\nmetric = '{metric}'")
    sign = -1 if metric == "loss" else 1
    lr = {"optim.lr": 1e-4}
    scores = [[sign * (0.5 + i / 100 + step / 30) for step in range(9)] for i in range(8)]
    trials = [
        trial(i, {"optim.lr": 1e-4 + i * 1e-6}, one[-1], *one) for i, one in enumerate(scores)
    ]
    trials += [trial(8, lr, None), trial(9, lr, None, *scores[0][:2])]
    worst, best = [one - sign for one in scores[0]], [one + sign for one in scores[-1]]

    def pruned(values: list[float]) -> int | None:
        counts = range(1, len(values) + 1)
        return next((n for n in counts if should_prune(space, values[:n], trials)), None)

    assert pruned(worst) is not None and pruned(best) is None
    assert pruned(worst) == pruned(worst)
    assert should_prune(space, [sign * float("nan")], trials) is False  # the run itself ends then


def test_importance_of_what_decides(tmp_path: Path) -> None:
    space = space_of(tmp_path, LR + "[train]\nbatch_size = [8, 16]\n[model]\ndropout = [0.1]")
    trials: list[Trial] = []
    for number in range(30):
        found = next_parameters(space, number, ())
        trials.append(trial(number, found, found["optim.lr"]))
    shares = importance(space, [*trials, trial(30, found, None)])
    assert list(shares) == ["optim.lr", "train.batch_size"] and shares["optim.lr"] > 0.8
    assert importance(space, trials[:4]) == {} == importance(space, [trial(0, found, 1.0)] * 9)


def test_the_best_job_of_a_sweep_with_a_long_name_is_a_job(tmp_path: Path) -> None:
    base, _ = read_assignments(None, [f"job.name={'n' * 200}"])
    sweep = Sweep(base, resolve(base), space_of(tmp_path, LR), "space.toml")
    best = trial(0, {"optim.lr": 1e-4}, 1.0)
    (tmp_path / "best.toml").write_text(Report(sweep, [best], best, {}).best_job())
    assert load_job(tmp_path / "best.toml").job.name == f"{'n' * 195}-best"


def test_the_best_is_the_first_of_equal_ones_and_folds_count_by_their_mean() -> None:
    values = {0: (0.5, 0.7), 1: (0.6, 0.6), 2: (0.9, None)}
    runs = [
        TrialRun(n, {}, fold, "failed" if value is None else "finished", value)
        for n, pair in values.items()
        for fold, value in enumerate(pair, 1)
    ]
    trials = trials_of([*runs, TrialRun(3, {}, 1, "finished", 1.0)], folds=2)
    assert [one.state for one in trials] == ["finished", "finished", "failed", "running"]
    best = best_of(trials, lower_is_better=False)
    assert best is not None and (best.number, best.value) == (0, pytest.approx(0.6))
    assert best.spread == pytest.approx(0.02**0.5)
