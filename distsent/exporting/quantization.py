"""float32 ONNX graph -> int8, by onnxruntime's static quantization, calibrated on training texts.

Only what linear layers read is quantized, not their results: that was more exact and faster.
Activations are unsigned and weights signed: with two signed ones, onnxruntime 1.32 was as slow as
float32 on a CPU with AVX-512 VNNI. Products of activations (attention) stay in float32, and so do
pooler and head, which read one row per text: they cost nothing. Static, so that a text gets the
same logits in any batch: dynamic quantization scales a batch by its largest activation.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from distsent.errors import UserError
from distsent.exporting import integer_products
from distsent.exporting.smoothing import smooth

Batches = Sequence[dict[str, np.ndarray]]


def quantize(graph: Path, batches: Batches, path: Path) -> None:
    """Write the int8 graph to `path`. Raises UserError if it has nothing that can be quantized."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large = graph.with_name(f"{graph.name}.data").exists()
    with TemporaryDirectory(dir=path.parent) as folder:
        prepared, smoothed = Path(folder) / "prepared.onnx", Path(folder) / "smoothed.onnx"
        quant_pre_process(
            graph, prepared, skip_symbolic_shape=True, skip_onnx_shape=True,
            save_as_external_data=large, external_data_location="prepared.data",
            all_tensors_to_one_file=True,
        )  # fmt: skip
        peaks = _peaks(_split_gemms(onnx.load(prepared)), batches, Path(folder) / "peaks.onnx")
        model = _split_gemms(onnx.load(prepared))
        layers = [node for node in _linear(model) if node.input[0] in peaks]
        if not layers:
            raise UserError(
                "--int8: the model has no linear layers that it quantizes: leave it out"
            )
        smooth(model, layers, peaks)
        names = [node.name for node in layers]
        _save(model, smoothed, large)
        quantize_static(
            smoothed, path, _reader(batches), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_quantize=names,
            op_types_to_quantize=["MatMul"], use_external_data_format=large,
            reduce_range=saturates(),
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )  # fmt: skip
    _finish(path)


def saturates() -> bool:
    """Whether this CPU adds products of 8 bits in 16 bits, which overflow: weights then have 7.

    x86 without VNNI does (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
    """
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = {
        flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()
    }
    return "sse2" in flags and not flags & {"avx512_vnni", "avx_vnni"}


def _linear(model: Any) -> list[Any]:
    weights = {one.name for one in model.graph.initializer if len(one.dims) == 2}
    return [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in weights]


def _split_gemms(model: Any) -> Any:
    """Gemm -> MatMul and Add: the linear layers of GPT-2, for one."""
    from onnx import helper, numpy_helper

    weights, nodes = {one.name: one for one in model.graph.initializer}, []
    for node in model.graph.node:
        how = {x.name: helper.get_attribute_value(x) for x in node.attribute}
        plain = how.get("alpha", 1) == how.get("beta", 1) == 1 and not how.get("transA", 0)
        if node.op_type != "Gemm" or not plain or node.input[1] not in weights:
            nodes.append(node)
            continue
        name, (x, W, *bias) = node.name or node.output[0], node.input
        if how.get("transB", 0):
            turned = numpy_helper.to_array(weights[W]).T.copy()
            W = f"{name}_weight"
            model.graph.initializer.append(numpy_helper.from_array(turned, W))
        product = f"{name}_product" if bias else node.output[0]
        nodes.append(helper.make_node("MatMul", [x, W], [product], f"{name}_MatMul"))
        if bias:
            nodes.append(helper.make_node("Add", [product, *bias], node.output, f"{name}_Add"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _peaks(model: Any, batches: Batches, path: Path) -> dict[str, np.ndarray]:
    """Largest absolute value of each channel [K] of what layers read that have a row per token."""
    import onnxruntime
    from onnx import TensorProto, helper

    names = sorted({node.input[0] for node in _linear(model)})
    outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, None) for x in names]
    model.graph.output.extend(outputs)
    _save(model, path, large=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    peaks: dict[str, np.ndarray] = {}
    for batch in batches:
        texts = len(batch["input_ids"])
        for name, x in zip(names, session.run(names, batch), strict=True):
            rows = np.abs(x.reshape(-1, x.shape[-1]))
            if len(rows) > texts:
                peaks[name] = np.maximum(peaks.get(name, 0), rows.max(0))
    return peaks


def _save(model: Any, path: Path, large: bool) -> None:
    """Write a model. Large weights are no longer in it afterwards."""
    import onnx

    onnx.save_model(model, path, save_as_external_data=large, location=f"{path.name}.data")


def _finish(path: Path) -> None:
    """Join products with biases, and forget all shapes.

    With them, onnxruntime joins additions with norms, in an operator ten times as slow.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    integer_products.join(model)
    del model.graph.value_info[:]
    onnx.save_model(model, path)


def _reader(batches: Batches) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest: Iterator[dict[str, np.ndarray]] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rest, None)

    return Reader()
