"""Tables of the hardware model, as text: stages, resources, the main figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

from .board import Amounts
from .closed_form import Estimate, VectorStage
from .configuration import Hardware
from .event_model import Replay
from .report import groups, held_back_by

__all__ = ["Table", "estimate_tables"]

Record = TypeVar("Record")


class Table(NamedTuple):
    """A table of text. A column whose name starts with ``>`` is aligned to the right."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def _table(title: str, records: Iterable[Record], columns: Mapping[str, Callable[[Record], object]]) -> Table:
    rows = [[str(cell(record)) for cell in columns.values()] for record in records]
    return Table(title, list(columns), rows)


def estimate_tables(result: Estimate, replay: Replay, hardware: Hardware, every: bool = False) -> list[Table]:
    """Returns the stages of array and vector unit, the resources and, last, the main figures.

    Args:
        result: an estimate.
        replay: the same network's replay.
        hardware: the configuration of both.
        every: True lists each stage of the vector unit; False adds up those of equal kind.
    """
    return [
        _array(result),
        _vector_unit(result, every),
        _resources(result),
        _summary(result, replay, hardware),
    ]


def _summary(result: Estimate, replay: Replay, hardware: Hardware) -> Table:
    settings = hardware.settings
    array, lanes, host = settings["array"], settings["lanes"], result.host
    losses = ", ".join(
        f"{name} {100 * share:.1f} %" for name, share in result.losses().items() if share > 5e-4
    )
    hertz = result.clock_mhz * 1e6
    alone, with_gaps = hertz / replay.period_cycles, hertz / replay.period_with_gaps_cycles

    def board(host_fps: float) -> str:
        # Gaps are the limit where they take longer than the frame's own cycles.
        limit = "accelerator" if 2 * with_gaps > alone else "processor's gaps between segments"
        limit = limit if with_gaps < host_fps else "processor"
        return f"{min(with_gaps, host_fps):,.1f} frames/s of the board, limited by the {limit}"

    facts = {
        "array": f"{array['tokens']} tokens x {array['pairs']} row pairs x {array['cascade']} slices at "
        f"{result.clock_mhz * array['clock_ratio']:g} MHz, {result.frames} frames in flight; "
        f"{result.macs / 1e9:.3g} GMAC a frame",
        "lanes": f"{lanes['requantize']} requantizing, {lanes['norm']} LayerNorm, {lanes['exponential']} exponential; "
        f"multipliers of the norm in {lanes['multipliers']}, of the softmax in "
        f"{lanes.get('exponential_multipliers', 'dsp')}; {settings['axi_ports']} AXI ports",
        "frame rate": board(host.fps),
        "with a camera": f"{board(host.camera_fps)}: {host.camera_pixels:,} pixels of NV12 take "
        f"{host.camera_s * 1e3:.2f} ms of one core, and no decoding",
        "accelerator alone": f"{alone:,.1f} frames/s, event by event: {replay.period_cycles:,} cycles a frame, every "
        "stall of the commands counted",
        "by the closed form": f"{result.fps:,.1f} frames/s of the accelerator alone: {result.period_cycles:,} cycles "
        "a frame, those of the tables above and of the lines below",
        "processor": f"{host.fps:,.1f} frames/s on all cores; a "
        f"frame takes {host.decode_s * 1e3:.2f} ms to decode, {host.resize_s * 1e3:.2f} to resize, "
        f"{host.submit_s * 1e3:.2f} to submit ({host.source_pixels:,} pixels), and "
        f"{host.gap_s * 1e6:.0f} us between segments",
        "latency": f"{result.latency_s * 1e3:.3g} ms for one frame alone, "
        f"{result.latency_with_host_s * 1e3:.3g} ms with the host",
        "energy": "not known: the board's file has no [power]"
        if result.energy_j is None
        else f"{1000 * result.energy_j:.3g} mJ a frame, {result.energy_j * result.fps:.1f} W: by powers that the "
        "board's file assumes",
        "array's share": f"{100 * result.share:.1f} % of its peak, {result.gmac_s:,.0f} GMAC/s; {losses}",
        "held back by": held_back_by(result),
        "memory": f"{result.transfer_bytes / 1e6:.2f} MB a frame, "
        f"{result.transfer_bytes * result.fps / 1e9:.2f} GB/s; "
        f"busy {100 * result.transfer_cycles / result.period_cycles:.0f} %",
        "resources": "within the board's usable share"
        if result.resources_fit
        else "BEYOND the board's usable share",
    }
    rows = [list(fact) for fact in facts.items()]
    title = f"{result.network} on {result.board}, modelled: no figure comes from synthesis or from a board"
    return Table(title, ["", ""], rows)


def _array(result: Estimate) -> Table:
    return _table(
        "On the array (modelled)",
        groups(result),
        {
            "stage": lambda group: group.label.removeprefix("blocks."),
            ">tokens": lambda group: group.layer.tokens,
            ">rows 4+8": lambda group: f"{group.layer.four_bit_rows}+{group.layer.eight_bit_rows}",
            ">K": lambda group: group.layer.columns,
            ">MMAC": lambda group: f"{group.count * group.layer.macs / 1e6:.1f}",
            ">tiles": lambda group: f"{group.layer.row_tiles}x{group.layer.token_tiles}",
            ">cycles": lambda group: f"{group.count * group.layer.cycles:,}",
            ">stall %": lambda group: f"{100 * (1 - group.layer.accumulate / group.layer.cycles):.1f}",
            ">time %": lambda group: f"{100 * group.count * group.layer.cycles / result.period_cycles:.1f}",
            ">peak %": lambda group: f"{100 * group.layer.share:.0f}",
            "bound": lambda group: group.layer.bound,
        },
    )


def _vector_unit(result: Estimate, every: bool) -> Table:
    kinds: dict[str, list[VectorStage]] = {}
    for stage in result.vector:
        kinds.setdefault(stage.name if every else stage.name.rpartition(".")[2], []).append(stage)
    return _table(
        "On the vector unit (modelled)",
        kinds.items(),
        {
            "stage": lambda kind: kind[0],
            ">times": lambda kind: len(kind[1]),
            ">cycles": lambda kind: f"{sum(stage.cycles for stage in kind[1]):,}",
            ">of them exposed": lambda kind: f"{sum(stage.exposed for stage in kind[1]):,}",
        },
    )


def _resources(result: Estimate) -> Table:
    total, kinds = result.resources, ["dsp", "lut", "ff", "bram36", "uram"]
    rows = [
        [part.name, f"{part.dsp:,}", f"{part.lut:,}", f"{part.ff:,}", f"{part.bram18 / 2:g}", f"{part.uram}"]
        for part in result.parts
    ]

    def amounts(label: str, of: Amounts) -> list[str]:
        return [label, *(f"{getattr(of, kind):,}" for kind in kinds)]

    def share(kind: str) -> str:
        has = getattr(result.board_resources, kind)
        return f"{100 * getattr(total, kind) / has:.0f} %" if has else "-"

    rows += [
        amounts("all", total),
        amounts("usable", result.board_usable),
        amounts("board", result.board_resources),
        ["share of the board", *map(share, kinds)],
    ]
    columns = ["part", ">DSP", ">LUT", ">FF", ">BRAM36", ">URAM"]
    return Table("Resources (modelled)", columns, rows)
