"""ONNX graph -> OpenVINO's format, in float32, or in int8 by NNCF, calibrated on training texts."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distsent.evaluation.exported import OPENVINO, require
from distsent.exporting.quiet import quiet


def convert(graph: Path, batches: Sequence[dict[str, np.ndarray]] | None, path: Path) -> None:
    """Write openvino_model.xml and its weights; in int8 if there are `batches`."""
    openvino = require("openvino", OPENVINO, "--format openvino")
    model: Any = openvino.Core().read_model(graph)
    if batches is not None:
        nncf = require_nncf()
        logging.getLogger("nncf").setLevel(logging.ERROR)
        with quiet():  # it shows its progress
            model = nncf.quantize(
                model, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(batches),
            )  # fmt: skip
    openvino.save_model(model, path, compress_to_fp16=False)


def require_nncf() -> Any:
    """Raises UserError if it is missing."""
    os.environ.setdefault("NNCF_CI", "1")  # it reports its use to its makers otherwise
    return require("nncf", OPENVINO, "--format openvino --int8")
