"""Train, stop, resume, evaluate and predict in one process that reports every pickle.

    python -m tests.chaos.unpickled RUN [overrides]

Each entry point is called as its users call it. Each read of a pickle, or of marshaled code other
than an import's, is printed with its caller.
"""

from __future__ import annotations

import contextlib
import io
import marshal
import os
import pickle
import signal
import sys
import traceback
from typing import Any

SEEN: list[str] = []


def record(event: str) -> None:
    """Record an event and its caller."""
    stack = traceback.extract_stack()[:-2]
    callers = [frame for frame in stack if "unpickled.py" not in frame.filename]
    SEEN.append(f"{event} by {callers[-1].filename}:{callers[-1].lineno}" if callers else event)


def audit(event: str, details: tuple[Any, ...]) -> None:
    if event == "pickle.find_class":  # each class or function named in a pickle, in C and in Python
        record(f"pickle: {details}")
    elif event in ("marshal.loads", "marshal.load") and not called_by_importlib():
        record(event)


def called_by_importlib() -> bool:
    """Whether the audited function was. `sys._getframe` is audited itself, so call this rarely."""
    return "importlib" in sys._getframe(2).f_code.co_filename


def watch() -> None:
    sys.addaudithook(audit)
    for module, name in ((pickle, "load"), (pickle, "loads"), (marshal, "load")):
        setattr(module, name, watched(getattr(module, name), f"{module.__name__}.{name}"))
    import torch

    torch.load = watched(torch.load, "torch.load")


def watched(real: Any, name: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        record(name)
        return real(*args, **kwargs)

    return call


def main(run: str, overrides: list[str]) -> None:
    from distsent import evaluate, predict, train
    from distsent.errors import Stopped
    from distsent.training.train_step import TrainStep

    real, signaled = TrainStep.__call__, False

    def step_with_signal(self: TrainStep, batch: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal signaled
        if batch.step == 7 and not signaled:
            signaled = True
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, batch, *args, **kwargs)

    TrainStep.__call__ = step_with_signal  # type: ignore[method-assign]
    try:
        train.main(overrides)
        raise AssertionError("it did not stop")
    except Stopped:
        pass
    assert train.main(overrides) == 0, "it did not resume"
    assert evaluate.main([run]) == 0
    assert predict.main([run, "w1 w2 w3"]) == 0


if __name__ == "__main__":
    watch()
    assert pickle.loads(pickle.dumps(main)) and len(SEEN) == 2, "the watch does not work"
    SEEN.clear()
    with contextlib.redirect_stdout(io.StringIO()):
        main(sys.argv[1], sys.argv[2:])
    print("\n".join(["PICKLES", *SEEN]))
