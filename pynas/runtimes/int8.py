"""Static quantisation of an ONNX file to 8-bit integers after the training."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pynas.runtimes.batches import quiet


def quantized(file: bytes, batches: Sequence[np.ndarray]) -> bytes:
    """Return the content of an ONNX file with weights and outputs of 8 bits, quantised by ONNX Runtime.

    Weights have a scale for each output channel; outputs have the range that they have on the batches.

    batches: inputs of the shape that the file takes, as representative as can be.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self._feeds = iter([{name: batch} for batch in batches])

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    import onnx

    with tempfile.TemporaryDirectory() as folder, quiet():
        given, prepared, written = (Path(folder) / f"{name}.onnx" for name in ("given", "prepared", "written"))
        given.write_bytes(file)
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        name = onnx.load_from_string(file).graph.input[0].name
        quantize_static(prepared, written, Reader(name), quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
        return written.read_bytes()
