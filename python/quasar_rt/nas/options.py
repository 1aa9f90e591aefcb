"""The options of a search, each in one place: `Options` has their names, types, defaults and texts.

From its fields come the parameters and the documentation of `quasar_rt.search` and `search_boards`, the options of
``quasar-rt search``, and the settings in search.json and front.json. To add an option, add a field.

Depends on `quasar_rt.options`, `quasar_rt.hardware`, `quasar_rt.space`, `objectives` and `scorer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, NamedTuple, TypeAlias, get_args

from ..errors import InvalidValueError
from ..hardware import RATES_OF, CostTable, Designs, RatesOf
from ..options import DATA, StrPath, about, described, option
from ..space import Space
from ..tracking import TRACKERS
from .objectives import Objective, further_objectives
from .scorer import Progress

__all__ = [
    "DEFAULT_BOARD",
    "DEFAULT_SPACE",
    "EFFORT",
    "BoardsOptions",
    "Options",
    "SearchOptions",
    "Strategy",
]

#: The choice of the networks that are scored next: by a model of the scores so far, or by crossover and mutation
#: alone (NSGA-II).
Strategy: TypeAlias = Literal["guided", "evolution"]

#: The board and the space of a search that names none.
DEFAULT_BOARD, DEFAULT_SPACE = "zcu102", "tiny"


class Effort(NamedTuple):
    """The size of a search."""

    population: int
    generations: int


#: The default effort by the kind of score: a proxy score takes microseconds, a supernet's score seconds.
EFFORT = {"proxy": Effort(200, 100), "supernet": Effort(32, 20)}


@dataclass(frozen=True, repr=False)
class Options:
    """The options of a search for one board or several, as the caller gave them."""

    space: StrPath | Space | None = option(
        None,
        f"a search space, its name or its TOML file. [the supernet's, or {DEFAULT_SPACE}]",
        "--space NAME|FILE",
    )
    fps: float | Iterable[float] | None = option(
        None,
        "modelled frame rate that a subnet must reach, or several. [three within the space's reach]",
        "--fps N",
        saved="fps",
    )
    supernet: StrPath | None = option(
        None,
        "a checkpoint of `quasar-rt train`, whose slices are scored. Without it the score is a proxy, not an accuracy, "
        "and the subnets have random weights.",
        "--supernet",
        path="file",
    )
    seed: int = option(
        0, "the seed of all random choices. The same search gives the same result.", "--seed N", saved="seed"
    )
    out: StrPath | None = option(
        None,
        "a folder for the results and the state: a search that was stopped continues there. None writes nothing.",
        "--out",
        help="Folder of the results. [runs/search/..., named after the settings]",
        path="folder",
        named=False,
    )
    _: KW_ONLY
    population: int | None = option(
        None,
        f"subnets of a generation. [{EFFORT['proxy'].population}; with a supernet {EFFORT['supernet'].population}]",
        "--population N",
        least=4,
        saved="population",
    )
    generations: int | None = option(
        None,
        f"generations. [{EFFORT['proxy'].generations}; with a supernet {EFFORT['supernet'].generations}]",
        "--generations N",
        least=1,
        saved="generations",
    )
    data: StrPath | None = option(None, DATA, "--data DIR|wds:SHARDS|hf:NAME")
    strategy: Strategy = option(
        "guided",
        "guided: a model that is fitted to the scores so far chooses what is scored next; evolution: crossover and "
        "mutation alone (NSGA-II).",
        "--strategy",
        choices=get_args(Strategy),
        saved="strategy",
    )
    retrain: int = option(
        0,
        "epochs for which the subnets behind Kendall's tau are trained on their own as well; 0 leaves that out.",
        "--retrain EPOCHS",
        saved="retrain",
    )
    test: bool = option(
        False, "score the finalists on the test images, not on held-out validation images.", "--test"
    )
    gptq: bool = option(
        False,
        "round the finalists' weights anew, too, as `quasar-rt export` does; a subnet has these codes where they "
        "classify more held-out validation images rightly than the trained ones, by the 95 % interval of the gain.",
        "--gptq",
        saved="gptq",
        newer=True,
    )
    threads: int | None = option(
        None,
        "CPU threads of scoring, with workers those of each. [all cores; with workers 1]",
        "--threads N",
        least=1,
        named=False,
    )
    device: str | None = option(
        None, "of a supernet: cpu, cuda or cuda:N. [cuda where there is one]", "--device", named=False
    )
    workers: str | None = option(
        None,
        "score a supernet's candidates on Ray's workers: one for each core of this machine (ray), or those of a "
        "cluster (ray:ADDRESS). The result is that of one process. A worker that is lost is replaced, and its "
        "candidate scored again.",
        "--workers ray[:ADDRESS]",
        named=False,
    )
    progress: Progress | None = option(
        None, "gets the name of the work, the amount that is done and the total.", named=False
    )
    embedding: bool = option(
        False,
        "search subnets that also give the image's embedding (`Engine.embed`), which takes some cycles of a frame. A "
        "space's file may ask for it, too.",
        "--embedding",
        newer=True,
    )
    track: Sequence[str] = option(
        (),
        "logs each generation, the scored networks of a supernet and the targets to these "
        "(`quasar_rt.tracking.TRACKERS`); needs `out`.",
        "--log",
        help="Also log the generations, the scored networks and the targets to TensorBoard's files in the folder of "
        "the results, or to Weights & Biases; with --recipe the training, too, as `quasar-rt train --log` does.",
        choices=TRACKERS,
        named=False,
    )
    configurations: int = option(
        1,
        "configurations of the accelerator (array, lanes, buffers) to explore with the subnets, at most. With 1, all "
        "subnets share one bitstream; with more, each target has the configuration that suits its subnet, "
        "SPACE-BOARD-TARGETfps.toml.",
        "--configurations N",
        least=1,
        saved="configurations",
        newer=True,
    )
    clocks: Iterable[float] = option(
        (),
        "clocks of the kernels. Several are explored, and each target has the one on which its subnet has the rate "
        "with the least power (by the powers that the board's file assumes). [the board's]",
        "--clock MHZ",
        saved="clocks_mhz",
        newer=True,
    )
    fps_of: RatesOf = option(
        "board",
        "what a frame rate is of. board: what a user gets, with the gaps in which the board's processor starts "
        "segments, and at most the frames that it decodes and submits; accelerator: of the accelerator alone.",
        "--fps-of",
        choices=RATES_OF,
        saved="fps_of",
        newer=True,
        older="accelerator",
    )
    max_latency_ms: float | None = option(
        None,
        "milliseconds that one frame alone may take, modelled.",
        "--max-latency MS",
        saved="max_latency_ms",
        newer=True,
    )
    max_energy_mj: float | None = option(
        None,
        "millijoules that a frame may take, by the powers that the board's file assumes.",
        "--max-energy MJ",
        saved="max_energy_mj",
        newer=True,
    )
    objectives: Iterable[Objective] = option(
        (),
        "what to look for besides frame rate: low latency of one frame alone, or low energy of a frame, by the powers "
        "that the board's file assumes. They share the budget. The targets are always frame rates; front.json has the "
        "fronts of latency and energy.",
        "--objective",
        choices=get_args(Objective)[1:],
        saved="objectives",
        newer=True,
    )

    def __post_init__(self) -> None:
        if self.fps_of not in RATES_OF:
            raise InvalidValueError(f"fps_of is {self.fps_of!r}; it must be one of {', '.join(RATES_OF)}")
        for one, details in about(type(self)):
            value = getattr(self, one.name)
            # Numbers without a default are checked where it is known.
            checked = isinstance(one.default, int) and not isinstance(one.default, bool)
            if checked and (not isinstance(value, int) or value < details.least):
                raise InvalidValueError(
                    f"{one.name} must be a whole number of at least {details.least}, not {value!r}"
                )
        if self.track and self.out is None:
            raise InvalidValueError("track logs into the folder of the search: give `out`")
        # An iterator is read once here, and the options are read for each board.
        values = {
            "fps": list(self.fps) if isinstance(self.fps, Iterator) else self.fps,
            "clocks": tuple(sorted(set(map(float, self.clocks)))),
            "objectives": further_objectives(self.objectives),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def designs(self, tables: Sequence[CostTable], scales: Sequence[float]) -> Designs:
        """Returns configurations with these limits of latency and energy."""
        return Designs(tables, scales, max_latency_ms=self.max_latency_ms, max_energy_mj=self.max_energy_mj)

    @property
    def explores(self) -> bool:
        """True if configurations are explored: each target has one of its own."""
        return self.configurations > 1 or bool(self.clocks)


@dataclass(frozen=True, repr=False)
class _OneBoard:
    space: StrPath | Space | None = None
    board: str | None = option(None, f"a board's name. [the one that `hardware` names, or {DEFAULT_BOARD}]")


@dataclass(frozen=True, repr=False)
class SearchOptions(Options, _OneBoard):
    """The options of `quasar_rt.search`."""

    _: KW_ONLY
    hardware: StrPath | None = option(
        None,
        "a hardware configuration, a TOML file. [searched for the space on the board]",
        "--hardware",
        path="file",
    )


@dataclass(frozen=True, repr=False)
class _Boards:
    boards: Iterable[str] = field(metadata=described("names of boards or paths of their files, each once."))


@dataclass(frozen=True, repr=False)
class BoardsOptions(Options, _Boards):
    """The options of `quasar_rt.nas.search_boards`."""
