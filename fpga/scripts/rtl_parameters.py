"""Prints the options of Verilator, or of the C++ compiler, for fpga/rtl/array.sv or lanes.sv of one configuration.

Usage: rtl_parameters.py array|lanes verilator|c++ CONFIG_HPP
"""

import re
import sys
from pathlib import Path


def parameters(module: str, header: str) -> dict[str, int]:
    """Returns the parameters of a module, from the text of a generated config.hpp."""
    c = {name: int(value) for name, value in re.findall(r"constexpr unsigned (\w+) = (\d+)u?;", header)}
    words = {name: -(-value // c["CASCADE"]) for name, value in c.items() if name.endswith("_WORDS")}
    codes = max(words[f"{name}_WORDS"] for name in ("INPUT", "NORM", "QUERY", "HIDDEN", "SCORE"))
    rows = max(2 * words["WEIGHT_WORDS"], words["KEY_WORDS"], words["VALUE_WORDS"])
    both = {
        "T": c["TOKENS"],
        "P": c["PAIRS"],
        "C": c["CASCADE"],
        "L": c["LANES"],
        "FRAMES": c["FRAMES"],
        "KEY_BANKS": c["KEY_BANKS"],
        "VALUE_BANKS": c["VALUE_BANKS"],
        "BEAT": 16 * c["PORTS"],
        "ADDRESS_BITS": max(1, (codes - 1).bit_length()),
        "ROW_BITS": max(1, (rows - 1).bit_length()),
    }
    if module == "lanes":
        return both | {
            "R": c["CLOCK_RATIO"],
            "TILES": -(-c["SCORE_WORDS"] // c["TOKENS"]),
            "MEANS": min(c["QUERY_WORDS"], c["WEIGHT_WORDS"]),
            "ANGLES": c["ANGLE_WORDS"],
            "RESIDUAL_BITS": max(1, (c["RESIDUAL_WORDS"] - 1).bit_length()),
            "DSP48E1": int(c["SHIFT"] == 21),
        }
    return both | {
        "M": c["NORM_LANES"],
        "E": c["EXP_LANES"],
        "S": c["SHIFT"],
        "WORDS": words["WEIGHT_WORDS"],
        "DSP48E1": int(c["SHIFT"] == 21),
    }


if __name__ == "__main__":
    module, tool, path = sys.argv[1:]
    values = parameters(module, Path(path).read_text(encoding="utf-8"))
    if tool == "verilator":
        print(*(f"-G{name}={value}" for name, value in values.items()))
    else:
        names = ("ADDRESS_BITS", "ROW_BITS")
        print(*(f"-D{module.upper()}_{name}={values[name]}" for name in names))
