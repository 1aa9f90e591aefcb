"""The solar cells' splits and figures, and that the page's tables are those of the record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import solar_cells
from pages import splice

pytest.importorskip("sklearn")


def test_folds_hold_every_stratum_in_proportion() -> None:
    strata = np.repeat([0, 1, 2, 3], [100, 53, 7, 41])
    place = solar_cells.folds(strata, 5)
    for counts in [np.bincount(place[strata == s], minlength=5) for s in range(4)] + [np.bincount(place)]:
        assert counts.max() - counts.min() <= 1
    assert (place == solar_cells.folds(strata, 5)).all()
    assert (place != solar_cells.folds(strata, 5, seed=1)).any()


def test_the_interval_of_a_mean_over_folds_allows_for_shared_training_cells() -> None:
    # 2.776 (t with 4 degrees of freedom) * 3.162 * sqrt(1/5 + 1/4)
    assert solar_cells.over([0.8, 0.82, 0.84, 0.86, 0.88]) == "84.0 ± 5.9"
    assert solar_cells.less([0.79, 0.78, 0.77, 0.78, 0.78], [0.8] * 5) == "−2.0 ± 1.3"
    # Further draws of the folds narrow it only as far as the cells allow: 2.064 * sqrt(10 / 24) * sqrt(1/25 + 1/4)
    half = solar_cells.interval([4.0, 5.0, 5.0, 5.0, 6.0] * 5)[1]
    assert half == pytest.approx(2.064 * (10 / 24) ** 0.5 * (1 / 25 + 1 / 4) ** 0.5, rel=1e-3)


def test_a_doubtful_cell_counts_by_its_probability_and_each_class_alike() -> None:
    cells = solar_cells.Cells([Path()] * 4, np.array([0, 1 / 3, 2 / 3, 1]), np.arange(4) % 2 == 1)
    usual, doubtful = (solar_cells.Question.of(cells, doubtful) for doubtful in (False, True))
    assert usual.truth.tolist() == [0, 0, 1, 1]
    assert usual.strata.tolist() == [0, 2, 1, 3]
    assert doubtful.truth.tolist() == [0, 1, 1, 1]
    assert doubtful.weights.tolist() == pytest.approx([1, 1 / 3, 2 / 3, 1])
    found = np.array([0, 0, 0, 1])
    assert (usual.accuracy(found), doubtful.accuracy(found)) == pytest.approx((3 / 4, 2 / 3))
    assert (usual.balanced(found), doubtful.balanced(found)) == pytest.approx((3 / 4, 2 / 3))


def test_from_embeddings_to_tables() -> None:
    rng = np.random.default_rng(0)
    cells = solar_cells.Cells([Path()] * 200, rng.choice([0.0, 1.0], 200), np.arange(200) % 2 == 0)
    exact = rng.normal(size=(200, 3)).astype(np.float32)
    exact[:, 0] += 20 * (cells.probability > 0)
    swapped = exact * [-1, 1, 1] + [20, 0, 0]
    moved = exact + 100 * cells.poly[:, None]
    found = solar_cells.contest({"float": exact, "swapped": swapped, "moved": moved}, cells)
    assert min(found["float"]["folds"]["top1"] + found["swapped"]["folds"]["balanced"]) == 1
    # A head that learned from the float network's embeddings is wrong on those of the other sign.
    assert max(found["swapped"]["float_head"]["top1"]) < 0.2
    # The offset between the types does not matter.
    assert found["moved"]["types"]["mono_to_poly"]["value"] == 1
    fit, cpu = {"fps": 60.0, "eight_bit_weights": 0.4, "bytes": 1_000_000}, {"median": 15.0}
    entry = {"fps": 60, "side": 224, "fit": fit, "cpu_ms": cpu, "accuracy": found}
    tables = solar_cells.tables({"targets": [entry]})
    assert "| swapped, 224x224 | 100.0 ± 0.0 | 100.0 ± 0.0 | +0.0 ± 0.0 |" in tables["folds"]


def test_the_page_holds_the_tables_that_the_record_gives() -> None:
    page = solar_cells.PAGE.read_text("utf-8")
    record = json.loads(solar_cells.RECORD.read_text("utf-8"))
    assert splice(page, solar_cells.tables(record)) == page, "run make solar-cells"
