#!/usr/bin/env python3
"""Compare post-training quantizers on trained networks: how far their logits are from the float network's.

    python tools/lab/compare_quantizers.py                 # to docs/evidence/quantizers.json and docs/exporting.md
    python tools/lab/compare_quantizers.py --seeds 1 --out build/quantizers.json

Each network is trained here, on data that its quantizers then calibrate on. Each quantizer gets the same float
weights and the same calibration images, and runs as its runtime does on this CPU: quasar_rt's engine, OpenVINO (NNCF),
ONNX Runtime, torchao. Needs the environment of `make compare-quantizers`.
"""

from __future__ import annotations

import json
import math
import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from evidence_report import markdown, splice
from quasar_rt import Engine
from quasar_rt.datasets import load_digits, load_fashion_mnist
from quasar_rt.export import export_timm
from quasar_rt.files import write_text

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "docs/evidence/quantizers.json"
PAGE = ROOT / "docs/exporting.md"

Images = NDArray[np.uint8]
Logits = NDArray[np.float32]
#: From images, uint8 [images, height, width], to logits.
Network = Callable[[Images], Logits]


class Task(NamedTuple):
    """A network to train, and its data."""

    name: str
    data: Callable[[str], tuple[Images, NDArray[Any]]]
    mean: float
    std: float
    shape: Mapping[str, Any]
    epochs: int
    learning_rate: float
    test: int
    """Number of test images."""


TASKS = (
    Task(
        "Fashion-MNIST, 3 blocks of 64 channels",
        load_fashion_mnist,
        0.2860,
        0.3530,
        {"img_size": 28, "patch_size": 7, "embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2},
        epochs=3,
        learning_rate=1e-3,
        test=10_000,
    ),
    Task(
        "digits, 12 blocks of 64 channels",
        load_digits,
        0.305,
        0.376,
        {"img_size": 8, "patch_size": 2, "embed_dim": 64, "depth": 12, "num_heads": 4, "mlp_ratio": 4},
        epochs=30,
        learning_rate=1e-3,
        test=360,
    ),
)


def train(task: Task, seed: int) -> VisionTransformer:
    """Trains a task's network."""
    images, labels = task.data("train")
    torch.manual_seed(seed)
    model = VisionTransformer(in_chans=1, num_classes=10, **task.shape)
    x, y = normalised(task, images), torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.AdamW(model.parameters(), task.learning_rate, weight_decay=0.05)
    steps = task.epochs * math.ceil(len(x) / 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, task.learning_rate * 2, steps)
    for _ in range(task.epochs):
        for index in torch.randperm(len(x)).split(128):
            nn.functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model.eval()


def normalised(task: Task, images: Images) -> torch.Tensor:
    """Returns what the float network takes: float32 [images, 1, height, width]."""
    return (torch.from_numpy(np.array(images)).float().unsqueeze(1) / 255 - task.mean) / task.std


def in_pieces(run: Callable[[torch.Tensor], Any], task: Task) -> Network:
    """Returns a network that takes 256 images at a time."""

    def network(images: Images) -> Logits:
        with torch.no_grad():
            pieces = [np.asarray(run(piece)) for piece in normalised(task, images).split(256)]
        return np.concatenate(pieces)

    return network


# The quantizers: each takes a float network and calibration images and returns the quantized network.

Quantizer = Callable[[Task, VisionTransformer, Images, Path], Network]


def quasar(fraction: float, method: str = "gptq") -> Quantizer:
    """Returns quasar_rt's exporter with a share of 8-bit rows."""

    def quantize(task: Task, model: VisionTransformer, calibration: Images, folder: Path) -> Network:
        subnet = export_timm(
            model,
            list(calibration),
            eight_bit_fraction=fraction,
            method=method,  # type: ignore[arg-type]
            mean=[task.mean],
            std=[task.std],
            resize={"mode": "none"},
        )
        engine = Engine(subnet, "cpu", threads=1)
        return lambda images: engine.infer_batch(list(images)).logits

    return quantize


def to_onnx(task: Task, model: VisionTransformer, folder: Path) -> Path:
    """Writes the float network as ONNX, with any batch."""
    path = folder / "float.onnx"
    if not path.exists():
        size = task.shape["img_size"]
        example = (torch.zeros(2, 1, size, size),)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                example,
                path,
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
                opset_version=17,
                dynamo=False,
            )
    return path


def openvino_int8(task: Task, model: VisionTransformer, calibration: Images, folder: Path) -> Network:
    """Quantizes weights and activations to 8 bits by NNCF, as its guide has it for transformers."""
    import nncf
    import openvino

    batches = [piece.numpy() for piece in normalised(task, calibration).split(1)]
    quantized = nncf.quantize(
        openvino.convert_model(to_onnx(task, model, folder)),
        nncf.Dataset(batches),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(batches),
    )
    return openvino_network(task, quantized)


def openvino_int4_weights(task: Task, model: VisionTransformer, calibration: Images, folder: Path) -> Network:
    """Compresses weights to 4 bits with a scale for each row by NNCF; activations stay float."""
    import nncf
    import openvino

    batches = [piece.numpy() for piece in normalised(task, calibration).split(1)]
    compressed = nncf.compress_weights(
        openvino.convert_model(to_onnx(task, model, folder)),
        mode=nncf.CompressWeightsMode.INT4_SYM,
        ratio=1.0,
        group_size=-1,
        all_layers=True,
        dataset=nncf.Dataset(batches),
        gptq=True,
    )
    return openvino_network(task, compressed)


def openvino_network(task: Task, model: Any) -> Network:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return in_pieces(lambda piece: compiled(piece.numpy())[0], task)


def onnxruntime_static(task: Task, model: VisionTransformer, calibration: Images, folder: Path) -> Network:
    """Quantizes weights (by channel) and activations to 8 bits, as ONNX Runtime's static quantization does."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(normalised(task, calibration).split(16))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"image": batch.numpy()}

    quant_pre_process(to_onnx(task, model, folder), folder / "inferred.onnx", skip_symbolic_shape=True)
    quantize_static(
        folder / "inferred.onnx",
        folder / "static.onnx",
        Reader(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return onnxruntime_network(task, folder / "static.onnx")


def onnxruntime_dynamic(task: Task, model: VisionTransformer, calibration: Images, folder: Path) -> Network:
    """Quantizes weights (by channel) to 8 bits, and the inputs of products as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(to_onnx(task, model, folder), folder / "inferred.onnx", skip_symbolic_shape=True)
    quantize_dynamic(
        folder / "inferred.onnx", folder / "dynamic.onnx", per_channel=True, weight_type=QuantType.QInt8
    )
    return onnxruntime_network(task, folder / "dynamic.onnx")


def onnxruntime_network(task: Task, path: Path) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return in_pieces(lambda piece: session.run(None, {"image": piece.numpy()})[0], task)


def torchao_int8(task: Task, model: VisionTransformer, calibration: Images, folder: Path) -> Network:
    """Quantizes the weights of linear layers (by channel) to 8 bits, and their inputs by token as they come."""
    from copy import deepcopy

    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantized = deepcopy(model)
    quantize_(quantized, Int8DynamicActivationInt8WeightConfig())
    return in_pieces(quantized, task)


#: Name, bits of the weights, bits of the activations, calibrated or not, and the quantizer.
QUANTIZERS: dict[str, tuple[str, str, bool, Quantizer]] = {
    "quasar_rt, all rows 4-bit": ("4", "8", True, quasar(0.0)),
    "quasar_rt, 25 % of the rows 8-bit": ("4 and 8", "8", True, quasar(0.25)),
    "quasar_rt, 50 % of the rows 8-bit": ("4 and 8", "8", True, quasar(0.5)),
    "quasar_rt, all rows 8-bit": ("8", "8", True, quasar(1.0)),
    "quasar_rt, 25 % 8-bit, nearest codes": ("4 and 8", "8", True, quasar(0.25, "nearest")),
    "OpenVINO, NNCF `quantize`": ("8", "8", True, openvino_int8),
    "OpenVINO, NNCF `compress_weights`, GPTQ": ("4", "float", True, openvino_int4_weights),
    "ONNX Runtime, static": ("8", "8", True, onnxruntime_static),
    "ONNX Runtime, dynamic": ("8", "8, by tensor as they come", False, onnxruntime_dynamic),
    "torchao, dynamic": ("8", "8, by token as they come", False, torchao_int8),
}


class Measured(NamedTuple):
    """A quantized network next to its float network, on test images."""

    logit_error: float
    """``mean |quantized - float| / mean |float - its mean over the images|``."""
    top1: float
    agreement: float
    """Share of images for which both networks have the same class."""


def measure(logits: Logits, expected: Logits, labels: NDArray[Any]) -> Measured:
    """Compares logits with the float network's."""
    spread = np.abs(expected - expected.mean(axis=0)).mean(dtype=np.float64)
    classes = logits.argmax(axis=1)
    return Measured(
        float(np.abs(logits - expected).mean(dtype=np.float64) / spread),
        float((classes == labels).mean()),
        float((classes == expected.argmax(axis=1)).mean()),
    )


def run(task: Task, seed: int, images: int, names: Sequence[str]) -> dict[str, Any]:
    """Trains one network and quantizes it in all ways."""
    model = train(task, seed)
    test, labels = (part[: task.test] for part in task.data("test"))
    test, calibration = np.array(test), np.array(task.data("train")[0][:images])
    expected = in_pieces(model, task)(test)
    found: dict[str, Any] = {"float": measure(expected, expected, labels)._asdict()}
    with TemporaryDirectory() as folder:
        for name in names:
            network = QUANTIZERS[name][-1](task, model, calibration, Path(folder))
            found[name] = measure(network(test), expected, labels)._asdict()
            click.echo(f"{task.name}, seed {seed}: {name}: {found[name]['logit_error']:.4f}", err=True)
    return {"network": task.name, "seed": seed, "calibration": images, "test": len(test), "measured": found}


#: 97.5 % quantile of Student's t, by degrees of freedom.
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36}


def table(document: Mapping[str, Any]) -> str:
    """Returns the table of docs/exporting.md: means over seeds with half of their 95 % interval."""
    errors: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    drops: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    networks: list[str] = []
    for entry in document["runs"]:
        if entry["network"] not in networks:
            networks.append(entry["network"])
        for name, figures in entry["measured"].items():
            errors[name][entry["network"]].append(figures["logit_error"])
            drops[name][entry["network"]].append(figures["top1"] - entry["measured"]["float"]["top1"])

    def shown(values: Sequence[float], digits: int, scale: float = 1.0, sign: str = "") -> str:
        mean = round(statistics.mean(values) * scale, digits) + 0.0  # no -0.00
        if len(values) < 2:
            return f"{mean:{sign}.{digits}f}"
        half = _T.get(len(values) - 1, 2.0) * statistics.stdev(values) * scale / math.sqrt(len(values))
        return f"{mean:{sign}.{digits}f} ± {half:.{digits}f}"

    header = ["quantizer", "weights", "activations"]
    for network in networks:
        header += [f"{network}: logit error", "top-1, points from float"]
    rows = []
    for name, (weights, activations, _, _) in QUANTIZERS.items():
        if name not in errors:
            continue
        row = [name, weights, activations]
        for network in networks:
            row += [shown(errors[name][network], 4), shown(drops[name][network], 2, 100, "+")]
        rows.append(row)
    return markdown(header, rows, texts=3)


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.option(
    "--seeds", default=3, show_default=True, type=click.IntRange(1, 8), help="Networks of each kind."
)
@click.option("--images", default=64, show_default=True, type=click.IntRange(1), help="Calibration images.")
@click.option("--out", default=RECORD, type=click.Path(dir_okay=False, path_type=Path), help="The record.")
def main(seeds: int, images: int, out: Path) -> None:
    torch.set_num_threads(1)
    packages = ("openvino", "nncf", "onnxruntime", "torch", "torchao", "timm")
    document = {
        "versions": {name: version(name) for name in packages},
        "runs": [run(task, seed, images, list(QUANTIZERS)) for task in TASKS for seed in range(seeds)],
    }
    write_text(out, json.dumps(document, indent=1) + "\n")
    if out == RECORD:
        write_text(PAGE, splice(PAGE.read_text("utf-8"), {"quantizers": table(document)}))
    click.echo(table(document))


if __name__ == "__main__":
    main()
