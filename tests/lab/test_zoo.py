"""Tests that docs/zoo.md and its record are those of the packaged subnets."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import zoo
from pages import splice
from quasar_rt import Subnet
from quasar_rt.hardware import Hardware, Workload, estimate, replay
from quasar_rt.packaged import subnet_names

WRITE = "run python tools/lab/zoo.py"


def test_the_page_holds_the_tables_that_the_record_gives() -> None:
    page = zoo.PAGE.read_text("utf-8")
    assert splice(page, zoo.tables(zoo.read_record())) == page, WRITE


def test_the_record_is_that_of_the_packaged_files_and_of_todays_model() -> None:
    written = zoo.read_record()
    assert list(written) == subnet_names(), WRITE
    assert zoo.make_record(written) == written, WRITE


def test_a_measurement_goes_with_the_content_that_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "rates", lambda network: {})
    name = subnet_names()[0]
    before = {name: {"measured": {"sha256": Subnet.load(name).sha256, "median_ms": {"1": 0.5, "2": 0.25}}}}
    kept = zoo.make_record(before)[name]
    assert kept["measured"] == before[name]["measured"]
    before[name]["measured"]["sha256"] = "0" * 64
    assert "measured" not in zoo.make_record(before)[name]
    row = {"modelled_fps": {"shipped": {}, "chosen": {}}}
    assert "| 0.500 / 0.250 |" in zoo.subnets_table({name: kept | row})
    assert "| not measured |" in zoo.subnets_table({name: zoo.make_record({})[name] | row})


def test_a_rate_is_the_accelerators_event_by_event_and_absent_where_the_network_does_not_fit() -> None:
    small, large = Workload.of(Subnet.load("digits")), Workload.deit("deit-base")
    hardware = Hardware.load(zoo.ROOT / "fpga/configs/pynq-z2.toml")
    found = zoo.rates(small)
    assert set(found["shipped"]) == set(zoo.CONFIGURED) >= {"zcu102", "kv260", "pynq-z2"}
    fps = hardware.clock_mhz * 1e6 / replay(small, hardware).period_cycles
    assert found["shipped"]["pynq-z2"] == pytest.approx(fps, abs=0.05)
    assert fps != pytest.approx(estimate(small, hardware).fps_with_host, rel=0.01)
    assert zoo.frame_rate(large, lambda: hardware) is None
    assert zoo.frame_rate(large, lambda: Hardware.for_board("pynq-z2", large)) is None


def test_the_table_says_where_a_subnet_does_not_fit_and_where_there_is_no_configuration() -> None:
    entry = {"modelled_fps": {"shipped": {"zcu102": None}, "chosen": {"zcu104": 1234.5}}}
    shipped, chosen = zoo.boards_table({"mine": entry}).splitlines()[2:]
    assert shipped.startswith("| `mine` | shipped | does not fit | – |")
    assert chosen.startswith("| `mine` | chosen for the subnet | – | 1,234 |")


def test_a_busy_machine_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (2.5, 1.0, 1.0))
    before = zoo.RECORD.read_bytes()
    result = CliRunner().invoke(zoo.main, ["--measure"])
    assert result.exit_code == 1
    assert "the machine is busy (load average 2.50)" in result.output
    assert zoo.RECORD.read_bytes() == before
    json.loads(before)
