"""``quasar-rt disasm``."""

from __future__ import annotations

from dataclasses import asdict

import click

from . import complete
from .options import as_json
from .output import echo, print_json, print_records


@click.command("disasm", short_help="Show the accelerator's commands for a subnet.")
@click.argument("subnet", shell_complete=complete.subnets)
@click.option("--hardware", metavar="FILE", help="The accelerator's configuration, a TOML file.")
@click.option(
    "--board",
    shell_complete=complete.boards,
    metavar="NAME",
    help="Or a board: the configuration that suits it and SUBNET best.",
)
@click.option("--segment", metavar="NAME", help="One segment (start0, end0, step0, ...); all by default.")
@click.option("--verify", is_flag=True, help="Verify the program first, and show how full its queues get.")
@as_json
def command(
    subnet: str, hardware: str | None, board: str | None, segment: str | None, verify: bool, as_json: bool
) -> None:
    """Show the commands that SUBNET (a .qvit file or a packaged subnet's name) becomes on an accelerator."""
    if (hardware is None) == (board is None):
        raise click.UsageError("Give either --hardware or --board.")
    from ..accelerator import Program
    from ..hardware import Hardware
    from ..subnet import Subnet

    loaded = Subnet.load(subnet)
    configuration = Hardware.load(hardware) if hardware else Hardware.for_board(str(board), loaded)
    program = Program.compile(loaded, configuration)
    names = list(program.segments) if segment is None else [segment]
    lists = {name: program.disassemble(name).splitlines() for name in names}
    queues = program.verify().queues if verify else None
    if as_json:
        verified = {} if queues is None else {"queues": [asdict(queue) for queue in queues]}
        print_json(
            {
                "beat_bytes": program.beat_bytes,
                "arena_bytes": len(program.arena),
                **verified,
                "segments": lists,
            }
        )
        return
    if queues is not None:
        print_records(
            queues,
            {"queue": lambda q: q.name, ">most": lambda q: q.most, ">depth": lambda q: q.depth},
            title="Verified: no schedule of the units stops, races, or reads what was not written for it",
        )
    for lines in lists.values():
        for line in lines:
            echo(line)
