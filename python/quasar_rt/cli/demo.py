"""``quasar-rt demo``."""

from __future__ import annotations

from typing import Any

import click

from .options import as_json, engine_options, open_engine
from .output import Failure, echo, print_json, print_records

SUBNET = "fashion-mnist"


@click.command("demo", short_help="Classify the packaged sample images.")
@engine_options
@as_json
def command(as_json: bool, **options: Any) -> None:
    """Classify the packaged sample images with the packaged subnet."""
    from ..packaged import sample_images

    samples = sample_images(SUBNET)
    if not samples:
        raise Failure(
            "this installation has no sample images; install a release wheel, or classify files of your own with "
            "`quasar-rt infer IMAGES...`"
        )
    with open_engine(SUBNET, **options) as engine:
        engine.infer(samples[0].path)  # the first frame pays for touching the memory
        predictions = [(sample, engine.infer(sample.path)) for sample in samples]
        device = engine.about
    if as_json:
        print_json(
            {
                "subnet": SUBNET,
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
    echo(f"Next: quasar-rt infer YOUR_IMAGE, or quasar-rt info {SUBNET}")


def _mark(truth: str | None, label: str) -> str:
    """Returns "yes", or the true label."""
    if truth is None:
        return "?"
    return "yes" if truth == label else f"no: {truth}"
