"""The HLS sources against what is generated: pragmas take literals only, so a test compares them."""

import re
from pathlib import Path

import pytest

FPGA = Path(__file__).parents[2] / "fpga"
KERNELS = ["fetch", "load", "plan", "scores", "drain", "norm", "softmax", "store"]
#: Arguments whose registers have another name.
REGISTERS = {
    "fetch": {"base": "INPUT"},
    "load": {f"memory{i}": f"ARENA{i}" for i in range(4)},
    "store": {"memory": "OUTPUT"},
}


def declared_registers() -> dict[str, int]:
    text = (FPGA / "include/isa.hpp").read_text()
    block = re.search(r"namespace reg \{(.*?)\n\} // namespace reg", text, re.S)
    assert block
    return {name: int(value, 16) for name, value in re.findall(r"unsigned (\w+) = (0x[0-9a-f]+);", block[1])}


def pragmas(kernel: str) -> list[str]:
    text = (FPGA / f"src/{kernel}.cpp").read_text()
    return [re.sub(r"\s*=\s*", "=", line) for line in re.findall(r"#pragma HLS (.*)", text)]


def arguments(kernel: str) -> list[tuple[str, str]]:
    """Returns type and name of each argument of the top function, as `kernels.hpp` declares it."""
    declared = re.search(rf"void {kernel}\((.*?)\);", (FPGA / "include/kernels.hpp").read_text(), re.S)
    assert declared
    return [re.fullmatch(r"(.*?)([a-z]\w*)", a.strip(), re.S).groups() for a in declared[1].split(",")]  # type: ignore[union-attr]


@pytest.mark.parametrize("kernel", ["fetch", "load", "store"])
def test_register_offsets_are_the_declared_ones(kernel: str) -> None:
    declared = {
        name.removeprefix(f"{kernel}_"): offset & 0xFFFF
        for name, offset in declared_registers().items()
        if name.startswith(f"{kernel}_")
    }
    # What Vitis HLS places itself.
    for name, offset in {"CTRL": 0x0, "GIE": 0x4, "IER": 0x8, "ISR": 0xC}.items():
        assert declared.pop(name, offset) == offset
    stated = {}
    for pragma in pragmas(kernel):
        if found := re.search(r"mode=s_axilite port=(\w+) .*offset=(0x[0-9a-f]+)", pragma):
            argument = REGISTERS[kernel].get(found[1], found[1].upper())
            stated[argument] = int(found[2], 16)
    assert stated == declared


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_argument_has_an_interface(kernel: str) -> None:
    interfaces = {}
    for pragma in pragmas(kernel):
        if pragma.startswith("INTERFACE") and (port := re.search(r"port=(\w+)", pragma)):
            mode = re.search(r"\b(axis|m_axi|s_axilite|ap_memory|ap_ctrl_\w+)\b", pragma)
            assert mode, pragma
            interfaces.setdefault(port[1], set()).add(mode[1])
    for kind, name in arguments(kernel):
        if "Bus<" in kind:
            wanted = {"m_axi", "s_axilite"}
        elif "Read::" in kind or "Write::" in kind:
            wanted = {"ap_memory"}
        elif kind.rstrip().endswith("&"):
            wanted = {"axis"}
        else:
            wanted = {"s_axilite"}
        assert interfaces.pop(name, None) == wanted, name
    started = kernel in ("fetch", "load", "store")
    assert interfaces == {"return": {"ap_ctrl_hs", "s_axilite"} if started else {"ap_ctrl_hs"}}
