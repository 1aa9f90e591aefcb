"""Prints the options of Verilator, or of the C++ compiler, for fpga/rtl/array.sv of one configuration.

Usage: array_parameters.py verilator|c++ CONFIG_HPP
"""

import re
import sys
from pathlib import Path


def parameters(header: str) -> dict[str, int]:
    """Returns the parameters of the array, from the text of a generated config.hpp."""
    c = {name: int(value) for name, value in re.findall(r"constexpr unsigned (\w+) = (\d+)u?;", header)}
    words = {name: -(-value // c["CASCADE"]) for name, value in c.items() if name.endswith("_WORDS")}
    codes = max(words[f"{name}_WORDS"] for name in ("INPUT", "NORM", "QUERY", "HIDDEN", "SCORE"))
    rows = max(2 * words["WEIGHT_WORDS"], words["KEY_WORDS"], words["VALUE_WORDS"])
    return {
        "T": c["TOKENS"],
        "P": c["PAIRS"],
        "C": c["CASCADE"],
        "L": c["LANES"],
        "M": c["NORM_LANES"],
        "E": c["EXP_LANES"],
        "S": c["SHIFT"],
        "FRAMES": c["FRAMES"],
        "KEY_BANKS": c["KEY_BANKS"],
        "VALUE_BANKS": c["VALUE_BANKS"],
        "BEAT": 16 * c["PORTS"],
        "WORDS": words["WEIGHT_WORDS"],
        "ADDRESS_BITS": max(1, (codes - 1).bit_length()),
        "ROW_BITS": max(1, (rows - 1).bit_length()),
        "DSP48E1": int(c["SHIFT"] == 21),
    }


if __name__ == "__main__":
    values = parameters(Path(sys.argv[2]).read_text(encoding="utf-8"))
    if sys.argv[1] == "verilator":
        print(*(f"-G{name}={value}" for name, value in values.items()))
    else:
        print(*(f"-DARRAY_{name}={values[name]}" for name in ("ADDRESS_BITS", "ROW_BITS")))
