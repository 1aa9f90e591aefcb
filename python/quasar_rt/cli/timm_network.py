"""timm networks that commands load: by architecture and checkpoint, or with timm's own weights."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import click

from ..errors import QuasarError
from ..files import why_unreadable
from .output import Failure

__all__ = ["load_network", "model_arguments"]

model_arguments = click.option(
    "--model-arg",
    multiple=True,
    metavar="KEY=VALUE",
    help="For timm.create_model, e.g. num_classes=10, img_size=32. Repeatable.",
)


def load_network(
    architecture: str, checkpoint: Path | None, pretrained: bool, arguments: tuple[str, ...]
) -> Any:
    """Makes a timm network with the weights of a checkpoint, or with those that timm downloads.

    The network has as many classes as the checkpoint's classifier, and none if it has no classifier, unless `arguments`
    has ``num_classes``.

    Raises:
        Failure: timm is not installed, lacks the architecture, or the checkpoint is no file of tensors that fit it.
    """
    if checkpoint is not None and (why := why_unreadable(checkpoint)):
        raise Failure(f"{checkpoint} {why}")
    try:
        from ..weights import make_timm, read_weights
    except ImportError as error:
        raise Failure(f"{error}; install the host extra: pip install 'quasar-rt[host]'") from error
    parsed = _parsed(arguments)
    try:
        network = make_timm(architecture, pretrained=pretrained, **parsed)
    # Of unknown arguments, files and networks, each in a way of its own.
    except Exception as error:
        raise Failure(f"timm could not make {architecture}: {' '.join(str(error).split())[:400]}") from error
    if checkpoint is not None:
        try:
            if checkpoint.suffix.lower() in (".npz", ".npy"):  # of other models, which timm converts
                network.load_pretrained(str(checkpoint))
            else:
                weights = read_weights(checkpoint)
                if "num_classes" not in parsed:
                    _fit_classifier(network, weights)
                network.load_state_dict(weights)
        except QuasarError as error:
            raise Failure(str(error)) from error
        # timm's converters raise nearly anything on what they do not know (KeyError, AssertionError, ...).
        except Exception as error:
            raise Failure(
                f"{checkpoint} does not hold the weights of this {architecture}: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:400]}. It must be a state dict, as "
                "torch.save(model.state_dict(), FILE) writes it, of just this architecture; "
                "--model-arg gives a shape of its own."
            ) from error
    return network


def _fit_classifier(network: Any, weights: dict[str, Any]) -> None:
    """Gives the network as many classes as the checkpoint's classifier has."""
    classifier = network.default_cfg.get("classifier")
    if not isinstance(classifier, str):
        return
    weight = weights.get(f"{classifier}.weight")
    classes = 0 if weight is None else len(weight)
    if classes != network.num_classes:
        network.reset_classifier(classes)


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
