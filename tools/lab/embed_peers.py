#!/usr/bin/env python3
"""Compute embeddings with other runtimes' int8: ONNX Runtime (dynamic, by channel) and OpenVINO (NNCF, static).

    .venv-peers/bin/python tools/lab/embed_peers.py backbone.onnx pixels.npz out/

Runs in the environment of `make bench-peers`, without quasar_rt. `pixels.npz` holds `calibration` and `tested`, uint8
[images, height, width, 3], and the `mean` and `std` of pixel/255. `out/` gets `onnx-runtime.npy` and `openvino.npy`,
float32 [images, embed]: the first token of the graph's only output [1, tokens, embed].
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Embed = Callable[[Floats], Floats]


def onnx_runtime(model: Path, folder: Path) -> Embed:
    """Returns the network in ONNX Runtime: int8 weights by output channel, activations quantized dynamically."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = folder / "dynamic.onnx"
    quantize_dynamic(model, path, weight_type=QuantType.QInt8, per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    name = session.get_inputs()[0].name
    return lambda image: np.asarray(session.run(None, {name: image})[0])


def openvino_int8(model: Path, calibration: list[Floats]) -> Embed:
    """Returns the network in OpenVINO, quantized by NNCF with its settings for transformers."""
    import nncf
    import openvino

    core = openvino.Core()
    network = core.read_model(model)
    network.reshape({network.inputs[0]: calibration[0].shape})
    quantized = nncf.quantize(
        network,
        nncf.Dataset(calibration),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(calibration),
    )
    compiled = core.compile_model(quantized, "CPU", {"INFERENCE_NUM_THREADS": 1})
    return lambda image: np.asarray(compiled(image)[0])


def main(model: Path, pixels: Path, folder: Path) -> None:
    """Writes both runtimes' embeddings of the tested images."""
    with np.load(pixels) as held:
        mean, std = held["mean"], held["std"]

        def normalised(images: NDArray[np.uint8]) -> list[Floats]:
            return [
                ((image / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32) for image in images
            ]

        calibration, tested = normalised(held["calibration"]), held["tested"]
    for name, embed in {
        "onnx-runtime": onnx_runtime(model, folder),
        "openvino": openvino_int8(model, calibration),
    }.items():
        found = [embed(normalised(tested[i : i + 1])[0])[0, 0] for i in range(len(tested))]
        np.save(folder / f"{name}.npy", np.stack(found).astype(np.float32))
        print(f"{name}: {len(found)} images")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
