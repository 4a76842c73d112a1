"""Graphs of tiny models: equal to the model at every length, and near it in int8."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from distsent.data.tokens.store import Tokens
from distsent.errors import UserError
from distsent.evaluation.exported import ExportedForward, load_runner
from distsent.exporting import exporter, graph, integer_products, quantization
from distsent.exporting.rows import padded
from tests import architectures, tiny_models

pytest.importorskip("onnxruntime", reason="pip install 'distsent[export]'")

EXPORTED = (
    "bert", "distilbert", "roberta", "albert", "electra", "modernbert", "deberta-v2", "t5", "mt5",
    "bart", "gpt2",
)  # fmt: skip


def exported_graph(name: str, folder: Path) -> tuple[ExportedForward, Tokens]:
    """Export a tiny model and compare it."""
    model, names = architectures.model(name), ["input_ids", "attention_mask"]
    model.set_attn_implementation("eager")
    pad = model.config.pad_token_id = model.config.pad_token_id or 0
    tokens = tiny_models.tokens(40)
    forward = ExportedForward(graph.runner(model), names, pad)
    example = forward.pad(exporter.collate(tokens, np.arange(3), None, torch.device("cpu")))
    graph.write_graph(model, example, folder / "model.onnx")
    forward = forward.with_run(load_runner(folder, "onnx", 1))
    graph.check_graph(model, forward, tokens)
    return forward, tokens


@pytest.mark.parametrize("name", EXPORTED)
def test_architectures(name: str, tmp_path: Path) -> None:
    exported_graph(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"), [("fnet", "aten::fft_fftn"), ("funnel", "texts of another length")]
)
def test_architectures_that_cannot_be_exported(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"cannot be exported.*{reason}") as raised:
        exported_graph(name, tmp_path)
    assert raised.value.code == 2 and "\n" not in str(raised.value)


OUTLIERS = {  # what computes a channel, and what reads it
    "bert": (".self.value", ".output.dense"), "albert": ("attention.value", "attention.dense"),
    "deberta-v2": (".self.value_proj", ".attention.output.dense"),
    "opt": (".v_proj", ".out_proj"),
}  # fmt: skip


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", OUTLIERS)
def test_outliers_do_not_cost_other_channels_their_bits(
    name: str, large: bool, tmp_path: Path
) -> None:
    """ALBERT's layers share their weights, and OPT's read one row per token."""
    made, (source, reader) = architectures.model(name), OUTLIERS[name]
    with torch.no_grad():  # the same function, but for one channel in between
        for key, module in made.named_modules():
            if key.endswith(source):
                module.weight[3] *= 100
                module.bias[3] *= 100
            elif key.endswith(reader) and module.in_features == 32:
                module.weight[:, 3] /= 100
    with (
        patch.object(architectures, "model", return_value=made),
        patch.object(graph, "LARGE", 0 if large else graph.LARGE),
    ):
        forward, tokens = exported_graph(name, tmp_path)
    batches = list(padded(tokens, forward.pad))
    together = exporter.collate(tokens, np.arange(40), None, torch.device("cpu"))
    expected, far = forward(together), []
    for smooth in (quantization.smooth, lambda *_: None):
        folder = tmp_path / f"{len(far)}"
        folder.mkdir()
        with patch.object(quantization, "smooth", smooth):
            quantization.quantize(tmp_path / "model.onnx", batches, folder / "model.onnx")
        files = sorted(path.name for path in folder.iterdir())
        assert files == ["model.onnx", "model.onnx.data"][: 1 + large]
        int8 = forward.with_run(load_runner(folder, "onnx", 1))
        far.append(float((int8(together) - expected).square().mean().sqrt()))
    # On a CPU without VNNI weights have 7 bits, and BERT's gain nothing from smoothing: 0.007.
    # Products that overflow cost 0.1 and more.
    fine = quantization.saturates() and far[0] < 0.02
    assert far[0] > 0 and (fine or far[0] < 0.7 * far[1])


@pytest.mark.parametrize(("name", "without_bias"), [("bert", 0), ("gpt2", 1)])  # its head
def test_biases_in_integer_products_change_no_bit(
    name: str, without_bias: int, tmp_path: Path
) -> None:
    import onnx

    forward, tokens = exported_graph(name, tmp_path)
    batches, logits, operators = list(padded(tokens, forward.pad)), [], []
    for join in (integer_products.join, lambda _: None):
        folder = tmp_path / f"{len(logits)}"
        folder.mkdir()
        with patch.object(integer_products, "join", join):
            quantization.quantize(tmp_path / "model.onnx", batches, folder / "model.onnx")
        run = load_runner(folder, "onnx", 1)
        logits.append(np.concatenate([run(batch) for batch in batches]))
        nodes = onnx.load(folder / "model.onnx").graph.node
        operators.append(Counter(node.op_type for node in nodes))
    joined, plain = operators
    products = joined["MatMulIntegerToFloat"]
    assert products >= 8 and plain["MatMul"] - joined["MatMul"] == products
    assert plain["Add"] - joined["Add"] == products - without_bias
    assert np.array_equal(*logits)


def test_int8_of_a_model_without_such_layers_is_refused(tmp_path: Path) -> None:
    forward, tokens = exported_graph("bert", tmp_path)
    batches = [{k: v[:, :1] for k, v in batch.items()} for batch in padded(tokens, forward.pad)]
    with pytest.raises(UserError, match="no linear layers that it quantizes") as raised:
        quantization.quantize(tmp_path / "model.onnx", batches, tmp_path / "int8.onnx")
    assert raised.value.code == 2


def test_large_weights_are_in_a_file_of_their_own(tmp_path: Path) -> None:
    """Above 2 GB torch writes a file for each weight."""
    import onnx

    with patch.object(graph, "LARGE", 0):
        exported_graph("bert", tmp_path)
    both = ["model.onnx", "model.onnx.data"]
    assert sorted(path.name for path in tmp_path.iterdir()) == both
    scattered = tmp_path / "scattered"
    scattered.mkdir()
    path = scattered / "model.onnx"
    options: Any = {"save_as_external_data": True, "all_tensors_to_one_file": False}
    onnx.save_model(onnx.load(tmp_path / "model.onnx"), path, size_threshold=0, **options)
    assert len([*scattered.iterdir()]) > 9
    graph._join_weights(path)
    assert sorted(path.name for path in scattered.iterdir()) == both
    load_runner(scattered, "onnx", 1)
