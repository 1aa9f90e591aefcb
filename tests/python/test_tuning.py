"""Tuning without labels: the quantized network comes closer to the float network, with the same bits each time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [host] extra")
timm = pytest.importorskip("timm", reason="needs the [host] extra")

from torch import nn  # noqa: E402

from quasar_rt import Engine  # noqa: E402
from quasar_rt.export import export_timm, tuning  # noqa: E402
from quasar_rt.export.float_vit import embedded, forward_block, outputs  # noqa: E402
from quasar_rt.export.network import calibrate  # noqa: E402
from quasar_rt.export.student import Student  # noqa: E402
from quasar_rt.export.timm_reader import read  # noqa: E402
from quasar_rt.train.checkpoint import CheckpointError  # noqa: E402
from test_export import normalised, pictures_for, small_model  # noqa: E402

STD = [0.5] * 3
MATRICES = ("qkv", "proj", "fc1", "fc2")


class Interrupted(Exception):
    """Ends a run from its progress callback."""


def quantized(**change: Any) -> tuple[Any, Any, list[Any]]:
    """Returns a small float network, its parts with 4-bit rows to the nearest codes, and images."""
    model = small_model(**change)
    net = read(model, headless=False)
    net.cast(torch.float32)
    batches = list(normalised(pictures_for(model, 40), 0.5, 0.5).split(8))
    calibrated = calibrate(net, batches, std=STD)
    parts = calibrated.quantize(lambda _name, rows, _worth: np.full(rows, 4, np.uint8), "nearest")
    return net, parts, batches


def arrays(parts: Any) -> list[Any]:
    """Returns all that tuning may change."""
    found: list[Any] = [parts.norm_out.scale]
    for block in parts.blocks:
        for name in MATRICES:
            layer = getattr(block, name)
            found += [layer.weight, layer.bias, layer.scales]
        found += [block.norm1.gamma, block.norm2.beta, block.q_scale, block.k_scale, block.v_scale]
        found += [block.attn_out, block.norm1_out.scale, block.fc1_out.scale, block.act_out.scale]
    return found


def through(net: Any, images: Any, parts: Any = None) -> Any:
    """Returns the tokens behind the last block, of the float network or of its quantized parts."""
    with torch.no_grad():
        if parts is None:
            x = embedded(net, images)
            for block in net.blocks:
                x = forward_block(block, x)
            return x
        student = Student(net, parts)
        x = student.embedded(images)
        for block in student.blocks:
            x = block.quantized(x, student.residual_scale)
        return x


def same(first: Any, second: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(arrays(first), arrays(second), strict=True))


def tuned(case: tuple[Any, Any, list[Any]], **change: Any) -> tuple[Any, list[tuning.TuningReport]]:
    net, parts, batches = case
    reports: list[tuning.TuningReport] = []
    result = tuning.tune(net, parts, batches, **{"steps": 12, "progress": reports.append, **change})
    return result, reports


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"global_pool": "avg"},
        {"global_pool": "avg", "fc_norm": False},
        {"act_layer": nn.ReLU},
        {"kind": timm.models.deit.VisionTransformerDistilled},
        {"pre_norm": True},
        {"act_layer": partial(nn.GELU, approximate="tanh")},
    ],
)
def test_student_starts_as_the_exported_network(change: dict[str, Any]) -> None:
    """The student's codes are those it got, and its last tokens give the integer engine's logits, but for the head."""
    model = small_model(**change)
    pictures = pictures_for(model)
    batch = normalised(pictures, 0.5, 0.5)
    net, parts, _ = quantized(**change)
    again = Student(net, parts).quantized()
    for old, new in zip(parts.blocks, again.blocks, strict=True):
        for name in MATRICES:
            np.testing.assert_array_equal(getattr(new, name).weight, getattr(old, name).weight)
    subnet = export_timm(
        model, normalised(pictures_for(model, 40), 0.5, 0.5), eight_bit_fraction=0.0, method="nearest",
        mean=STD, std=STD, resize={"mode": "none"},
    )  # fmt: skip
    with Engine(subnet) as engine, torch.no_grad():
        found = np.stack([p.logits for p in engine.infer_batch(pictures)])
        expected = outputs(net, through(net, batch, parts)).numpy()
        exact = outputs(net, through(net, batch)).numpy()
    # The last LayerNorm's codes and the head's 8-bit rows differ; the 4-bit rows cost many times as much.
    assert np.abs(found - expected).mean() < 0.2 * np.abs(found - exact).mean()


def test_error_on_other_images_falls() -> None:
    case = quantized()
    net, parts, _ = case
    result, reports = tuned(case, steps=40)
    last = [report for report in reports if report.error is not None]
    assert [report.block for report in last] == ["blocks.0", "blocks.1"]
    assert all(report.error < 0.9 * report.error_before for report in last)
    for old, new in zip(parts.blocks, result.blocks, strict=True):
        for name in MATRICES:
            np.testing.assert_array_equal(getattr(old, name).bits, getattr(new, name).bits)
    others = normalised(pictures_for(small_model(), 60)[40:], 0.5, 0.5)
    exact = outputs(net, through(net, others))
    first, second = (
        float((outputs(net, through(net, others, p)) - exact).square().mean()) for p in (parts, result)
    )
    assert second < 0.9 * first


def test_a_block_that_comes_no_closer_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "RATES", dict.fromkeys(tuning.RATES, 1.0))
    case = quantized()
    result, reports = tuned(case, steps=3)
    assert all(report.error is None or report.error > report.error_before for report in reports)
    # Grids pass through a logarithm.
    for first, second in zip(arrays(result), arrays(case[1]), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-6)


def test_a_network_whose_outputs_come_no_closer_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block passes for better, and is worse."""
    monkeypatch.setattr(tuning, "RATES", dict.fromkeys(tuning.RATES, 1.0))
    falling = (-float(i) for i in range(100))
    monkeypatch.setattr(tuning._Run, "_held_out", lambda *_: next(falling))
    case = quantized()
    result, _ = tuned(case, steps=3)
    assert result is case[1]


def test_same_bits_on_any_number_of_threads_and_devices() -> None:
    case = quantized()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, _ = tuned(case)
        torch.set_num_threads(3)
        three, _ = tuned(case, devices=["cpu", "cpu"])
    finally:
        torch.set_num_threads(threads)
    assert same(one, three)
    assert not same(one, tuned(case, seed=1)[0])


def test_continues_after_an_interruption_with_the_same_bits(tmp_path: Path) -> None:
    case = quantized()
    path = tmp_path / "tuning.pt"
    whole, all_reports = tuned(case)

    def interrupt(report: tuning.TuningReport) -> None:
        if report.block == "blocks.1" and report.step == 7:
            raise Interrupted

    with pytest.raises(Interrupted):
        tuned(case, checkpoint=path, progress=interrupt)
    result, reports = tuned(case, checkpoint=path)
    assert reports == all_reports[12:]
    assert same(result, whole)
    again, none = tuned(case, checkpoint=path)
    assert not none
    assert same(again, whole)


def test_refuses_the_checkpoint_of_another_run(tmp_path: Path) -> None:
    case = quantized()
    path = tmp_path / "tuning.pt"
    tuned(case, steps=1, checkpoint=path)
    with pytest.raises(CheckpointError, match="another network, images, steps or seed"):
        tuned(case, steps=2, checkpoint=path)


def test_export_tunes() -> None:
    model = small_model()
    stages: list[tuple[str, int, int]] = []

    def progress(*stage: Any) -> None:
        stages.append(stage)

    options: dict[str, Any] = {"mean": STD, "std": STD, "resize": {"mode": "none"}, "method": "nearest"}
    pictures: Sequence[Any] = pictures_for(model, 40)
    plain = export_timm(model, pictures, eight_bit_fraction=0.0, **options)
    subnet = export_timm(model, pictures, eight_bit_fraction=0.0, tune=60, progress=progress, **options)
    assert subnet.config["provenance"]["tuning_steps"] == 60
    assert stages[-1][1] == stages[-1][2]
    name = "blocks.0.qkv.weight"
    assert not np.array_equal(plain.tensors()[name], subnet.tensors()[name])
    with pytest.raises(ValueError, match="0 or more"):
        export_timm(model, pictures, tune=-1, **options)
