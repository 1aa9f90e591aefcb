"""The command ``quasar-rt``.

Each command has a file, which imports its needs when the command runs, so that ``--help`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from ..arguments import did_you_mean, shown
from ..errors import FileError, QuasarError
from ..files import reason
from .output import Failure, name_stdout_in_errors, printable

__all__ = ["cli", "main"]

#: The commands by what a user wants to do; each text fits a line of 80 columns.
_GROUPS = {
    "Classify images": {
        "demo": "Classify the sample images of a packaged subnet.",
        "infer": "Classify image files, folders of them, and videos.",
        "watch": "Classify a folder's new images or a camera's frames, live.",
    },
    "Make a subnet": {
        "teach": "Teach a network your classes, from a folder of pictures. [host]",
        "fit": "Make subnets of your trained network for a board's rates. [host]",
        "export": "Turn a float Vision Transformer into a subnet file. [host]",
        "name": "Change the words that a subnet's classes are. [text]",
        "train": "Train a supernet, or one quantized network, by a recipe. [host]",
        "search": "Search for the best networks at each frame rate of a board.",
    },
    "Compare pictures": {
        "embed": "Write an index of pictures' embeddings.",
        "similar": "Find the pictures of an index that are nearest to one.",
        "heat": "Map which patches differ from those of sound pictures.",
    },
    "Look into a subnet": {
        "info": "Show what a subnet holds.",
        "eval": "Measure a subnet's accuracy on a data set.",
        "bench": "Measure latency and throughput on this machine.",
        "estimate": "Model a network on a board: frame rate, latency, resources.",
        "verify": "Compare all backends and tiers bit by bit on the same inputs.",
        "disasm": "Show the accelerator's commands for a subnet.",
        "onnx": "Write a subnet as an ONNX model. [onnx]",
    },
    "Machines and boards": {
        "devices": "Show what this machine offers to run on.",
        "doctor": "Examine this machine: what is wrong, and what to do.",
        "bringup": "Bring up an accelerator seen for the first time, step by step.",
    },
    "About this program": {
        "help": "Show the help of a command.",
        "completion": "Print the script that lets a shell complete commands and names.",
    },
}
_COMMANDS = {name: text for commands in _GROUPS.values() for name, text in commands.items()}


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
        width = max(map(len, _COMMANDS))
        for title, commands in _GROUPS.items():
            with formatter.section(title):
                # Sections of one width: their texts begin in one column.
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(unknown_command(args[0]), ctx)
        return super().resolve_command(ctx, args)

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


def unknown_command(name: str) -> str:
    """Returns the message about a command that does not exist."""
    return printable(f"there is no command {shown(name)}{did_you_mean(name, _COMMANDS)}")


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="[host], [onnx]: the command needs this extra of the package: pip install 'quasar-rt[host]'.\n\n"
    "Exit codes: 0 all is well; 1 a check failed or a goal was missed (verify found a difference, some images "
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
