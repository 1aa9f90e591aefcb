#!/usr/bin/env python3
"""Fuzz the targets of rust/fuzz, each for a given processor time, and log the runs.

Runs each target under libFuzzer until its process has used the processor time that was asked for,
so that a busy or paused machine does not shorten a run. A run starts from the corpus, unpacked to
build/fuzz/TARGET.corpus, and from the inputs that earlier runs kept in build/fuzz/TARGET since they reach new code.
docs/logs.md notes the last run of each target; an interrupted run is noted with the time that it had.

Needs Linux; a stable Rust toolchain will do. Installs cargo-fuzz where it is missing.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fuzz_corpus
import run_log

ROOT = Path(__file__).resolve().parents[2]
FUZZ = ROOT / "rust/fuzz"
INPUTS = ROOT / "build/fuzz"
VECTORS = ROOT / "tests/vectors"
DIGEST = re.compile("[0-9a-f]{40}")
#: Limits of one input: memory, and seconds on the clock (long, since other work may share a core).
LIMITS = ("-rss_limit_mb=2048", "-timeout=60", "-print_final_stats=1")


def environment() -> dict[str, str]:
    """Returns the environment in which a stable compiler takes libFuzzer's unstable flags."""
    return {**os.environ, "RUSTC_BOOTSTRAP": "1"}


def cargo_fuzz(*arguments: str) -> str:
    """Runs `cargo fuzz` on rust/fuzz and returns what it prints."""
    command, *rest = arguments
    run = ["cargo", "fuzz", command, "--fuzz-dir", str(FUZZ), *rest]
    return subprocess.run(run, env=environment(), check=True, stdout=subprocess.PIPE, text=True).stdout


def program(target: str) -> Path:
    """Returns the built program of `target`."""
    return next(FUZZ.glob(f"target/*/release/{target}"))


def processor_seconds(pid: int) -> float:
    """Returns the processor time that process `pid` has used; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fresh(name: str) -> Path:
    """Returns the empty folder `name` under build/fuzz."""
    folder = INPUTS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


class Fuzzer:
    """Runs targets, each until its processor time is used or `stop` is set."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.commit = run_log.commit()  # what is built now
        self.stop = threading.Event()
        self.lock = threading.Lock()

    def run(self, target: str) -> bool:
        """Fuzzes `target`, logs the run and returns whether it ended without a crash."""
        if self.stop.is_set():
            return True
        found, corpus = INPUTS / target, fresh(f"{target}.corpus")
        found.mkdir(exist_ok=True)
        fuzz_corpus.unpack(target, corpus)
        artifacts = FUZZ / "artifacts" / target
        artifacts.mkdir(parents=True, exist_ok=True)
        command = [str(program(target)), f"-artifact_prefix={artifacts}/", *LIMITS]
        before = set(artifacts.iterdir())
        output = INPUTS / f"{target}.log"
        with output.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                [*command, str(found), str(corpus)],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        used = 0.0
        while process.poll() is None:
            used = max(used, processor_seconds(process.pid))
            if used >= self.seconds or self.stop.is_set():
                process.send_signal(signal.SIGUSR1)  # libFuzzer finishes its input and says its counts
                status = process.wait()
                break
            time.sleep(0.5)
        else:
            status = process.returncode
        text = output.read_text(encoding="utf-8", errors="replace")
        runs = re.search(r"^stat::number_of_executed_units: (\d+)", text, re.MULTILINE)
        outcome = "no crash"
        if status and not self.was_paused(target, set(artifacts.iterdir()) - before):
            outcome = "CRASH"
        with self.lock:
            result = f"{runs[1] if runs else '?'} runs in {used:.0f} s of processor time, {outcome}"
            run_log.note("fuzz", target, result, at=self.commit)
            print(f"{target}: {outcome}, {used:.0f} s of processor time, {output}", flush=True)
        return outcome == "no crash"

    def was_paused(self, target: str, artifacts: set[Path]) -> bool:
        """Returns whether a run ended only since time went by for an input, which passes when run again.

        libFuzzer's limit goes by the clock, which does not stop with a machine or a process.
        """
        late = [path for path in artifacts if path.name.startswith(("timeout-", "slow-unit-"))]
        if not late or len(late) < len(artifacts):
            return False
        command = [str(program(target)), *LIMITS, *map(str, late)]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def pack(target: str) -> None:
    """Packs the seeds of `target`, and the fewest of the found inputs that reach code which no seed reaches.

    Seeds are the archive's inputs, and those of build/fuzz/TARGET, with a name of their own; libFuzzer names inputs by
    their digests. A seed with the name of a golden subnet gets its present bytes.
    """
    kept, found = fresh(f"{target}.minimized"), fresh(f"{target}.found")
    fuzz_corpus.unpack(target, kept)
    for path in kept.iterdir():
        if DIGEST.fullmatch(path.name):
            path.rename(found / path.name)
    named = (path for path in (INPUTS / target).glob("*") if not DIGEST.fullmatch(path.name))
    golden = (path for path in VECTORS.glob("*.qvit") if (kept / path.stem).exists())
    for path in (*named, *golden):
        (kept / path.name.removesuffix(".qvit")).write_bytes(path.read_bytes())
    seeds = len(list(kept.iterdir()))
    sources = [str(folder) for folder in (found, INPUTS / target) if folder.is_dir()]
    # Without counters a loop that runs more often is no new code: a tenth of the inputs.
    prefix = INPUTS / f"{target}.crashes-"
    options = ["-set_cover_merge=1", "-use_counters=0", f"-artifact_prefix={prefix}", *LIMITS]
    command = [str(program(target)), *options, str(kept), *sources]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    # libFuzzer leaves out what crashes and goes on.
    if crashes := sorted(path.name for path in INPUTS.glob(f"{prefix.name}*")):
        raise SystemExit(
            f"{target}: {len(crashes)} inputs crash, the corpus stays as it is: {INPUTS / crashes[0]}"
        )
    inputs = {path.name: path.read_bytes() for path in kept.iterdir()}
    print(f"{target}: {seeds} seeds, {len(inputs) - seeds} found inputs", flush=True)
    fuzz_corpus.write(target, inputs)


def main() -> int:
    """Builds the targets, fuzzes them and returns 1 if one of them crashed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help="targets to fuzz (default: all)")
    parser.add_argument(
        "--seconds", type=float, default=60, help="processor time of each target (default: 60)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="targets at the same time (default: 1)")
    parser.add_argument(
        "--pack", action="store_true", help="only pack the seeds and the found inputs that reach new code"
    )
    arguments = parser.parse_args()

    if shutil.which("cargo-fuzz") is None:
        print("installing cargo-fuzz (cargo install cargo-fuzz)", flush=True)
        subprocess.run(["cargo", "install", "--quiet", "--locked", "cargo-fuzz"], check=True)
    known = cargo_fuzz("list").split()
    targets = arguments.targets or known
    if unknown := sorted(set(targets) - set(known)):
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(known)}")
    cargo_fuzz("build")
    if arguments.pack:
        for target in targets:
            pack(target)
        return 0

    fuzzer = Fuzzer(arguments.seconds)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: fuzzer.stop.set())
    with ThreadPoolExecutor(arguments.jobs) as pool:
        return 0 if all(list(pool.map(fuzzer.run, targets))) else 1


if __name__ == "__main__":
    sys.exit(main())
