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
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InfeasibleError, InvalidValueError
from ..space import Space
from ..tracking import Tracker, open_tracker
from .boards import NEAR_FASTEST, Modelled, other_boards
from .check import check_finalists
from .document import FORMAT, SearchOutcome, build_result
from .folder import Folder
from .nsga2 import Candidates, Search
from .record import PredictorFit, Record, Round
from .report import nondominated
from .result import Point, SearchResult
from .scorer import Progress, Proxy, Scorer, Scores, scores_of
from .settings import DEFAULT_SPACE, EFFORT, Settings, Strategy, frame_rates
from .yardstick import measure

if TYPE_CHECKING:
    from .supernet import Supernet

__all__ = ["Progress", "search"]


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
    if isinstance(space, (str, os.PathLike)):
        space = Space.load(space)
    for name, value in (("seed", seed), ("retrain", retrain)):
        if not isinstance(value, int) or value < 0:
            raise InvalidValueError(f"{name} must be a whole number of at least 0, not {value!r}")
    if track and out is None:
        raise InvalidValueError("track logs into the folder of the search: give `out`")
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
        effort = EFFORT["proxy" if source is None else "supernet"]
        modelled = Modelled.of(space, board, hardware)
        settings = Settings(
            board=modelled.board,
            fps=frame_rates(fps, modelled),
            seed=seed,
            population=effort.population if population is None else population,
            generations=effort.generations if generations is None else generations,
            strategy=strategy,
            retrain=retrain,
        )
        run = _Run(space, modelled, settings, source, progress or (lambda what, done, total: None))
        return run.finish(None if out is None else Path(out), track)
    finally:
        if source is not None:
            source.close()


@dataclass
class _Run:
    """Holds the inputs of one search and runs its steps."""

    space: Space
    modelled: Modelled
    settings: Settings
    supernet: Supernet | None
    progress: Progress
    trackers: list[Tracker] = field(default_factory=list)

    def finish(self, out: Path | None, track: Sequence[str]) -> SearchResult:
        """Runs the steps in order; writes the results to `out` in the first process."""
        writes = self.supernet is None or self.supernet.first
        scorer: Scorer = self.supernet or Proxy(self.space)
        identity = {
            "format": FORMAT,
            "quasar_rt": version("quasar-rt"),
            "space": self.space.name,
            "space_sha256": self.space.sha256,
            **dataclasses.asdict(self.settings),
            "hardware_sha256": self.modelled.sha256,
            **scorer.identity(),
        }
        # Raises for a target that no network reaches, so it precedes the folder.
        quickest = self.check_reach()
        loop = self.nsga2()
        with ExitStack() as stack:
            folder = Folder(out if writes else None, identity)
            stack.callback(folder.close)
            if out is not None and writes:
                for name in dict.fromkeys(track):
                    # A search that continues goes through all its generations again.
                    self.trackers.append(open_tracker(name, out, identity, from_start=True))
                    stack.callback(self.trackers[-1].close)
            if self.supernet is not None:
                self.supernet.folder = folder
            scored = self.evolve(loop, scorer, quickest)
            survivors, scores = self.survivors(scorer, scored)
            scoring = scorer.scoring(scorer.stages - 1)
            record = Record(len(scored), [Round(scorer.scoring(0).label, len(scored))])
            if scorer.stages > 1:
                record.rounds.append(Round(scoring.label, len(survivors)))
            record.predictor = self.predictor_fit(loop)
            record.yardstick, record.no_yardstick = measure(loop, self.modelled, scorer.kind, scored)
            others, record.boards_left_out = other_boards(self.space, self.modelled.board)
            boards = {self.modelled.board: self.modelled, **others}
            front = self.front(scored, survivors, scores, boards)
            if self.supernet is not None:
                record.images = self.supernet.images_used()
                front, record.correlations = check_finalists(
                    self.supernet, self.settings, self.modelled, front, out, self.progress
                )
            outcome = SearchOutcome(
                self.settings, scoring, identity, record, boards, scored, front, self.supernet
            )
            result = build_result(outcome, self.progress)
            self.track_targets(result)
            return result.save(out) if out is not None and writes else result

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

    def nsga2(self) -> Search:
        s = self.settings
        return Search(
            self.space,
            self.modelled.designs,
            population=s.population,
            generations=s.generations,
            targets=[self.modelled.closed_form_of(fps) for fps in s.fps],
            seed=s.seed,
            strategy=s.strategy,
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
        return Candidates(genomes, scores, self.modelled.fps(genomes), np.zeros(len(genomes)), self.space)

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

    def survivors(self, scorer: Scorer, scored: Candidates) -> tuple[NDArray[np.int64], Scores]:
        """Returns the indices of the networks that the last round scores, and those scores.

        All networks survive where there is one round.
        """
        if scorer.stages == 1:
            return np.arange(len(scored)), scored.scores
        points = list(zip(scored.fps.tolist(), scored.scores.tolist(), strict=True))
        kept: list[int] = []
        left = list(range(len(points)))
        # Whole fronts, the best first, until they hold as many networks as a generation.
        while left and len(kept) < self.settings.population:
            front = [left[i] for i in nondominated([points[j] for j in left])]
            kept += front
            left = sorted(set(left) - set(front))
        indices = np.array(sorted(kept), np.int64)
        return indices, scores_of(scorer, scored.genomes[indices], 1, self.progress)

    def predictor_fit(self, loop: Search) -> PredictorFit | None:
        """Returns how good the predictions of the model that guided the search were."""
        report = loop.guide_report()
        if report is None or not report.samples:
            return None
        tau = None if math.isnan(report.tau) else report.tau
        return PredictorFit(tau, report.rmse, report.samples, "each before its score was known")

    def front(
        self, scored: Candidates, indices: NDArray[np.int64], scores: Scores, boards: dict[str, Modelled]
    ) -> list[Point]:
        """Returns the networks that no other one beats, by falling FPS: event by event, if that is affordable."""
        board = self.modelled.board
        replayed = self.modelled.replayed_front(np.ascontiguousarray(scored.genomes[indices]), scores)
        if replayed is None:
            order = nondominated(list(zip(scored.fps[indices].tolist(), scores.tolist(), strict=True)))
        else:
            order = replayed[0]
        genomes = np.ascontiguousarray(scored.genomes[indices[order]])
        on = {name: board.on(genomes) for name, board in boards.items()}
        if replayed is not None:
            limit = self.modelled.table.host.limit
            on[board] = [
                one._replace(fps=fps, fps_with_host=limit(fps))
                for one, fps in zip(on[board], replayed[1].tolist(), strict=True)
            ]
        return [
            Point(
                number,
                tuple(genome.tolist()),
                self.space.decode(genome),
                float(scores[i]),
                {name: figures[number] for name, figures in on.items()},
            )
            for number, (i, genome) in enumerate(zip(order, genomes, strict=True))
        ]
