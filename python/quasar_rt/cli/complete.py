"""Values that a shell completes: names of subnets, boards, spaces, recipes, devices and tiers.

Each function takes click's arguments and returns what begins with the text typed so far.
"""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem

__all__ = ["boards", "devices", "networks", "recipes", "spaces", "subnets", "tiers"]


def _matching(names: Iterable[str], incomplete: str, files: bool = False) -> list[CompletionItem]:
    # The shells want the item that asks for files first.
    asked = [CompletionItem(incomplete, type="file")] if files else []
    return asked + [CompletionItem(name) for name in names if name.startswith(incomplete)]


def subnets(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes packaged subnets and files."""
    from ..packaged import subnet_names

    return _matching(subnet_names(), incomplete, files=True)


def networks(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes what ``quasar-rt estimate`` takes: subnets, DeiT's shapes, spaces and files."""
    from ..hardware import DEIT_HEADS
    from ..packaged import subnet_names
    from ..space import space_names

    names = dict.fromkeys([*subnet_names(), *DEIT_HEADS, *space_names()])
    return _matching(names, incomplete, files=True)


def boards(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes shipped boards and files."""
    from ..hardware import board_names

    return _matching(board_names(), incomplete, files=True)


def spaces(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes shipped search spaces and files."""
    from ..space import space_names

    return _matching(space_names(), incomplete, files=True)


def recipes(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes packaged recipes and files. Imports no torch."""
    from ..settings import shipped_files

    return _matching(shipped_files("train/recipes"), incomplete, files=True)


def devices(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes the devices of this machine."""
    from ..device import devices

    return _matching(["auto", *(device.name for device in devices())], incomplete)


def tiers(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes the tiers of this CPU."""
    from ..device import cpu

    return _matching([tier.name for tier in cpu().tiers if tier.supported], incomplete)
