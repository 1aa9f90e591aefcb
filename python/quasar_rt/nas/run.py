"""The search, from a space and a board to the subnets for the target frame rates.

The order of a run: `search` reads the space, the board and the supernet; `boards` models the hardware; the search core
(in Rust) asks for scores and a scorer gives them (`supernet`, or the proxy); `yardstick` compares what was found with
the best front; the front is chosen by the scores on all search images; `check` runs finalists on the integer engine;
`document` exports and describes the selected subnets. Everything but the scores is quick and deterministic, so the
scores in the folder are the state of a search.

Depends on the rest of `quasar_rt.nas`; torch is imported only for a supernet.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InfeasibleError, InvalidValueError
from ..space import Space
from ..tracking import Tracker, open_tracker
from .boards import NEAR_FASTEST, Modelled, other_boards
from .check import check_finalists
from .configurations import explore, specialised
from .document import FORMAT, SearchOutcome, build_result
from .folder import Folder
from .nsga2 import Candidates, Search
from .objectives import Objective, further_objectives
from .record import PredictorFit, Record, Round
from .report import fronts, nondominated
from .result import Point, SearchResult
from .scorer import Progress, Proxy, Scorer, scores_of
from .settings import DEFAULT_SPACE, EFFORT, Limits, Settings, Strategy, frame_rates
from .yardstick import measure

if TYPE_CHECKING:
    from .supernet import Supernet

__all__ = ["Options", "Progress", "Run", "opened", "search"]

#: Rounds in which configurations are made for the targets' subnets, at most.
SPECIAL_ROUNDS = 3


def search(
    space: str | os.PathLike[str] | Space | None = None,
    board: str | None = None,
    fps: float | Iterable[float] | None = None,
    supernet: str | os.PathLike[str] | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    *,
    hardware: str | os.PathLike[str] | None = None,
    population: int | None = None,
    generations: int | None = None,
    data: str | os.PathLike[str] | None = None,
    strategy: Strategy = "guided",
    retrain: int = 0,
    test: bool = False,
    threads: int | None = None,
    device: str | None = None,
    workers: str | None = None,
    progress: Progress | None = None,
    embedding: bool = False,
    track: Sequence[str] = (),
    configurations: int = 1,
    clocks: Iterable[float] = (),
    max_latency_ms: float | None = None,
    max_energy_mj: float | None = None,
    objectives: Iterable[Objective] = (),
) -> SearchResult:
    """Searches a space for the subnets that are best at each modelled frame rate of a board.

    Args:
        space: a search space, its name or its TOML file; the supernet's, or ``"tiny"``, where None.
        board: a board's name; the one that `hardware` names, or ``"zcu102"``, where None.
        fps: one or several targets, modelled frames a second; where None, three within the space's reach.
        supernet: a checkpoint of ``quasar-rt train``, whose slices are scored. Without it the score is a proxy, not an
            accuracy, and the subnets have random weights.
        seed: the seed of all random choices. The same call gives the same result.
        out: a folder for the results and the state: a search that was stopped continues there. None writes nothing.
        hardware: a hardware configuration, a TOML file; where None, the one that the design-space search selects for
            the space on the board.
        population, generations: subnets of a generation, and generations; their product is the number of subnets that
            are scored.
        data: folder of the data set's files, where it is in no known place (with a supernet).
        strategy: ``"guided"``: a model that is fitted to the scores so far chooses what is scored next;
            ``"evolution"``: crossover and mutation alone (NSGA-II).
        retrain: epochs for which the subnets behind Kendall's tau are trained on their own as well; 0 leaves that out.
        test: score the finalists on the test images, not on held-out validation images.
        threads: CPU threads of scoring; all cores where None, and one for each of the `workers`.
        device: of a supernet: ``cpu``, ``cuda`` or ``cuda:N``; CUDA where there is any, where None.
        workers: of a cluster, which score a supernet's candidates: ``ray`` or ``ray:ADDRESS``. The result is that of
            one process. A worker that is lost is replaced, and its candidate scored again.
        progress: gets the name of the work, the amount that is done and the total.
        embedding: search subnets that also give the image's embedding (`Engine.embed`), which takes some cycles of a
            frame. A space's file may ask for it, too.
        track: logs each generation, the scored networks of a supernet and the targets to these
            (`quasar_rt.tracking.TRACKERS`); needs `out`.
        configurations: configurations of the accelerator (array, lanes, buffers) that are explored together with the
            networks, at most. With 1, all subnets share one bitstream. With more, each target has the configuration
            that suits its subnet: ``SPACE-BOARD-TARGETfps.toml`` beside the subnet.
        clocks: MHz of the kernels; the board's default where empty. Several are explored, and each target has the one
            on which its subnet has the rate with the least power (by the powers that the board's file assumes).
        max_latency_ms: milliseconds that one frame alone may take, modelled.
        max_energy_mj: millijoules that a frame may take, by the powers that the board's file assumes.
        objectives: what the search looks for besides frames a second: ``"latency"`` of one frame alone, ``"energy"`` of
            a frame, by the powers that the board's file assumes. They share the budget. The targets are always frame
            rates; ``result.document["fronts"]`` has the fronts of latency and energy.

    Returns:
        the front and, for each target, a `Subnet` that `Engine` takes.

    Raises:
        quasar_rt.QuasarError: an unknown board or space, a target that no subnet reaches (the message names the best
            that can be reached), a folder of another search, a supernet of another space, missing data.
        ImportError: `supernet` is given and torch is not installed.

    >>> import quasar_rt
    >>> result = quasar_rt.search("digits", population=20, generations=5)
    >>> [target.replayed_fps >= target.fps for target in result.targets]
    [True, True, True]
    >>> result.scoring.label
    'proxy score (not an accuracy)'
    """
    options = Options(
        fps,
        seed,
        population,
        generations,
        strategy,
        retrain,
        tuple(clocks),
        configurations,
        max_latency_ms,
        max_energy_mj,
        further_objectives(objectives),
    )
    if track and out is None:
        raise InvalidValueError("track logs into the folder of the search: give `out`")
    tell = progress or (lambda what, done, total: None)
    with opened(space, supernet, data, test, threads, device, workers, retrain, embedding) as (found, source):
        run = Run.of(found, source, options, board, hardware, tell)
        with run.started(None if out is None else Path(out), track):
            return run.finish()


@dataclass(frozen=True)
class Options:
    """The arguments of a search that its settings come from, as the caller gave them."""

    fps: float | Iterable[float] | None = None
    seed: int = 0
    population: int | None = None
    generations: int | None = None
    strategy: Strategy = "guided"
    retrain: int = 0
    clocks: tuple[float, ...] = ()
    configurations: int = 1
    max_latency_ms: float | None = None
    max_energy_mj: float | None = None
    objectives: tuple[Objective, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("retrain", 0), ("configurations", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InvalidValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


@contextmanager
def opened(
    space: str | os.PathLike[str] | Space | None,
    supernet: str | os.PathLike[str] | None,
    data: str | os.PathLike[str] | None,
    test: bool,
    threads: int | None,
    device: str | None,
    workers: str | None,
    retrain: int,
    embedding: bool,
) -> Iterator[tuple[Space, Supernet | None]]:
    """Opens the space and the supernet of a search, and closes the supernet."""
    if isinstance(space, (str, os.PathLike)):
        space = Space.load(space)
    source: Supernet | None = None
    if supernet is not None:
        if find_spec("torch") is None:
            raise ImportError("a supernet needs torch: pip install 'quasar-rt[host]'")
        from .supernet import Supernet

        source = Supernet(supernet, data, space, test, threads, device, workers)
        space = source.space
    elif data is not None or device is not None or workers is not None or retrain or test:
        raise InvalidValueError(
            "data, device, workers, retrain and test mean something with a supernet only: give one"
        )
    try:
        space = space or Space.load(DEFAULT_SPACE)
        if embedding:
            space = space.with_embedding()
        if source is not None:
            source.space = space
        yield space, source
    finally:
        if source is not None:
            source.close()


@dataclass
class Run:
    """Holds the inputs of one search and runs its steps."""

    space: Space
    modelled: Modelled
    settings: Settings
    supernet: Supernet | None
    progress: Progress
    trackers: list[Tracker] = field(default_factory=list)
    loop: Search = field(init=False)
    out: Path | None = field(init=False)
    identity: dict[str, Any] = field(init=False)
    folder: Folder = field(init=False)
    scored: Candidates = field(init=False)
    """Every scored network that fits, in the order of scoring, with the scores of the first round."""

    @classmethod
    def of(
        cls,
        space: Space,
        supernet: Supernet | None,
        options: Options,
        board: str | None,
        hardware: str | os.PathLike[str] | None,
        progress: Progress,
    ) -> Run:
        """Models the board and completes the settings."""
        o = options
        effort = EFFORT["proxy" if supernet is None else "supernet"]
        limits = Limits(o.max_latency_ms, o.max_energy_mj)
        if hardware is not None and (o.configurations > 1 or o.clocks):
            raise InvalidValueError(
                "a hardware configuration is given, so none is explored: leave configurations and clocks out"
            )
        if o.configurations > 1 or o.clocks:
            modelled = explore(space, board, o.clocks, o.configurations, limits, progress)
        else:
            one = Modelled.of(space, board, hardware)
            modelled = Modelled(limits.designs(one.designs.tables, one.designs.scales))
        settings = Settings(
            board=modelled.board,
            fps=frame_rates(o.fps, modelled),
            seed=o.seed,
            population=effort.population if o.population is None else o.population,
            generations=effort.generations if o.generations is None else o.generations,
            strategy=o.strategy,
            retrain=o.retrain,
            configurations=o.configurations,
            clocks_mhz=tuple(sorted(set(map(float, o.clocks)))),
            max_latency_ms=o.max_latency_ms,
            max_energy_mj=o.max_energy_mj,
            objectives=o.objectives,
        )
        return cls(space, modelled, settings, supernet, progress)

    @property
    def scorer(self) -> Scorer:
        """The source of the scores."""
        return self.supernet or Proxy(self.space)

    @contextmanager
    def started(
        self, out: Path | None, track: Sequence[str], others: Sequence[Folder] = ()
    ) -> Iterator[None]:
        """Scores networks; the search's folder and its logs are open in the block.

        Args:
            out: where the first process writes the results; None for nowhere.
            track: as in `search`.
            others: folders of other boards' searches, whose scores count here, too.
        """
        # Raises for a target that no network reaches, so it precedes the folder.
        quickest = self.check_reach()
        self.loop = self.nsga2()
        writes = self.supernet is None or self.supernet.first
        self.out = out if writes else None
        self.identity = {
            "format": FORMAT,
            "quasar_rt": version("quasar-rt"),
            "space": self.space.name,
            "space_sha256": self.space.sha256,
            **self.settings.to_dict(),
            "hardware_sha256": self.modelled.sha256,
            **self.scorer.identity(),
        }
        with ExitStack() as stack:
            self.folder = Folder(self.out, self.identity, others)
            stack.callback(self.folder.close)
            if self.out is not None:
                for name in dict.fromkeys(track):
                    # A search that continues goes through all its generations again.
                    self.trackers.append(open_tracker(name, self.out, self.identity, from_start=True))
                    stack.callback(self.trackers[-1].close)
            if self.supernet is not None:
                self.supernet.folder = self.folder
            self.scored = self.evolve(self.loop, self.scorer, quickest)
            yield

    def finish(self, more: Sequence[Candidates] = ()) -> SearchResult:
        """Chooses the front and the targets' subnets, and writes the results.

        Args:
            more: networks that searches for other boards have scored.
        """
        scorer = self.scorer
        if self.supernet is not None:
            self.supernet.folder = self.folder
        scored = self.specialise(self.pooled(more))
        survivors = self.survivors(scorer, scored)
        scoring = scorer.scoring(scorer.stages - 1)
        record = Record(len(scored), [Round(scorer.scoring(0).label, len(scored))])
        if scorer.stages > 1:
            record.rounds.append(Round(scoring.label, len(survivors)))
        record.predictor = self.predictor_fit(self.loop)
        record.yardstick, record.no_yardstick = measure(self.loop, self.modelled, scorer.kind, scored)
        self.measure_objectives(record, scorer.kind, scored)
        others, record.boards_left_out = other_boards(self.space, self.modelled.board)
        boards = {self.modelled.board: self.modelled, **others}
        front = self.front(survivors, boards)
        if self.supernet is not None:
            record.images = self.supernet.images_used()
            front, record.correlations = check_finalists(
                self.supernet, self.settings, self.modelled, front, self.out, self.progress
            )
        outcome = SearchOutcome(
            self.settings, scoring, self.identity, record, boards, scored, survivors, front, self.supernet
        )
        result = build_result(outcome, self.progress)
        self.track_targets(result)
        return result if self.out is None else result.save(self.out)

    def measure_objectives(self, record: Record, kind: str, scored: Candidates) -> None:
        """Records how close the fronts of the further objectives come to the best ones."""
        if not self.settings.objectives:
            return
        record.objectives, record.no_objectives = {}, {}
        for objective in self.settings.objectives:
            yardstick, reason = measure(self.loop, self.modelled, kind, scored, objective)
            if yardstick is None:
                record.no_objectives[objective] = str(reason)
            else:
                record.objectives[objective] = yardstick

    def pooled(self, more: Sequence[Candidates]) -> Candidates:
        """Returns the scored networks, and those that others have scored and that fit here."""
        genomes, scores = [self.scored.genomes], [self.scored.scores]
        for others in more:
            held = self.modelled.fits(others.genomes)
            genomes.append(others.genomes[held])
            scores.append(others.scores[held])
        every = np.concatenate(genomes)
        # Each network once, in the order of scoring.
        first = np.sort(np.unique(every, axis=0, return_index=True)[1])
        return self.costed(every[first], np.concatenate(scores)[first])

    def costed(self, genomes: NDArray[np.uint8], scores: NDArray[np.float64]) -> Candidates:
        """Returns scored networks that fit, with their frame rates."""
        genomes = np.ascontiguousarray(genomes)
        return Candidates(genomes, scores, self.modelled.fps(genomes), np.zeros(len(genomes)), self.space)

    def specialise(self, scored: Candidates) -> Candidates:
        """Adds a configuration for each target's best subnet so far, as long as that is faster than the others.

        A faster configuration may let a better subnet reach the target, which gets a configuration in turn.

        Returns:
            the scored networks with their frame rates on all configurations.
        """
        s = self.settings
        if s.configurations == 1:
            return scored
        for round_ in range(SPECIAL_ROUNDS):
            before = len(self.modelled.designs)
            for number, fps in enumerate(s.fps):
                reached = np.flatnonzero(scored.fps >= fps)
                if len(reached):
                    genome = scored.genomes[reached[scored.scores[reached].argmax()]]
                    self.modelled = specialised(self.modelled, genome, s.clocks_mhz, s.limits)
                done = round_ * len(s.fps) + number + 1
                self.progress("specialising configurations", done, SPECIAL_ROUNDS * len(s.fps))
            if len(self.modelled.designs) == before:
                break
            scored = self.costed(scored.genomes, scored.scores)
        self.progress("specialising configurations", SPECIAL_ROUNDS * len(s.fps), SPECIAL_ROUNDS * len(s.fps))
        return scored

    def check_reach(self) -> NDArray[np.uint8] | None:
        """Refuses targets that no network reaches.

        Returns:
            the network that is fastest event by event, where a target comes close to it; the search scores it in any
            case.
        """
        most = self.settings.fps[-1]
        if most < NEAR_FASTEST * self.modelled.fastest()[1]:
            return None
        genome, fastest = self.modelled.fastest_replayed()
        if most > fastest:
            raise InfeasibleError(
                f"no network of this space reaches {most:.15g} FPS on {self.modelled.board}: the fastest one is "
                f"modelled at {fastest:.1f} FPS, event by event"
            )
        return genome

    def drop_missed(self) -> dict[float, str]:
        """Takes targets that no network reaches out of the settings; returns them with the reasons.

        Raises:
            quasar_rt.InfeasibleError: no target is left.
        """
        missed: dict[float, str] = {}
        while True:
            try:
                self.check_reach()
                return missed
            except InfeasibleError as error:
                *rest, most = self.settings.fps
                if not rest:
                    raise
                missed[most] = str(error)
                self.settings = dataclasses.replace(self.settings, fps=rest)

    def nsga2(self) -> Search:
        """Starts the search core."""
        s = self.settings
        return Search(
            self.space,
            self.modelled.designs,
            population=s.population,
            generations=s.generations,
            targets=[self.modelled.closed_form_of(fps) for fps in s.fps],
            seed=s.seed,
            strategy=s.strategy,
            objectives=s.objectives,
        )

    def evolve(self, loop: Search, scorer: Scorer, also: NDArray[np.uint8] | None) -> Candidates:
        """Returns all scored networks that fit, in the order of their scoring, with the scores of the first round.

        The network `also` is scored after the others, unless it is among them.
        """
        logged = 0
        while len(genomes := loop.ask()):
            loop.tell(scores_of(scorer, genomes, 0, self.progress))
            self.progress("searching", loop.history()[-1].evaluations, self.settings.budget)
            logged = self.track_generations(loop, scorer, logged)
        every = loop.evaluated()
        fits = every.violations == 0
        genomes, scores = every.genomes[fits], every.scores[fits]
        if also is not None and not (genomes == also).all(axis=1).any():
            genomes = np.concatenate([genomes, also[None]])
            scores = np.append(scores, scores_of(scorer, also[None], 0, self.progress))
        return self.costed(genomes, scores)

    def track_generations(self, loop: Search, scorer: Scorer, logged: int) -> int:
        """Logs the generations after the first `logged` ones and, with a supernet, each network that they scored.

        Returns:
            the number of generations.
        """
        history = loop.history()
        if not self.trackers:
            return len(history)
        networks = loop.evaluated()
        for number, generation in enumerate(history[logged:], logged):
            values = {"evaluations": float(generation.evaluations), "hypervolume": generation.hypervolume}
            for fps, best in zip(self.settings.fps, generation.best, strict=True):
                if best is not None:
                    values[f"best_at_{fps:g}_fps"] = best
            self.log("search/generation", number + 1, values)
            if scorer.kind == "proxy":
                continue  # thousands of networks, and no accuracies
            for i in range(history[number - 1].evaluations if number else 0, generation.evaluations):
                self.log("search/network", i + 1, {"score": networks[i].score, "fps": networks[i].fps})
        return len(history)

    def track_targets(self, result: SearchResult) -> None:
        """Logs what was found for each target."""
        for number, target in enumerate(result.targets, 1):
            values = {"target_fps": target.fps, "fps": target.replayed_fps, "score": target.point.score}
            if target.point.integer is not None:
                values["integer_top1"] = target.point.integer.top1
            self.log("search/target", number, values)

    def log(self, group: str, count: int, values: dict[str, float]) -> None:
        """Gives metrics to the trackers."""
        for tracker in self.trackers:
            tracker.scalars(group, count, values)

    def survivors(self, scorer: Scorer, scored: Candidates) -> Candidates:
        """Returns the networks that the last round scores, with its scores; all of them where there is one round.

        Whole fronts, the best first, until they fill a generation: of each objective, by scores and by the guide's
        estimates, in turn.
        """
        if scorer.stages == 1:
            return scored
        every = [scored.scores, self.loop.estimates(scored.genomes)]
        orders = [
            fronts(list(zip(self.modelled.rates_by(scored.genomes, objective).tolist(), scores, strict=True)))
            for scores in (one.tolist() for one in every if one is not None)
            for objective in ("fps", *self.settings.objectives)
        ]
        kept: set[int] = set()
        for front in chain.from_iterable(zip_longest(*orders, fillvalue=())):
            if len(kept) >= self.settings.population:
                break
            kept.update(front)
        genomes = scored.genomes[sorted(kept)]
        return self.costed(genomes, scores_of(scorer, genomes, 1, self.progress))

    def predictor_fit(self, loop: Search) -> PredictorFit | None:
        """Returns how good the predictions of the model that guided the search were."""
        report = loop.guide_report()
        if report is None or not report.samples:
            return None
        tau = None if math.isnan(report.tau) else report.tau
        return PredictorFit(tau, report.rmse, report.samples, "each before its score was known")

    def front(self, networks: Candidates, boards: dict[str, Modelled]) -> list[Point]:
        """Returns the networks that no other one beats, by falling FPS: event by event, if that is affordable."""
        replayed = self.modelled.replayed_front(networks.genomes, networks.scores)
        order = (
            nondominated(list(zip(networks.fps.tolist(), networks.scores.tolist(), strict=True)))
            if replayed is None
            else replayed
        )
        genomes = np.ascontiguousarray(networks.genomes[order])
        on = {name: one.on(genomes) for name, one in boards.items()}
        if replayed is not None:
            on[self.modelled.board] = self.modelled.replayed_on(genomes)
        return [
            Point(
                number,
                tuple(genome.tolist()),
                self.space.decode(genome),
                float(networks.scores[i]),
                {name: figures[number] for name, figures in on.items()},
            )
            for number, (i, genome) in enumerate(zip(order, genomes, strict=True))
        ]
