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
from quasar_rt.hardware import DEIT_HEADS, Board, Hardware, Workload, board_names, estimate, replay
from quasar_rt.hardware.pictures import draw, draw_timeline
from quasar_rt.hardware.published import Comparison
from quasar_rt.hardware.tables import Table, comparison_tables, estimate_tables
from quasar_rt.nas.report import file_name
from quasar_rt.space import Space


def network(name: str, eight_bit: float | None) -> Workload:
    """Returns DeiT's shape of that name, or a subnet."""
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
    """Returns the file's configuration, or the one that the design-space search selects."""
    if file is None:
        return Hardware.for_board(board, Space.load(space) if space else workload, clock)
    hardware = Hardware.load(file, board)
    return hardware if clock is None else hardware.with_clock(clock)


def show_paper(as_json: bool) -> None:
    """Prints DeiT's shapes and the paper's spaces next to published figures."""
    comparison = Comparison.make()
    if as_json:
        print_json(comparison.to_dict())
        return
    for table in comparison_tables(comparison):
        show(table)
    click.echo(
        "The shapes and widths of Quasar-ViT's searched networks are not in its abstract: its frame rates stand\n"
        "next to our spaces' largest networks at the same rate, not next to the same network. The others use other\n"
        "widths, devices and clocks: read the columns before the figures."
    )


def show(table: Table) -> None:
    """Prints a table."""
    print_table(table.columns, table.rows, table.title)


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.argument("subnet", required=False)
@click.option(
    "--board", default="zcu102", show_default=True, help=f"{', '.join(board_names())}, or a TOML file."
)
@click.option(
    "--hardware",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A configuration of the accelerator (TOML) [the design-space search selects one].",
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
@click.option("--paper", is_flag=True, help="DeiT's shapes and the paper's spaces next to published figures.")
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
            for table in estimate_tables(result, design, every):
                show(table)
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
