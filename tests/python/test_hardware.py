"""The hardware model from Python: boards, configurations, estimates, cost tables, `quasar-rt estimate`."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples import ROOT, table_rows
from helpers import run as run_command
from quasar_rt import DoesNotFitError, FileError, InvalidValueError, SettingsError, Subnet
from quasar_rt.hardware import (
    Amounts,
    Board,
    CostTable,
    Estimate,
    Hardware,
    Workload,
    board_names,
    estimate,
    pictures,
    rates,
    replay,
    replay_periods,
)
from quasar_rt.hardware.pictures import draw
from quasar_rt.hardware.report import CAUSES, by_stage, groups, held_back_by
from quasar_rt.space import Architecture, BlockShape, Space, space_names

TOOL = Path(__file__).resolve().parents[2] / "tools" / "estimate.py"


@pytest.fixture(scope="module")
def zcu102() -> Hardware:
    return Hardware.for_board("zcu102", [Workload.deit("deit-tiny"), Workload.deit("deit-tiny", 0.25)])


def run(*arguments: str, cwd: Path, tool: bool = False) -> subprocess.CompletedProcess[str]:
    start = [str(TOOL)] if tool else ["-m", "quasar_rt", "estimate"]
    return subprocess.run(
        [sys.executable, *start, *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_boards_have_their_published_resources() -> None:
    assert {"zcu102", "kv260", "ultra96v2", "pynq-z2"} <= set(board_names())
    assert Board.load("zcu102").resources == Amounts(2520, 274080, 548160, 912, 0)
    assert Board.load("kv260").resources == Amounts(1248, 117120, 234240, 144, 64)
    assert Board.load("ultra96v2").resources == Amounts(360, 70560, 141120, 216, 0)
    assert Board.load("pynq-z2").resources == Amounts(220, 53200, 106400, 140, 0)
    for name in board_names():
        board = Board.load(name)
        assert board.name == name
        assert pickle.loads(pickle.dumps(board)) == board
        assert all(
            0 <= u <= r
            for u, r in zip(vars(board.usable).values(), vars(board.resources).values(), strict=True)
        )
    assert Board.load("pynq-z2").settings["dsp_kind"] == "DSP48E1"


def test_a_board_of_ones_own_is_read_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(Board.load("kv260").to_toml().replace('name = "kv260"', 'name = "mine"'))
    assert Hardware.for_board(str(path), Space.load("digits")).board.name == "mine"
    path.write_text(path.read_text().replace("dsp = 1248", "dsp = 0"))
    with pytest.raises(SettingsError, match=r"mine.toml.*board .*mine.*resources.dsp: 0 is outside"):
        Board.load(path)
    path.write_text(path.read_text() + "speed = 9\n")
    with pytest.raises(SettingsError, match="unknown field `speed`"):
        Board.load(path)
    with pytest.raises(FileError, match="shipped boards: kv260"):
        Board.load("zcu999")


def test_configurations_read_back_what_they_write(zcu102: Hardware, tmp_path: Path) -> None:
    path = tmp_path / "hardware.toml"
    zcu102.save(path)
    assert Hardware.load(path) == zcu102
    assert pickle.loads(pickle.dumps(zcu102)) == zcu102
    assert zcu102.with_clock(200).clock_mhz == 200
    path.write_text(zcu102.to_toml().replace("frames = 2", "frames = 7"))
    with pytest.raises(SettingsError, match=r"hardware.toml.*frames: 7 is outside \[1, 2\]"):
        Hardware.load(path)
    path.write_text(zcu102.to_toml().replace('board = "zcu102"', 'board = "zcu999"'))
    with pytest.raises(FileError, match=r"zcu999.*give its file, too"):
        Hardware.load(path)
    with pytest.raises(SettingsError, match="not the given board"):
        Hardware.from_toml(zcu102.to_toml(), Board.load("kv260"))
    with pytest.raises(SettingsError, match="clock_mhz: NaN"):
        zcu102.with_clock(float("nan"))


def test_deit_tiny_on_zcu102_meets_its_targets(zcu102: Hardware) -> None:
    four_bit, quarter = (estimate(Workload.deit("deit-tiny", e), zcu102) for e in (0.0, 0.25))
    assert four_bit.fps >= 690
    assert quarter.fps >= 600
    assert min(four_bit.share, quarter.share) >= 0.82
    assert estimate(Workload.deit("deit-tiny"), zcu102.with_clock(200)).fps >= 500
    assert four_bit.resources_fit


def test_an_estimate_adds_up(zcu102: Hardware) -> None:
    workload = Workload.deit("deit-tiny", 0.25)
    result = estimate(workload, zcu102)
    assert result.fps == pytest.approx(result.clock_mhz * 1e6 / result.period_cycles)
    assert sum(layer.macs for layer in result.layers) == workload.macs
    for layer in result.layers:
        stalls = layer.drain_stall + layer.weight_stall + layer.wait + layer.gap
        assert layer.cycles == layer.accumulate + stalls
        assert 0 < layer.share <= 1
        assert layer.bound in {"compute", "memory", "drain", "dependency"}
    assert sum(sum(causes.values()) for causes in by_stage(result).values()) == result.array_cycles
    assert sum(result.losses().values()) == pytest.approx(1)
    assert sum(group.count * group.layer.cycles for group in groups(result)) == result.array_cycles
    for kind in ("dsp", "lut", "ff", "uram"):
        assert sum(getattr(part, kind) for part in result.parts) == getattr(result.resources, kind)
    # 36 transfers are read ahead: that much of a gap is hidden.
    hidden = min(result.host.segment_s, 36 / result.transfers / result.fps)
    with_gaps = 1 / (1 / result.fps + result.host.gap_s - hidden)
    assert with_gaps < result.fps
    assert result.fps_with_host == pytest.approx(min(with_gaps, result.host.fps))
    assert result.host.gap_s == pytest.approx(zcu102.board.settings["host"]["segment_us"] * 1e-6)
    assert result.host.seconds == pytest.approx(
        result.host.decode_s + result.host.resize_s + result.host.submit_s
    )
    document = json.loads(json.dumps(result.to_dict()))
    assert document["kind"] == "modelled"
    assert held_back_by(result).startswith("ragged tiles")


@pytest.mark.parametrize("name", ["digits", "tiny"])
def test_rates_are_those_of_the_replays_with_and_without_gaps(name: str) -> None:
    space = Space.load(name)
    hardware = Hardware.for_board("zcu102", space)
    genomes = np.stack([space.smallest, space.largest])
    with_gaps = replay_periods(space, genomes, hardware, gaps=True)
    for genome, cycles in zip(genomes, with_gaps.tolist(), strict=True):
        workload = Workload.of_architecture(space, space.decode(genome))
        found, events, host = (
            rates(workload, hardware),
            replay(workload, hardware),
            estimate(workload, hardware).host,
        )
        assert cycles == events.period_with_gaps_cycles > events.period_cycles
        assert (
            found.accelerator_fps
            == hardware.clock_mhz * 1e6 / events.period_cycles
            == found.of("accelerator")
        )
        assert found.fps == min(hardware.clock_mhz * 1e6 / cycles, host.fps) == found.of("board")
        assert found.host_fps == host.fps
    # The processor decodes fewer pictures than the smallest network of the space has results.
    assert (
        rates(Workload.of_architecture(space, space.decode(space.smallest)), hardware).fps == host.fps
    ) == (name == "tiny")


def test_a_subnet_is_estimated_by_its_own_rows() -> None:
    subnet = Subnet.load("fashion-mnist")
    hardware = Hardware.for_board("ultra96v2", subnet)
    result = estimate(subnet, hardware)
    layers = {layer.name: layer for layer in result.layers}
    for layer in subnet.summary().layers:
        modelled = layers[layer.name]
        assert (modelled.four_bit_rows, modelled.eight_bit_rows) == (layer.rows4, layer.rows8)
        assert modelled.macs == layer.macs


@pytest.mark.parametrize(
    "name", [*sorted({*space_names()} - {"base"}), pytest.param("base", marks=pytest.mark.slow)]
)
def test_tables_equal_estimates(name: str) -> None:
    space = Space.load(name)
    hardware = Hardware.for_board("zcu102", space)
    table = CostTable(space, hardware)
    architectures = [space.sample(1, k) for k in range(12)]
    genomes = np.stack([space.encode(a) for a in architectures] + [space.largest, space.smallest])
    costs = table.evaluate(genomes)
    for architecture, cost in zip(architectures, costs, strict=False):
        result = estimate(Workload.of_architecture(space, architecture), hardware)
        assert (cost["fps"], cost["latency_s"]) == (result.fps, result.latency_s)
    assert costs["fits"].all()
    fastest, most = table.fastest()
    slowest, least = table.slowest()
    assert least <= costs["fps"].min() <= costs["fps"].max() <= most
    assert table.evaluate(np.stack([fastest, slowest]))["fps"].tolist() == [most, least]
    assert table.host.fps > 0


def test_tables_refuse_what_is_not_a_genome() -> None:
    space = Space.load("digits")
    table = CostTable(space, Hardware.for_board("pynq-z2", space))
    for wrong in (space.largest, space.largest[None, :-1], space.largest[None].astype(np.int64)):
        with pytest.raises(InvalidValueError, match=r"uint8 of shape \(n, 26\)"):
            table.evaluate(wrong)
    genome = space.largest[None].copy()
    genome[0, 3] = 200
    with pytest.raises(InvalidValueError, match=r"gene blocks.0.mlp_ratio is choice 200"):
        table.evaluate(genome)
    assert len(table.evaluate(np.empty((0, len(space.largest)), np.uint8))) == 0


def test_networks_that_do_not_fit_say_so(zcu102: Hardware) -> None:
    with pytest.raises(
        DoesNotFitError, match=r"deit-small.*the residual buffer needs \d+ words a lane, \d+ more"
    ):
        estimate(Workload.deit("deit-small"), zcu102)
    with pytest.raises(DoesNotFitError, match=r"pynq-z2.* block RAMs"):
        Hardware.for_board("pynq-z2", Space.load("base"))
    # Some networks of the space do: a search sees which.
    small = Space.load("small")
    least = Workload.of_architecture(small, small.decode(small.smallest))
    costs = CostTable(small, Hardware.for_board("zcu102", least)).evaluate(
        np.stack([small.smallest, small.largest])
    )
    assert costs["fits"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("embed", "block", "part"),
    [
        (0, (1, 1, 1, 0.0), "embed: 0"),
        (1 << 40, (1, 1, 1, 0.0), "embed: 1099511627776"),
        (8, (0, 1, 1, 0.0), "blocks.0.heads: 0"),
        (8, (128, 128, 1, 0.0), r"heads \* head_dim: 16384"),
        (8, (1, 1, 0, 0.0), "hidden: 0"),
        (8, (1, 1, 1, float("nan")), "eight_bit: NaN"),
        (8, (1, 1, 1, 1.5), "eight_bit: 1.5"),
    ],
)
def test_hostile_architectures_name_the_size(
    embed: int, block: tuple[int, int, int, float], part: str
) -> None:
    heads, head_dim, hidden, fraction = block
    architecture = Architecture(embed, (BlockShape(heads, head_dim, hidden, (fraction,) * 6),))
    with pytest.raises(InvalidValueError, match=part):
        Workload.of_architecture(Space.load("digits"), architecture)


def test_the_design_is_the_same_every_time_and_follows_its_target() -> None:
    space = Space.load("digits")
    designs = [Hardware.for_board("kv260", space) for _ in range(2)]
    assert designs[0] == designs[1]
    with pytest.raises(InvalidValueError, match="at least one network"):
        Hardware.for_board("kv260", [])
    tall = Hardware.for_board("kv260", space, clock_mhz=200)
    assert tall.clock_mhz == 200
    for hardware in (*designs, tall):
        used, usable = vars(hardware.resources), vars(hardware.board.usable)
        assert all(used[kind] <= usable[kind] for kind in used)
        hardware.check_board()


def test_multipliers_of_the_softmax_may_be_in_luts(zcu102: Hardware) -> None:
    text = zcu102.to_toml()
    assert "exponential_multipliers" not in text
    fabric = Hardware.from_toml(text.replace("[buffers]", 'exponential_multipliers = "fabric"\n[buffers]'))
    assert Hardware.from_toml(fabric.to_toml()) == fabric != zcu102
    assert fabric.resources.dsp == zcu102.resources.dsp - 50
    assert 50 * 724 <= fabric.resources.lut - zcu102.resources.lut <= 1.2 * 50 * 724
    base = Workload.deit("deit-base")
    chosen = Hardware.for_board("zcu102", base)
    assert chosen.settings["lanes"]["exponential_multipliers"] == "fabric"
    assert estimate(base, chosen).fps > 66


def test_pictures_are_drawn(zcu102: Hardware, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    path = tmp_path / "estimate.png"
    draw(estimate(Workload.deit("deit-tiny"), zcu102), path)
    with Image.open(path) as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > len(CAUSES)


def test_the_legend_of_a_picture_covers_no_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Legend = pytest.importorskip("matplotlib.legend").Legend
    figures: list[Any] = []
    monkeypatch.setattr(pictures, "write_figure", lambda figure, path, dpi: figures.append(figure))
    subnet = Subnet.load("fashion-mnist")
    draw(estimate(subnet, Hardware.for_board("pynq-z2", subnet)), tmp_path / "picture.png")
    (figure,) = figures
    figure.draw_without_rendering()
    legends = [
        part for parts in (figure, *figure.axes) for part in parts.get_children() if isinstance(part, Legend)
    ]
    assert len(legends) == 1
    frame = legends[0].get_window_extent()
    assert not any(axes.get_tightbbox().overlaps(frame) for axes in figure.axes)
    assert figure.bbox.containsx(frame.x0)
    assert figure.bbox.containsx(frame.x1)


def test_the_command_prints_tables_and_writes_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("fashion-mnist", "--board", "kv260", "--save", "hardware.toml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for part in (
        "modelled",
        "frame rate",
        "accelerator alone",
        "by the closed form",
        "0.attn.scores",
        "softmax",
        "BRAM36",
        "held back by",
    ):
        assert part in result.stdout, part
    lines = result.stdout.splitlines()
    summary = next(i for i, line in enumerate(lines) if line.startswith("fashion-mnist on kv260, modelled"))
    assert summary > lines.index(next(line for line in lines if line.startswith("Resources")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hardware.toml"]
    assert run("fashion-mnist", "--board", "kv260", "--png", "kv260.png", cwd=tmp_path).returncode == 0
    assert (tmp_path / "kv260.png").stat().st_size > 10_000
    again = run("fashion-mnist", "--board", "kv260", "--hardware", "hardware.toml", "--json", cwd=tmp_path)
    document = json.loads(again.stdout)
    assert document["kind"] == "modelled"
    direct = estimate(Subnet.load("fashion-mnist"), Hardware.load(tmp_path / "hardware.toml"))
    assert document["fps"] == direct.fps
    assert isinstance(direct, Estimate)
    record = json.loads((ROOT / "docs/evidence/zoo.json").read_text(encoding="utf-8"))["fashion-mnist"]
    event_by_event = document["event_by_event"]["fps"]
    assert event_by_event == pytest.approx(record["modelled_fps"]["chosen"]["kv260"], abs=0.1)
    assert f"{event_by_event:,.1f} frames/s, event by event" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "name a SUBNET"),
        (["no-such.qvit"], "no file and no network"),
        (["no-such.qvit"], "search spaces: base, digits"),
        (["deit-tiny", "--png", "no-such/x.png"], "there is no folder no-such"),
        (["deit-tiny", "--save", "no-such/x.toml"], "there is no folder no-such"),
        (["deit-tiny", "--board", "zcu999"], "shipped boards"),
        (["deit-tiny", "--clock", "nan"], "clock_mhz: NaN"),
        (["deit-tiny", "--clock", "0"], "clock_mhz: 0 is outside"),
        (["deit-base", "--board", "pynq-z2"], "block RAMs"),
        (["fashion-mnist", "--eight-bit", "0.5"], "--eight-bit goes with"),
    ],
)
def test_the_command_names_what_is_wrong(arguments: list[str], part: str, tmp_path: Path) -> None:
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert part in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_the_tool_is_the_command(tmp_path: Path) -> None:
    arguments = ("deit-tiny", "--json")
    assert run(*arguments, cwd=tmp_path, tool=True).stdout == run(*arguments, cwd=tmp_path).stdout != ""


def test_a_space_is_estimated_by_its_largest_network_that_fits(tmp_path: Path) -> None:
    result = run("tiny", "--save", "tiny.toml", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    space = Space.load("tiny")
    network = Workload.of_architecture(space, space.decode(space.largest))
    design = Hardware.load(tmp_path / "tiny.toml")
    assert design == Hardware.for_board("zcu102", space)
    assert json.loads(result.stdout)["fps"] == estimate(network, design).fps
    small = run("tiny", "--board", "pynq-z2", "--json", cwd=tmp_path)
    assert json.loads(small.stdout)["network"] == "smallest network of tiny"
    assert "does not hold the space's largest network" in small.stderr


def test_without_matplotlib_only_a_picture_that_is_asked_for_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.chdir(tmp_path)
    assert "frames" in run_command("estimate", "deit-tiny").output
    for option in ("--png", "--timeline"):
        result = run_command("estimate", "deit-tiny", option, "x.png", status=2)
        assert result.output == "Error: x.png: pictures need matplotlib: pip install 'quasar-rt[host]'\n"


SHIPPED = {name: Hardware.load(ROOT / f"fpga/configs/{name}.toml") for name in ("zcu102", "kv260", "pynq-z2")}
MIXES = [Workload.deit("deit-tiny", share) for share in (0.0, 0.25)]


@pytest.mark.parametrize("board", SHIPPED)
def test_the_page_has_the_models_rates_of_the_shipped_configurations(board: str) -> None:
    hardware = SHIPPED[board]

    def pair(of: Callable[[Workload], float]) -> str:
        return " / ".join(f"{of(network):,.0f}" for network in MIXES)

    def with_gaps(network: Workload, clock: float) -> float:
        return clock * 1e6 / replay(network, hardware.with_clock(clock)).period_with_gaps_cycles

    host = estimate(MIXES[0], hardware).host
    rates = [pair(lambda network: with_gaps(network, 100))]
    if hardware.clock_mhz == 150:
        rates += [
            pair(lambda network: 150e6 / replay(network, hardware).period_cycles),
            pair(lambda network: with_gaps(network, 150)),
            pair(lambda network: min(with_gaps(network, 150), host.fps)),
        ]
    page = "docs/hardware-model.md"
    [cells] = [cells for cells in table_rows(page, "| board | array | 200 / 100 MHz") if cells[0] == board]
    assert cells[1] == "{tokens} x {pairs} x {cascade}".format(**hardware.settings["array"])
    assert [cell for cell in cells[2:] if cell] == rates
    column = 3 + list(SHIPPED).index(board)
    camera, _, pictures = (cells[column] for cells in table_rows(page, "| frame | millions"))
    assert [camera, pictures] == [f"{host.camera_fps:.0f}", f"{host.fps:.0f}"]
    used, has = vars(hardware.resources), vars(hardware.board.resources)
    [cells] = [cells for cells in table_rows(page, "| % of the device") if cells[0] == board]
    assert cells[1:6] == [f"{100 * used[kind] / has[kind]:.0f}" if has[kind] else "–" for kind in has]


@pytest.mark.parametrize("board", SHIPPED)
def test_a_shipped_drain_has_slack(board: str) -> None:
    hardware = SHIPPED[board]
    assert hardware.drain_slack(192) >= 0.04
    slower = re.sub(r"(requantize|gelu) = \d+", r"\1 = 1", hardware.to_toml())
    assert hardware.from_toml(slower, hardware.board).drain_slack(192) < 0


@pytest.mark.parametrize("name", board_names())
def test_a_boards_host_has_the_costs_of_counted_instructions(name: str) -> None:
    host = Board.load(name).settings["host"]
    found = re.match(r"(Cortex-\w+) \(\d+ x ([\d.]+) GHz\)", host["cpu"])
    assert found is not None
    # Instructions in a nanosecond, at an assumed number in a cycle; the board whose counts stand for the core.
    rate, counted = {"Cortex-A53": (0.6, "zcu102"), "Cortex-A9": (0.3, "pynq-z2")}[found[1]]
    rate *= float(found[2])
    record = json.loads((ROOT / "docs/evidence/host-instructions.json").read_text("utf-8"))[counted]
    frame, picture = record["nv12 640x480"], record["rgb 500x375"]
    pixels, fewer, values = 640 * 480, 500 * 375, 3 * 224 * 224
    # Resizing has a cost for each pixel of the source and one for each value of the result.
    resize, less = (one["columns"] + one["rows"] for one in (frame, picture))
    slope = (resize - less) / (pixels - fewer)
    instructions = {
        "convert_ns_per_pixel": frame["convert"] / pixels,
        "resize_ns_per_pixel": slope,
        "resize_ns_per_value": (resize - slope * pixels) / values,
        "patch_ns_per_value": (frame["pack"] + frame["other"]) / values,
    }
    assert {key: host[key] for key in instructions} == {
        key: round(each / rate, 2) for key, each in instructions.items()
    }
