"""The solar cells' splits and figures, and that the page's tables are those of the record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import solar_cells
from pages import splice


def test_folds_hold_every_stratum_in_proportion() -> None:
    strata = np.repeat([0, 1, 2, 3], [100, 53, 7, 41])
    place = solar_cells.folds(strata, 5)
    for stratum in range(4):
        counts = np.bincount(place[strata == stratum], minlength=5)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(place)
    assert sizes.max() - sizes.min() <= 1
    assert (place == solar_cells.folds(strata, 5)).all()
    assert (place != solar_cells.folds(strata, 5, seed=1)).any()


def test_balanced_accuracy_counts_each_class_alike() -> None:
    truth = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1])
    found = np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    assert solar_cells.accuracy(truth, found) == pytest.approx(0.9)
    assert solar_cells.balanced_accuracy(truth, found) == pytest.approx(0.75)
    weights = np.where(truth == 1, 4.0, 1.0)
    assert solar_cells.accuracy(truth, found, weights) == pytest.approx(0.75)


def test_the_interval_of_a_mean_over_folds_allows_for_shared_training_cells() -> None:
    pytest.importorskip("scipy")
    # 2.776 (t with 4 degrees of freedom) * 3.162 * sqrt(1/5 + 1/4)
    assert solar_cells.over([0.8, 0.82, 0.84, 0.86, 0.88]) == "84.0 ± 5.9"
    assert solar_cells.over([-0.01, -0.02, -0.03, -0.02, -0.02], sign=True) == "−2.0 ± 1.3"
    # Further draws of the folds narrow it only as far as the cells allow: 2.064 * sqrt(10 / 24) * sqrt(1/25 + 1/4)
    half = solar_cells.fold_interval([4.0, 5.0, 5.0, 5.0, 6.0] * 5)[1]
    assert half == pytest.approx(2.064 * (10 / 24) ** 0.5 * (1 / 25 + 1 / 4) ** 0.5, rel=1e-3)


def test_a_doubtful_cell_counts_by_its_probability() -> None:
    cells = solar_cells.CellSet(
        [Path()] * 4, np.array([0.0, 1 / 3, 2 / 3, 1.0]), np.array([False, True, False, True])
    )
    usual, doubtful = (solar_cells.Question.of(cells, doubtful) for doubtful in (False, True))
    assert usual.truth.tolist() == [0, 0, 1, 1]
    assert usual.strata.tolist() == [0, 2, 1, 3]
    assert usual.weights.tolist() == [1, 1, 1, 1]
    assert doubtful.truth.tolist() == [0, 1, 1, 1]
    assert doubtful.weights.tolist() == pytest.approx([1, 1 / 3, 2 / 3, 1])


def test_embeddings_that_are_there_are_not_computed_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def embed(paths: list[Path]) -> np.ndarray:
        asked.append(len(paths))
        return np.array([[float(path.name)] for path in paths], np.float32)

    cells = solar_cells.CellSet([Path(str(i)) for i in range(100)], np.zeros(100), np.zeros(100, bool))
    first = solar_cells.cached(tmp_path / "a.npy", cells.part(0, 70), embed)
    assert (len(first), asked) == (70, [64, 6])
    assert solar_cells.cached(tmp_path / "a.npy", cells, embed)[:, 0].tolist() == list(range(100))
    assert asked == [64, 6, 30]


def test_a_head_learns_and_meets_the_other_type() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    cells = solar_cells.CellSet([Path()] * 200, rng.choice([0.0, 1.0], 200), np.arange(200) % 2 == 0)
    question = solar_cells.Question.of(cells, False)
    vectors = rng.normal(size=(200, 3)).astype(np.float32)
    vectors[:, 0] += 20 * question.truth
    ridges = solar_cells.best_ridges(vectors, question)
    right = solar_cells.over_folds(vectors, vectors, question, ridges)
    assert min(right["top1"] + right["balanced"]) == 1
    # Embeddings of the other sign are told wrong: the head is the one that learned from the first kind.
    swapped = vectors.copy()
    swapped[:, 0] = 20 - swapped[:, 0]
    assert max(solar_cells.over_folds(vectors, swapped, question, ridges)["top1"]) < 0.2
    # The offset between the types does not matter, but what the head learns does.
    moved = vectors.copy()
    moved[cells.poly, 0] += 100
    assert solar_cells.across_types(vectors, moved, question, cells.poly)["mono_to_poly"]["value"] == 1
    moved[cells.poly, 0] *= -1
    assert solar_cells.across_types(vectors, moved, question, cells.poly)["mono_to_poly"]["value"] < 0.1


def test_the_page_holds_the_tables_that_the_record_gives() -> None:
    pytest.importorskip("scipy")
    page = solar_cells.PAGE.read_text("utf-8")
    record = json.loads(solar_cells.RECORD.read_text("utf-8"))
    assert splice(page, solar_cells.tables(record)) == page, "run make solar-cells"


def test_a_patch_is_as_hot_as_it_is_far_from_all_sound_ones() -> None:
    bank = np.array([[0, 0], [10, 0]], np.float32)
    tokens = np.array([[0, 3], [10, 0], [6, 3]], np.float32)
    assert solar_cells.nearest(tokens, bank).tolist() == pytest.approx([3, 0, 5])


def test_auroc_is_the_chance_of_the_higher_score() -> None:
    low = np.array([1.0, 2, 3, 4])
    assert solar_cells.auroc(np.array([5.0, 6]), low) == 1
    assert solar_cells.auroc(np.array([0.0]), low) == 0
    # 2.5 is above two of four; a tie with 3 counts half.
    assert solar_cells.auroc(np.array([2.5, 3]), low) == pytest.approx((2 + 2.5) / 8)
