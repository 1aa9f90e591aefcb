"""After pytest-benchmark's own table: what its figures mean.

Modelled costs and searches as evaluations a second, streams of camera frames, latencies in multiply-accumulates and of
the machine's peak, kernels as ratios.
"""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    tables = [
        bench for bench in getattr(session, "benchmarks", []) if "genomes_per_cpu_second" in bench.extra_info
    ]
    if tables:
        terminalreporter.section("measured on this machine: evaluations of modelled costs, and by the search")
    for bench in tables:
        rate = bench.extra_info["genomes_per_cpu_second"] / 1e6
        terminalreporter.write_line(
            f"{bench.name:24} {rate:6.1f} million genomes a second of one thread's CPU time"
        )
    kernels = [
        bench.extra_info for bench in getattr(session, "benchmarks", []) if "kernels" in bench.extra_info
    ]
    if kernels:
        terminalreporter.section(
            "measured on this machine: a DeiT-tiny block's linear layers by width of rows"
        )
        terminalreporter.write_line(f"{'tier':12} {'4-bit':>7} {'25 % 8-bit':>11} {'packed':>8}")
    for info in kernels:
        terminalreporter.write_line(
            f"{info['kernels']:12} {info['four_bit']:6.2f}x {info['mixed']:10.2f}x {info['packed']:8.1%}"
        )
    if kernels:
        terminalreporter.write_line(
            "how much faster than all-8-bit rows; packed: time with 25 % 8-bit rows, of that with unpacked weights"
        )
    streams = [bench for bench in getattr(session, "benchmarks", []) if "stream" in bench.extra_info]
    if streams:
        terminalreporter.section("measured on this machine: streams of 1080p NV12 frames")
    for bench in streams:
        terminalreporter.write_line(
            f"{bench.extra_info['threads']} threads: {bench.extra_info['stream']:.0%} of the frame rate of pictures "
            "that need no resizing"
        )
    measured = [bench for bench in getattr(session, "benchmarks", []) if "tier" in bench.extra_info]
    if not measured:
        return
    terminalreporter.section("measured on this machine")
    terminalreporter.write_line(
        f"{'subnet':12} {'tier':12} {'threads':>7} {'median':>10} {'GMAC':>6} {'GMAC/s':>8} {'peak':>8} {'share':>6}"
    )
    for bench in measured:
        info = bench.extra_info
        median = bench.stats.median
        rate = info["macs"] / median / 1e9
        terminalreporter.write_line(
            f"{info['subnet']:12} {info['tier']:12} {info['threads']:7} {median * 1e3:7.2f} ms "
            f"{info['macs'] / 1e9:6.2f} {rate:8.1f} {info['peak_gmacs']:8.1f} {rate / info['peak_gmacs']:6.0%}"
        )
    terminalreporter.write_line(
        "peak: threads times what one core's int8 dot products reach in registers (quasar_kernels peak_probe)"
    )
