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
from collections.abc import Iterator, Sequence
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
from ..options import StrPath, takes
from ..space import Space
from ..tracking import Tracker, open_tracker
from .boards import NEAR_FASTEST, Modelled, other_boards
from .check import check_finalists
from .configurations import explore, specialised
from .document import FORMAT, SearchOutcome, build_result
from .folder import Folder
from .nsga2 import Candidates, Search
from .options import DEFAULT_SPACE, Options, SearchOptions
from .record import PredictorFit, Record, Round
from .report import fronts, nondominated
from .result import OnBoard, Point, SearchResult
from .scorer import Progress, Proxy, Scorer, scores_of
from .settings import Settings
from .yardstick import measure

if TYPE_CHECKING:
    from .supernet import Supernet

__all__ = ["Progress", "Run", "opened", "search"]

#: Rounds in which configurations are made for the targets' subnets, at most.
SPECIAL_ROUNDS = 3


@takes(SearchOptions)
def search(options: SearchOptions) -> SearchResult:
    """Searches a space for the subnets that are best at each modelled frame rate of a board.

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
    with opened(options) as (space, supernet):
        run = Run.of(space, supernet, options, options.board, options.hardware)
        with run.started(options.out):
            return run.finish()


@contextmanager
def opened(options: Options) -> Iterator[tuple[Space, Supernet | None]]:
    """Opens the space and the supernet of a search, and closes the supernet."""
    o, space = options, options.space
    if isinstance(space, (str, os.PathLike)):
        space = Space.load(space)
    source: Supernet | None = None
    if o.supernet is not None:
        if find_spec("torch") is None:
            raise ImportError("a supernet needs torch: pip install 'quasar-rt[host]'")
        from .supernet import Supernet

        source = Supernet(options, space)
        space = source.space
    elif o.data is not None or o.device is not None or o.workers is not None or o.retrain or o.test:
        raise InvalidValueError(
            "data, device, workers, retrain and test mean something with a supernet only: give one"
        )
    try:
        space = space or Space.load(DEFAULT_SPACE)
        if o.embedding:
            space = space.with_embedding()
        if source is not None:
            source.space = space
        yield space, source
    finally:
        if source is not None:
            source.close()


def _other_reading(modelled: Modelled, on: OnBoard) -> str:
    """Returns what a frame rate is of, and the rate by the other reading, in words."""
    if modelled.fps_of == "accelerator":
        return f"of the accelerator alone ({on.fps_with_host:.1f} with the board's processor)"
    host = modelled.designs.tables[on.configuration].host.fps
    return (
        f"with the board's processor, which serves at most {host:.1f}; its accelerator alone makes {on.fps:.1f}; "
        "ask for that with --fps-of accelerator"
    )


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
        hardware: StrPath | None = None,
        name: str = "",
    ) -> Run:
        """Models the board and completes the settings; `name` comes before the progress of one of several boards."""
        report = options.progress or (lambda what, done, total: None)
        progress: Progress = (
            (lambda what, done, total: report(f"{name}: {what}", done, total)) if name else report
        )
        if hardware is not None and options.explores:
            raise InvalidValueError(
                "a hardware configuration is given, so none is explored: leave configurations and clocks out"
            )
        if options.explores:
            modelled = explore(space, board, options, progress)
        else:
            one = Modelled.of(space, board, hardware, options.fps_of)
            modelled = Modelled(options.designs(one.designs.tables, one.designs.scales), options.fps_of)
        settings = Settings.of(options, modelled, "proxy" if supernet is None else "supernet")
        return cls(space, modelled, settings, supernet, progress)

    @property
    def scorer(self) -> Scorer:
        """The source of the scores."""
        return self.supernet or Proxy(self.space)

    @contextmanager
    def started(self, out: StrPath | None, others: Sequence[Folder] = ()) -> Iterator[None]:
        """Scores networks; the search's folder and its logs are open in the block.

        Args:
            out: where the first process writes the results; None for nowhere.
            others: folders of other boards' searches, whose scores count here, too.
        """
        # Raises for a target that no network reaches, so it precedes the folder.
        self.progress("modelling the board", 0, 2)
        quickest = self.check_reach()
        self.progress("modelling the board", 1, 2)
        self.loop = self.nsga2()
        self.progress("modelling the board", 2, 2)
        writes = self.supernet is None or self.supernet.first
        self.out = Path(out) if out is not None and writes else None
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
                for name in dict.fromkeys(self.settings.options.track):
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
        others, record.boards_left_out = other_boards(self.modelled, self.progress)
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
        if s.options.configurations == 1:
            return scored
        for round_ in range(SPECIAL_ROUNDS):
            before = len(self.modelled.designs)
            for number, fps in enumerate(s.fps):
                reached = np.flatnonzero(self.modelled.closed(scored.genomes) >= fps)
                if len(reached):
                    genome = scored.genomes[reached[scored.scores[reached].argmax()]]
                    self.modelled = specialised(self.modelled, genome, s.options)
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
        most, modelled = self.settings.fps[-1], self.modelled
        if most < NEAR_FASTEST * modelled.closed(modelled.fastest()[0][None])[0]:
            return None
        genome, fastest = modelled.fastest_replayed()
        if most > fastest:
            [on] = modelled.replayed_on(genome[None])
            raise InfeasibleError(
                f"no network of this space reaches {most:.15g} FPS on {modelled.board}: the fastest one is modelled "
                f"at {fastest:.1f} FPS, event by event, {_other_reading(modelled, on)}"
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
            seed=s.options.seed,
            strategy=s.options.strategy,
            objectives=s.objectives,
        )

    def evolve(self, loop: Search, scorer: Scorer, also: NDArray[np.uint8] | None) -> Candidates:
        """Returns all scored networks that fit, in the order of their scoring, with the scores of the first round.

        The network `also` is scored after the others, unless it is among them.
        """
        logged = done = 0

        def report(_: str, more: int, total: int) -> None:
            # A generation's candidates count as parts of the whole search, or its end would look near.
            self.progress("searching", done + more, self.settings.budget)

        report("", 0, 0)
        while len(genomes := loop.ask()):
            loop.tell(scores_of(scorer, genomes, 0, report))
            done = loop.history()[-1].evaluations
            report("", 0, 0)
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
            values = {
                "target_fps": target.fps,
                "fps": target.replayed_fps,
                "fps_with_host": target.replayed_fps_with_host,
                "score": target.point.score,
            }
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
            nondominated(
                list(
                    zip(
                        self.modelled.closed(networks.genomes).tolist(), networks.scores.tolist(), strict=True
                    )
                )
            )
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
