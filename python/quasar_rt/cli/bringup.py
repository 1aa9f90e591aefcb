"""``quasar-rt bringup``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from . import complete
from .options import as_json
from .output import echo, print_json

if TYPE_CHECKING:
    from ..bringup import Outcome, Step


@click.command("bringup", short_help="Bring up an accelerator seen for the first time, step by step.")
@click.argument("subnet", required=False, shell_complete=complete.subnets)
@click.option(
    "--device",
    shell_complete=complete.devices,
    default="fpga",
    show_default=True,
    metavar="NAME",
    help="The accelerator.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="STEP",
    help="Run this step alone, without those that it needs; may be given several times.",
)
@click.option(
    "--frames",
    type=click.IntRange(1),
    metavar="N",
    default=20,
    show_default=True,
    help="Frames of SUBNET that are timed.",
)
@click.option("--timeout", type=float, metavar="SECONDS", help="Longest wait for the device.")
@as_json
@click.pass_context
def command(
    ctx: click.Context,
    /,
    subnet: str | None,
    device: str,
    only: tuple[str, ...],
    frames: int,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Bring up an accelerator seen for the first time: from its identity to the frames of SUBNET.

    Each step adds as little as it can to the one before it, so the first failure points at what is broken; it names the
    suspected kernels, and the places to look at. Steps that need a failed one are skipped. All results are compared
    with the CPU's, bit for bit. The exit code is 1 if a step fails.
    """
    from ..bringup import bringup
    from ..subnet import Subnet

    def announce(step: Step) -> None:
        # Before the step runs: a board that hangs takes the rest of the output with it.
        click.echo(f"{step.name:<10} ", nl=False)

    loaded = None if subnet is None else Subnet.load(subnet)
    outcomes = []
    for outcome in bringup(
        device,
        loaded,
        only=only,
        frames=frames,
        timeout=timeout,
        before=None if as_json else announce,
    ):
        outcomes.append(outcome)
        if not as_json:
            _print(outcome)
    failed = [outcome for outcome in outcomes if outcome.status == "fail"]
    if as_json:
        print_json(
            {
                "device": device,
                "subnet": None if loaded is None else loaded.name,
                "passed": not failed,
                "steps": [asdict(outcome) for outcome in outcomes],
            }
        )
    else:
        echo(f"failed: {', '.join(outcome.step for outcome in failed)}" if failed else "nothing failed")
    if failed:
        ctx.exit(1)


def _print(outcome: Outcome) -> None:
    if outcome.status == "skipped" and outcome.seconds == 0:
        click.echo(f"{outcome.step:<10} ", nl=False)
    echo(f"{outcome.status:<7}  {outcome.detail}")
    if outcome.suspects:
        echo(f"           suspects: {', '.join(outcome.suspects)}")
    for place in outcome.places:
        echo(f"           look at: {place}")
