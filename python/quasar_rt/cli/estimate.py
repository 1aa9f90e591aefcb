r"""Model a network on a board: frame rate, latency, what limits each layer, resources.

SUBNET is a .qvit file, a packaged subnet's name, one of deit-tiny, deit-small and deit-base, or a search space (its
name or TOML file), which stands for its largest network.

\b
  quasar-rt estimate fashion-mnist --board zcu102
  quasar-rt estimate deit-tiny --eight-bit 0.25 --board kv260
  quasar-rt estimate deit-tiny --png deit-tiny.png
  quasar-rt estimate tiny --save zcu102.toml    a design that holds a space

The last table sums up. Its frame rates are those of the event-driven model, which counts every stall; the stages and
the other figures are the closed form's. Every figure is modelled: none comes from synthesis or from a board, and the
list that builds the design gives the memories and multipliers. Pictures need the [host] extra.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..arguments import did_you_mean, shown
from ..errors import DoesNotFitError, MissingFileError, QuasarError
from ..nas.options import DEFAULT_BOARD
from . import complete
from .options import as_json
from .output import Failure, echo, print_json, print_table

if TYPE_CHECKING:
    from ..hardware import Board, Estimate, Hardware, Workload
    from ..hardware.tables import Table
    from ..space import Space


@click.command(
    "estimate",
    # Click reads a backspace as "do not wrap"; the docstring spells it.
    help=(__doc__ or "").replace(r"\b", "\b"),
)
@click.argument("subnet", required=False, shell_complete=complete.networks)
@click.option(
    "--board",
    metavar="NAME|FILE",
    shell_complete=complete.boards,
    help=f"A shipped board, or a TOML file of your own. [the one in --hardware, or {DEFAULT_BOARD}]",
)
@click.option(
    "--hardware",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A configuration of the accelerator (TOML). [the design-space search selects one]",
)
@click.option(
    "--space",
    shell_complete=complete.spaces,
    metavar="NAME|FILE",
    help="Search the design for this space rather than for SUBNET alone.",
)
@click.option("--clock", type=float, metavar="MHZ", help="The fabric's clock. [the board's default]")
@click.option(
    "--eight-bit",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Share of 8-bit rows of a DeiT shape. [0]",
)
@click.option(
    "--png",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the stages, the losses and the resources.",
)
@click.option(
    "--save", type=click.Path(dir_okay=False, path_type=Path), help="Write the configuration (TOML)."
)
@click.option("--every", is_flag=True, help="Every stage of the vector unit by its name.")
@click.option(
    "--timeline",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A picture of the units' commands, frame after frame, by the event-driven model.",
)
@as_json
def command(
    subnet: str | None,
    board: str | None,
    hardware: Path | None,
    space: str | None,
    clock: float | None,
    eight_bit: float | None,
    png: Path | None,
    save: Path | None,
    every: bool,
    timeline: Path | None,
    as_json: bool,
) -> None:
    """Estimates, prints tables or JSON, and draws."""
    from ..files import check_writable
    from ..hardware import DEIT_HEADS, Board, replay
    from ..hardware.tables import estimate_tables

    if subnet is None:
        raise click.UsageError(
            f"name a SUBNET: a .qvit file, a packaged subnet, one of {', '.join(DEIT_HEADS)}, or a search space"
        )
    try:
        for path, kind in ((png, "picture"), (timeline, "picture"), (save, "configuration")):
            if path is not None:
                check_writable(path, kind)
        for path in (png, timeline):
            if path is not None and not _can_draw():
                raise Failure(f"{path}: pictures need matplotlib: pip install 'quasar-rt[host]'")
        chosen = None if board is None and hardware is not None else Board.load(board or DEFAULT_BOARD)
        result, design, workload = _estimate(subnet, eight_bit, chosen, hardware, clock, space)
        if save is not None:
            design.save(save)
            echo(f"wrote {save}", err=True)
        events = replay(workload, design)
        if as_json:
            document = {**result.to_dict(), "hardware": design.settings, "losses": result.losses()}
            hertz = 1e6 * result.clock_mhz
            with_gaps = hertz / events.period_with_gaps_cycles
            document["event_by_event"] = {
                "fps": hertz / events.period_cycles,
                "fps_with_host": min(with_gaps, result.host.fps),
                "fps_with_camera": min(with_gaps, result.host.camera_fps),
            }
            print_json(document)
        else:
            for table in estimate_tables(result, events, design, every):
                _show(table)
        if timeline is not None:
            from ..hardware.pictures import draw_timeline

            draw_timeline(events, timeline, f"{result.network} on {result.board}")
            echo(f"wrote {timeline}", err=True)
        if png is not None:
            from ..hardware.pictures import draw

            draw(result, png)
            echo(f"wrote {png}", err=True)
    except (QuasarError, OSError, ValueError) as error:
        raise Failure(str(error)) from error


def _can_draw() -> bool:
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def _estimate(
    name: str,
    eight_bit: float | None,
    board: Board | None,
    file: Path | None,
    clock: float | None,
    space: str | None,
) -> tuple[Estimate, Hardware, Workload]:
    """Returns the estimate, the configuration and the network that the name stands for."""
    from ..hardware import DEIT_HEADS, Workload, estimate
    from ..packaged import subnet_names, subnet_path
    from ..space import Space, space_names
    from ..subnet import Subnet

    def design(target: Workload | Space) -> Hardware:
        return _configuration(target, board, file, clock, space)

    if name in DEIT_HEADS:
        workload = Workload.deit(name, eight_bit or 0.0)
    elif eight_bit is not None:
        raise click.UsageError(
            f"--eight-bit goes with {', '.join(DEIT_HEADS)}; a subnet has widths of its own"
        )
    elif subnet_path(name) is None and (name in space_names() or Path(name).suffix == ".toml"):
        return _estimate_space(Space.load(name), design)
    else:
        if subnet_path(name) is None and not os.path.exists(name):
            names = {"subnets": subnet_names(), "shapes": list(DEIT_HEADS), "search spaces": space_names()}
            near = did_you_mean(name, chain.from_iterable(names.values()))
            listed = "; ".join(f"{kind}: {', '.join(found)}" for kind, found in names.items())
            raise MissingFileError(f"there is no file and no network {shown(name)}{near} ({listed})")
        workload = Workload.of_subnet(Subnet.load(name))
    hardware = design(workload)
    return estimate(workload, hardware), hardware, workload


def _estimate_space(space: Space, design: Callable[[Space], Hardware]) -> tuple[Estimate, Hardware, Workload]:
    """Estimates the largest network of a space that the design holds: its largest, or else its smallest one."""
    from ..hardware import Workload, estimate

    hardware = design(space)
    for genome, which in ((space.largest, "largest"), (space.smallest, "smallest")):
        network = space.decode(genome)
        workload = Workload.of_architecture(space, network, f"{which} network of {space.name}")
        try:
            return estimate(workload, hardware), hardware, workload
        except DoesNotFitError as error:
            if which == "smallest":
                raise
            echo(f"Note: the design does not hold the space's largest network ({error}).", err=True)
    raise AssertionError("the loop returns or raises")


def _configuration(
    target: Workload | Space, board: Board | None, file: Path | None, clock: float | None, space: str | None
) -> Hardware:
    """Returns the file's configuration, or the one that the design-space search selects."""
    from ..hardware import Hardware
    from ..space import Space

    if file is None:
        assert board is not None
        return Hardware.for_board(board, Space.load(space) if space else target, clock)
    hardware = Hardware.load(file, board)
    return hardware if clock is None else hardware.with_clock(clock)


def _show(table: Table) -> None:
    print_table(table.columns, table.rows, table.title)
