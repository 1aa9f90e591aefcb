"""Tests what goes to nextpnr and what is read from its report, on made-up netlists and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

import place


def step(kind: str, begin: str, end: str, delay: float) -> dict[str, Any]:
    (cell, port), (to, pin) = begin.split("."), end.split(".")
    return {
        "type": kind, "delay": delay,
        "from": {"cell": cell, "port": port, "loc": [1, 2]}, "to": {"cell": to, "port": pin, "loc": [3, 4]},
    }  # fmt: skip


def report(fast: float) -> dict[str, Any]:
    """A report of nextpnr: a path of `fast` ns on the array's clock, one across, and one of no register."""
    steps = [
        step("clk-skew", "a.CK", "d.CLK", -0.1),
        step("clk-to-q", "a.Q", "a.Q", 0.4),
        step("routing", "a.Q", "d.A1", fast - 0.6),
        step("setup", "d.A1", "d.A1", 0.3),
    ]
    across = [step("clk-to-q", "r.O6", "r.O6", 1.0), step("routing", "r.O6", "f.D", 1.5)]
    return {
        "critical_paths": [
            {"from": "posedge clk_array", "to": "posedge clk_array", "path": steps},
            {"from": "posedge clk", "to": "posedge clk_array", "path": across},
            {"from": "<async>", "to": "posedge clk", "path": across},
        ]
    }


def test_each_class_of_paths_has_its_longest() -> None:
    assert place.figures(report(2.5)) == {
        "fast": {"ns": 2.5, "mhz": 400.0, "nets_ns": 1.9, "begin": "a.Q", "end": "d.A1"},
        "slow to fast": {"ns": 2.5, "mhz": 400.0, "nets_ns": 1.5, "begin": "r.O6", "end": "f.D"},
    }


def runs(*periods: float, **more: float) -> dict[str, Any]:
    return {"seeds": {str(seed): place.figures(report(ns)) for seed, ns in enumerate(periods)}, **more}


def test_a_figure_stands_next_to_its_calibration_or_not_at_all() -> None:
    units = {"token": runs(2.0, 4.0, 2.5)}
    assert place.table(units) == "No design was calibrated, so no figure is shown."
    text = place.table(
        units | {"core": runs(8.0, vivado_ns=4.0), "other": runs(5.0, 4.0, 10.0, vivado_ns=4.0)}
    )
    assert "| other | 250 | 200 (100 to 250) | 0.80 |" in text
    assert "0.50 to 0.80 of Vivado's clock" in text
    assert "| token | fast | 400 (250 to 500) | 3 | `a.Q` to `d.A1` |" in text
    assert "| core | fast" not in text


def module(ports: dict[str, tuple[str, list[Any]]], cells: dict[str, Any] | None = None) -> dict[str, Any]:
    named = {name: {"direction": direction, "bits": bits} for name, (direction, bits) in ports.items()}
    return {
        "ports": named,
        "netnames": {name: {"bits": port["bits"]} for name, port in named.items()},
        "cells": cells or {},
    }


def test_array_and_lanes_share_clocks_and_memories_but_no_queue() -> None:
    clocks = {"clk": ("input", [2]), "clk_array": ("input", [3])}
    array = module(clocks | {"key_0_d0": ("input", [4, 5]), "sums_tdata": ("output", [6])})
    latch = {"type": "FDRE", "connections": {"C": [2], "D": [6], "Q": [4]}}
    lanes = module(clocks | {"key_0_d0": ("output", [4, 5]), "sums_tdata": ("input", [6])}, {"latch": latch})
    array["cells"]["bank"] = {"type": "RAM", "connections": {"D": [4, 5]}}
    both = place.join(array, lanes)
    pins = {name: cell["connections"] for name, cell in both["cells"].items()}
    assert pins["lanes.latch"]["C"] == [2]
    assert pins["bank"]["D"][0] == pins["lanes.latch"]["Q"][0] != 4
    assert set(both["ports"]) == {"clk", "clk_array", "sums_tdata", "lanes.sums_tdata"}
    place.add_border(both)
    border = {name: cell["connections"] for name, cell in both["cells"].items() if name.startswith("border.")}
    assert (both["ports"], border["border.sums_tdata[0]"]["D"]) == ({}, [6])
    assert border["border.lanes.sums_tdata[0]"]["Q"] == pins["lanes.latch"]["D"]
    assert len({cell["Q"][0] for cell in border.values()} | {4, 5, 6}) == 2 + 3


def cascades(tokens: int, pairs: int, lanes: int) -> dict[str, Any]:
    name = (
        "gen_stages[0].gen_tokens[{}].token.gen_pairs[{}].cascade.gen_slices.slices.{}.slice.gen_dsp48e1.dsp"
    )
    parts = [*(f"gen_lanes[{lane}]" for lane in range(lanes)), "gen_sum"]
    return {
        name.format(token, pair, part): {"type": "DSP48E1", "attributes": {}}
        for token in range(tokens) for pair in range(pairs) for part in parts
    }  # fmt: skip


def test_cascades_lie_in_columns_with_their_slices_in_order() -> None:
    cells = cascades(4, 7, 4)
    assert place.fix_cascades({"cells": cells}) == 28
    places = {name: cell["attributes"]["BEL"] for name, cell in cells.items()}
    assert len(set(places.values())) == 140
    # The first cascade is the bottom of its column; its last slice, which adds up, lies above the others.
    own = [place for name, place in places.items() if "gen_tokens[0].token.gen_pairs[0]." in name]
    rows = [(150, 0), (150, 1), (145, 0), (145, 1), (140, 0)]
    assert own == [f"X141Y{y}/DSP48_X0Y{half}.DSP48E1" for y, half in rows]
    with pytest.raises(click.ClickException, match="40 cascades of 5 slices do not fit"):
        place.fix_cascades({"cells": cascades(5, 8, 4)})


def test_a_picture_needs_no_cell_of_each_kind(tmp_path: Path) -> None:
    (tmp_path / "routed.json").write_text('{"modules": {"placed": {"cells": {}}}}')
    place.picture(tmp_path / "routed.json", tmp_path / "placed.png")
    assert (tmp_path / "placed.png").stat().st_size > 1000
