"""The search, from a space and a board to the subnets for the wished frame rates.

The order of a run: `search` reads the space, the board and the supernet; `boards` models the hardware; NSGA-II (in
Rust) asks for scores and a scorer gives them (`supernet`, or the proxy); the front is drawn up on all search images;
the subnets for the targets are exported, run on the integer engine and described in `result`. Everything but the scores
is quick and deterministic, so the scores in the folder are the state of a search.

Depends on the rest of `quasar_rt.nas`; torch is imported only for a supernet.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidValueError
from ..space import Space
from ..subnet import Subnet
from .boards import Modelled, Parts, other_boards
from .folder import Folder
from .layers import untrained_subnet
from .nsga2 import Candidates, Search
from .report import file_name, nondominated
from .result import Integer, Point, Scoring, SearchResult, Target
from .scores import Predictor, proxy_scores
from .stats import kendall_tau

if TYPE_CHECKING:
    from .supernet import Supernet

__all__ = ["Progress", "search"]

Genomes = NDArray[np.uint8]
Scores = NDArray[np.float64]
T = TypeVar("T")
#: Told what is being done (in words for people), how much of it is done and how much there is.
Progress = Callable[[str, int, int], None]

#: NSGA-II's population and generations by the kind of score: a proxy costs microseconds, a supernet's score seconds.
EFFORT = {"proxy": (200, 100), "supernet": (32, 20)}
#: Targets where none are given: at these shares of the way from the slowest subnet to the fastest.
DEFAULT_TARGETS = (0.25, 0.5, 0.75)
#: With a predictor, candidates for each place of a generation.
OVERSAMPLE = 8
#: Front points that are run on the integer engine for each target, at most.
FINALISTS = 3
#: Random subnets beside them for Kendall's tau.
SAMPLE = 16
#: Scored subnets that the page and the picture show, at most.
CLOUD_LIMIT = 4000
#: Subnets of the front that the page shows, beside the targets'; front.json has all.
PAGE_LIMIT = 150
#: Of search.json and front.json.
FORMAT = 1


class Scorer(Protocol):
    """Gives scores; larger is better."""

    kind: str

    @property
    def stages(self) -> int:
        """Rounds of scoring, each on more images than the one before."""

    def identity(self) -> dict[str, Any]:
        """What the scores depend on, as JSON."""

    def scoring(self, stage: int) -> Scoring:
        """What the scores of a round are."""

    def score(self, genomes: Genomes, stage: int, progress: Progress) -> Scores:
        """The scores of distinct canonical genomes."""


class Proxy:
    """A score from the architecture alone, for searches without a supernet."""

    kind = "proxy"
    stages = 1

    def __init__(self, space: Space) -> None:
        self._space = space

    def identity(self) -> dict[str, Any]:
        """The proxy has no settings."""
        return {"score": "proxy"}

    def scoring(self, stage: int) -> Scoring:
        """Plainly no accuracy."""
        label = "proxy score (not an accuracy)"
        return Scoring("proxy", label, "proxy score", "proxy_score_not_an_accuracy", False)

    def score(self, genomes: Genomes, stage: int, progress: Progress) -> Scores:
        """Microseconds each."""
        return proxy_scores(self._space, genomes)


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
    predictor: bool = False,
    retrain: int = 0,
    test: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Search a space for the subnets that are best at each modelled frame rate of a board.

    Args:
        space: a search space, its name or its TOML file; the supernet's, or ``"tiny"``, where None.
        board: a board's name; the one that `hardware` names, or ``"zcu102"``, where None.
        fps: one or several targets, modelled frames a second; where None, three within the space's reach.
        supernet: a checkpoint of ``tools/train.py``, whose slices are scored. Without it the score is a proxy, not an
            accuracy, and the subnets have random weights.
        seed: of everything random. The same call gives the same result.
        out: a folder for the results and the state: a search that was stopped goes on there. None writes nothing.
        hardware: a hardware configuration, a TOML file; where None, the one that the design-space search picks for the
            space on the board.
        population, generations: of NSGA-II.
        data: folder of the data set's files, where it is in no known place (with a supernet).
        predictor: let a predictor, fitted to the supernet's scores, choose what the supernet scores next.
        retrain: epochs for which the subnets behind Kendall's tau are trained on their own as well; 0 leaves that out.
        test: score the finalists on the test images, not on held-out validation images.
        threads: CPU threads of scoring; all cores where None.
        progress: told how far the work is.

    Returns:
        the front and, for each target, a `Subnet` that `Engine` takes.

    Raises:
        quasar_rt.QuasarError: an unknown board or space, a target that no subnet reaches (the message names the best
            that can be reached), a folder of another search, a supernet of another space, missing data.
        ImportError: `supernet` is given and torch is not installed.

    >>> import quasar_rt
    >>> result = quasar_rt.search("digits", population=20, generations=5)
    >>> [target.point.modelled["zcu102"].fps >= target.fps for target in result.targets]
    [True, True, True]
    >>> result.scoring.label
    'proxy score (not an accuracy)'
    """
    if isinstance(space, (str, os.PathLike)):
        space = Space.load(space)
    for name, value in (("seed", seed), ("retrain", retrain)):
        if not isinstance(value, int) or value < 0:
            raise InvalidValueError(f"{name} must be a whole number of at least 0, not {value!r}")
    source: Supernet | None = None
    if supernet is not None:
        if find_spec("torch") is None:
            raise ImportError("a supernet needs torch: pip install 'quasar-rt[host]'")
        from .supernet import Supernet

        source = Supernet(supernet, data, space, test, threads)
        space = source.space
    elif data is not None or predictor or retrain or test:
        raise InvalidValueError(
            "data, predictor, retrain and test mean something with a supernet only: give one"
        )
    try:
        space = space or Space.load("tiny")
        effort = EFFORT["proxy" if source is None else "supernet"]
        modelled = Modelled.of(space, board, hardware)
        settings = {
            "board": modelled.board,
            "fps": _targets(fps, modelled),
            "seed": seed,
            "population": effort[0] if population is None else population,
            "generations": effort[1] if generations is None else generations,
            "predictor": predictor,
            "retrain": retrain,
        }
        run = _Run(space, modelled, settings, source, progress or (lambda what, done, total: None))
        return run.finish(None if out is None else Path(out))
    finally:
        if source is not None:
            source.close()


def _targets(fps: float | Iterable[float] | None, modelled: Modelled) -> list[float]:
    if fps is None:
        slow, quick = modelled.table.slowest()[1], modelled.table.fastest()[1]
        return sorted({_two_digits(slow + share * (quick - slow)) for share in DEFAULT_TARGETS})
    try:
        given = [float(value) for value in cast(Iterable[float], [fps] if np.isscalar(fps) else fps)]
    except (TypeError, ValueError, OverflowError):
        raise InvalidValueError(f"fps must be a number or several, not {fps!r}") from None
    if not given or not all(math.isfinite(value) and value > 0 for value in given):
        raise InvalidValueError(f"fps must be positive numbers, at least one, not {given}")
    return sorted(set(given))


def _plain(fps: float) -> str:
    """As short as it can be without two targets having one name."""
    short = f"{fps:g}"
    return short if float(short) == fps else repr(fps)


def _two_digits(value: float) -> float:
    """Down to two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / unit) * unit:.6g}")


@dataclass
class _Run:
    """One search: what it is of, and its steps."""

    space: Space
    modelled: Modelled
    settings: dict[str, Any]
    supernet: Supernet | None
    report: Progress

    def finish(self, out: Path | None) -> SearchResult:
        writes = self.supernet is None or self.supernet.first
        scorer: Scorer = self.supernet or Proxy(self.space)
        identity = {
            "format": FORMAT,
            "quasar_rt": version("quasar-rt"),
            "space": self.space.name,
            "space_sha256": self.space.sha256,
            **self.settings,
            "hardware_sha256": self.modelled.sha256,
            **scorer.identity(),
        }
        s = self.settings
        loop = Search(
            self.space,
            self.modelled.table,
            population=s["population"],
            generations=s["generations"],
            targets=s["fps"],
            seed=s["seed"],
            oversample=OVERSAMPLE if s["predictor"] else 1,
        )
        folder = Folder(out if writes else None, identity)
        try:
            if self.supernet is not None:
                self.supernet.folder = folder
            scored = self.evolve(loop, scorer)
            chosen, scores = self.survivors(scorer, scored)
            scoring = scorer.scoring(scorer.stages - 1)
            record: dict[str, Any] = {
                "scored": len(scored),
                "rounds": [{"score": scorer.scoring(0).label, "subnets": len(scored)}],
            }
            if scorer.stages > 1:
                record["rounds"].append({"score": scoring.label, "subnets": len(chosen)})
            if s["predictor"]:
                record["predictor"] = self.predicted(scored)
            others, record["boards_left_out"] = other_boards(self.space, self.modelled.board)
            boards = {self.modelled.board: self.modelled, **others}
            front = self.front(scored, chosen, scores, boards)
            if self.supernet is not None:
                record["images"] = self.supernet.images_used()
                record["correlations"] = self.check(self.supernet, front, out)
            result = self.result(front, scoring, identity, record, boards, scored)
            return result.save(out) if out is not None and writes else result
        finally:
            folder.close()

    def evolve(self, loop: Search, scorer: Scorer) -> Candidates:
        """All scored networks that fit, in the order of their scoring, with the scores of the first round."""
        budget = self.settings["population"] * self.settings["generations"]
        while len(genomes := loop.ask()):
            loop.tell(self.scores(scorer, genomes, 0))
            self.report("searching", loop.history()[-1].evaluations, budget)
        found = loop.evaluated()
        fits = found.violations == 0
        return Candidates(
            found.genomes[fits], found.scores[fits], found.fps[fits], found.violations[fits], self.space
        )

    def told(self, what: str, genomes: Genomes, work: Callable[[Progress], T]) -> T:
        """What `work` gives; its progress over the genomes is reported in the words `what`, and so is its end."""
        found = work(lambda _, done, total: self.report(what, done, total))
        self.report(what, len(genomes), len(genomes))
        return found

    def scores(self, scorer: Scorer, genomes: Genomes, stage: int) -> Scores:
        """The scorer's scores of a round."""
        if self.supernet is None:  # no time to speak of
            return scorer.score(genomes, stage, self.report)
        what = "scoring on more images" if stage else "scoring on the supernet"
        return self.told(what, genomes, lambda report: scorer.score(genomes, stage, report))

    def survivors(self, scorer: Scorer, scored: Candidates) -> tuple[NDArray[np.int64], Scores]:
        """Which networks the last round scores, and those scores; all of them where there is one round."""
        chosen, scores = np.arange(len(scored)), scored.scores
        for stage in range(1, scorer.stages):
            points = list(zip(scored.fps.tolist(), scores.tolist(), strict=True))
            kept: list[int] = []
            left = list(range(len(chosen)))
            # The first fronts, whole, until they hold as many as a generation.
            while left and len(kept) < self.settings["population"]:
                front = [left[i] for i in nondominated([points[j] for j in left])]
                kept += front
                left = sorted(set(left) - set(front))
            chosen = chosen[sorted(kept)]
            scores = self.scores(scorer, scored.genomes[chosen], stage)
        return chosen, scores

    def predicted(self, scored: Candidates) -> dict[str, Any]:
        """How well the predictor does on scores that it has not seen."""
        if len(scored) < 10:
            return {"tau_b": None, "rmse": None, "samples": len(scored), "validation": "too few samples"}
        fitted = Predictor.fit(self.space, scored.genomes, scored.scores, seed=self.settings["seed"])
        tau = None if math.isnan(fitted.tau) else fitted.tau
        return {"tau_b": tau, "rmse": fitted.rmse, "samples": fitted.samples, "validation": "5-fold"}

    def front(
        self, scored: Candidates, chosen: NDArray[np.int64], scores: Scores, boards: dict[str, Modelled]
    ) -> list[Point]:
        order = nondominated(list(zip(scored.fps[chosen].tolist(), scores.tolist(), strict=True)))
        genomes = np.ascontiguousarray(scored.genomes[chosen[order]])
        on = {name: board.on(genomes) for name, board in boards.items()}
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

    def parts(self, front: list[Point], targets: list[Target], boards: dict[str, Modelled]) -> Parts:
        """The layers of the points that the page shows: the targets', and others evenly along the front."""
        even = np.linspace(0, len(front) - 1, min(len(front), PAGE_LIMIT)).round().astype(int)
        shown = sorted({*even.tolist(), *(target.point.id for target in targets)})
        parts = Parts()
        for number, i in enumerate(shown, 1):
            architecture = front[i].architecture
            parts.add(i, {name: board.estimate(architecture) for name, board in boards.items()})
            self.report("reading layers", number, len(shown))
        return parts

    def reaching(self, front: list[Point], fps: float) -> list[Point]:
        """The points that reach a target, the best score first."""
        return sorted(
            (p for p in front if p.modelled[self.modelled.board].fps >= fps), key=lambda p: (-p.score, p.id)
        )

    def check(self, supernet: Supernet, front: list[Point], out: Path | None) -> list[dict[str, Any]]:
        """Run the finalists on the integer engine; compare them and a random sample with the supernet's scores."""
        seed = self.settings["seed"]
        ids = sorted({p.id for fps in self.settings["fps"] for p in self.reaching(front, fps)[:FINALISTS]})
        finalists = [front[i].genome for i in ids]
        draws = [self.space.encode(self.space.sample(seed, _SAMPLE_STREAM, k)) for k in range(SAMPLE)]
        drawn = sorted({tuple(genome.tolist()) for genome in draws} - set(finalists))
        nets = np.array([*finalists, *drawn], np.uint8)
        scores = self.scores(supernet, nets, supernet.stages - 1)
        integer = self.told(
            "running finalists on the integer engine", nets, lambda report: supernet.integer(nets, report)
        )
        for i, found in zip(ids, integer, strict=False):
            front[i] = dataclasses.replace(front[i], integer=found)
        against = {"the exported subnets' on the integer engine": integer}
        if epochs := self.settings["retrain"]:
            folder = None if out is None else out / "retrained"
            what = (
                f"those of the same networks trained on their own for {epochs} epochs, on the integer engine"
            )
            against[what] = self.told(
                "training on their own", nets, lambda report: supernet.retrained(nets, epochs, folder, report)
            )
        return [self.correlation(what, nets, scores, found, len(ids)) for what, found in against.items()]

    def correlation(
        self, what: str, nets: Genomes, scores: Scores, found: list[Integer], finalists: int
    ) -> dict[str, Any]:
        """Kendall's tau-b between the supernet's scores and others of the same networks."""
        top1 = [one.top1 for one in found]
        tau = kendall_tau(scores, top1, seed=self.settings["seed"])
        figures = {"tau_b": tau.tau, "low": tau.low, "high": tau.high, "p_value": tau.p_value}
        return {
            "against": what,
            "images": f"{found[0].images:,} {found[0].split}",
            **{key: None if math.isnan(value) else value for key, value in figures.items()},
            "confidence": 0.95,
            "interval": "percentile bootstrap over the subnets",
            "subnets": len(nets),
            "finalists": finalists,
            "pairs": [
                {"genome": genome.tolist(), "supernet": float(score), "stand_alone": value}
                for genome, score, value in zip(nets, scores, top1, strict=True)
            ],
        }

    def result(
        self,
        front: list[Point],
        scoring: Scoring,
        identity: dict[str, Any],
        record: dict[str, Any],
        boards: dict[str, Modelled],
        scored: Candidates,
    ) -> SearchResult:
        board, targets = self.modelled.board, []
        for number, fps in enumerate(self.settings["fps"], 1):
            point = self.reaching(front, fps)[0]
            name = f"{file_name(self.space.name)}-{file_name(board)}-{_plain(fps)}fps"
            subnet = self.subnet(point, fps, name, scoring, identity, record)
            targets.append(Target(fps, point, f"{name}.qvit", subnet))
            self.report("exporting the subnets", number, len(self.settings["fps"]))
        document = {
            "format": FORMAT,
            "quasar_rt": identity["quasar_rt"],
            "score": scoring._asdict(),
            "settings": self.settings,
            "space": {"name": self.space.name, "sha256": self.space.sha256, "toml": self.space.to_toml()},
            "supernet_sha256": identity.get("supernet_sha256"),
            "boards": {name: one.to_dict() for name, one in boards.items()},
            "search": record,
            "targets": [{"fps": t.fps, "point": t.point.id, "file": t.file} for t in targets],
            "front": [point.to_dict(self.space, scoring) for point in front],
        }
        shown = np.unique(
            np.linspace(0, len(scored) - 1, min(len(scored), CLOUD_LIMIT)).round().astype(np.int64)
        )
        genomes = np.ascontiguousarray(scored.genomes[shown])
        cloud = {
            "score": [float(f"{score:.6g}") for score in scored.scores[shown]],
            "fps": {name: [float(f"{fps:.6g}") for fps in one.fps(genomes)] for name, one in boards.items()},
        }
        layers = self.parts(front, targets, boards).to_dict()
        notes = tuple(self.notes(scoring, record))
        return SearchResult(
            board, self.space, scoring, tuple(front), tuple(targets), document, None, cloud, layers, notes
        )

    def subnet(
        self,
        point: Point,
        fps: float,
        name: str,
        scoring: Scoring,
        identity: dict[str, Any],
        record: dict[str, Any],
    ) -> Subnet:
        """The point's network, with the record of its search in the configuration."""
        search = {
            "board": self.modelled.board,
            "hardware": self.modelled.to_dict(),
            "target_fps": fps,
            "modelled": point.modelled[self.modelled.board]._asdict(),
            "genome": list(point.genome),
            "architecture": point.architecture.to_dict(),
            "score": point.score,
            "score_kind": scoring.label,
            "integer": None if point.integer is None else point.integer._asdict(),
            "seed": self.settings["seed"],
            "settings": identity,
        }
        if self.supernet is None:
            return untrained_subnet(
                self.space, point.architecture, self.settings["seed"], name, {"search": search}
            )
        search["images"] = record["images"]
        provenance = {"search": search, "recipe": self.supernet.recipe.as_dict()}
        return self.supernet.subnet(point.architecture, name, provenance)

    def notes(self, scoring: Scoring, record: dict[str, Any]) -> list[str]:
        """How the search was made, in sentences."""
        s, host = self.settings, self.modelled.table.host
        lines = [
            f"NSGA-II, population {s['population']}, {s['generations']} generations, seed {s['seed']}: "
            f"{record['scored']:,} subnets of the space {self.space.name} were scored; their frame rates are modelled "
            f"for {self.modelled.label}. A target's subnet is, of those whose modelled FPS reach it, the one with the "
            "best score."
        ]
        if host.fps < s["fps"][-1]:
            lines.append(
                f"The board's processor is modelled at {host.fps:,.0f} frames a second where it decodes and resizes "
                f"pictures of {host.source_pixels:,} pixels; targets beyond that need frames that come ready."
            )
        lines += [f"No figures for {name}: {reason}." for name, reason in record["boards_left_out"].items()]
        if self.supernet is None:
            lines.append(
                f"Scores are a {scoring.label}, made from the architecture alone; weights are random."
            )
            return lines
        images = record["images"]
        lines.append(
            f"Scores are top-1 of the supernet's slices, activation ranges set anew for each on {images['calibration']}"
            ". " + " ".join(f"{r['subnets']:,} subnets: {r['score']}." for r in record["rounds"])
        )
        test = "were read for the finalists" if images["test_images_read"] else "were not read"
        lines.append(
            f"Data: {images['data']}. Search: {images['search']}; finalists on the integer engine: "
            f"{images['finalists']}. Test images {test}. The front's scores are the best of many and a little "
            "flattering for that; the integer figures are on other images."
        )
        if "predictor" in record:
            tau, samples = record["predictor"]["tau_b"], record["predictor"]["samples"]
            found = "not defined" if tau is None else f"{tau:.2f}"
            lines.append(
                f"A predictor fitted to the scores chose among candidates: Kendall's tau-b {found} on scores left out "
                f"of the fit (5-fold, {samples} samples)."
            )
        lines += map(sentence, record["correlations"])
        return lines


#: Keeps the draws for Kendall's tau apart from all others of the seed.
_SAMPLE_STREAM = 0x7461755F62


def sentence(correlation: dict[str, Any]) -> str:
    """Kendall's tau in words."""
    c = correlation
    if c["tau_b"] is None:
        return f"Kendall's tau-b between the supernet's scores and {c['against']}: not defined, all scores are equal."
    return (
        f"Kendall's tau-b between the supernet's scores and {c['against']} ({c['images']}): {c['tau_b']:.2f}, "
        f"{c['confidence']:.0%} interval {c['low']:.2f} to {c['high']:.2f}, p = {c['p_value']:.2g}, over "
        f"{c['subnets']} subnets ({c['finalists']} finalists, the others drawn at random)."
    )
