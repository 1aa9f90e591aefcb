"""tools/evidence.py and tools/evidence_report.py: cells, aggregates, and the page as the results give it."""

import doctest
import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from quasar_rt.hardware import CostTable, Hardware
from quasar_rt.space import Space

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def tool(name):
    """Imports a module of tools/."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


evidence, report = tool("evidence"), tool("evidence_report")


# The page.


@pytest.fixture(scope="module")
def results():
    return json.loads((DOCS / "evidence" / "results.json").read_text(encoding="utf-8"))


def test_the_page_holds_the_tables_that_the_results_give(results):
    page = (DOCS / "evidence.md").read_text(encoding="utf-8")
    assert report.splice(page, report.tables(results)) == page


def test_the_page_shows_every_picture(results):
    pytest.importorskip("matplotlib", reason="needs the [host] extra")
    page = (DOCS / "evidence.md").read_text(encoding="utf-8")
    for name, data in report.draw(results).items():
        assert data.startswith(b"\x89PNG")
        assert (DOCS / "evidence" / name).read_bytes().startswith(b"\x89PNG")
        assert f"(evidence/{name})" in page


def test_the_results_are_those_of_the_tool(results):
    settings = json.loads(json.dumps(evidence.dataclasses.asdict(evidence.Settings())))
    assert results["settings"] == settings
    # The array was modelled on pynq-z2, on which today's count does not let it, when no design had counters.
    hardware = Hardware.load(evidence.HARDWARE).settings | {"board": "pynq-z2"}
    del hardware["counters"]
    assert results["hardware"] == hardware
    assert len(results["seeds"]) >= 3
    for name, by_seed in results["cells"].items():
        assert sorted(by_seed) == sorted(map(str, results["seeds"])), name


def test_every_pick_reached_its_target_and_is_of_its_strategy(results):
    # The page's table of today's frame rates follows the model; these are the recorded ones.
    for strategy, allowed in evidence.STRATEGIES.items():
        for found in results["cells"][f"search_{strategy}"].values():
            for pick in found["picks"]:
                if not pick["reached"]:
                    continue
                architecture = evidence.Architecture.from_dict(pick["architecture"])
                assert pick["fps"] >= pick["target"]
                fractions = {f for block in architecture.blocks for f in block.eight_bit}
                assert allowed is None or fractions <= set(allowed)


# Aggregates.


def test_examples():
    for module in (evidence, report):
        assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def pick(target, top1, error=0.1, fps=None):
    if top1 is None:
        return {"target": target, "reached": False}
    return {
        "target": target,
        "reached": True,
        "fps": fps or target + 1,
        "eight_bit_share": 0.25,
        "top1": top1,
        "logit_error": error,
    }


@pytest.fixture
def small():
    """Returns results of three seeds, two targets and two of the strategies."""
    rows = {s: {"picks": [pick(10.0, 0.80 + 0.01 * s), pick(20.0, 0.70)]} for s in range(3)}
    layers = {s: {"picks": [pick(10.0, 0.79), pick(20.0, None if s else 0.60)]} for s in range(3)}
    cells = {"search_rows": rows, "search_layers": layers}
    return {
        "seeds": [0, 1, 2],
        "settings": {"targets": [10.0, 20.0]},
        "cells": {name: {str(s): one for s, one in by.items()} for name, by in cells.items()},
    }


def lines(table):
    return [[part.strip() for part in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_fronts_say_which_targets_are_not_reached(small):
    found = lines(report.fronts_table(small))
    assert found[0] == ["10", "row-wise", "11", "25", "81.00 ± 1.00", "10.0 ± 0.0"]
    assert found[6][1:] == ["layer-wise (1 of 3 seeds reach it)", "21", "25", "60.00", "10.0"]
    assert found[7][:3] == ["20", "uniform 4-bit", "not reached"]


def test_differences_are_paired_by_seed(small):
    found = lines(report.differences_table(small))
    assert found[0] == ["10", "layer-wise", "+2.00 ± 1.00", "3 / 0", "+0.0 ± 0.0"]
    assert found[4] == ["20", "layer-wise", "+10.00", "1 / 0", "+0.0"], "the one seed that has both"
    assert found[8][:3] == ["mean over targets", "layer-wise", "+5.50"]
    assert found[9][2] == "–"


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="markers"):
        report.splice("# page\n", {"fronts": "table"})


# Cells.


def test_a_cell_is_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"top1": 0.1 + 0.2}

    for _ in range(2):
        cells = evidence.Cells(tmp_path, lambda _: None)
        assert cells.get("rows", 0, {"epochs": 3}, compute) == {"top1": 0.1 + 0.2}
    assert len(calls) == 1
    cells.get("rows", 0, {"epochs": 4}, compute)
    cells.get("rows", 1, {"epochs": 3}, compute)
    assert len(calls) == 3
    assert len(list(tmp_path.iterdir())) == 3, "no temporary file is left"


def test_a_cell_that_fails_leaves_nothing(tmp_path):
    cells = evidence.Cells(tmp_path / "cells", lambda _: None)
    with pytest.raises(ZeroDivisionError):
        cells.get("rows", 0, {}, lambda: {"top1": 1 / 0})
    assert not (tmp_path / "cells").exists()


@pytest.mark.parametrize("change", ["population", "targets", "calibration", "changes"])
def test_other_settings_are_other_cells(tmp_path, change):
    pytest.importorskip("torch", reason="needs the [host] extra")
    other = {"population": 5, "targets": (8000.0,), "calibration": 65, "changes": ()}[change]
    hardware = Hardware.load(evidence.HARDWARE)

    def digest(settings):
        seed = evidence.Seed(0, settings, hardware, tmp_path, None, 1, lambda _: None)
        keys = ("targets", "population", "calibration")
        return seed.cells.path("search_rows", 0, seed.inputs(seed.recipe, *keys, **seed.modelled_on))

    default = evidence.Settings()
    assert digest(default) == digest(evidence.Settings())
    assert digest(default) != digest(evidence.dataclasses.replace(default, **{change: other}))


def test_a_strategy_searches_its_own_fractions():
    space = Space.load(evidence.SPACE)
    for strategy, fractions in evidence.STRATEGIES.items():
        restricted = evidence.restricted(space, fractions)
        sampled = [restricted.sample(0, k) for k in range(20)]
        found = {f for a in sampled for block in a.blocks for f in block.eight_bit}
        assert found == set(fractions or space.settings["choices"]["eight_bit"]), strategy
        for architecture in sampled:
            assert space.decode(space.encode(architecture)) == architecture
    with pytest.raises(ValueError, match=r"0\.3"):
        evidence.restricted(space, (0.3,))


def test_the_hardware_distinguishes_widths():
    """Checks that each further quarter of 8-bit rows costs frames at every size of the space."""
    space = Space.load(evidence.SPACE)
    table = CostTable(space, Hardware.load(evidence.HARDWARE))
    for genome in (space.smallest, space.largest):
        shapes = [
            space.encode(evidence.with_fraction(space.decode(genome), f)) for f in (0, 0.25, 0.5, 0.75, 1)
        ]
        fps = table.evaluate(np.stack(shapes))["fps"]
        assert (np.diff(fps) < 0).all()
        assert fps[0] > 1.05 * fps[-1]


def test_relative_error():
    assert evidence.relative_error(np.array([1.1, -1.1]), np.array([1.0, -1.0])) == pytest.approx(0.1)


@pytest.mark.parametrize("seeds", ["", "0,x", "0,0", "-1"])
def test_bad_seeds_are_refused(seeds):
    found = CliRunner().invoke(evidence.main, ["--seeds", seeds])
    assert found.exit_code == 2
    assert "--seeds" in found.output


# From images to results.


@pytest.mark.skipif(not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="needs Fashion-MNIST")
def test_from_images_to_tables_and_on_from_where_it_stopped(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="needs the [host] extra")
    settings = evidence.Settings(
        changes=(
            "data.subset=128",
            "data.validation=100",
            "float_stage.epochs=1",
            "supernet_stage.epochs=1",
            "quantized_stage.epochs=1",
            "quantization.calibration=32",
            "quantization.scoring=32",
        ),
        targets=(18000.0, 60000.0),
        population=4,
        generations=1,
        search_images=40,
        rescored=1,
        calibration=8,
        sample=1,
        fractions=(0.25,),
        trained_epochs=1,
        draws=1,
    )
    said = []

    def run():
        return evidence.evidence(tmp_path, [0], settings, threads=1, log=said.append)

    document = run()
    found = report.tables(document)
    assert set(found) == set(re.findall(r"generated: (\w+)", (DOCS / "evidence.md").read_text("utf-8")))
    assert "not reached" in found["fronts"], "60,000 FPS are beyond the space"
    # One cell is lost: it alone is computed again, from the checkpoints, and comes out the same.
    (lost,) = (tmp_path / "cells").glob("*-search_layers-*")
    lost.unlink()
    said.clear()
    monkeypatch.setattr("quasar_rt.train.train", None)
    assert run() == document
    assert [line for line in said if line.endswith("begins")] == ["seed 0, search_layers: begins"]
