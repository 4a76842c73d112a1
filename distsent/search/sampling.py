"""The parameters of the next trial, and which trials to prune: pure functions of what is on disk.

Optuna decides, on a study in memory that is built again from the trials each time. So nothing of
its state has to be saved, and a sweep that was killed goes on as if it had not been.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from distsent.errors import UserError
from distsent.search.space import Dimension, Space
from distsent.search.trials import Trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

STARTUP = 10  # random trials before TPE has enough to go by
TRIES = 50  # draws of a trial until one is new
MOST_LISTED = 10_000  # combinations of which the first new one is taken if no draw is


def check_optuna() -> None:
    """Raises UserError if it is not installed."""
    if find_spec("optuna") is None:
        raise UserError("a sweep needs Optuna: pip install 'distsent[sweep]'")


def next_parameters(space: Space, number: int, trials: Sequence[Trial]) -> dict[str, Any]:
    """The parameters of trial `number`, new ones if there are any left. `trials`: all others."""
    if space.search.sampler == "grid":
        return next(islice(space.combinations(), number, None))
    tried = [trial.parameters for trial in trials]
    for draw in range(TRIES):
        found = _ask(space, number, draw, trials)
        if found not in tried:
            return found
    if space.size is not None and space.size <= MOST_LISTED:
        return next((new for new in space.combinations() if new not in tried), found)
    return found


def _ask(space: Space, number: int, draw: int, trials: Sequence[Trial]) -> dict[str, Any]:
    from optuna.samplers import BaseSampler, RandomSampler, TPESampler

    words = np.random.SeedSequence([space.search.seed, number, draw]).generate_state(1)
    sampler: BaseSampler = RandomSampler(seed=int(words[0]))
    if space.search.sampler == "tpe":
        with _quiet():
            sampler = TPESampler(seed=int(words[0]), n_startup_trials=STARTUP, multivariate=True)
    study = study_of(space, trials, sampler)
    asked = study.ask(distributions(space))
    return {each.key: _value(each, asked.params[each.key]) for each in space.dimensions}


def should_prune(space: Space, values: Sequence[float], trials: Sequence[Trial]) -> bool:
    """Whether a trial with these scores, one per evaluation, is worse than others were by then.

    `trials`: the others that began before it. Their own evaluations are told again, in the order of
    their numbers: hyperband remembers with each what was decided about it.
    """
    if space.search.pruner == "none" or not all(map(np.isfinite, values)):
        return False
    from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner
    from optuna.trial import TrialState

    median = space.search.pruner == "median"
    pruner: BasePruner = MedianPruner() if median else HyperbandPruner()
    study = study_of(space, (), pruner=pruner)
    ends = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    for other in trials:
        told = study.ask(distributions(space))
        _report(told, other.scores)
        if other.state in ends:
            value = other.value if other.state == "finished" else None
            study.tell(told, value, state=ends[other.state])
    return _report(study.ask(distributions(space)), values)


def _report(told: Any, values: Sequence[float]) -> bool:
    verdict = False
    for step, value in enumerate(values, 1):
        told.report(value, step)
        verdict = told.should_prune()
    return verdict


def importance(space: Space, trials: Sequence[Trial]) -> dict[str, float]:
    """How much of the variance among trials each key explains, by PED-ANOVA; the sum is 1.

    Empty if there are too few finished trials to tell.
    """
    finished = [trial for trial in trials if trial.state == "finished"]
    varied = [
        d.key for d in space.dimensions if len({repr(t.parameters[d.key]) for t in finished}) > 1
    ]
    if len(finished) < 5 or not varied or len({trial.value for trial in finished}) < 2:
        return {}
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    study = study_of(space, finished)
    with _quiet():
        evaluator = PedAnovaImportanceEvaluator()
        found = get_param_importances(study, evaluator=evaluator, params=varied)
    return {
        key: float(found.get(key, 0.0)) for key in sorted(varied, key=lambda k: -found.get(k, 0))
    }


def study_of(
    space: Space, trials: Sequence[Trial], sampler: Any = None, pruner: Any = None
) -> Study:
    """A study in memory with these trials; failed ones tell it nothing."""
    import optuna
    from optuna.study import StudyDirection
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    states = {
        "finished": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.FAIL,
        "running": TrialState.RUNNING,
    }
    ways = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    direction = ways[space.search.lower_is_better]
    with _quiet():
        study = optuna.create_study(
            study_name="sweep", direction=direction, sampler=sampler, pruner=pruner
        )
        for trial in trials:
            study.add_trial(
                create_trial(
                    state=states[trial.state],
                    value=trial.value if trial.state == "finished" else None,
                    params=dict(_coded(space, trial)),
                    distributions=distributions(space),
                    intermediate_values=dict(enumerate(trial.scores, 1)),
                )
            )
    return study


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Values of a list are told by their number in it: Optuna takes no lists and tables."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    found: dict[str, BaseDistribution] = {}
    for each in space.dimensions:
        if each.values:
            found[each.key] = CategoricalDistribution(range(len(each.values)))
        elif each.integer:
            last = range(int(each.low), int(each.high) + 1, int(each.step or 1))[-1]
            found[each.key] = IntDistribution(int(each.low), last, each.log, int(each.step or 1))
        elif each.step is not None:  # by number, so that sums of steps have no rounding errors
            found[each.key] = IntDistribution(0, each.steps)
        else:
            found[each.key] = FloatDistribution(each.low, each.high, each.log)
    return found


def _value(each: Dimension, code: Any) -> Any:
    """The value of a key that Optuna's `code` stands for."""
    if each.values or (each.step is not None and not each.integer):
        return (each.options or ())[code]
    return code


def _coded(space: Space, trial: Trial) -> Iterator[tuple[str, Any]]:
    for each in space.dimensions:
        value = trial.parameters[each.key]
        by_number = each.values or (each.step is not None and not each.integer)
        yield each.key, list(each.options or ()).index(value) if by_number else value


def _quiet() -> Any:
    """Optuna warns of what is experimental, such as a multivariate TPE."""
    return warnings.catch_warnings(action="ignore")
