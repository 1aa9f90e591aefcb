"""The command ``quasar-rt``.

Each command has a file, which imports its needs when the command runs, so that ``--help`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from ..errors import FileError, QuasarError
from ..files import reason
from .output import Failure, name_stdout_in_errors

__all__ = ["cli", "main"]

_COMMANDS = {
    "demo": "Classify the sample images of a packaged subnet.",
    "infer": "Classify image files.",
    "watch": "Classify new images of a folder, or a camera's frames, as they come.",
    "eval": "Measure a subnet's accuracy on a data set.",
    "bench": "Measure latency and throughput.",
    "info": "Show what a subnet holds.",
    "disasm": "Show the accelerator's commands for a subnet.",
    "devices": "Show what this machine offers to run on.",
    "doctor": "Examine this machine: what is wrong, and what to do.",
    "bringup": "Bring up an accelerator seen for the first time, step by step.",
    "train": "Train a supernet, or one quantized network, by a recipe. Needs the [host] extra.",
    "search": "Search a space of networks for the best ones at each frame rate of a board.",
    "estimate": "Model a network on a board: frame rate, latency, limits, resources.",
    "fit": "Make subnets of your trained network for a board's frame rates. Needs the [host] extra.",
    "export": "Turn a float Vision Transformer into a subnet file. Needs the [host] extra.",
    "onnx": "Write a subnet as an ONNX model. Needs the [onnx] extra.",
    "verify": "Run every backend and tier on the same inputs and compare the bits.",
    "completion": "Print the script that lets bash, zsh or fish complete commands and names.",
}


class _Commands(click.Group):
    """Imports a command when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"{__name__}.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # The table above has the texts, so that no command's module is imported.
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        commands = [
            CompletionItem(name, help=text) for name, text in _COMMANDS.items() if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (QuasarError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            where = f"'{error.filename}': " if isinstance(error, OSError) and error.filename else ""
            raise Failure(f"{where}{reason(error)}") from error
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            ctx.exit(130)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 all is well; 1 a check failed or a goal was missed (verify found a difference, some images "
    "could not be read, no network reaches a search's target); 2 wrong usage or unusable input; 130 interrupted. "
    "Errors go to stderr. With --json, JSON alone goes to stdout.",
)
@click.version_option(package_name="quasar-rt", prog_name="quasar-rt")
def cli() -> None:
    """Run row-wise 4/8-bit Vision Transformers in integers only."""


def main() -> NoReturn:
    """Runs the console script."""
    name_stdout_in_errors()
    try:
        cli()
    except FileError as error:  # of the output of --help and --version
        failure = Failure(str(error))
        failure.show()
        raise SystemExit(failure.exit_code) from error
    raise AssertionError("click ends the process")
