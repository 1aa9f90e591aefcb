"""tools/lab/evidence*.py: cells, allocations of rows, aggregates, and the page as the results give it."""

import dataclasses
import doctest
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import evidence
import evidence_report as report
from quasar_rt.hardware import Hardware

DOCS = Path(__file__).resolve().parents[2] / "docs"


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
    pytest.importorskip("torch", reason="needs the [host] extra")
    import evidence_allocation as allocation

    assert results["settings"] == {name: evidence.plain(task) for name, task in allocation.TASKS.items()}
    assert results["hardware"] == Hardware.load(evidence.HARDWARE).settings
    for name, by_seed in results["cells"].items():
        assert sorted(by_seed, key=int) == [str(seed) for seed in evidence.SEEDS], name


def test_strategies_were_compared_at_equal_frame_rates(results):
    cells = results["cells"]
    for data in report.DATA:
        tables = [
            table[budget]
            for result in cells[f"allocation_{data}"].values()
            for table in result["rounded"].values()
            for budget in report.budgets(results, data)
        ]
        for budget in results["settings"][data]["tuned"]:
            tables += cells[f"tuning_{data}_{budget:g}"].values()
        for table in tables:
            anchor = table["layers"][0]["fps"]
            for strategy, draws in table.items():
                rates = [draw["fps"] / anchor for draw in draws]
                # A layer-wise network with other matrices cannot come as close.
                leftover = 0.0105 if strategy == "layers_measured" else 0.005
                assert rates == pytest.approx([1] * len(rates), abs=leftover), (data, strategy)


# Aggregates.


def test_examples():
    for module in (evidence, report):
        assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def lines(table):
    return [[part.strip() for part in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def strategy(error, top1, fps=100.0):
    return [
        {
            "logit_error": error,
            "kl": error,
            "nll": error,
            "top1": top1,
            "lower": 0.5,
            "higher": 0.25,
            "fps": fps,
            "slots": 0.2,
        }
    ]


@pytest.fixture
def small():
    """Returns results of part (a): three seeds, one budget, two strategies."""
    cells = {}
    for seed in range(3):
        ends = {"4": strategy(0.3, 0.8, 120.0)[0], "8": strategy(0.1, 0.9, 60.0)[0]}
        table = {
            "0.25": {
                "rows": strategy(0.15 + 0.01 * seed, 0.875, 100.5),
                "layers": strategy(0.20, 0.85),
                "random": strategy(0.20, 0.85) + strategy(0.30, 0.85),
            }
        }
        cells[str(seed)] = {"rounded": {"nearest": ends | table, "gptq": ends | {"0.25": {}}}}
    return {
        "settings": {"digits": {"budgets": [0.25]}},
        "cells": {"allocation_digits": cells},
    }


def test_levels_have_rates_and_their_leftover(small):
    found = {line[1]: line for line in lines(report.levels_table(small, "digits"))}
    assert found["row-wise, any rows"][2:6] == ["20.0", "100", "0.50", "16.0 ± 2.5"]
    assert found["random rows"][5] == "25.0 ± 0.0", "the mean of its draws"
    assert found["all 4-bit"][3] == "120"


def test_differences_are_paired_by_seed(small):
    found = lines(report.differences_table(small, "digits"))
    assert [line[:3] for line in found] == [
        ["rounding", "25 %", "layer-wise"],
        ["rounding", "25 %", "random rows"],
    ]
    assert found[0][3:5] == ["**−4.00 ± 2.48**", "3 / 0"]
    assert found[0][9:] == ["**+2.50 ± 0.00**", "0 / 3", "50.0 / 25.0"]


def test_an_interval_with_zero_is_not_bold():
    assert report.difference({"0": 0.01, "1": -0.02, "2": 0.02}, 1, 100.0) == ["+0.3 ± 5.2", "1 / 2"]


def test_quantiles_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats", reason="needs the [host] extra")
    for n in (2, 3, 12, 31):
        values = list(np.random.default_rng(n).normal(size=n))
        low, high = stats.t.interval(0.95, n - 1, np.mean(values), stats.sem(values))
        mean, half = report.interval(values)
        assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-3, abs=1e-3)


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


@pytest.mark.parametrize("seeds", ["", "0,x", "0,0", "-1"])
def test_bad_seeds_are_refused(seeds):
    found = CliRunner().invoke(evidence.main, ["--seeds", seeds])
    assert found.exit_code == 2
    assert "--seeds" in found.output


# Allocations of rows.


@pytest.fixture(scope="module")
def networks():
    pytest.importorskip("torch", reason="needs the [host] extra")
    import evidence_allocation
    import evidence_networks

    return evidence_networks, evidence_allocation


def small_task(allocation, **changes):
    """Returns a digits task of two blocks that trains in a moment."""
    settings = allocation.TASKS["digits"]
    changes = {"depth": 2, "train": 192, "held_out": 64, "epochs": 1, "tuning_epochs": 1, **changes}
    return dataclasses.replace(settings.task, calibration=32, **changes)


@pytest.fixture(scope="module")
def scored(networks):
    """Returns a task and random scores of its rows."""
    found, allocation = networks
    task = small_task(allocation)
    generator = np.random.default_rng(0)
    return task, {name: generator.exponential(size=rows) for name, (rows, _) in found.matrices(task).items()}


def worth(scores, eight):
    return sum(float(scores[name][eight[name]].sum()) for name in scores)


def test_freer_strategies_have_better_scores_at_the_same_budget(networks, scored):
    found, allocation = networks
    task, scores = scored
    whole = allocation.cost(task, found.all_rows(task, True))
    for share in (0.125, 0.25, 0.5):
        chosen = {
            s: allocation.choose(s, task, scores, int(share * whole), [1]) for s in allocation.STRATEGIES
        }
        for strategy, eight in chosen.items():
            assert allocation.cost(task, eight) <= share * whole, strategy
            # No slot is half empty: two 4-bit rows share one.
            assert all(rows.sum() % 2 == 0 for rows in eight.values()), strategy
        value = {strategy: worth(scores, eight) for strategy, eight in chosen.items()}
        assert value["rows"] > value["fractions"] > value["layers"] > value["random"]
        assert value["rows"] > value["one"] > value["random"]


def test_strategies_choose_what_they_may(networks, scored):
    found, allocation = networks
    task, scores = scored
    budget = allocation.cost(task, found.all_rows(task, True)) // 3
    layers = allocation.choose("layers", task, scores, budget, [])
    fractions = allocation.choose("fractions", task, scores, budget, [])
    one = allocation.choose("one", task, scores, budget, [])
    shares = []
    for name, (rows, _) in found.matrices(task).items():
        for k in np.split(np.arange(rows), 3 if name.endswith("qkv") else 1):
            assert layers[name][k].mean() in (0, 1)
            assert fractions[name][k].mean() in allocation.FRACTIONS
            shares.append(one[name][k].mean())
            best = np.argsort(-scores[name][k])[: fractions[name][k].sum()]
            assert fractions[name][k][best].all(), "the best rows of the matrix"
    assert max(shares) - min(shares) <= 2 / task.embed
    with pytest.raises(ValueError, match="must be one of rows"):
        allocation.choose("columns", task, scores, budget, [])


def test_layer_wise_is_the_best_of_all_combinations(networks, scored):
    found, allocation = networks
    task, scores = scored
    task = dataclasses.replace(task, depth=1)
    budget = allocation.cost(task, found.all_rows(task, True)) // 2
    parts = list(allocation._parts(task, scores, True))
    values = []
    for mask in range(1 << len(parts)):
        chosen = [part for i, part in enumerate(parts) if mask >> i & 1]
        if sum(part.pairs * part.columns for part in chosen) <= budget:
            values.append(sum(scores[part.name][part.rows].sum() for part in chosen))
    eight = allocation.choose("layers", task, scores, budget, [])
    assert sum(scores[name][rows].sum() for name, rows in eight.items()) == pytest.approx(max(values))


def test_an_exported_network_has_the_chosen_rows_and_the_float_weights(networks):
    import torch

    found, allocation = networks
    task = small_task(allocation)
    data = found.split(task, 0)
    network = found.train(task, data, 0)
    model = found.as_timm(task, network)
    images = torch.from_numpy(np.array(data.held_images)).unsqueeze(1)
    with torch.no_grad():
        expected = network(images).numpy()
    assert found.float_logits(task, model, data.held_images) == pytest.approx(expected, abs=1e-4)
    generator = np.random.default_rng(1)
    eight = {
        name: np.repeat(generator.random(rows // 2) < 0.5, 2)
        for name, (rows, _) in found.matrices(task).items()
    }
    for subnet in (
        found.rounded(task, model, data.images[:32], "gptq", eight)[0],
        found.tuned(task, network, data, eight, 0),
    ):
        tensors = subnet.tensors()
        for name, rows in eight.items():
            np.testing.assert_array_equal(tensors[f"{name}.bits"] == 8, rows)


def test_splits_share_no_image_and_differ_by_seed(networks):
    found, allocation = networks
    task = allocation.TASKS["digits"].task
    one, other = found.split(task, 0), found.split(task, 1)
    assert (len(one.images), len(one.held_images)) == (task.train, task.held_out)
    assert not np.array_equal(one.labels, other.labels)
    unique = np.unique(np.concatenate([one.images, one.held_images]).reshape(1797, -1), axis=0)
    assert len(unique) == 1797, "each of the 1,797 images is used once"


def test_figures_of_equal_logits_are_those_of_the_labels(networks):
    found, _ = networks
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]], np.float32))
    figures = found.figures(logits, logits, np.array([0, 1]))
    assert figures == pytest.approx(
        {"logit_error": 0, "kl": 0, "nll": 1.5 * np.log(2) + np.log(2) / 2, "top1": 0.5}
    )


# From images to results.


def test_from_digits_to_tables_and_on_from_where_it_stopped(tmp_path, networks, results):
    _, allocation = networks
    task = small_task(allocation, depth=1)
    settings = allocation.Settings(task, budgets=(0.25,), tuned=(0.25,), draws=1)
    said = []

    def run():
        tasks = {"digits": settings}
        return evidence.evidence(tmp_path, [0], tasks, threads=1, log=said.append)

    document = run()
    tuning = {"tuning_digits_ends", "tuning_digits_0.25"}
    assert set(document["cells"]) == {"allocation_digits", *tuning}
    cell = document["cells"]["allocation_digits"]["0"]
    at_budget = cell["rounded"]["nearest"]["0.25"]
    assert set(at_budget) == set(report.STRATEGIES)
    anchor = at_budget["layers"][0]
    for strategy in ("rows", "random"):  # the others' choices are coarse in one block
        assert at_budget[strategy][0]["fps"] == pytest.approx(anchor["fps"], rel=0.02), strategy
    assert cell["rounded"]["nearest"]["8"]["fps"] < anchor["fps"] < cell["rounded"]["nearest"]["4"]["fps"]
    both = dict.fromkeys(report.DATA, document["settings"]["digits"])
    merged = {"settings": both, "cells": {**results["cells"], **document["cells"]}}
    found = report.tables(merged)
    assert set(found) == set(re.findall(r"generated: (\w+)", (DOCS / "evidence.md").read_text("utf-8")))
    # One cell is lost: it alone is computed again, and comes out the same.
    (lost,) = (tmp_path / "cells").glob("*-allocation_digits-*")
    lost.unlink()
    said.clear()
    assert run() == document
    assert [line for line in said if line.endswith("begins")] == ["seed 0, allocation_digits: begins"]
