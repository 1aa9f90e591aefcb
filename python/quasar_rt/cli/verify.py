"""``quasar-rt verify``."""

from __future__ import annotations

import click

from . import complete
from .options import as_json
from .output import echo, print_json, print_records


@click.command("verify", short_help="Compare the bits of every backend and tier.")
@click.argument("subnet", shell_complete=complete.subnets)
@click.option(
    "--images",
    type=click.IntRange(1),
    metavar="N",
    default=4,
    show_default=True,
    help="Random images to run.",
)
@click.option(
    "--seed", type=int, metavar="N", default=0, show_default=True, help="Seed of the random images."
)
@click.option(
    "--device",
    "devices",
    shell_complete=complete.devices,
    multiple=True,
    metavar="NAME",
    help="An accelerator to run as well, such as sim or sim:tiny; may be given several times.",
)
@as_json
@click.pass_context
def command(
    ctx: click.Context, /, subnet: str, images: int, seed: int, devices: tuple[str, ...], as_json: bool
) -> None:
    """Run SUBNET on the same inputs by every way there is and compare the bits of every logit.

    The ways: the oracle (the integer model in int64 NumPy), the accelerator's arithmetic by nibbles (atoms), every
    instruction-set tier with one and two threads, and each --device. The inputs: seeded random images, black, white,
    and the packaged samples. A tier that this CPU lacks is reported as skipped, and so is a device that SUBNET does
    not fit. The exit code is 1 if any bit differs.
    """
    from ..subnet import Subnet
    from ..verify import verify

    loaded = Subnet.load(subnet)
    checks = verify(loaded, images=images, seed=seed, accelerators=devices)
    equal = all(check.status != "differs" for check in checks)
    if as_json:
        print_json({"subnet": loaded.name, "equal": equal, "checks": [check._asdict() for check in checks]})
    else:
        print_records(
            checks,
            {
                "backend": lambda check: check.backend,
                ">threads": lambda check: "" if check.threads is None else check.threads,
                ">images": lambda check: check.images,
                "logits": lambda check: check.status + (f": {check.detail}" if check.detail else ""),
            },
        )
        echo("all bits are equal" if equal else "THE BITS DIFFER")
    if not equal:
        ctx.exit(1)
