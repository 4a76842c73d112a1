"""Speed of several ways to score the same rows, in turn, on this machine."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from distsent.batching.batch_plan import collate
from distsent.data.tokens.store import Tokens
from distsent.evaluation.evaluate_split import CPU_TOKENS, batches_of_rank
from distsent.evaluation.saved_model import AnyForward
from distsent.exporting.rows import CPU, draw, subset

ROUNDS = 5
SECONDS = 1.0  # of a round of the first system


@dataclass(frozen=True)
class Speed:
    """Examples per second in each round, from tokens to logits."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def __str__(self) -> str:
        return f"{self.median:,.0f} ({min(self.rounds):,.0f} - {max(self.rounds):,.0f})"


def measure(systems: Mapping[str, AnyForward], tokens: Tokens, expected: float) -> dict[str, Speed]:
    """The speed of each system, in rounds that run all of them once.

    `expected`: examples per second, about; it decides how many rows a round has.
    """
    rows = draw(len(tokens), max(32, int(SECONDS * expected)))
    few = subset(tokens, rows)
    batches = [
        collate(few, batch, None, CPU) for batch in batches_of_rank(few.lengths(), 0, 1, CPU_TOKENS)
    ]
    found: dict[str, list[float]] = {name: [] for name in systems}
    with torch.inference_mode():
        for round in range(ROUNDS + 1):  # the first one warms up
            for name, forward in systems.items():
                started = time.perf_counter()
                for batch in batches:
                    forward(batch)
                seconds = time.perf_counter() - started
                if round:
                    found[name].append(len(few) / seconds)
    return {name: Speed(tuple(values)) for name, values in found.items()}


def ratio(a: Speed, b: Speed) -> str:
    """How many times as fast a is as b: median of the rounds, lowest and highest."""
    values = np.array(a.rounds) / np.array(b.rounds)
    return f"{np.median(values):.2f}x ({values.min():.2f} - {values.max():.2f})"
