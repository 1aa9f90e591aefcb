"""Float networks that commands load: timm's, and folders and files of others."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import QuasarError
from .output import Failure, echo

if TYPE_CHECKING:
    from ..networks import LoadedNetwork

__all__ = ["load_network", "model_arguments"]


def model_arguments(function: Any) -> Any:
    """Adds ``--model-arg`` and ``--image-size``."""
    function = click.option(
        "--image-size",
        callback=_size,
        metavar="SIDE|HxW",
        help="Size of the network's images, e.g. 224 or 96x128; positions of another size are resampled.",
    )(function)
    return click.option(
        "--model-arg",
        multiple=True,
        metavar="KEY=VALUE",
        help="For timm.create_model, e.g. num_classes=10. Repeatable.",
    )(function)


def load_network(
    model: str | None,
    checkpoint: Path | None,
    pretrained: bool,
    arguments: tuple[str, ...],
    image_size: tuple[int, int] | None,
) -> LoadedNetwork:
    """Loads a network by `quasar_rt.networks.load_network`, and prints its notices on stderr.

    Args:
        model: a timm architecture, or a folder or file that holds architecture and weights.
        checkpoint: a file of the architecture's weights, or such a folder or file.
        pretrained: True lets timm download the weights of its architecture.
        arguments: ``KEY=VALUE`` each, for ``timm.create_model``.
        image_size: height and width.

    Raises:
        click.UsageError: there is no source of weights, or two.
        Failure: timm is not installed, or the network cannot be loaded.
    """
    # The library says it if a path does not exist; timm's names may have a place in front (hf-hub:...).
    named = model is not None and ":" not in model and (len(Path(model).parts) > 1 or model.endswith(".onnx"))
    path = model is not None and (named or Path(model).exists())
    if checkpoint is None and not pretrained and not path:
        if model is not None:
            _require_architecture(model)
        what = "--model FOLDER|FILE, --checkpoint FILE or --pretrained"
        raise click.UsageError(
            f"give the weights: {what}" if model is None else f"give the weights of {model}: {what}"
        )
    if checkpoint is not None and named:
        raise click.UsageError(f"'{model}' has its own weights: leave --checkpoint out")
    source = model if checkpoint is None else checkpoint
    assert source is not None
    networks = _networks()
    try:
        network: LoadedNetwork = networks.load_network(
            source,
            architecture=None if checkpoint is None else model,
            pretrained=pretrained,
            arguments=_parsed(arguments),
            image_size=image_size,
        )
    except QuasarError as error:
        raise Failure(str(error)) from error
    for notice in network.notices:
        echo(f"{source}: {notice}", err=True)
    return network


def _networks() -> Any:
    try:
        from .. import networks
    except ImportError as error:
        raise Failure(f"{error}; install the host extra: pip install 'quasar-rt[host]'") from error
    return networks


def _require_architecture(name: str) -> None:
    try:
        _networks().loading.require_architecture(name, f"timm has no architecture '{name}'")
    except QuasarError as error:
        raise Failure(str(error)) from error


def _size(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 0 < int(side) <= 4096 for side in sides):
        raise click.BadParameter(f"{value!r} is neither a side nor HEIGHTxWIDTH in pixels")
    return int(sides[0]), int(sides[-1])


def _parsed(pairs: tuple[str, ...]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--model-arg")
        try:
            arguments[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            arguments[key] = value
    return arguments
