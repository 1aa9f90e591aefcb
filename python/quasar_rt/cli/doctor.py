"""``quasar-rt doctor``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import complete
from .options import as_json
from .output import echo, print_json

if TYPE_CHECKING:
    from ..doctor import Check


@click.command("doctor", short_help="Examine this machine: what is wrong, and what to do.")
@click.argument("subnet", required=False, shell_complete=complete.subnets)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    shell_complete=complete.devices,
    help="Device whose needs are examined: cpu, sim, uio, devmem:..., pynq or fpga.",
)
@click.option(
    "--identity",
    is_flag=True,
    help="Read the accelerator's identity, too. The only check that touches its registers: where none answers, an Arm "
    "board may hang.",
)
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/"),
    metavar="DIR",
    help="Examine /proc, /sys, /dev, /etc and /lib/firmware below DIR, such as copies from another machine.",
)
@as_json
@click.pass_context
def command(
    ctx: click.Context, /, subnet: str | None, device: str, identity: bool, root: Path, as_json: bool
) -> None:
    """Examine this machine: package, system, board, CPU, and what an accelerator in the FPGA needs.

    Each line is ok, warn, fail or skipped, with what was found; a line below it says what to do. With SUBNET, the
    bitstream's buffers and the DMA memory must hold it. Nothing is written, and no device is opened. The exit code is 1
    if a check fails.
    """
    from ..doctor import Machine, examine
    from ..subnet import Subnet

    if identity and root != Path("/"):
        raise click.UsageError("--identity reads this machine's registers; leave out --root")
    loaded = None if subnet is None else Subnet.load(subnet)
    checks = []
    for check in examine(device, loaded, identity=identity, machine=Machine(root)):
        checks.append(check)
        if not as_json:
            _print(check)
    failed = [check.name for check in checks if check.status == "fail"]
    if as_json:
        print_json({"device": device, "passed": not failed, "checks": [asdict(check) for check in checks]})
    else:
        echo(f"failed: {', '.join(failed)}" if failed else "nothing failed")
    if failed:
        ctx.exit(1)


def _print(check: Check) -> None:
    echo(f"{check.name:<12} {check.status:<7}  {check.detail}")
    if check.remedy:
        echo(f"{'':<21} do: {check.remedy}")
