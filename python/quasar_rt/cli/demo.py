"""``quasar-rt demo``."""

from __future__ import annotations

from typing import Any

import click

from ..arguments import did_you_mean
from . import complete
from .options import as_json, engine_options, open_engine
from .output import Failure, echo, print_json, print_records


@click.command("demo", short_help="Classify the sample images of a packaged subnet.")
@click.argument("subnet", default="fashion-mnist", shell_complete=complete.subnets)
@engine_options
@as_json
def command(subnet: str, as_json: bool, **options: Any) -> None:
    """Classify the sample images that come with a packaged subnet.

    SUBNET is its name, fashion-mnist by default.
    """
    from ..packaged import sample_images, subnet_names

    samples = sample_images(subnet)
    if not samples:
        names = [name for name in subnet_names() if sample_images(name)]
        raise Failure(
            f"there are no sample images of '{subnet}'{did_you_mean(subnet, names)} (there are some of "
            f"{', '.join(names)}; classify files of your own with `quasar-rt infer IMAGES...`)"
            if names
            else "this installation has no sample images; install a release wheel, or classify files of your own with "
            "`quasar-rt infer IMAGES...`"
        )
    with open_engine(subnet, **options) as engine:
        engine.infer(samples[0].path)  # the first frame pays for touching the memory
        predictions = [(sample, engine.infer(sample.path)) for sample in samples]
        device, about = engine.about, engine.subnet.about
    if as_json:
        print_json(
            {
                "subnet": subnet,
                "device": device,
                "images": [
                    {
                        "image": sample.path.name,
                        "label": prediction.label,
                        "probability": prediction.probability,
                        "truth": sample.label,
                        "ms": prediction.timings.total_ms,
                    }
                    for sample, prediction in predictions
                ],
            }
        )
        return
    print_records(
        predictions,
        {
            "image": lambda one: one[0].path.name,
            "label": lambda one: one[1].label,
            "right": lambda one: _mark(one[0].label, one[1].label),
            ">probability": lambda one: f"{one[1].probability:.1%}",
            ">time": lambda one: f"{one[1].timings.total_ms:.2f} ms",
            "device": lambda one: engine.device,
        },
    )
    known = [
        sample.label == prediction.label for sample, prediction in predictions if sample.label is not None
    ]
    echo(f"{sum(known)} of {len(known)} right, on {device}.")
    echo(about)
    echo("Next, to teach a network your own classes, from a folder of pictures for each:")
    echo("  pip install 'quasar-rt[host,onnx]'")
    echo("  quasar-rt teach PICTURES --out mine.qvit")
    echo("All commands: quasar-rt help")


def _mark(truth: str | None, label: str) -> str:
    """Returns "yes", or the true label."""
    if truth is None:
        return "?"
    return "yes" if truth == label else f"no: {truth}"
