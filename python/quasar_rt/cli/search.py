r"""Search a space of networks for the ones that are best at each frame rate of a board.

Writes a folder: the Pareto front (front.json, front.csv, front.png), a page to explore it (index.html, which needs
no network) and, for each target, a subnet file with the record of its search. A search that was stopped continues
when the same command is given again.

\b
A quick search on a proxy, to look around:
  quasar-rt search
  quasar-rt search --board zcu102 --fps 100 --fps 250 --space tiny

\b
Several boards, and a page that compares them:
  quasar-rt search --board zcu102 --board kv260 --fps 250

\b
A rate of the accelerator, without the board's processor:
  quasar-rt search --fps 300 --fps-of accelerator

\b
The accelerator is explored, too; low latency and low energy count, too:
  quasar-rt search --fps 300 --configurations 6
  quasar-rt search --objective latency --objective energy

\b
With a trained supernet, or a recipe's, which is trained first ([host] extra):
  quasar-rt search --supernet runs/x/supernet.pt --fps 2000
  quasar-rt search --recipe digits --fps 60000

\b
Candidates shared out over all cores, or a cluster's workers ([ray] extra):
  quasar-rt search --supernet runs/x/supernet.pt --workers ray
  quasar-rt search --supernet runs/x/supernet.pt --workers ray:ADDRESS

Frame rates are modelled, not measured. Without a supernet the score is a proxy and no accuracy, and the subnets have
random weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from ..errors import InfeasibleError, QuasarError
from ..nas.options import DEFAULT_BOARD, DEFAULT_SPACE, SearchOptions
from ..nas.workers import LostWorkersError
from ..options import about
from . import complete
from .options import declared
from .output import Failure, Unmet, bars, echo, print_records


@click.command(
    "search",
    # Click reads a backspace as "do not wrap"; the docstring spells it.
    help=(__doc__ or "").replace(r"\b", "\b"),
)
@click.option(
    "--board",
    "boards",
    multiple=True,
    shell_complete=complete.boards,
    metavar="NAME",
    help=f"Board to search for; repeatable, to compare boards. [the one in --hardware, or {DEFAULT_BOARD}]",
)
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    help="Train the supernet of this recipe first, in runs/NAME, or go on with it there; then search it.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="With --recipe: change it, as `quasar-rt train --set` does. Repeatable.",
)
@declared(SearchOptions, space=complete.spaces)
def command(
    out: Path | None, recipe: str | None, changes: tuple[str, ...], boards: tuple[str, ...], **options: Any
) -> None:
    """Searches, and prints the targets."""
    if len(boards) > 1 and options["hardware"] is not None:
        raise click.UsageError("--hardware names its board: give it without several --board")
    if recipe is not None:
        options["supernet"] = _trained(recipe, changes, options)
    elif changes:
        raise click.UsageError("--set goes with --recipe")
    given = {**options, "fps": list(options["fps"]) or None, "board": boards[0] if boards else None}
    first = os.environ.get("RANK", "0") == "0"
    if out is None:
        out = default_folder({**given, "board": ",".join(boards) or None})
    try:
        from ..nas import search, search_boards

        with bars(first) as progress:
            if len(boards) > 1:
                for name in ("board", "hardware"):
                    del given[name]
                several = search_boards(boards, out=out, progress=progress, **given)
            else:
                result = search(out=out, progress=progress, **given)
    except (InfeasibleError, LostWorkersError) as error:
        raise Unmet(str(error)) from error
    except (QuasarError, ImportError, OSError, ValueError) as error:
        raise Failure(str(error)) from error
    except KeyboardInterrupt:
        # A search makes its folder when it knows that its targets can be reached.
        begun = any(True for name in ("search.json", "*/search.json") for _ in out.glob(name))
        rest = f"continues from {out}" if begun else "starts again: nothing was scored"
        echo(f"Stopped. The same command {rest}.", err=True)
        sys.exit(130)
    if first and len(boards) > 1:
        show_boards(several, out)
    elif first:
        show(result, out)


def _trained(name: str, changes: tuple[str, ...], options: dict[str, Any]) -> Path:
    """Trains the supernet of a recipe, or takes the one that an earlier start of the command has trained."""
    if options["supernet"] or options["space"]:
        raise click.UsageError("--recipe has its own space and supernet: leave --space and --supernet out")
    if "RANK" in os.environ:
        raise click.UsageError(
            "under torchrun, train first (torchrun ... -m quasar_rt train --config), then give --supernet"
        )
    try:
        from ..space import Space
        from ..train import distributed, train
        from ..train.loop import DivergedError, Stopped
        from ..train.recipe import load_recipe
    except ImportError as error:
        raise Failure(f"{error}; install the host extra: pip install 'quasar-rt[host]'") from error
    try:
        recipe = load_recipe(name, list(changes))
        if Space.load(recipe.space).size == 1:
            raise click.UsageError(
                f"the space of the recipe '{recipe.name}' has one network: nothing to search"
            )
        run = Path("runs") / recipe.name
        group = distributed.init_process_group(options["device"])
        train(
            recipe,
            run,
            root=options["data"],
            log=lambda line: echo(line, err=True),
            group=group,
            track=options["track"],
        )
    except Stopped as stopped:
        echo(f"{stopped}", err=True)
        sys.exit(130)
    except DivergedError as error:
        raise Unmet(str(error)) from error
    except (QuasarError, OSError, ValueError) as error:
        raise Failure(str(error)) from error
    return run / "supernet.pt"


def default_folder(options: dict[str, Any]) -> Path:
    """Returns the folder of these settings: the same command finds it again, and another command has another folder."""
    details = {one.name: (one.default, details) for one, details in about(SearchOptions)}

    def counts(name: str, value: Any) -> bool:
        default, option = details[name]
        return option.named and option.recorded(value, default)

    named = {name: str(value) for name, value in options.items() if counts(name, value)}
    key = json.dumps(named, sort_keys=True)
    space = Path(
        options["supernet"].parent.name if options["supernet"] else options["space"] or DEFAULT_SPACE
    ).stem
    board = Path((options["board"] or "").replace(",", "-") or options["hardware"] or DEFAULT_BOARD).stem
    return Path("runs/search") / f"{space}-{board}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def show(result: Any, out: Path) -> None:
    """Prints a table of the targets, the notes on the scores, and the path of the page."""
    facts = {point["id"]: point for point in result.document["front"]}

    def integer(target: Any) -> str:
        found = target.point.integer
        return f"{found.top1:.2%} ± {found.standard_error:.2%}" if found else "-"

    columns: dict[str, Callable[[Any], object]] = {
        ">target FPS": lambda target: f"{target.fps:,g}",
        ">FPS with the processor": lambda target: f"{target.replayed_fps_with_host:,.1f}",
        ">accelerator alone": lambda target: f"{target.replayed_fps:,.1f}",
        ">latency, ms": lambda target: f"{target.on.latency_ms:.3g}",
        f">{result.scoring.short}": lambda target: _score(target.point.score, result.scoring.accuracy),
        ">integer top-1, ± standard error": integer,
        ">embed": lambda target: facts[target.point.id]["embed"],
        ">depth": lambda target: facts[target.point.id]["depth"],
        ">8-bit rows": lambda target: f"{facts[target.point.id]['eight_bit_share']:.0%}",
        ">weights, kB": lambda target: f"{facts[target.point.id]['weight_bytes'] / 1000:,.1f}",
        ">W at target": lambda target: _watts(target.power_w),
        "array, MHz": lambda target: _array(target.hardware.settings),
        "subnet": lambda target: target.file,
    }
    if not any(target.point.integer for target in result.targets):
        del columns[">integer top-1, ± standard error"]
    if not any(target.hardware for target in result.targets):
        del columns[">W at target"], columns["array, MHz"]
    label = result.document["boards"][result.board]["label"]
    print_records(result.targets, columns, f"Space {result.space.name}, modelled event by event on {label}")
    for line in result.notes:
        echo(line)
    if not result.scoring.accuracy:
        echo(f"Warning: the score is a {result.scoring.label}; give --supernet for accuracies.", err=True)
    if not (out / "front.png").exists():
        echo("Note: front.png was left out; it needs matplotlib (pip install 'quasar-rt[host]').", err=True)
    echo(f"{len(result.front)} subnets on the front: {out / 'index.html'}")


def _score(score: float, accuracy: bool) -> str:
    return f"{score:.2%}" if accuracy else f"{score:.4f}"


def _watts(power: float | None) -> str:
    return "-" if power is None else f"{power:.1f}"


def _array(hardware: Mapping[str, Any]) -> str:
    """Returns array and clocks in short: tokens, row pairs and cascade; MHz of the array and of the kernels."""
    array, clock = hardware["array"], hardware["clock_mhz"]
    size = f"{array['tokens']}x{array['pairs']}x{array['cascade']}"
    return f"{size}, {clock * array['clock_ratio']:g}/{clock:g}"


def show_boards(result: Any, out: Path) -> None:
    """Prints a table of all boards' targets, what is out of reach, and the path of the page."""
    document = result.document
    accuracy = document["score"]["accuracy"]
    columns: dict[str, Callable[[Any], object]] = {
        "board": lambda found: found[0],
        ">target FPS": lambda found: f"{found[2]['fps']:,g}",
        ">FPS with the processor": lambda found: f"{found[2]['replayed_fps_with_host']:,.1f}",
        ">accelerator alone": lambda found: f"{found[2]['replayed_fps']:,.1f}",
        f">{document['score']['short']}": lambda found: _score(found[2]["score"], accuracy),
        ">latency, ms": lambda found: f"{found[2]['latency_ms']:.3g}",
        ">W at target": lambda found: _watts(found[2]["power_w"]),
        "array, MHz": lambda found: _array(found[2]["hardware"]),
        "subnet": lambda found: f"{found[1]}/{found[2]['file']}",
    }
    targets = [
        (name, one["folder"], target) for name, one in document["boards"].items() for target in one["targets"]
    ]
    print_records(
        targets, columns, f"Space {document['space']['name']}, modelled event by event; powers are assumed"
    )
    for name, one in document["boards"].items():
        for missed in one["missed"]:
            echo(f"{name}, {missed['fps']:g} FPS: {missed['reason']}.")
    for name, reason in document["left_out"].items():
        echo(f"{name}: {reason}.")
    if not accuracy:
        label = document["score"]["label"]
        echo(f"Warning: the score is a {label}; give --supernet for accuracies.", err=True)
    echo(f"Boards compared: {out / 'index.html'}")
