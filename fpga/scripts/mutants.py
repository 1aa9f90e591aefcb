"""Checks that the testbenches detect planted faults.

Plants one fault at a time in a copy of a kernel or of the array's model, and expects testbenches to return
non-zero. Compiles with native integers.
Usage: mutants.py COMPILER BUILD CONFIGURATION..., after these were generated in BUILD.
"""

import shutil
import subprocess
import sys
from pathlib import Path

# (source, or header/source for a header that it includes; the old text; the new text; the testbench that must fail)
MUTANTS = [
    ("load", "key != (seed ^ number[command.frame])", "false", "transfers"),
    ("load", "seed ^ number[command.frame]", "seed", "transfers"),
    ("load", "++number[command.frame];", "", "transfers"),
    ("load", "number[command.frame] = 0;", "", "transfers"),
    ("load", "number[command.frame] == command.beats", "true", "transfers"),
    ("load", "nonce[command.frame] = 0;", "", "transfers"),
    ("load", "sound[command.frame] = true;", "", "transfers"),
    ("load", "uint32_t(transfer.key) == seed", "true", "transfers"),
    ("load", "own = own && command.own", "own = command.own", "transfers"),
    ("load", "array_to_load.read();", ";", "transfers"),
    ("load", "isa::PORT_BYTES * port + i", "isa::PORT_BYTES * port + (i ^ 1)", "transfers"),
    ("load", "group * config::LANES + lane", "group * config::LANES + lane / 2", "transfers"),
    ("fetch", "!sound)\n      bad = i + 1;", "!sound)\n      bad = i;", "transfers"),
    ("fetch", "default:\n        bad = i + 1;", "default:\n        bad = i;", "transfers"),
    ("fetch", "if (bad == 0) {", "{", "transfers"),
    ("fetch", "bad == 0 && !sound", "false", "transfers"),
    ("fetch", "(~before, check_share", "(0, check_share", "transfers"),
    ("fetch", "fields[i] = command.word[i];", "fields[i] = command.word[i & 2];", "transfers"),
    ("fetch", " && unused == 0", "", "transfers"),
    ("fetch", "uint32_t check = seed ^ count;", "uint32_t check = seed;", "transfers"),
    ("fetch", "command.word[2] += base;", ";", "transfers"),
    ("plan", "key_address += key_stride;", ";", "array"),
    ("plan", "value_address += words;", ";", "array"),
    ("plan", "rotation += turn;", ";", "array"),
    ("plan", "pass.groups = groups", "pass.groups = GROUPS", "array"),
    ("scores", "key == 0 || row[t]", "row[t]", "array"),
    ("scores", "bank / EXP_GROUPS == unsigned(parity)", "bank / EXP_GROUPS == 0", "array"),
    ("norm", "if (f == frame)", "if (f != frame)", "norm"),
    ("load", "nonce[command.frame] = 0;\n      retired.write(1);", "nonce[command.frame] = 0;", "transfers"),
    ("fetch", "*error = bad;\n  retired.write(1);", "*error = bad;", "transfers"),
    ("store", "retired.write(0);", "", "transfers"),
    ("plan", "retired.write(1);", "", "array"),
    ("scores", "retired.write(1);", "", "array"),
    ("norm", "command.pool != isa::pooling::UNNORMALISED", "1", "norm"),
    ("norm", "item.last == 1 && last_tile", "item.last == 1", "norm"),
    ("softmax", "retired.write(1);", "", "softmax"),
    ("drain", "address += command.stride;", ";", "drain"),
    ("drain", "i == 0;\n          item.end_tile", "1;\n          item.end_tile", "drain"),
    ("drain", "item.first = first;", "item.first = 0;", "drain"),
    ("drain", "job.skip = rows.skip;", "job.skip = 0;", "drain"),
    ("lanes_model", " || item.ends == 1", "", "drain"),
    (
        "lanes_model",
        "take_table(beats, lookup);\n      stored.write(end_alone());",
        "take_table(beats, lookup);",
        "drain",
    ),
    ("array_model", "low < 8 ? low : low - 16", "low", "array"),
    ("array_model", "if (pass.first == 0)", "if (false)", "array"),
    ("lanes_model", "else if (resume)", "else if (false)", "drain"),
    ("leaves/lanes_model", "((z + 32) >> 6) + zero_point", "(z >> 6) + zero_point", "drain"),
    ("lanes_model", "s<25>((product + 8) >> 4)", "0", "drain"),
    (
        "lanes_model",
        "if (keys[b].used == 1)",
        "if (true)",
        "drain",
    ),
    ("lanes_model", "up_to<KEY_BANKS - 1> key_bank", "u<1> key_bank", "drain"),
    ("lanes_model", "running = sum_before + total;", "running = total;", "drain"),
    ("lanes_model", "sum[logit] + row.bias", "sum[0] + row.bias", "drain"),
    ("lanes_model", "unsigned(logit) + 1 == lanes", "unsigned(logit) + 1 == LANES", "drain"),
    (
        "leaves/norm",
        "sat16(s<19>(rshift15<32>(multiply_in_norm<s<32>>(n, gain)) + offset))",
        "rshift15<32>(multiply_in_norm<s<32>>(n, gain)) + offset",
        "norm",
    ),
    ("leaves/norm", "numerator < 0 ? int(divisor) - 1", "numerator < 0 ? 0", "norm"),
    ("norm", "unsigned(embed) < SUMS_DISTANCE", "false", "norm"),
    ("norm", "up_to<ceil_div(most<tokens_t>, TOKENS)>", "u<4>", "norm"),
    ("leaves/softmax", "unsigned(bits) - (halve ? 1 : 0)", "unsigned(bits)", "softmax"),
    ("leaves/softmax", "(unsigned(e12) + 8) >> 4", "unsigned(e12) >> 4", "softmax"),
    ("store", "check_behind<1>(state, ", "(", "transfers"),
    ("store", "word = check.sound ? 0 : 1;", "word = 0;", "transfers"),
    ("store", "part == isa::trailer::CHECK ? ~state", "part == 9 ? ~state", "transfers"),
]
KERNELS = ["fetch", "load", "plan", "scores", "drain", "norm", "softmax", "store"]
MODEL = ["fibers", "timing", "counters", "dram", "fabric", "array_model", "lanes_model", "quasar_sim"]


def missed(compiler: str, build: Path, configuration: str) -> int:
    """Returns the number of faults that go unnoticed on a configuration."""
    here = Path(__file__).parents[1]
    out = build / "mutants" / configuration
    out.mkdir(parents=True, exist_ok=True)
    include = [f"-I{here}/include", f"-I{here}/sim", f"-I{build}/config/{configuration}"]
    flags = ["-O1", "-w", "-DQUASAR_FAST", *include]

    def compile_to(source: Path, name: str, standard: str, headers: Path | None = None) -> Path:
        target = out / f"{name}.o"
        first = [f"-I{headers}"] if headers else []
        subprocess.run([compiler, f"-std={standard}", *first, *flags, "-c", source, "-o", target], check=True)
        return target

    def passes(bench: str, objects: list[Path]) -> bool:
        program = out / bench
        subprocess.run([compiler, "-pthread", *objects, benches[bench], "-o", program], check=True)
        try:
            run = subprocess.run([program], capture_output=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            return False
        return run.returncode == 0

    sources = {name: here / f"src/{name}.cpp" for name in KERNELS}
    sources |= {name: here / f"sim/{name}.cpp" for name in MODEL}
    standard = {name: "c++17" if name in KERNELS else "c++20" for name in sources}
    parts = {name: compile_to(source, name, standard[name]) for name, source in sources.items()}
    benches = {
        name: compile_to(here / f"tb/{name}.cpp", f"tb_{name}", "c++20")
        for name in sorted({bench for *_, bench in MUTANTS})
    }
    for bench in benches:
        if not passes(bench, list(parts.values())):
            sys.exit(f"mutants: {bench} fails without a fault")
    count = 0
    for number, (part, old, new, bench) in enumerate(MUTANTS):
        header, _, part = part.rpartition("/")
        changed = here / f"include/{header}.hpp" if header else sources[part]
        text = changed.read_text()
        if text.count(old) != 1:
            sys.exit(f"mutants: {changed.name} does not have {old!r} once")
        text = text.replace(old, new, 1)
        source = out / f"mutant{number}.cpp"
        if header:
            # A header includes its neighbours from its own folder, so all headers are copied.
            folder = out / f"mutant{number}"
            shutil.copytree(here / "include", folder, dirs_exist_ok=True)
            (folder / changed.name).write_text(text)
            text = sources[part].read_text()
        source.write_text(text)
        mutant = compile_to(source, f"mutant{number}", standard[part], folder if header else None)
        objects = [mutant if name == part else parts[name] for name in parts]
        noticed = not passes(bench, objects)
        print(
            f"{'noticed' if noticed else 'MISSED '}  {configuration}, {bench}: {part}: {old!r} -> {new!r}",
            flush=True,
        )
        count += not noticed
    return count


def main(compiler: str, build: Path, configurations: list[str]) -> int:
    """Returns the program's status."""
    count = sum(missed(compiler, build, name) for name in configurations)
    print(f"mutants: {len(MUTANTS)} faults on {', '.join(configurations)}: {count or 'none'} missed")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
