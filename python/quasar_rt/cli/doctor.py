"""``quasar-rt doctor``."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import complete
from .options import as_json
from .output import echo, print_json, printable

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
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/"),
    metavar="DIR",
    help="Examine /proc, /sys, /dev, /etc and /lib/firmware below DIR, such as copies from another machine.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="A line for each extra of the package, and how to get what is absent.",
)
@as_json
@click.pass_context
def command(
    ctx: click.Context,
    /,
    subnet: str | None,
    device: str,
    root: Path,
    everything: bool,
    as_json: bool,
) -> None:
    """Examine this machine: package, system, board, CPU, and what an accelerator in the FPGA needs.

    Each line is ok, warn, fail or skipped, with what was found; a line below a warning or a failure says what to do.
    With SUBNET, the bitstream's buffers and the DMA memory must hold it. Nothing is written, and no device is opened.
    The exit code is 1 if a check fails.
    """
    from ..doctor import Machine, examine
    from ..subnet import Subnet

    loaded = None if subnet is None else Subnet.load(subnet)
    checks: list[Check] = []
    extras: list[Check] = []
    for check in examine(device, loaded, machine=Machine(root)):
        checks.append(check)
        if as_json:
            continue
        if check.name.startswith("[") and not everything:
            extras.append(check)
            continue
        if extras:
            _print(_in_one(extras), everything)
            extras = []
        _print(check, everything)
    failed = [check.name for check in checks if check.status == "fail"]
    if as_json:
        print_json({"device": device, "passed": not failed, "checks": [asdict(check) for check in checks]})
    else:
        echo(f"failed: {', '.join(failed)}" if failed else "nothing failed")
    if failed:
        ctx.exit(1)


#: Colours of the words of a status, on a terminal.
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "skipped": "bright_black"}


def _in_one(extras: list[Check]) -> Check:
    """Returns the checks of all extras as one."""
    from ..doctor import Check

    installed, absent = (
        ", ".join(check.name.strip("[]") for check in extras if (check.status == "ok") == there)
        for there in (True, False)
    )
    return Check("extras", "ok", f"{installed or 'none'}{f'; absent: {absent}' if absent else ''}")


def _print(check: Check, everything: bool) -> None:
    status = click.style(f"{check.status:<7}", fg=_COLOURS[check.status])
    _wrapped(f"{printable(check.name):<12} {status}  ", check.detail)
    if check.remedy and (everything or check.status in ("warn", "fail")):
        _wrapped(f"{'':<{_INDENT}}", f"do: {check.remedy}")


#: Columns of a check's name and status.
_INDENT = 22


def _wrapped(start: str, text: str) -> None:
    """Prints `text` after `start`; on a terminal, its lines are broken and indented below each other."""
    lines = [printable(text)]
    if sys.stdout is not None and sys.stdout.isatty():
        width = max(shutil.get_terminal_size().columns - _INDENT, 20)
        lines = textwrap.wrap(lines[0], width, break_on_hyphens=False) or [""]
    click.echo(start + f"\n{'':<{_INDENT}}".join(lines), color=False if "NO_COLOR" in os.environ else None)
