"""The search itself: for high modelled FPS and high scores of a space's networks on one hardware configuration.

All of it runs in Rust (``rust/search/src/``); this module checks arguments and names things.
``docs/search-core.md`` describes the algorithm and its guarantees. Depends on `space`, `hardware`, the native module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._native import Search as NativeSearch
from .._native import proxy_scores
from ..errors import InvalidValueError
from ..hardware import CostTable, Designs
from ..space import Architecture, Space
from .best_front import BestFront
from .objectives import Objective, further_objectives
from .options import EFFORT, Strategy
from .scores import as_genomes, as_numbers

__all__ = ["Candidate", "Candidates", "Generation", "GuideReport", "Search"]

#: Scores of canonical genomes: takes uint8 [n, genes], gives n finite numbers.
Scorer: TypeAlias = Callable[[NDArray[np.uint8]], ArrayLike]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One evaluated network."""

    genome: NDArray[np.uint8]
    """Its canonical genome, uint8 [genes]."""
    score: float
    """Its score: an accuracy, a predicted one, or a proxy score."""
    fps: float
    """Modelled frames a second."""
    fits: bool
    """True if the hardware's buffers hold it."""
    space: Space

    @property
    def architecture(self) -> Architecture:
        """The network."""
        return self.space.decode(self.genome)


@dataclass(frozen=True, eq=False)
class Candidates(Sequence[Candidate]):
    """Evaluated networks as columns; indexing gives a `Candidate`."""

    genomes: NDArray[np.uint8]
    """uint8 [n, genes], canonical."""
    scores: NDArray[np.float64]
    """float64 [n]."""
    fps: NDArray[np.float64]
    """float64 [n], modelled."""
    violations: NDArray[np.float64]
    """float64 [n]; 0 where the network fits the hardware."""
    space: Space

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int) -> Candidate:  # type: ignore[override]
        return Candidate(
            self.genomes[index],
            float(self.scores[index]),
            float(self.fps[index]),
            bool(self.violations[index] == 0),
            self.space,
        )

    def __iter__(self) -> Iterator[Candidate]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<Candidates: {len(self)} networks of {self.space.name!r}>"


@dataclass(frozen=True)
class Generation:
    """A search after one of its generations."""

    evaluations: int
    """Networks evaluated so far."""
    hypervolume: float
    """Area that their front dominates, above the slowest FPS and the lowest score of the first generation."""
    best: tuple[float | None, ...]
    """For each target, the best score so far at that FPS or more."""


@dataclass(frozen=True)
class GuideReport:
    """The quality of a guided search's predictions, each made before the score was known."""

    tau: float
    """Kendall's tau-b of predicted and given scores; NaN where either is constant."""
    rmse: float
    """Root of the mean squared error, in the unit of the scores."""
    samples: int


class Search:
    """Searches for high modelled FPS and high scores, several frame-rate targets at once.

    A guided search fits a smooth model to the scores so far and scores the networks that promise most by it; the other
    strategy is NSGA-II (Deb et al. 2002).

    The same arguments and scores give the same search, bit for bit, whatever the machine's threads. No genome is scored
    twice. If a space has no more networks than the budget, all of them are evaluated.

    >>> from quasar_rt.hardware import Hardware, CostTable
    >>> space = Space.load("tiny")
    >>> costs = CostTable(space, Hardware.for_board("zcu102", space))
    >>> search = Search(space, costs, population=20, generations=5, targets=[300.0])
    >>> search.run()  # without a source of accuracies: the proxy score
    >>> search.best(300.0).fps >= 300
    True
    >>> len(search.evaluated())
    100

    Args:
        space: the space to search.
        costs: modelled costs of that space's networks on one hardware configuration, or on the best of several.
        population: genomes of a generation.
        generations: generations, the first included; the budget is `population` times `generations` evaluations.
        targets: frame rates for which the network of highest score is wanted, in FPS.
        seed: the seed of all random choices; 0 to 2^64 - 1.
        strategy: ``"guided"`` or ``"evolution"``.
        objectives: besides frames a second, which is always one: ``latency``, ``energy``. Each is weighed against the
            score alone, and they share the budget.

    Raises:
        quasar_rt.InfeasibleError: a target is beyond the fastest network, which the message names. It is raised before
            any score is requested.
        quasar_rt.InvalidValueError: an argument is out of its range, or energies are wanted and the board's file has no
            ``[power]``.
    """

    def __init__(
        self,
        space: Space,
        costs: CostTable | Designs,
        *,
        population: int = EFFORT["proxy"].population,
        generations: int = EFFORT["proxy"].generations,
        targets: Sequence[float] = (),
        seed: int = 0,
        strategy: Strategy = "guided",
        objectives: Sequence[Objective] = (),
    ) -> None:
        if strategy not in get_args(Strategy):
            raise InvalidValueError(
                f"strategy is {strategy!r}; it must be one of {', '.join(get_args(Strategy))}"
            )
        for name, number in {"population": population, "generations": generations, "seed": seed}.items():
            if not 0 <= number < 2**64:
                raise InvalidValueError(f"{name} is {number}; it is a whole number from 0 to 2^64 - 1")
        self._targets = tuple(float(target) for target in targets)
        self._space = space
        self._inner = NativeSearch(
            space._inner,
            Designs.of(costs)._inner,
            population,
            generations,
            list(self._targets),
            seed,
            strategy == "guided",
            list(further_objectives(objectives)),
        )

    @property
    def space(self) -> Space:
        """The searched space."""
        return self._space

    @property
    def targets(self) -> tuple[float, ...]:
        """The frame rates for which the network of highest score is wanted."""
        return self._targets

    @property
    def done(self) -> bool:
        """True if all generations are finished."""
        return self._inner.done

    def ask(self, limit: int | None = None) -> NDArray[np.uint8]:
        """Returns the canonical genomes whose scores are needed next, uint8 [n, genes].

        They are the unscored genomes of the current generation, at most `limit`; none when the search is done. A second
        `ask` without a `tell` in between returns the same genomes.
        """
        if limit is not None and limit < 1:
            raise InvalidValueError(f"limit is {limit}; it must be at least 1")
        return self._inner.ask(limit)

    def tell(self, scores: ArrayLike) -> None:
        """Takes the scores of the genomes that the last `ask` returned, in their order.

        Raises:
            quasar_rt.InvalidValueError: no genomes are pending, the number of scores differs, or a score is not
                finite. No score is taken.
        """
        self._inner.tell(as_numbers(scores))

    def add_known_scores(self, genomes: ArrayLike, scores: ArrayLike) -> None:
        """Takes known scores of the same source, so that `ask` leaves these genomes out.

        The result of the search is the same as without them.

        Raises:
            quasar_rt.InvalidValueError: lists of different lengths, a genome that is not canonical or not of the space,
                a score that is not finite, or a score that differs from the known one. No score is taken.
        """
        self._inner.add_known_scores(as_genomes(genomes, self._space), as_numbers(scores))

    def run(
        self,
        score: Scorer | None = None,
        *,
        limit: int | None = None,
        progress: Callable[[Search], object] | None = None,
    ) -> None:
        """Runs the search to its end.

        Args:
            score: gives the scores of genomes; None for the proxy score, by which the whole search runs in Rust.
            limit: the largest number of genomes in a portion; None for a generation.
            progress: called after each portion.

        Raises:
            quasar_rt.InvalidValueError: as `tell`. Errors of `score` are passed on; `run` can then be called again.
        """
        if progress is None and score is None:
            return self._inner.run_proxy()
        scorer = score or (lambda genomes: proxy_scores(self._space._inner, genomes))
        while len(genomes := self.ask(limit)):
            self.tell(scorer(genomes))
            if progress is not None:
                progress(self)
        return None

    def front(self) -> Candidates:
        """Returns the non-dominated networks of all that fit, by rising FPS; of equal ones the first."""
        return Candidates(*self._inner.front(), self._space)

    def best(self, fps: float) -> Candidate | None:
        """Returns the network of highest score that is modelled at `fps` or more; of equal scores the fastest."""
        found = Candidates(*self._inner.best(fps), self._space)
        return found[0] if len(found) else None

    def guide_report(self) -> GuideReport | None:
        """Returns how good the predictions of a guided search were; None for an evolution."""
        report = self._inner.guide_report()
        return None if report is None else GuideReport(*report)

    def model_front(self, objective: Objective = "fps") -> BestFront | None:
        """Returns the best front of the guide's model, fitted to all scores so far; None for an evolution.

        If the model were right, no network would be above it. It is an estimate, not a bound.

        Raises:
            quasar_rt.TooLargeError: the space has too many different sums.
            quasar_rt.InvalidValueError: there is no such objective, or the board's file has no ``[power]``.
        """
        front = self._inner.model_front(objective)
        return None if front is None else BestFront(*front)

    def estimates(self, genomes: ArrayLike) -> NDArray[np.float64] | None:
        """Predicts scores by the guide's model, fitted to all scores so far; None for an evolution.

        Among noisy scores, the highest are those that were lucky. In the model noise averages out, so a choice by
        estimates is better there. What the model cannot express (effects of genes of different blocks on each other)
        it leaves out of the estimates.

        Args:
            genomes: canonical genomes, uint8 [n, genes].

        Returns:
            estimated scores, float64 [n]; None before the first scores, too.

        Raises:
            quasar_rt.InvalidValueError: a genome is not canonical or not of this space.
        """
        return self._inner.estimates(as_genomes(genomes, self._space))

    def population(self) -> Candidates:
        """Returns the population after the last finished generation, best front first."""
        return Candidates(*self._inner.population(), self._space)

    def evaluated(self) -> Candidates:
        """Returns every network of finished generations, in order of evaluation."""
        return Candidates(*self._inner.evaluated(), self._space)

    def history(self) -> list[Generation]:
        """Returns one entry for each finished generation."""
        return [Generation(n, volume, tuple(best)) for n, volume, best in self._inner.history()]
