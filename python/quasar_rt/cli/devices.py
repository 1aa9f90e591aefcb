"""``quasar-rt devices``."""

from __future__ import annotations

from dataclasses import asdict

import click

from .options import as_json
from .output import echo, print_json, print_table


@click.command("devices", short_help="Show what this machine offers to run on.")
@as_json
def command(as_json: bool) -> None:
    """Show what this machine offers to run on: devices, threads and instruction sets (tiers).

    The first is what --device auto takes, where it can run the subnet. Simulated accelerators are built by `make sim`.
    """
    from ..device import automatic, devices

    found = devices()
    chosen, reason = automatic()
    if as_json:
        print_json(
            {
                "devices": [{**asdict(device), "best_tier": device.best_tier} for device in found],
                "auto": {"device": chosen, "reason": reason},
            }
        )
        return
    print_table(
        ["device", ">threads", "tier", ""],
        [
            [
                device.name,
                str(device.threads),
                tier.name,
                "used by default"
                if tier.name == device.best_tier
                else "supported"
                if tier.supported
                else "not on this machine",
            ]
            for device in found
            for tier in device.tiers
        ]
        + [[device.name, str(device.threads), "", device.about] for device in found if not device.tiers],
    )
    echo(f"auto: {chosen} ({reason})")
