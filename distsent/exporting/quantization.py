"""float32 ONNX graph -> int8, by onnxruntime's static quantization, calibrated on training texts.

Only what linear layers read is quantized, not their results: that was more exact and faster.
Activations are unsigned and weights signed: with two signed ones, onnxruntime 1.32 was as slow as
float32 on a CPU with AVX-512 VNNI. Pooler and head stay in float32: they cost nothing. Static, so
that a text gets the same logits in any batch: dynamic quantization scales a batch by its largest
activation.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Batches = Sequence[dict[str, np.ndarray]]
QUANTIZED = ("MatMul",)  # of constant weights: linear layers of the encoder


def quantize(graph: Path, batches: Batches, path: Path) -> None:
    """Write the int8 graph to `path`."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large = graph.with_name(f"{graph.name}.data").exists()
    prepared = path.with_name("prepared.onnx")
    quant_pre_process(
        graph, prepared, skip_symbolic_shape=True, save_as_external_data=large,
        external_data_location="prepared.data", all_tensors_to_one_file=True,
    )  # fmt: skip
    quantize_static(
        prepared, path, _reader(batches), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=list(QUANTIZED), use_external_data_format=large,
        extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )  # fmt: skip
    for other in path.parent.glob("prepared.*"):
        other.unlink()


def _reader(batches: Batches) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest: Iterator[dict[str, np.ndarray]] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rest, None)

    return Reader()
