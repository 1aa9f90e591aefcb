"""Tests that the tables of docs/hardware-model.md are those of today's model."""

from __future__ import annotations

import json
import re

import pytest

import hardware_tables


def test_every_table_has_its_place() -> None:
    page = hardware_tables.PAGE.read_text("utf-8")
    assert sorted(re.findall(r"generated: (\w+)", page)) == sorted(hardware_tables.TABLES)


@pytest.mark.parametrize("name", hardware_tables.TABLES)
def test_the_page_holds_the_table_that_the_model_gives(name: str) -> None:
    page = hardware_tables.PAGE.read_text("utf-8")
    shown = page.split(f"<!-- generated: {name} -->")[1].split("<!-- end -->")[0].strip()
    assert shown == hardware_tables.TABLES[name](), "run python tools/lab/hardware_tables.py"


@pytest.mark.parametrize("board", hardware_tables.SHIPPED)
def test_the_margin_covers_what_the_sources_take_more_than_their_circuits(board: str) -> None:
    _, margin, needed = hardware_tables.beyond_circuits(board)
    assert needed <= margin


def test_the_packaged_subnets_figures_are_todays() -> None:
    written = json.loads(hardware_tables.TODAY.read_text("utf-8"))
    assert written == hardware_tables.packaged_today(), "run python tools/lab/hardware_tables.py"


def test_deit_tiny_reaches_its_targets_with_the_hosts_gaps() -> None:
    for board, (four_bit, quarter) in {"zcu102": (700, 600), "kv260": (350, 305)}.items():
        found = [
            hardware_tables.gaps_fps(network, hardware_tables.shipped(board))
            for network in hardware_tables.SHIPPED[board][1]
        ]
        assert found[0] >= four_bit
        assert found[1] >= quarter


@pytest.mark.parametrize("board", hardware_tables.SHIPPED)
def test_a_shipped_drain_has_slack(board: str) -> None:
    hardware = hardware_tables.shipped(board)
    assert hardware.drain_slack(hardware_tables.EMBED) >= 0.04
    slower = re.sub(r"(requantize|gelu) = \d+", r"\1 = 1", hardware.to_toml())
    assert hardware.from_toml(slower, hardware.board).drain_slack(hardware_tables.EMBED) < 0


@pytest.mark.parametrize("name", hardware_tables.BOARDS)
def test_a_boards_host_has_the_costs_of_counted_instructions(name: str) -> None:
    board = hardware_tables.Board.load(name)
    costs = hardware_tables.host_costs(board)
    assert {key: board.settings["host"][key] for key in costs} == costs


@pytest.mark.parametrize("name", hardware_tables.SHIPPED)
def test_the_models_camera_has_the_counted_frame(name: str) -> None:
    hardware = hardware_tables.shipped(name)
    host = hardware_tables.estimate(hardware_tables.SHIPPED[name][1][0], hardware).host
    assert host.camera_pixels == 640 * 480
    assert host.camera_fps == pytest.approx(
        hardware_tables.camera_fps(hardware.board, "nv12 640x480"), rel=2e-3
    )
