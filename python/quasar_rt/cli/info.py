"""``quasar-rt info``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import complete
from .options import as_json
from .output import print_json, print_records, print_table

if TYPE_CHECKING:
    from ..subnet import Summary


@click.command("info", short_help="Show what a subnet holds.")
@click.argument("subnet", shell_complete=complete.subnets)
@as_json
def command(subnet: str, as_json: bool) -> None:
    """Show what SUBNET (a .qvit file or a packaged subnet's name) holds: architecture, layers, widths, provenance."""
    from ..packaged import subnet_path
    from ..subnet import Subnet

    loaded = Subnet.load(subnet)
    config, summary = loaded.config, loaded.summary()
    if as_json:
        layers = [layer._asdict() for layer in summary.layers]
        print_json({"config": config, **summary._asdict(), "layers": layers, "sha256": loaded.sha256})
        return
    image, patch, resize = config["image"], config["patch"], config["preprocess"]["resize"]
    classes = config["classes"]
    shown = ": " + ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "") if classes else ""
    heads = "/".join(str(count) for count in sorted({block["heads"] for block in config["blocks"]}))
    facts = [
        ("name", config["name"]),
        ("trained", "yes" if config["trained"] else "no: random weights"),
        (
            "image",
            f"{image['height']} x {image['width']}, {'gray' if image['channels'] == 1 else 'RGB'}",
        ),
        ("resizing", _resizing(image, resize)),
        ("patches", f"{patch['kernel']} x {patch['kernel']}, stride {patch['stride']}, pad {patch['pad']}"),
        (
            "network",
            f"{len(config['blocks'])} blocks of {config['embed']}, {heads} heads, {config['pool']} pooling",
        ),
        ("classes", f"{len(classes)}{shown}"),
        ("embedding", _embedding(config)),
        ("patch tokens", "{} x {}".format(*loaded.grid) if loaded.has_patch_tokens else "no"),
        ("parameters", f"{summary.parameters:,}"),
        (
            "size",
            f"{Path(subnet_path(subnet) or subnet).stat().st_size:,} bytes; {summary.tensor_bytes:,} are tensors, "
            f"{summary.weight_bytes:,} of these packed weights",
        ),
        ("work", work(summary)),
        ("sha256", loaded.sha256),
        *((f"provenance: {key}", _short(value)) for key, value in config["provenance"].items()),
    ]
    print_table(["", ""], facts)
    print_records(
        summary.layers,
        {
            "layer": lambda layer: layer.name,
            ">rows": lambda layer: layer.rows,
            ">columns": lambda layer: layer.columns,
            ">4-bit rows": lambda layer: layer.rows4,
            ">8-bit rows": lambda layer: layer.rows8,
            ">bytes": lambda layer: f"{layer.bytes:,}",
            ">MMAC": lambda layer: f"{layer.macs / 1e6:.2f}",
        },
    )


def _resizing(image: dict[str, int], resize: dict[str, Any]) -> str:
    """Returns in words how images become as large as the network's."""
    size = [image["height"], image["width"]]
    mode, target = resize["mode"], resize.get("size", [])
    if mode == "none":
        return "none: images must have the network's size"
    if mode == "shorter":
        how, same = f"shorter side to {target[0]}, then cropped at the centre", target[0] == min(size)
    else:
        how, same = f"to {target[0]} x {target[1]}, then cropped at the centre", target == size
        if same:
            how = f"to {target[0]} x {target[1]}"
    text = f"{how} ({resize['filter']})"
    if not same:
        text += f"; images of {size[0]} x {size[1]} too, which takes time"
    return text


def work(summary: Summary) -> str:
    """Returns a frame's multiply-accumulates in words."""
    nominal, needed = summary.nominal_macs / 1e6, summary.macs / 1e6
    text = f"{nominal:,.1f} million multiply-accumulates a frame"
    return text if nominal == needed else f"{text}, {needed:,.1f} of them needed"


def _embedding(config: dict[str, Any]) -> str:
    grid = config.get("embedding")
    if grid is None:
        return "no"
    return f"{config['embed']} values, scale {grid['scale']:.4g}, zero point {grid['zero_point']}"


def _short(value: object) -> str:
    """Returns `value` as a short line; ``--json`` prints all of it."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
