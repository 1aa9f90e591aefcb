r"""Print the script that lets a shell complete commands, options, and names of subnets, boards and devices.

\b
bash, in ~/.bashrc:  eval "$(quasar-rt completion bash)"
zsh, in ~/.zshrc:    eval "$(quasar-rt completion zsh)"
fish, once:
  quasar-rt completion fish > ~/.config/fish/completions/quasar-rt.fish

bash must be 4.4 or later. In ~/.zshrc the line comes after compinit.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

PROGRAM = "quasar-rt"
SHELLS = ("bash", "zsh", "fish")


# Click reads a backspace as "do not wrap"; the docstring spells it.
@click.command("completion", help=(__doc__ or "").replace(r"\b", "\b"))
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Prints a shell's completion script."""
    completion = get_completion_class(shell)
    assert completion is not None, "click knows these shells"
    variable = f"_{PROGRAM}_COMPLETE".replace("-", "_").upper()
    click.echo(completion(ctx.find_root().command, {}, PROGRAM, variable).source())
