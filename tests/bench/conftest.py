"""After pytest-benchmark's own table: what each latency means in multiply-accumulates and of the machine's peak."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    tables = [
        bench for bench in getattr(session, "benchmarks", []) if "genomes_per_cpu_second" in bench.extra_info
    ]
    if tables:
        terminalreporter.section("measured on this machine: evaluations of modelled costs")
    for bench in tables:
        rate = bench.extra_info["genomes_per_cpu_second"] / 1e6
        terminalreporter.write_line(
            f"space {bench.extra_info['space']:12} {rate:6.1f} million genomes a second of one thread's CPU time"
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
