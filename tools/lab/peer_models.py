"""Holds what `bench_peers.py` compares: ViTs in ONNX, their quantization, and the process that runs one contestant.

Runs in the peers' own environment, which has no quasar_rt; the contestant `quasar_rt` runs in quasar_rt's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import onnx


class Shape(NamedTuple):
    """A ViT's shape: square RGB images, an MLP four times as wide."""

    embed: int
    depth: int
    heads: int
    image: int
    patch: int
    classes: int = 1000
    prefix: int = 1
    """Class token and registers."""
    rotary: bool = False
    pools: bool = False
    """One more block pools all tokens by attention."""

    @property
    def tokens(self) -> int:
        """Patches and prefix tokens."""
        return (self.image // self.patch) ** 2 + self.prefix


#: Shapes by name, besides `quasar_rt.bench.RANDOM_SHAPES`.
SHAPES = {
    "dinov3-small": Shape(384, 12, 6, 224, 16, prefix=5, rotary=True),
    "siglip-base": Shape(768, 12, 12, 224, 16, prefix=0, pools=True),
    "vit-base": Shape(768, 12, 12, 224, 16),
}


# The graph, as timm exports it.


def vit(shape: Shape, seed: int = 0) -> onnx.ModelProto:
    """Builds the shape in ONNX with random weights and any batch."""
    from onnx import TensorProto, checker, helper, numpy_helper

    rng = np.random.default_rng(seed)
    embed, heads, tokens = shape.embed, shape.heads, shape.tokens
    nodes: list[Any] = []
    initializers: list[Any] = []

    def constant(value: Any, kind: Any = np.float32) -> str:
        name = f"c{len(initializers)}"
        initializers.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def node(operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def normal(*size: int, deviation: float) -> str:
        return constant(deviation * rng.standard_normal(size))

    def linear(x: str, columns: int, rows: int) -> str:
        product = node("MatMul", x, normal(columns, rows, deviation=columns**-0.5))
        return node("Add", product, normal(rows, deviation=0.1))

    def norm(x: str) -> str:
        gain = constant(1 + 0.1 * rng.standard_normal(embed))
        return node("LayerNormalization", x, gain, normal(embed, deviation=0.1), axis=-1, epsilon=1e-6)

    def numbers(*values: int) -> str:
        return constant(values, np.int64)

    def rotated(x: str) -> str:
        first, last, axis = numbers(shape.prefix), numbers(tokens), numbers(2)
        patches = node("Slice", x, first, last, axis)
        half, dim = numbers(embed // heads // 2), numbers(3)
        low = node("Slice", patches, numbers(0), half, dim)
        high = node("Slice", patches, half, numbers(embed // heads), dim)
        turned = node("Concat", node("Neg", high), low, axis=3)
        angles = rng.uniform(0, 6, (tokens - shape.prefix, embed // heads))
        kept = node("Mul", patches, constant(np.cos(angles)))
        patches = node("Add", kept, node("Mul", turned, constant(np.sin(angles))))
        return node("Concat", node("Slice", x, numbers(0), first, axis), patches, axis=2)

    def attention(x: str, pools: bool = False) -> str:
        parts = 2 if pools else 3
        qkv = node(
            "Reshape", linear(x, embed, parts * embed), numbers(0, tokens, parts, heads, embed // heads)
        )
        qkv = node("Transpose", qkv, perm=[2, 0, 3, 1, 4])
        *q, k, v = (node("Gather", qkv, constant(i, np.int64), axis=0) for i in range(parts))
        query = normal(1, heads, 1, embed // heads, deviation=1.0) if pools else q[0]
        if shape.rotary:
            query, k = rotated(query), rotated(k)
        query = node("Mul", query, constant((embed // heads) ** -0.5))
        logits = node("MatMul", query, node("Transpose", k, perm=[0, 1, 3, 2]))
        attended = node("MatMul", node("Softmax", logits, axis=-1), v)
        attended = node("Transpose", attended, perm=[0, 2, 1, 3])
        return linear(node("Reshape", attended, numbers(0, 1 if pools else tokens, embed)), embed, embed)

    def mlp(x: str) -> str:
        return linear(node("Gelu", linear(norm(x), embed, 4 * embed)), 4 * embed, embed)

    kernel = normal(embed, 3, shape.patch, shape.patch, deviation=(3 * shape.patch**2) ** -0.5)
    x = node(
        "Conv",
        "image",
        kernel,
        normal(embed, deviation=0.1),
        kernel_shape=[shape.patch] * 2,
        strides=[shape.patch] * 2,
    )
    x = node("Transpose", node("Reshape", x, numbers(0, embed, -1)), perm=[0, 2, 1])
    batch = node("Gather", node("Shape", "image"), numbers(0), axis=0)
    if shape.prefix:
        target = node("Concat", batch, numbers(shape.prefix, embed), axis=0)
        x = node("Concat", node("Expand", normal(1, shape.prefix, embed, deviation=1.0), target), x, axis=1)
    if not shape.rotary:
        x = node("Add", x, normal(1, tokens, embed, deviation=0.2))
    for _ in range(shape.depth):
        x = node("Add", x, attention(norm(x)))
        x = node("Add", x, mlp(x))
    x = norm(x)
    if shape.pools:
        x = attention(x, pools=True)
        x = node("Add", x, mlp(x))
    token = node("Gather", x, constant(0, np.int64), axis=1)
    nodes.append(helper.make_node("Identity", [linear(token, embed, shape.classes)], ["logits"]))
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "vit",
        [helper.make_tensor_value_info("image", floats, ["batch", 3, shape.image, shape.image])],
        [helper.make_tensor_value_info("logits", floats, ["batch", shape.classes])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    checker.check_model(model, full_check=True)
    return model


def picture(shape: Shape, batch: int) -> np.ndarray:
    """Returns random normalized pixels, `float32 [batch, 3, image, image]`."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((batch, 3, shape.image, shape.image)).astype(np.float32)


def prepare(shape: Shape, folder: Path) -> None:
    """Writes `vit.onnx`, ONNX Runtime's `dynamic.onnx` and NNCF's `int8.xml` into `folder`."""
    import nncf
    import onnx
    import openvino
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vit.onnx"
    onnx.save(vit(shape), path)
    quant_pre_process(path, folder / "inferred.onnx", skip_symbolic_shape=True)
    quantize_dynamic(
        folder / "inferred.onnx", folder / "dynamic.onnx", per_channel=True, weight_type=QuantType.QInt8
    )
    calibration = [picture(shape, 1) * scale for scale in np.linspace(0.5, 1.5, 8)]
    quantized = nncf.quantize(
        openvino.convert_model(path),
        nncf.Dataset(calibration),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(calibration),
    )
    openvino.save_model(quantized, folder / "int8.xml", compress_to_fp16=False)
    (folder / "done").touch()


# Contestants: each returns the function that runs one batch, and its entry in the report.

Contestant = tuple[Callable[[], object], dict[str, Any]]


def quasar(shape: Shape, folder: Path, threads: int, batch: int) -> Contestant:
    """Runs `quasar_rt.Engine`, from uint8 pixels to the label; a quarter of the rows 8-bit."""
    import warnings

    import quasar_rt
    from quasar_rt.build import random_subnet

    warnings.simplefilter("ignore", quasar_rt.UntrainedWarning)
    subnet = random_subnet(
        embed=shape.embed,
        depth=shape.depth + shape.pools,
        heads=shape.heads,
        image_size=shape.image,
        kernel=shape.patch,
        classes=shape.classes,
        prefix_tokens=shape.prefix,
        rotary=shape.rotary,
        pool="attention" if shape.pools else "token",
    )
    engine = quasar_rt.Engine(subnet, "cpu", threads=threads)
    pixels = np.random.default_rng(1).integers(0, 256, (shape.image, shape.image, 3), np.uint8)
    about = {"version": quasar_rt.__version__, "kernels": [engine.tier], "macs": subnet.summary().macs}
    if batch == 1:
        return lambda: engine.infer(pixels).label, about
    pictures = [pixels] * batch
    return lambda: [prediction.label for prediction in engine.infer_batch(pictures)], about


def openvino_request(model: str) -> Callable[[Shape, Path, int, int], Contestant]:
    """Returns a contestant under OpenVINO's latency hint: one request with the whole batch."""

    def contestant(shape: Shape, folder: Path, threads: int, batch: int) -> Contestant:
        import openvino

        compiled = compile_openvino(shape, folder / model, threads, batch, "LATENCY")
        request = compiled.create_infer_request()
        request.set_input_tensor(openvino.Tensor(picture(shape, batch)))
        return request.infer, about_openvino(compiled)

    return contestant


def openvino_streams(shape: Shape, folder: Path, threads: int, batch: int) -> Contestant:
    """Runs OpenVINO with its throughput hint: as many requests at once as it asks for, one frame each."""
    import openvino

    compiled = compile_openvino(shape, folder / "int8.xml", threads, 1, "THROUGHPUT")
    queue = openvino.AsyncInferQueue(compiled)
    tensor = openvino.Tensor(picture(shape, 1))

    def run() -> None:
        for _ in range(batch):
            queue.start_async({0: tensor}, share_inputs=True)
        queue.wait_all()

    return run, about_openvino(compiled)


def compile_openvino(shape: Shape, path: Path, threads: int, batch: int, hint: str) -> Any:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([batch, 3, shape.image, shape.image])
    return core.compile_model(model, "CPU", {"PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": threads})


def about_openvino(compiled: Any) -> dict[str, Any]:
    import openvino

    products = ("FullyConnected", "MatMul", "Convolution", "MHA", "ScaledDotProductAttention")
    layers = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    kernels = {
        f"{layer['layerType'].astype(str)} {layer['primitiveType'].astype(str)}"
        for layer in layers
        if layer["layerType"].astype(str) in products
    }
    return {
        "version": openvino.__version__.split("-")[0],
        "kernels": sorted(kernels),
        "streams": compiled.get_property("NUM_STREAMS"),
        "precision": str(compiled.get_property("INFERENCE_PRECISION_HINT")),
    }


def onnxruntime_session(shape: Shape, folder: Path, threads: int, batch: int) -> Contestant:
    """Runs ONNX Runtime in int8 with activations quantized as they come."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_free_dimension_override_by_name("batch", batch)
    session = onnxruntime.InferenceSession(
        folder / "dynamic.onnx", options, providers=["CPUExecutionProvider"]
    )
    feed = {"image": picture(shape, batch)}
    return lambda: session.run(None, feed), {"version": onnxruntime.__version__}


CONTESTANTS: dict[str, Callable[[Shape, Path, int, int], Contestant]] = {
    "quasar_rt": quasar,
    "openvino-int8": openvino_request("int8.xml"),
    "openvino-int8-streams": openvino_streams,
    "openvino-float": openvino_request("vit.onnx"),
    "onnxruntime-int8": onnxruntime_session,
}


def serve(contestant: Contestant, requests: Iterator[str], answer: Callable[[Any], None]) -> None:
    """Answers each request, a number of seconds, with milliseconds of wall and of CPU time of three runs or more."""
    run, about = contestant
    for _ in range(3):
        run()
    answer(about)
    for request in requests:
        run()
        times: list[tuple[float, float]] = []
        end = time.perf_counter() + float(request)
        while len(times) < 3 or time.perf_counter() < end:
            start, start_cpu = time.perf_counter(), time.process_time()
            run()
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
            times.append((seconds * 1e3, cpu_seconds * 1e3))
        answer(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["prepare", *CONTESTANTS])
    parser.add_argument("shape", type=lambda text: Shape(*json.loads(text)))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    if options.what == "prepare":
        prepare(options.shape, options.folder)
        return
    # Runtimes count the CPUs that they are given.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    answers = sys.stdout
    with redirect_stdout(sys.stderr):
        contestant = CONTESTANTS[options.what](options.shape, options.folder, options.threads, options.batch)
        serve(contestant, sys.stdin, lambda value: print(json.dumps(value), file=answers, flush=True))


if __name__ == "__main__":
    main()
