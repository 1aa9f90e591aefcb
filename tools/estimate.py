#!/usr/bin/env python3
"""Model a network on a board: throughput, latency, what limits each layer, resources; tables and a picture.

    python tools/estimate.py fashion-mnist --board zcu102
    python tools/estimate.py deit-tiny --eight-bit 0.25 --board kv260 --png deit-tiny.png
    python tools/estimate.py --paper

Every figure is modelled: none comes from synthesis or from a board (docs/hardware-model.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from quasar_rt import QuasarError, Subnet
from quasar_rt.cli.output import print_json, print_table, printable
from quasar_rt.hardware import (
    DEIT_HEADS,
    Board,
    CostTable,
    Estimate,
    Hardware,
    Workload,
    board_names,
    estimate,
    replay,
)
from quasar_rt.hardware.pictures import draw, draw_timeline
from quasar_rt.hardware.published import PUBLISHED, both_forms, operating_points, paper_estimates
from quasar_rt.hardware.report import groups, held_back_by
from quasar_rt.nas.report import file_name
from quasar_rt.space import Space


def network(name: str, eight_bit: float | None) -> Workload:
    """DeiT's shape of that name, or a subnet."""
    if name in DEIT_HEADS:
        return Workload.deit(name, eight_bit or 0.0)
    if eight_bit is not None:
        raise click.UsageError(
            f"--eight-bit goes with {', '.join(DEIT_HEADS)}; a subnet has widths of its own"
        )
    return Workload.of_subnet(Subnet.load(name))


def configuration(
    workload: Workload, board: Board, file: Path | None, clock: float | None, space: str | None
) -> Hardware:
    """The file's configuration, or the one that the design-space search picks."""
    if file is None:
        return Hardware.for_board(board, Space.load(space) if space else workload, clock)
    hardware = Hardware.load(file, board)
    return hardware if clock is None else hardware.with_clock(clock)


def show_layers(result: Estimate, every: bool) -> None:
    """The stages on the array, and the vector unit's."""
    rows = []
    for group in groups(result):
        layer, count = group.layer, group.count
        stalls = layer.cycles - layer.accumulate
        rows.append(
            [
                group.label,
                f"{layer.tokens}",
                f"{layer.four_bit_rows}+{layer.eight_bit_rows}",
                f"{layer.columns}",
                f"{count * layer.macs / 1e6:.1f}",
                f"{layer.row_tiles}x{layer.token_tiles}",
                f"{count * layer.cycles:,}",
                f"{100 * stalls / layer.cycles:.1f}",
                f"{100 * count * layer.cycles / result.period_cycles:.1f}",
                f"{100 * layer.share:.0f}",
                layer.bound,
            ]
        )
    columns = [
        "stage",
        ">tokens",
        ">rows 4+8",
        ">K",
        ">MMAC",
        ">tiles",
        ">cycles",
        ">stall %",
        ">time %",
        ">peak %",
        "bound",
    ]
    print_table(columns, rows, "On the array (modelled)")
    stages: dict[str, list[int]] = {}
    for stage in result.vector:
        key = stage.name if every else stage.name.rpartition(".")[2]
        sums = stages.setdefault(key, [0, 0, 0])
        sums[0] += 1
        sums[1] += stage.cycles
        sums[2] += stage.exposed
    print_table(
        ["stage", ">times", ">cycles", ">of them exposed"],
        [[name, f"{n}", f"{cycles:,}", f"{exposed:,}"] for name, (n, cycles, exposed) in stages.items()],
        "On the vector unit (modelled)",
    )


def show_resources(result: Estimate) -> None:
    """Resources by part."""
    kinds = ["dsp", "lut", "ff", "bram36", "uram"]
    rows = [
        [part.name, f"{part.dsp:,}", f"{part.lut:,}", f"{part.ff:,}", f"{part.bram18 / 2:g}", f"{part.uram}"]
        for part in result.parts
    ]
    for label, amounts in [
        ("all", result.resources),
        ("usable", result.board_usable),
        ("board", result.board_resources),
    ]:
        rows.append([label, *(f"{getattr(amounts, kind):,}" for kind in kinds)])
    shares = []
    for kind in kinds:
        has = getattr(result.board_resources, kind)
        shares.append(f"{100 * getattr(result.resources, kind) / has:.0f} %" if has else "-")
    rows.append(["share of the board", *shares])
    print_table(
        ["part", ">DSP", ">LUT", ">FF", ">BRAM36", ">URAM"], rows, "Resources (modelled, not from synthesis)"
    )


def show_summary(result: Estimate, hardware: Hardware) -> None:
    """The figures that matter."""
    settings = hardware.settings
    array, lanes, host = settings["array"], settings["lanes"], result.host
    loss = ", ".join(f"{name} {100 * share:.1f} %" for name, share in result.losses().items() if share > 5e-4)
    bound = (
        "host-bound: the processor is slower than the accelerator"
        if result.host_bound
        else "accelerator-bound"
    )
    facts = [
        ("network", f"{result.network}, {result.macs / 1e9:.3g} GMAC a frame"),
        ("board", f"{result.board}, {result.clock_mhz:g} MHz"),
        (
            "array",
            f"{array['tokens']} tokens x {array['pairs']} row pairs, {result.frames} frames in flight",
        ),
        (
            "lanes",
            f"{lanes['requantize']} requantizing, {lanes['norm']} LayerNorm, {lanes['exponential']} exponential; "
            f"second multipliers in {lanes['multipliers']}; {settings['axi_ports']} AXI ports",
        ),
        (
            "throughput",
            f"{result.fps:,.1f} frames/s, host excluded ({result.period_cycles:,} cycles a frame)",
        ),
        (
            "with the host",
            f"{result.fps_with_host:,.1f} frames/s: {bound} ({host.fps:,.1f} frames/s on all cores; a frame takes "
            f"{host.decode_s * 1e3:.2f} ms to decode, {host.resize_s * 1e3:.2f} to resize, "
            f"{host.submit_s * 1e3:.2f} to submit, {host.source_pixels:,} pixels)",
        ),
        (
            "latency",
            f"{result.latency_s * 1e3:.3g} ms for one frame alone, "
            f"{result.latency_with_host_s * 1e3:.3g} ms with the host",
        ),
        ("array's share", f"{100 * result.share:.1f} % of its peak, {result.gmac_s:,.0f} GMAC/s; {loss}"),
        ("held back by", held_back_by(result)),
        (
            "memory",
            f"{result.transfer_bytes / 1e6:.2f} MB a frame, {result.transfer_bytes * result.fps / 1e9:.2f} GB/s; "
            f"busy {100 * result.transfer_cycles / result.period_cycles:.0f} %",
        ),
        (
            "resources",
            "within the board's usable share" if result.resources_fit else "BEYOND the board's usable share",
        ),
    ]
    print_table(["", ""], facts, "Modelled: no figure comes from synthesis or from a board")


def show_paper(as_json: bool) -> None:
    """DeiT's shapes and the paper's spaces beside published figures."""
    shapes = paper_estimates()
    spaces = []
    for name in ("tiny", "small", "base"):
        space = Space.load(name)
        for clock in (150.0, 200.0):
            hardware = Hardware.for_board("zcu102", space, clock)
            table = CostTable(space, hardware)
            spaces.append((name, hardware, table.slowest()[1], table.fastest()[1], table.host.fps))
    asked = [figure.fps for figure in PUBLISHED if figure.system == "Quasar-ViT"]
    points = operating_points(asked, ["tiny", "small", "base"])
    if as_json:
        print_json(
            {
                "modelled": [{"eight_bit": fraction, **result.to_dict()} for fraction, result in shapes],
                "modelled_spaces": [
                    {
                        "space": name,
                        "clock_mhz": hardware.clock_mhz,
                        "slowest_fps": slow,
                        "fastest_fps": fast,
                        "host_fps": host,
                    }
                    for name, hardware, slow, fast, host in spaces
                ],
                "modelled_operating_points": [
                    {
                        "fps_asked": point.fps,
                        "space": point.space,
                        "clock_mhz": point.hardware.clock_mhz,
                        "architecture": point.architecture.to_dict(),
                        "macs": point.macs,
                        "fps": point.modelled_fps,
                    }
                    for point in points
                ],
                "paper_reported": [vars(figure) for figure in PUBLISHED],
            }
        )
        return
    print_table(
        [
            "network",
            ">8-bit rows",
            ">MHz",
            ">frames/s",
            ">with host",
            ">latency ms",
            ">peak %",
            "held back by",
        ],
        [
            [
                result.network,
                f"{100 * fraction:.0f} %",
                f"{result.clock_mhz:g}",
                f"{result.fps:.1f}",
                f"{result.fps_with_host:.1f}",
                f"{result.latency_s * 1e3:.2f}",
                f"{100 * result.share:.1f}",
                held_back_by(result),
            ]
            for fraction, result in shapes
        ],
        "MODELLED: DeiT's shapes on zcu102, at most two frames in flight",
    )
    print_table(
        [
            "network",
            ">8-bit rows",
            ">MHz",
            ">frames/s",
            ">latency ms",
            ">peak %",
            "the array waits, cycles a frame",
        ],
        [
            [
                "deit-tiny",
                f"{100 * one.eight_bit:.0f} %",
                f"{one.closed.clock_mhz:g}",
                f"{one.fps:.1f}",
                f"{one.events.latency_cycles / one.closed.clock_mhz / 1e3:.2f}",
                f"{100 * one.share:.1f}",
                ", ".join(
                    f"{cause} {cycles:,.0f}"
                    for cause, cycles in sorted(one.events.stalls().items(), key=lambda item: -item[1])[:4]
                ),
            ]
            for one in both_forms()
        ],
        "MODELLED, event by event: the same with every stall of the command lists",
    )
    print_table(
        ["space", ">MHz", ">array", ">slowest network", ">fastest network", ">host"],
        [
            [
                name,
                f"{hardware.clock_mhz:g}",
                "{tokens}x{pairs}".format(**hardware.settings["array"]),
                f"{slow:.1f}",
                f"{fast:.1f}",
                f"{host:.1f}",
            ]
            for name, hardware, slow, fast, host in spaces
        ],
        "MODELLED: the spaces on zcu102, frames/s",
    )
    print_table(
        [">at least", "space", ">embed", ">depth", ">heads", ">hidden", ">8-bit rows", ">GMAC", ">frames/s"],
        [
            [
                f"{point.fps:g}",
                point.space,
                f"{point.architecture.embed}",
                f"{point.architecture.depth}",
                f"{point.architecture.blocks[0].heads}",
                f"{point.architecture.blocks[0].hidden}",
                f"{100 * point.architecture.blocks[0].eight_bit[0]:.0f} %",
                f"{point.macs / 1e9:.2f}",
                f"{point.modelled_fps:.1f}",
            ]
            for point in sorted(points, key=lambda point: -point.fps)
        ],
        "MODELLED: the largest uniform network of each space at the paper's frame rates, zcu102, 150 MHz",
    )
    print_table(
        ["system", "device", "network", ">frames/s", "note", "source (abstract)"],
        [[p.system, p.device, p.network, f"{p.fps:g}", p.note, p.source] for p in PUBLISHED],
        "PAPER-REPORTED: what others state",
    )
    click.echo(
        "The shapes and widths of Quasar-ViT's searched networks are not in its abstract: its frame rates stand\n"
        "beside our spaces' largest networks at the same rate, not beside the same network. The others use other\n"
        "widths, devices and clocks: read the columns before the figures."
    )


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.argument("subnet", required=False)
@click.option(
    "--board", default="zcu102", show_default=True, help=f"{', '.join(board_names())}, or a TOML file."
)
@click.option(
    "--hardware",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A configuration of the accelerator (TOML) [the design-space search picks one].",
)
@click.option(
    "--space", help="Search the design for this space (its name or file) rather than for SUBNET alone."
)
@click.option("--clock", type=float, metavar="MHZ", help="The fabric's clock [the board's default].")
@click.option("--eight-bit", type=click.FloatRange(0, 1), help="Fraction of 8-bit rows of a DeiT shape [0].")
@click.option(
    "--png",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The picture [estimate-SUBNET-BOARD.png; none with --json].",
)
@click.option("--no-png", is_flag=True, help="Draw nothing.")
@click.option(
    "--save", type=click.Path(dir_okay=False, path_type=Path), help="Write the configuration (TOML)."
)
@click.option("--every", is_flag=True, help="Every stage of the vector unit by its name.")
@click.option("--paper", is_flag=True, help="DeiT's shapes and the paper's spaces beside published figures.")
@click.option(
    "--timeline",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A picture of the units' commands, frame after frame, by the event-driven model.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON in place of tables.")
def main(
    subnet: str | None,
    board: str,
    hardware: Path | None,
    space: str | None,
    clock: float | None,
    eight_bit: float | None,
    png: Path | None,
    no_png: bool,
    save: Path | None,
    every: bool,
    paper: bool,
    timeline: Path | None,
    as_json: bool,
) -> None:
    if subnet is None and not paper:
        raise click.UsageError(f"name a SUBNET: a .qvit file, a packaged subnet, or {', '.join(DEIT_HEADS)}")
    try:
        if paper:
            show_paper(as_json)
        if subnet is None:
            return
        workload = network(subnet, eight_bit)
        chosen = Board.load(board)
        design = configuration(workload, chosen, hardware, clock, space)
        result = estimate(workload, design)
        if save is not None:
            design.save(save)
        if as_json:
            print_json({**result.to_dict(), "hardware": design.settings, "losses": result.losses()})
        else:
            show_summary(result, design)
            show_layers(result, every)
            show_resources(result)
        if timeline is not None:
            draw_timeline(replay(workload, design), timeline, f"{result.network} on {result.board}")
            click.echo(f"wrote {timeline}", err=True)
        if no_png or (as_json and png is None):
            return
        picture = png or Path(f"estimate-{Path(subnet).stem}-{file_name(result.board)}.png")
        try:
            draw(result, picture)
        except ImportError as error:
            if png is not None:
                raise click.ClickException(
                    f"{error}; the picture needs the host extra: pip install 'quasar-rt[host]'"
                ) from None
            click.echo("no picture: matplotlib is not installed (pip install 'quasar-rt[host]')", err=True)
        else:
            click.echo(f"wrote {picture}", err=True)
    except (QuasarError, OSError, ValueError) as error:
        raise click.ClickException(printable(str(error))) from error


if __name__ == "__main__":
    sys.exit(main())
