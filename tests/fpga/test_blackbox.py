"""The RTL black box and its C model agree, and its JSON says what they are."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from rtl import ROOT, run, verilate

BLACKBOX = ROOT / "fpga" / "blackbox"


def ap_types() -> Path:
    """The open ap_types that the hls4ml wheel carries: where `make csim` puts them, or of an installed wheel."""
    spec = importlib.util.find_spec("hls4ml")
    found = [ROOT / "build" / "ap_types"]
    if spec is not None and spec.submodule_search_locations:
        found += [
            Path(path) / "templates" / "vivado" / "ap_types" for path in spec.submodule_search_locations
        ]
    for path in found:
        if (path / "ap_int.h").is_file():
            return path
    pytest.skip("ap_types are absent (make csim fetches them)")


def description() -> dict:
    return json.loads((BLACKBOX / "packed_mac.json").read_text())


def test_the_description_names_files_and_ports_that_exist() -> None:
    box = description()
    files = [entry["c_file"] for entry in box["c_files"]] + box["rtl_files"]
    assert all((BLACKBOX / name).is_file() for name in files)
    verilog = (BLACKBOX / "packed_mac.v").read_text()
    assert f"module {box['rtl_top_module_name']} " in verilog
    ports = [p["rtl_ports"]["data_read_in"] for p in box["c_parameters"]]
    ports += [box["c_return"]["rtl_ports"]["data_write_out"]]
    ports += [v for k, v in box["rtl_common_signal"].items() if v]
    assert all(f" {port}" in verilog.split(");")[0] for port in ports)


def test_the_model_is_the_circuit(tmp_path: Path) -> None:
    include = ap_types()
    sources = [BLACKBOX / name for name in description()["rtl_files"]]
    simulation = verilate(
        tmp_path,
        "packed_mac",
        ROOT / "tests" / "fpga" / "blackbox_harness.cpp",
        [*sources, BLACKBOX / "packed_mac.cpp"],
        defines=f"-isystem {include} -I{BLACKBOX}",
    )
    assert run(simulation) == "0 wrong\n"
