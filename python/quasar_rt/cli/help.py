"""``quasar-rt help``."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from . import unknown_command


def _commands(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    return [CompletionItem(name) for name in group.list_commands(ctx) if name.startswith(incomplete)]


@click.command("help", short_help="Show the help of a command.")
@click.argument("name", required=False, metavar="[COMMAND]", shell_complete=_commands)
@click.pass_context
def command(ctx: click.Context, name: str | None) -> None:
    """Show the help of COMMAND, as COMMAND --help does, or that of all commands."""
    root = ctx.find_root()
    if name is None:
        click.echo(root.get_help())
        return
    assert isinstance(root.command, click.Group)
    found = root.command.get_command(root, name)
    if found is None:
        raise click.UsageError(unknown_command(name), ctx)
    with click.Context(found, info_name=name, parent=root, **found.context_settings) as of:
        click.echo(found.get_help(of))
