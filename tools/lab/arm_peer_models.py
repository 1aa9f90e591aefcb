"""Holds what `arm_peers.py` counts: int8 ViTs for ONNX Runtime, LiteRT and ncnn, and the process that runs one.

`make` runs in an environment with ONNX, ONNX Runtime and TensorFlow; `run` in the emulated Python, which has NumPy and
the runtimes.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from peer_models import Shape, picture, vit

if TYPE_CHECKING:
    import onnx


class Parameters(NamedTuple):
    """The weights of a graph of `peer_models.vit`."""

    kernel: np.ndarray
    """`[embed, 3, patch, patch]`"""
    kernel_bias: np.ndarray
    token: np.ndarray
    """`[embed]`"""
    positions: np.ndarray
    """`[tokens, embed]`"""
    norms: list[tuple[np.ndarray, np.ndarray]]
    """Gain and bias, two for each block and one at the end."""
    linears: list[tuple[np.ndarray, np.ndarray]]
    """`[inputs, outputs]` and bias: qkv, proj, fc1 and fc2 of each block, and the head."""


def parameters(model: onnx.ModelProto) -> Parameters:
    """Reads the weights of a graph of `peer_models.vit`."""
    from onnx import numpy_helper

    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    biases = {node.input[0]: node.input[1] for node in model.graph.node if node.op_type == "Add"}
    found: dict[str, list[list[np.ndarray]]] = {}
    for node in model.graph.node:
        arrays = [constants[name] for name in node.input if name in constants]
        if node.op_type == "MatMul" and arrays:
            arrays.append(constants[biases[node.output[0]]])
        if arrays:
            found.setdefault(node.op_type, []).append(arrays)
    kernel, kernel_bias = found["Conv"][0]
    (positions,) = (array[0] for [array] in found["Add"] if array.ndim == 3)
    return Parameters(
        kernel,
        kernel_bias,
        found["Expand"][0][0].ravel(),
        positions,
        [(gain, bias) for gain, bias in found["LayerNormalization"]],
        [(weights, bias) for weights, bias in found["MatMul"]],
    )


# ONNX Runtime.


def make_onnx(shape: Shape, folder: Path, model: onnx.ModelProto) -> np.ndarray:
    """Writes `float.onnx`, `dynamic.onnx` and `static.onnx`; returns the float network's logits."""
    import onnx
    from onnxruntime import InferenceSession
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = folder / "float.onnx"
    onnx.save(model, path)
    inferred = folder / "inferred.onnx"
    quant_pre_process(path, inferred, skip_symbolic_shape=True)
    quantize_dynamic(inferred, folder / "dynamic.onnx", per_channel=True, weight_type=QuantType.QInt8)

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(calibration(shape))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(({"image": image} for image in self.rest), None)

    quantize_static(
        inferred,
        folder / "static.onnx",
        Pictures(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(None, {"image": picture(shape, 1)})[0][0]
    return logits


def calibration(shape: Shape) -> list[np.ndarray]:
    """Returns images whose activations set the ranges."""
    return [picture(shape, 1) * scale for scale in (0.5, 1.0, 1.5)]


def onnxruntime(path: Path, shape: Shape) -> Callable[[], np.ndarray]:
    """Prepares a network in ONNX Runtime."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_free_dimension_override_by_name("batch", 1)
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {"image": picture(shape, 1)}
    return lambda: session.run(None, feed)[0][0]


# LiteRT, which runs what XNNPACK takes there.


def make_litert(shape: Shape, folder: Path, weights: Parameters) -> None:
    """Writes `dynamic.tflite` (activations quantized as they come) and `int8.tflite`."""
    import tensorflow as tf

    tokens, heads, width = shape.tokens, shape.heads, shape.embed // shape.heads
    kernel = tf.constant(weights.kernel.transpose(2, 3, 1, 0))

    def norm(x: Any, values: tuple[np.ndarray, np.ndarray]) -> Any:
        centred = x - tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean(centred * centred, -1, keepdims=True)
        return centred * tf.math.rsqrt(variance + 1e-6) * values[0] + values[1]

    def linear(x: Any, values: tuple[np.ndarray, np.ndarray]) -> Any:
        return tf.matmul(x, tf.constant(values[0])) + values[1]

    @tf.function(input_signature=[tf.TensorSpec([1, shape.image, shape.image, 3], tf.float32)])  # type: ignore[untyped-decorator]
    def forward(image: Any) -> Any:
        x = tf.nn.conv2d(image, kernel, shape.patch, "VALID") + weights.kernel_bias
        x = tf.concat([weights.token[None], tf.reshape(x, [tokens - 1, shape.embed])], 0) + weights.positions
        for block in range(shape.depth):
            qkv, proj, fc1, fc2 = weights.linears[4 * block : 4 * block + 4]
            first, second = weights.norms[2 * block : 2 * block + 2]
            split = tf.reshape(linear(norm(x, first), qkv), [tokens, 3, heads, width])
            q, k, v = tf.unstack(tf.transpose(split, [1, 2, 0, 3]))
            attended = tf.matmul(tf.nn.softmax(tf.matmul(q * width**-0.5, k, transpose_b=True)), v)
            attended = tf.reshape(tf.transpose(attended, [1, 0, 2]), [tokens, shape.embed])
            x = x + linear(attended, proj)
            x = x + linear(tf.nn.gelu(linear(norm(x, second), fc1), approximate=False), fc2)
        return linear(norm(x, weights.norms[-1])[0:1], weights.linears[-1])

    module = tf.Module()
    module.forward = forward
    for name in ("dynamic", "int8"):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([forward.get_concrete_function()], module)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == "int8":
            images = [image.transpose(0, 2, 3, 1) for image in calibration(shape)]
            converter.representative_dataset = lambda images=images: ([image] for image in images)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        (folder / f"{name}.tflite").write_bytes(converter.convert())


def litert(path: Path, shape: Shape) -> Callable[[], np.ndarray]:
    """Prepares a network in LiteRT, with XNNPACK as it comes."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    image = picture(shape, 1).transpose(0, 2, 3, 1)

    def run() -> np.ndarray:
        interpreter.set_tensor(source["index"], image)
        interpreter.invoke()
        logits: np.ndarray = interpreter.get_tensor(result["index"])[0]
        return logits

    return run


# ncnn. Its int8 layers quantize activations as they come; weights have the scales of its own tool (a row of q, k and v
# each, else a matrix each).


class Ncnn:
    """Writes the two files of a network, layer by layer."""

    def __init__(self) -> None:
        self.layers: list[str] = []
        self.weights = bytearray()
        self.blobs = 0

    def layer(self, kind: str, inputs: list[str], parameters: str = "", outputs: int = 1) -> list[str]:
        """Adds a layer and returns its outputs."""
        names = [f"blob{self.blobs + i}" for i in range(outputs)]
        self.blobs += outputs
        words = [kind, f"layer{len(self.layers)}", len(inputs), outputs, *inputs, *names, parameters]
        self.layers.append(" ".join(map(str, words)).rstrip())
        return names

    def floats(self, *arrays: np.ndarray | list[float], tagged: bool = False) -> None:
        """Writes float32 values; those of weights have a tag."""
        for array in arrays:
            self.weights += struct.pack("<I", 0) if tagged else b""
            self.weights += np.asarray(array, "<f4").tobytes()

    def codes(self, array: np.ndarray, scale: np.ndarray | float) -> None:
        """Writes weights as int8."""
        codes = np.clip(np.round(array * scale), -127, 127).astype(np.int8).tobytes()
        self.weights += struct.pack("<I", 0x000D4B38) + codes + b"\0" * (-len(codes) % 4)

    def norm(self, x: str, values: tuple[np.ndarray, np.ndarray]) -> str:
        """Adds a LayerNorm."""
        self.floats(*values)
        return self.layer("LayerNorm", [x], f"0={len(values[0])} 1=1e-6 2=1")[0]

    def linear(self, x: str, values: tuple[np.ndarray, np.ndarray]) -> str:
        """Adds a linear layer."""
        rows, (inputs, outputs) = values[0].T, values[0].shape
        scale = 127 / np.abs(rows).max()
        self.codes(rows, scale)
        self.floats(values[1], tagged=True)
        self.floats([scale])
        return self.layer("Gemm", [x], f"2=0 3=1 4=0 5=1 6=1 7=0 8={outputs} 9={inputs} 10=4 18=2")[0]

    def attention(self, x: str, heads: int, qkv: tuple[np.ndarray, ...], proj: tuple[np.ndarray, ...]) -> str:
        """Adds a multi-head attention with its four linear layers."""
        embed = proj[0].shape[0]
        parts = [part.T for part in np.split(qkv[0], 3, axis=1)]
        scales = [127 / np.abs(part).max(axis=1) for part in parts]
        for part, scale, bias in zip(parts, scales, np.split(qkv[1], 3), strict=True):
            self.codes(part, scale[:, None])
            self.floats(bias)
        scale = 127 / np.abs(proj[0]).max()
        self.codes(proj[0].T, scale)
        self.floats(proj[1], *scales, [scale])
        return self.layer("MultiHeadAttention", [x], f"0={embed} 1={heads} 2={embed * embed} 18=2")[0]

    def save(self, path: Path) -> None:
        """Writes PATH.param and PATH.bin."""
        head = f"7767517\n{len(self.layers)} {self.blobs}\n"
        path.with_suffix(".param").write_text(head + "\n".join(self.layers) + "\n", encoding="ascii")
        path.with_suffix(".bin").write_bytes(self.weights)


def make_ncnn(shape: Shape, folder: Path, weights: Parameters) -> None:
    """Writes `int8.param` and `int8.bin`."""
    net = Ncnn()

    def add(x: str, y: str) -> str:
        return net.layer("BinaryOp", [x, y], "0=0")[0]

    image = net.layer("Input", [], f"0={shape.image} 1={shape.image} 2=3")
    scales = 127 / np.abs(weights.kernel).max(axis=(1, 2, 3))
    net.codes(weights.kernel, scales[:, None, None, None])
    net.floats(weights.kernel_bias, scales, [127 / np.abs(calibration(shape)[1]).max()])
    sizes = f"0={shape.embed} 1={shape.patch} 3={shape.patch} 5=1 6={weights.kernel.size} 8=2"
    patches = net.layer("Convolution", image, sizes)
    patches = net.layer("Reshape", patches, f"0={shape.tokens - 1} 1={shape.embed}")
    patches = net.layer("Permute", patches, "0=1")
    net.floats(weights.token)
    token = net.layer("MemoryData", [], f"0={shape.embed} 1=1")
    [x] = net.layer("Concat", token + patches, "0=0")
    net.floats(weights.positions)
    x = add(x, net.layer("MemoryData", [], f"0={shape.embed} 1={shape.tokens}")[0])
    for block in range(shape.depth):
        qkv, proj, fc1, fc2 = weights.linears[4 * block : 4 * block + 4]
        first, second = weights.norms[2 * block : 2 * block + 2]
        x, y = net.layer("Split", [x], outputs=2)
        x = add(x, net.attention(net.norm(y, first), shape.heads, qkv, proj))
        x, y = net.layer("Split", [x], outputs=2)
        [hidden] = net.layer("GELU", [net.linear(net.norm(y, second), fc1)])
        x = add(x, net.linear(hidden, fc2))
    [x] = net.layer("Crop", [net.norm(x, weights.norms[-1])], f"0=0 1=0 2=0 3={shape.embed} 4=1")
    net.linear(x, weights.linears[-1])
    net.save(folder / "int8.ncnn")


def ncnn(path: Path, shape: Shape) -> Callable[[], np.ndarray]:
    """Prepares a network in ncnn."""
    import ncnn as runtime

    net = runtime.Net()
    net.opt.num_threads = 1
    if net.load_param(str(path.with_suffix(".param"))) or net.load_model(str(path.with_suffix(".bin"))):
        raise RuntimeError(f"ncnn does not load {path}")
    image = picture(shape, 1)[0]
    last = path.with_suffix(".param").read_text(encoding="ascii").splitlines()[1].split()[1]

    def run() -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("blob0", runtime.Mat(image))
        status, logits = extractor.extract(f"blob{int(last) - 1}")
        if status:
            raise RuntimeError(f"ncnn ended with {status}")
        return np.array(logits).ravel()

    return run


CONTESTANTS: dict[str, tuple[Callable[[Path, Shape], Callable[[], np.ndarray]], str]] = {
    "ONNX Runtime, dynamic": (onnxruntime, "dynamic.onnx"),
    "ONNX Runtime, static": (onnxruntime, "static.onnx"),
    "LiteRT, dynamic": (litert, "dynamic.tflite"),
    "LiteRT, int8": (litert, "int8.tflite"),
    "ncnn, int8": (ncnn, "int8.ncnn"),
}
"""How each runtime's network is prepared, and its file."""


def make(shape: Shape, folder: Path) -> None:
    """Writes every network, and the float network's logits."""
    folder.mkdir(parents=True, exist_ok=True)
    model = vit(shape)
    np.save(folder / "logits.npy", make_onnx(shape, folder, model))
    weights = parameters(model)
    make_litert(shape, folder, weights)
    make_ncnn(shape, folder, weights)
    (folder / "done").touch()


def main() -> None:
    """Makes the networks, or runs one for a number of frames and prints how far its logits are from float."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["make", *CONTESTANTS])
    parser.add_argument("shape", type=lambda text: Shape(*json.loads(text)))
    parser.add_argument("folder", type=Path)
    parser.add_argument("frames", type=int, nargs="?", default=1)
    options = parser.parse_args()
    if options.what == "make":
        make(options.shape, options.folder)
        return
    prepare, name = CONTESTANTS[options.what]
    run = prepare(options.folder / name, options.shape)
    for _ in range(options.frames):
        logits = run()
    reference = np.load(options.folder / "logits.npy")
    error = np.linalg.norm(logits - reference) / np.linalg.norm(reference)
    sys.stdout.write(f"{error:.4f}\n")


if __name__ == "__main__":
    main()
