"""The strategies of the search next to the exact front, and their table in docs/search-core.md."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

import search_strategies as strategies

GUIDED = {"strategy": "guided"}


@pytest.mark.parametrize(
    "pair",
    [("tiny", "zcu102"), ("tiny", "pynq-z2"), ("small", "zcu102"), ("fashion-mnist", "pynq-z2")],
)
def test_the_default_budget_comes_within_a_percent_of_the_exact_front(pair):
    assert min(strategies.shares(pair, GUIDED, seed)[0] for seed in range(2)) >= 0.99


@pytest.mark.parametrize("pair", strategies.PAIRS)
def test_the_default_budget_stays_close_with_noisy_scores(pair):
    found, plain = (
        [strategies.shares(pair, strategy, seed, strategies.NOISE)[0] for seed in range(10)]
        for strategy in (GUIDED, {"strategy": "evolution"})
    )
    assert np.mean(found) >= 0.97, found
    assert min(found) > max(plain)


def test_the_page_has_the_figures_of_today():
    row = strategies.table(strategies.PAIRS[:1], ["guided (the default)"]).splitlines()[-1]
    assert row in strategies.PAGE.read_text("utf-8"), "run python tools/lab/search_strategies.py"


def test_the_page_has_todays_figures_of_objectives():
    rows = strategies.objectives_table(strategies.OBJECTIVE_PAIRS[:1], strategies.OBJECTIVES[:2])
    page = strategies.PAGE.read_text("utf-8")
    for row in rows.splitlines()[-2:]:
        assert row in page, "run python tools/lab/search_strategies.py --table objectives"


@pytest.mark.parametrize("name", strategies.TABLES)
@pytest.mark.slow
def test_the_page_has_the_whole_tables_of_today(name):
    assert strategies.TABLES[name]() in strategies.PAGE.read_text("utf-8"), (
        "run python tools/lab/search_strategies.py"
    )


def test_one_table_is_written_alone(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    blocks = [f"<!-- generated: {name} -->\n\nold {name}\n\n<!-- end -->\n" for name in strategies.TABLES]
    page.write_text("".join(blocks))
    monkeypatch.setattr(strategies, "PAGE", page)
    monkeypatch.setitem(strategies.TABLES, "objectives", lambda: "new")
    done = CliRunner().invoke(strategies.main, ["--table", "objectives"])
    assert done.exit_code == 0, done.output
    assert page.read_text() == "".join(blocks).replace("old objectives", "new")
