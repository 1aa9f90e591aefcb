"""Fits of a user's own network to frame rates (`quasar_rt.fitting`)."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402
from PIL import Image  # noqa: E402

import quasar_rt  # noqa: E402
from quasar_rt import DoesNotFitError, FileError, InvalidValueError, Subnet  # noqa: E402
from quasar_rt.cli.fit import command  # noqa: E402
from quasar_rt.export.timm_reader import read  # noqa: E402
from quasar_rt.export.widths import products_of, widths_of_share  # noqa: E402
from quasar_rt.fitting.choice import CLOSE, Choices  # noqa: E402
from quasar_rt.fitting.result import Errors  # noqa: E402
from quasar_rt.fitting.run import _label  # noqa: E402
from quasar_rt.hardware import Board, Hardware, Workload, rates  # noqa: E402
from quasar_rt.space import Space  # noqa: E402

OPTIONS: dict[str, Any] = {"board": "zcu102", "resize": {"mode": "none"}}


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, patch_size=8, depth=2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15) if parameter.ndim > 1 else None
    return model.eval()


@pytest.fixture(scope="module")
def pictures() -> list[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (16, 4, 4, 3), dtype=np.uint8)
    return [np.kron(picture, np.ones((8, 8, 1), np.uint8)) for picture in coarse]


@pytest.fixture(scope="module")
def fitted(network: Any, pictures: Any, tmp_path_factory: Any) -> tuple[quasar_rt.Fit, Path]:
    folder = tmp_path_factory.mktemp("fit") / "out"
    return quasar_rt.fit(network, pictures, out=folder, curve=3, name="net", **OPTIONS), folder


def test_more_frames_a_second_cost_error(fitted: tuple[quasar_rt.Fit, Path]) -> None:
    subnets = fitted[0].fitted
    assert [one.eight_bit_weights for one in subnets][::2] == [1.0, 0.0]
    found = [(one.rates.fps, one.errors.relative) for one in subnets]
    assert found == sorted(found)
    assert len(set(found)) == 3


def test_each_file_reaches_its_rate_and_is_in_the_report(fitted: tuple[quasar_rt.Fit, Path]) -> None:
    fit, folder = fitted
    report = json.loads((folder / "report.json").read_text())
    hardware = Hardware.load(folder / "hardware.toml")
    for one, entry in zip(fit.fitted, report["subnets"], strict=True):
        subnet = Subnet.load(folder / entry["file"])
        assert subnet.sha256 == entry["sha256"]
        assert rates(subnet, hardware) == one.rates
        assert entry["modelled"]["fps"] == one.rates.fps
        assert one.wanted_fps is None or one.rates.fps >= one.wanted_fps
        of_rows = np.mean([share for block in entry["eight_bit_rows"] for share in block.values()])
        assert bool(of_rows) == bool(entry["eight_bit_weights"])
    assert (folder / "fit.png").stat().st_size > 1000


def test_a_second_run_goes_on_from_the_files(
    fitted: tuple[quasar_rt.Fit, Path], network: Any, pictures: Any
) -> None:
    fit, folder = fitted
    kept, removed = fit.fitted[0].path, fit.fitted[1].path
    before, changed = removed.read_bytes(), kept.stat().st_mtime_ns
    removed.unlink()
    again = quasar_rt.fit(network, pictures, out=folder, curve=3, name="net", **OPTIONS)
    assert removed.read_bytes() == before
    assert kept.stat().st_mtime_ns == changed
    assert [one.rates for one in again.fitted] == [one.rates for one in fit.fitted]
    with pytest.raises(InvalidValueError, match="another network, of other images"):
        quasar_rt.fit(network, pictures[::-1], out=folder, curve=3, name="net", **OPTIONS)
    for other in ({"tokens": "patch"}, {"classes": list("abcde")}, {"mean": [0.4] * 3}):
        with pytest.raises(InvalidValueError, match="another network, of other images"):
            quasar_rt.fit(network, pictures, out=folder, curve=3, name="net", **OPTIONS | other)


def test_an_embedding_of_8_bit_rows_is_projected_and_keeps_its_rate(
    network: Any, pictures: Any, tmp_path: Path
) -> None:
    model = copy.deepcopy(network)
    model.reset_classifier(0)
    curve = quasar_rt.fit(model, pictures, out=tmp_path / "curve", curve=2, embedding=True, **OPTIONS)
    slow, fast = (Subnet.load(one.path).config["embedding"] for one in curve.fitted)
    assert slow["projected"]["values"] == 192
    assert "projected" not in fast
    # Its projection takes cycles that the choice must have counted.
    rate = curve.fitted[0].rates.fps
    for wanted in (rate, rate * (1 + 1e-6)):
        [one] = quasar_rt.fit(
            model, pictures, out=tmp_path / "rate", fps=wanted, embedding=True, **OPTIONS
        ).fitted
        assert one.rates.fps >= wanted
        assert (one.eight_bit_weights == 1) == (wanted == rate)


def test_rotary_positions_reach_a_rate_on_a_design_with_angles(pictures: Any, tmp_path: Path) -> None:
    model = timm.create_model(
        "vit_small_patch16_dinov3", img_size=32, embed_dim=64, depth=2, num_heads=2, num_classes=0
    )
    curve = quasar_rt.fit(model, pictures, out=tmp_path, curve=2, embedding=True, **OPTIONS).fitted
    assert all(one.subnet.config["rotary"] for one in curve)
    assert curve[0].rates.fps < curve[1].rates.fps
    text = (tmp_path / "hardware.toml").read_text()
    assert int(text.partition("angle = ")[2].split()[0]) == 16, "one tile of tokens, 16 pairs of a head"
    without = Hardware.from_toml(text.partition("angle = ")[0])
    with pytest.raises(DoesNotFitError, match="the angle buffer needs 16 words"):
        quasar_rt.hardware.estimate(curve[0].subnet, without)


def test_a_corrected_embedding_keeps_its_rate(network: Any, tmp_path: Path) -> None:
    model = copy.deepcopy(network)
    model.reset_classifier(0)
    coarse = np.random.default_rng(0).integers(0, 255, (176, 4, 4, 3), dtype=np.uint8)
    pictures = list(np.kron(coarse, np.ones((1, 8, 8, 1), np.uint8)))
    options = {"embedding": True, **OPTIONS}
    fastest = quasar_rt.fit(model, pictures, out=tmp_path / "curve", curve=2, **options).fitted[-1]
    assert "projected" in fastest.subnet.config["embedding"]
    # Its rows of 8 bits take cycles that the choice must have counted.
    wanted = fastest.rates.fps
    found = quasar_rt.fit(model, pictures, out=tmp_path / "rate", fps=wanted, **options)
    assert found.fitted[0].rates.fps >= wanted
    [correction] = found.as_dict()["subnets"][0]["corrections"]
    assert correction["kept"]
    assert correction["images"] == 132
    assert correction["error_after"] < correction["error_before"]


def test_one_image_is_too_few(network: Any, pictures: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="two images"):
        quasar_rt.fit(network, pictures[:1], out=tmp_path, **OPTIONS)


@pytest.mark.parametrize("reading", ["board", "accelerator"])
def test_no_drawn_rate_is_missed(network: Any, reading: Any) -> None:
    net, rng = read(network), np.random.default_rng(1)
    shapes = {f"blocks.{i}.{name}": rows for i in range(2) for name, rows in SHAPES.items()}
    worth = {name: rng.exponential(size=rows) for name, rows in shapes.items()}
    subnet = quasar_rt.random_subnet(
        embed=192, depth=2, heads=3, image_size=32, kernel=8, classes=5, eight_bit_fraction=1.0
    )
    for board in ("zcu102", "kv260"):
        workload = Workload.of_subnet(subnet)
        hardware = Hardware.for_board(board, workload)
        choices = Choices(net, worth, workload, workload, hardware, reading)
        ends = [choices.all_of(width).rates.of(reading) for width in (8, 4)]
        last = np.inf
        for wanted in np.sort(rng.uniform(*ends, size=10)):
            choice = choices.meeting(float(wanted))
            assert choice.rates.of(reading) >= wanted
            assert choice.worth <= last
            last = choice.worth
        assert choices.meeting(ends[0] * 0.9).worth == choices.all_of(8).worth
        with pytest.raises(InvalidValueError, match=f"beyond {board}"):
            choices.meeting(ends[1] * 1.01)


@pytest.mark.slow
def test_a_small_network_keeps_8_bit_rows_at_a_rate_that_they_reach() -> None:
    sizes: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "num_classes": 7}
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, **sizes).eval()
    net, rng = read(model), np.random.default_rng(3)
    shapes = {"qkv": 96, "proj": 32, "fc1": 64, "fc2": 32}
    worth = {f"blocks.{i}.{name}": rng.exponential(size=n) for i in range(2) for name, n in shapes.items()}
    subnet = quasar_rt.random_subnet(
        embed=32,
        depth=2,
        heads=2,
        head_dim=16,
        hidden=64,
        image_size=32,
        kernel=8,
        classes=7,
        eight_bit_fraction=1,
    )
    workload = Workload.of_subnet(subnet)
    choices = Choices(net, worth, workload, workload, Hardware.for_board("ultra96v2", workload), "board")
    slowest, fastest = (choices.all_of(width).rates.fps for width in (8, 4))
    # The closed form gives most of these choices the same cycles.
    for wanted in np.linspace(slowest, fastest, 12)[1:-1]:
        choice = choices.meeting(float(wanted))
        assert wanted <= choice.rates.fps < fastest
        assert choice.worth > 0


SHAPES = {"qkv": 576, "proj": 192, "fc1": 768, "fc2": 192}


def test_a_share_takes_the_rows_of_most_worth_for_a_weight(network: Any) -> None:
    net, rng = read(network), np.random.default_rng(2)
    worth = {f"blocks.{i}.{name}": rng.exponential(size=n) for i in range(2) for name, n in SHAPES.items()}
    worth["blocks.0.fc2"] *= 3
    bits = widths_of_share(net, worth, 0.3)
    columns = {name: 768 if name.endswith("fc2") else 192 for name in bits}
    weights = sum(columns[name] * len(rows) for name, rows in bits.items())
    chosen = sum(columns[name] * int((rows == 8).sum()) for name, rows in bits.items())
    assert chosen / weights == pytest.approx(0.3, abs=0.005)
    # Rows come in pairs of their product, so the threshold is sharp only up to one pair.
    for block in products_of(net, worth):
        for product in block:
            density = product.worth / product.columns
            eight = bits[product.matrix][product.rows] == 8
            assert not eight.any() or density[eight].min() >= density[~eight].max(initial=0)


def test_a_curve_has_one_subnet_where_the_processor_is_the_bound(
    network: Any, pictures: Any, tmp_path: Path
) -> None:
    board = tmp_path / "slow.toml"
    board.write_text(Board.load("zcu102").to_toml().replace("frame_us = 150.0", "frame_us = 4000.0"))
    found = quasar_rt.fit(network, pictures[:6], out=tmp_path / "out", **OPTIONS | {"board": str(board)})
    assert [one.eight_bit_weights for one in found.fitted] == [1.0]
    assert found.fitted[0].rates.fps == found.fitted[0].rates.host_fps


def test_each_rate_names_another_file() -> None:
    rates = 0.9 * (1 + CLOSE) ** np.arange(5000)
    assert len({_label(rate, None) for rate in rates}) == len(rates)
    wanted = np.linspace(101, 101.001, 999)
    assert len({_label(100, rate) for rate in wanted}) == len(wanted)


def test_rates_beyond_the_board_are_refused_before_any_work(
    network: Any, pictures: Any, tmp_path: Path
) -> None:
    with pytest.raises(
        InvalidValueError,
        match=r"^1,000,000 frames a second are beyond zcu102.*4 bits in all rows.*Take a lower rate",
    ):
        quasar_rt.fit(network, pictures, out=tmp_path / "out", fps=1e6, **OPTIONS)
    for wrong in ({"fps": [-1]}, {"fps": 10, "curve": 3}, {"curve": 1}, {"fps": 10, "fps_of": "bord"}):
        with pytest.raises(InvalidValueError):
            quasar_rt.fit(network, pictures, out=tmp_path / "out", **OPTIONS, **wrong)
    assert not (tmp_path / "out").exists()


def test_a_measurement_that_fails_leaves_no_folder(
    network: Any, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise InvalidValueError("the calibration images do not differ")

    monkeypatch.setattr("quasar_rt.fitting.run.measure_worth", refuse)
    with pytest.raises(InvalidValueError, match=r"do not differ"):
        quasar_rt.fit(network, pictures[:4], out=tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"nothing can be written to the folder"):
        quasar_rt.fit(network, pictures[:4], out=tmp_path / "file" / "out", **OPTIONS)


def test_a_space_without_the_network_is_named(network: Any, pictures: Any, tmp_path: Path) -> None:
    fit = partial(quasar_rt.fit, network, pictures[:6], out=tmp_path / "out", fps=10, **OPTIONS)
    with pytest.raises(
        DoesNotFitError, match=r"buffer needs.*: the network's image has height 32.*leave the space"
    ):
        fit(space=Space.load("digits"))
    assert not (tmp_path / "out").exists()
    space = Space.load("tiny").to_toml().replace("= 224", "= 32").replace("= 16", "= 8")
    with pytest.warns(UserWarning, match=r"a depth of 2 is not a choice of space .*leave the space"):
        fit(space=Space.from_toml(space))


def test_a_damaged_measurement_is_named(network: Any, pictures: Any, tmp_path: Path) -> None:
    (tmp_path / "worth.npz").write_bytes(b"PK\x03\x04 but no archive")
    with pytest.raises(FileError, match=r"worth\.npz' is damaged: remove it"):
        quasar_rt.fit(network, pictures[:3], out=tmp_path, **OPTIONS)


def test_errors_by_hand() -> None:
    exact = np.array([[1, 0], [0, 1], [0.8, 0.1]], np.float32)
    found = Errors.between(exact + np.float32(0.1), exact, classes=True)
    spread = np.linalg.norm(exact - exact.mean(axis=0), axis=1).mean()
    assert found.relative == pytest.approx(np.sqrt(2) * 0.1 / spread, rel=1e-5)
    assert (found.agreement.value, found.agreement.high) == (1, 1)
    assert Errors.between(exact[::-1], exact, classes=False).agreement.value < 1


def test_the_command_prints_a_table(network: Any, pictures: Any, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "net.pth")
    (tmp_path / "images").mkdir()
    for i, picture in enumerate(pictures[:8]):
        Image.fromarray(picture).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "images" / "torn.png").write_bytes(b"\x89PNG")
    arguments = ["--model", "vit_tiny_patch16_224", "--checkpoint", str(tmp_path / "net.pth")]
    arguments += ["--model-arg", "img_size=32", "--model-arg", "patch_size=8", "--model-arg", "depth=2"]
    arguments += ["--calibration", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--fps", "100"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert "1 of 9 calibration images cannot be read and are left out" in result.output
    assert "torn.png" in result.output
    assert "net-zcu102-100fps.qvit" in result.output
    assert "100%" in result.output
    assert quasar_rt.Engine(tmp_path / "out" / "net-zcu102-100fps.qvit").infer(pictures[0]).label

    # A board of one's own, with a configuration that was made for it.
    own = tmp_path / "own.toml"
    own.write_text(Board.load("zcu102").to_toml().replace('name = "zcu102"', 'name = "own"'))
    configured = (tmp_path / "out" / "hardware.toml").read_text().replace('"zcu102"', '"own"')
    (tmp_path / "hardware.toml").write_text(configured)
    arguments += ["--hardware", str(tmp_path / "hardware.toml"), "--out", str(tmp_path / "own"), "--board"]
    result = CliRunner().invoke(command, [*arguments, str(own)])
    assert result.exit_code == 0, result.output
    assert "net-own-100fps.qvit" in result.output
    result = CliRunner().invoke(command, [*arguments, "kv260"])
    assert result.exit_code == 2
    assert "own" in result.output
    assert "kv260" in result.output
