"""Train, stop, carry on, score and label in one process that watches for pickles:  python -m tests.chaos.unpickled RUN [overrides]

Every door is used as its user does. Whoever reads a pickle, or runs marshalled code that is not an import's, is printed.
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


def tell(what: str) -> None:
    """Remember what was done, and by whom."""
    callers = [
        frame for frame in traceback.extract_stack()[:-2] if "unpickled.py" not in frame.filename
    ]
    SEEN.append(f"{what} by {callers[-1].filename}:{callers[-1].lineno}" if callers else what)


def audit(event: str, details: tuple[Any, ...]) -> None:
    if (
        event == "pickle.find_class"
    ):  # every class or function that a pickle names, in C and in Python
        tell(f"pickle: {details}")
    elif event in ("marshal.loads", "marshal.load") and "importlib" not in str(
        sys._getframe(1).f_code.co_filename
    ):
        tell(f"{event}")


def watch() -> None:
    sys.addaudithook(audit)
    for module, name in ((pickle, "load"), (pickle, "loads"), (marshal, "load")):
        setattr(module, name, watched(getattr(module, name), f"{module.__name__}.{name}"))
    import torch

    torch.load = watched(torch.load, "torch.load")


def watched(real: Any, name: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        tell(name)
        return real(*args, **kwargs)

    return call


def main(run: str, overrides: list[str]) -> None:
    from distsent import evaluate, predict, train
    from distsent.errors import Stopped
    from distsent.training.train_step import TrainStep

    real, asked = TrainStep.__call__, False

    def stopping(self: TrainStep, batch: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        if batch.step == 7 and not asked:
            asked = True
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, batch, *args, **kwargs)

    TrainStep.__call__ = stopping  # type: ignore[method-assign]
    try:
        train.main(overrides)
        raise AssertionError("it was asked to stop")
    except Stopped:
        pass
    assert train.main(overrides) == 0, "it carries on"
    assert evaluate.main([run]) == 0
    assert predict.main([run, "w1 w2 w3"]) == 0


if __name__ == "__main__":
    watch()
    assert pickle.loads(pickle.dumps(main)) and len(SEEN) == 2, "the watch is awake"
    SEEN.clear()
    with contextlib.redirect_stdout(io.StringIO()):
        main(sys.argv[1], sys.argv[2:])
    print("\n".join(["PICKLES", *SEEN]))
