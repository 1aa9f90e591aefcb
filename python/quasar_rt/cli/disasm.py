"""``quasar-rt disasm``."""

from __future__ import annotations

import click

from .output import echo, print_table


@click.command("disasm", short_help="Show the accelerator's commands for a subnet.")
@click.argument("subnet")
@click.option("--hardware", metavar="FILE", help="The accelerator's configuration, a TOML file.")
@click.option("--board", metavar="NAME", help="Or a board: the configuration that suits it and SUBNET best.")
@click.option("--segment", metavar="NAME", help="One segment (start0, end0, step0, ...); all by default.")
@click.option("--verify", is_flag=True, help="Verify the program first, and show how full its queues get.")
def command(subnet: str, hardware: str | None, board: str | None, segment: str | None, verify: bool) -> None:
    """Show the commands that SUBNET (a .qvit file or a packaged subnet's name) becomes on an accelerator."""
    if (hardware is None) == (board is None):
        raise click.UsageError("Give either --hardware or --board.")
    from ..accelerator import Program
    from ..hardware import Hardware
    from ..subnet import Subnet

    loaded = Subnet.load(subnet)
    configuration = Hardware.load(hardware) if hardware else Hardware.for_board(str(board), loaded)
    program = Program.compile(loaded, configuration)
    if verify:
        verification = program.verify()
        print_table(
            ["queue", ">most", ">depth"],
            [[queue.name, str(queue.most), str(queue.depth)] for queue in verification.queues],
        )
    for name in program.segments if segment is None else [segment]:
        echo(program.disassemble(name).rstrip("\n"))
