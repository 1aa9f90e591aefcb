"""Shows that the testbenches can fail.

Plants one fault at a time in a copy of a kernel and expects a testbench to return non-zero. Native integers.
Usage: mutants.py COMPILER BUILD, after the configuration `tiny` was generated in BUILD.
"""

import subprocess
import sys
from pathlib import Path

# (kernel, what stands there, what stands there instead, the testbench that must notice)
MUTANTS = [
    ("load", "word_of(beat, 0) == sum", "true", "transfers"),
    ("load", "sound[frame] = true;", "", "transfers"),
    ("load", "array_to_load.read();", ";", "transfers"),
    ("load", "isa::PORT_BYTES * port + i", "isa::PORT_BYTES * port + (i ^ 1)", "transfers"),
    ("load", "group * config::LANES + lane", "group * config::LANES + lane / 2", "transfers"),
    ("fetch", "bad = i + 1;", "bad = i;", "transfers"),
    ("fetch", "if (bad == 0) {", "{", "transfers"),
    ("fetch", "command.word[2] += base;", ";", "transfers"),
    ("array", "row.narrow == 1 && nibble >= 8", "nibble >= 8", "array"),
    ("array", "if (pair.first == 0) {", "if (false) {", "array"),
    ("array", "if (r >= unsigned(shift[t].from))", "if (true)", "array"),
    ("drain", "else if (resume)", "else if (false)", "drain"),
    ("drain", "((z + 32) >> 6) + command.zero_point", "(z >> 6) + command.zero_point", "drain"),
    ("drain", " + s<25>((lost + 8) >> 4)", "", "drain"),
    (
        "drain",
        "if (lane < lanes)\n          key[b]",
        "if (lane < LANES)\n          key[b]",
        "drain",
    ),
    (
        "drain",
        "if (lane < lanes)\n          value[b]",
        "if (lane < LANES)\n          value[b]",
        "drain",
    ),
    (
        "norm",
        "sat16(s<19>(product15(n, gain.gain) + gain.offset))",
        "product15(n, gain.gain) + gain.offset",
        "norm",
    ),
    ("norm", "int(divisor) - 1 - int(numerator)", "-int(numerator)", "norm"),
    ("softmax", "bits - (halve ? 1 : 0)", "bits", "softmax"),
    ("softmax", "(unsigned(wide) + 8) >> 4", "unsigned(wide) >> 4", "softmax"),
    ("store", "turn = turned(turn, 1);", "", "transfers"),
    ("store", "place(sound ? 0 : 1, 3, port);", "place(0, 3, port);", "transfers"),
]
KERNELS = ["fetch", "load", "array", "drain", "norm", "softmax", "store"]
MODEL = ["fibers", "dram", "fabric", "quasar_sim"]


def main(compiler: str, build: Path) -> int:
    """Returns the program's status."""
    here = Path(__file__).parents[1]
    out = build / "mutants"
    out.mkdir(parents=True, exist_ok=True)
    flags = ["-O1", "-w", "-DQUASAR_FAST", f"-I{here}/include", f"-I{here}/sim", f"-I{build}/config/tiny"]

    def compile_to(source: Path, name: str, standard: str) -> Path:
        target = out / f"{name}.o"
        subprocess.run([compiler, f"-std={standard}", *flags, "-c", source, "-o", target], check=True)
        return target

    def passes(bench: str, objects: list[Path]) -> bool:
        program = out / bench
        subprocess.run([compiler, "-pthread", *objects, benches[bench], "-o", program], check=True)
        try:
            return subprocess.run([program], capture_output=True, timeout=120, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    kernels = {name: compile_to(here / f"src/{name}.cpp", name, "c++17") for name in KERNELS}
    model = [compile_to(here / f"sim/{name}.cpp", name, "c++20") for name in MODEL]
    benches = {
        name: compile_to(here / f"tb/{name}.cpp", f"tb_{name}", "c++20")
        for name in {bench for *_, bench in MUTANTS}
    }
    for bench in benches:
        if not passes(bench, [*kernels.values(), *model]):
            print(f"mutants: {bench} fails without a fault")
            return 1
    missed = 0
    for number, (kernel, old, new, bench) in enumerate(MUTANTS):
        text = (here / f"src/{kernel}.cpp").read_text()
        if text.count(old) < 1:
            print(f"mutants: {kernel}.cpp no longer has {old!r}")
            return 1
        source = out / f"mutant{number}.cpp"
        source.write_text(text.replace(old, new, 1))
        mutant = compile_to(source, f"mutant{number}", "c++17")
        noticed = not passes(bench, [mutant if name == kernel else kernels[name] for name in KERNELS] + model)
        print(f"{'noticed' if noticed else 'MISSED '}  {kernel}: {old!r} -> {new!r}", flush=True)
        missed += not noticed
    print(f"mutants: {len(MUTANTS) - missed} of {len(MUTANTS)} noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
