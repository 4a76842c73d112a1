"""A classifier as an ONNX graph, by torch's TorchScript exporter.

It exports the architectures of docs/architectures.md exactly and in seconds; torch 2.13's newer
one (dynamo) took ten times as long for the same numbers. It follows one example, so a graph may be
wrong for texts of other lengths: `check_graph` compares before anything else happens.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from distsent.batching.batch_plan import collate
from distsent.data.tokens.store import Tokens
from distsent.errors import UserError
from distsent.evaluation.exported import ExportedForward, Runner
from distsent.exporting.quiet import quiet
from distsent.exporting.rows import CPU, different_lengths, subset

OPSET = 17
LARGE = 1 << 30  # bytes of weights from which they are in a file of their own (protobuf ends at 2)
TOLERANCE = 1e-4  # of the largest logit, in float32


class Logits(nn.Module):
    """The classifier with inputs in the order of their names, and the logits as its output."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def write_graph(model: PreTrainedModel, example: dict[str, np.ndarray], path: Path) -> None:
    """Write model.onnx, with free sizes of batch and length. `example`: at least two rows.

    Raises UserError for an architecture that ONNX cannot express.
    """
    sizes = {0: "batch", 1: "length"}
    names, name = list(example), type(model).__name__
    inputs = tuple(torch.from_numpy(example[key]) for key in names)
    try:
        with quiet(), torch.no_grad():
            torch.onnx.export(
                Logits(model, names).eval(), inputs, str(path), input_names=names,
                output_names=["logits"], opset_version=OPSET, dynamo=False,
                dynamic_axes={**dict.fromkeys(names, sizes), "logits": {0: "batch"}},
            )  # fmt: skip
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of many kinds: whatever tracing stumbles over
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name} cannot be exported to ONNX: {reason}") from error
    _join_weights(path)


def _join_weights(path: Path) -> None:
    """Put large weights into one file beside the graph; torch writes a file for each."""
    import onnx

    others = [other for other in path.parent.iterdir() if other != path]
    if not others and path.stat().st_size < LARGE:
        return
    model = onnx.load(path)
    for other in (path, *others):
        other.unlink()
    onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data")


@torch.inference_mode()
def check_graph(model: PreTrainedModel, exported: ExportedForward, tokens: Tokens) -> None:
    """Raise UserError unless texts of any length get the logits from the graph that they get alone.

    Together, which needs padding, and each alone.
    """
    few = subset(tokens, different_lengths(tokens))
    rows = np.arange(len(few))
    together, alone = (
        collate(few, rows, None, CPU),
        [collate(few, rows[i : i + 1], None, CPU) for i in rows],
    )
    original = exported.with_run(runner(model))
    expected, name = torch.cat([original(one) for one in alone]), type(model).__name__
    try:
        found = {"padded to a common length": exported(together)}
        found["alone"] = torch.cat([exported(one) for one in alone])
    except Exception as error:  # onnxruntime's own
        reason = " ".join(str(error).split())[:200]
        problem = f"its ONNX graph fails for texts of another length ({reason})"
        raise UserError(f"{name} cannot be exported: {problem}") from None
    most = TOLERANCE * max(1.0, float(expected.abs().max()))
    for how, logits in found.items():
        far = float((logits - expected).abs().max())
        if not far <= most:
            problem = f"texts {how} get other logits from its ONNX graph (up to {far:.2g})"
            raise UserError(f"{name} cannot be exported: {problem}")


def runner(model: PreTrainedModel) -> Runner:
    """The classifier itself, as exported models are run."""

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
        return model(**tensors).logits.numpy()

    return run
