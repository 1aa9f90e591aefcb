"""Explores configurations of the accelerator together with the networks of a space.

Depends on `quasar_rt.hardware` and `quasar_rt.nas.boards`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ..errors import DoesNotFitError, InfeasibleError
from ..hardware import Board, CostTable, Hardware, Workload, replay_periods
from ..space import Space
from .boards import Modelled
from .options import DEFAULT_BOARD, Options
from .result import Point
from .scorer import Progress

__all__ = ["configuration_for", "explore", "specialised"]

#: Sampled networks for which the rates of the configurations are compared, besides smallest, largest and middle ones.
SAMPLES = 32
#: Keeps those networks apart from all others.
_SAMPLE_STREAM = 0x636F6E666967
#: Networks of each configuration that are replayed for its scale.
REPLAYED = 5
#: The gain in frames a second of some network for which one more configuration is taken.
GAIN = 0.01
#: The gain of its own network for which a configuration is added for it.
SPECIAL_GAIN = 0.005


def explore(space: Space, board: str | None, options: Options, progress: Progress) -> Modelled:
    """Chooses configurations of a board that together make the networks of a space fast.

    The design-space search runs for the space as a whole, and for its smallest, its largest and a middle network of
    each embedding size alone. Each result's rates are scaled by replays, since the closed form is wrong by
    another amount for each. The first is one for the whole space; then come, one by one, those that raise the mean of
    the networks' best rates most, as long as they raise one by a percent.

    Args:
        space: the space.
        board: a board's name; the default board where None.
        options: the clocks, the number of configurations that are kept, at most, and the limits.
        progress: gets the progress of the work.

    Raises:
        quasar_rt.QuasarError: an unknown board, one that is too small, a clock out of range, or a limit of the energy
            where the board's file has no ``[power]``.
    """
    on = Board.load(board or DEFAULT_BOARD)
    clocks = list(options.clocks) or on.clocks_mhz[:1]
    references = _references(space)
    workloads = [Workload.of_architecture(space, space.decode(genome)) for genome in references]
    # The array suits a lower clock as well, if it has as many cycles of its own in one of the kernels'.
    fastest = {2 * clock <= on.array_clock_mhz: clock for clock in sorted(clocks)}.values()
    targets = [*product((space,), fastest), *product(workloads, fastest)]
    found: dict[str, Hardware] = {}
    whole = 0
    with ThreadPoolExecutor() as pool:
        chosen = pool.map(lambda pair: _chosen(on, *pair), targets)
        for number, hardware in enumerate(chosen, 1):
            if hardware is not None:
                found.setdefault(hardware.to_toml(), hardware)
            if number == len(fastest):
                whole = len(found)
            progress("exploring configurations", number, len(targets))
    tables = [CostTable(space, hardware) for hardware in found.values()]
    scales = [_scale(table, references) for table in tables]
    samples = [space.encode(space.sample(0, _SAMPLE_STREAM, k)) for k in range(SAMPLES)]
    genomes = np.unique(np.stack([*references, *samples]), axis=0)
    kept = _best_together(tables, scales, genomes, whole, options.configurations)
    return Modelled(options.designs([tables[i] for i in kept], [scales[i] for i in kept]), options.fps_of)


def _chosen(board: Board, target: Space | Workload, clock: float) -> Hardware | None:
    """Returns the configuration that the design-space search chooses; None for a network that the board cannot hold."""
    try:
        return Hardware.for_board(board, target, clock)
    except DoesNotFitError:
        if isinstance(target, Space):
            raise
        return None


def _references(space: Space) -> NDArray[np.uint8]:
    """Returns the smallest, the largest and a middle network of each embedding size, uint8 [n, genes]."""
    low, high = space.smallest, space.largest
    found = []
    for embed in range(space.genes[0][1]):
        for genome in (low, high, (low + high) // 2):
            other = genome.copy()
            other[0] = embed
            found.append(space.canonical(other))
    return np.unique(np.stack(found), axis=0)


def _scale(table: CostTable, genomes: NDArray[np.uint8]) -> float:
    """Returns the rate event by event over the closed form's, the median of some of the networks that fit."""
    costs = table.evaluate(genomes)
    held = np.flatnonzero(costs["fits"])
    if not len(held):
        return 1.0
    chosen = np.unique(held[np.linspace(0, len(held) - 1, min(len(held), REPLAYED)).round().astype(int)])
    periods = replay_periods(table.space, np.ascontiguousarray(genomes[chosen]), table.hardware)
    return float(np.median(table.hardware.clock_mhz * 1e6 / periods / costs["fps"][chosen]))


def _best_together(
    tables: Sequence[CostTable], scales: Sequence[float], genomes: NDArray[np.uint8], whole: int, most: int
) -> list[int]:
    """Returns the numbers of configurations: the best of the first `whole`, and greedily those that raise the mean."""
    costs = [table.evaluate(genomes) for table in tables]
    rates = np.stack(
        [np.where(one["fits"], one["fps"] * scale, 0) for one, scale in zip(costs, scales, strict=True)]
    )
    # A configuration that does not hold a network counts as half as fast as the slowest that does.
    slowest = np.where(rates > 0, rates, np.inf).min(axis=0)
    logs = np.log(np.where(rates > 0, rates, slowest / 2)[:, np.isfinite(slowest)])
    kept = [int(logs[:whole].mean(axis=1).argmax())]
    while len(kept) < most:
        best = logs[kept].max(axis=0)
        gains = np.maximum(logs - best, 0)
        gains[gains.max(axis=1) < np.log1p(GAIN)] = 0
        number = int(gains.mean(axis=1).argmax())
        if not gains[number].any():
            break
        kept.append(number)
    return kept


def specialised(modelled: Modelled, genome: NDArray[np.uint8], options: Options) -> Modelled:
    """Adds the configuration that the design-space search chooses for one network, if that is faster event by event.

    Returns:
        the configurations and the new one, or `modelled` itself.
    """
    workload = Workload.of_architecture(modelled.space, modelled.space.decode(genome))
    rate = float(modelled.rates(genome[None])[0])
    best: tuple[float, CostTable, float] | None = None
    board = modelled.hardware.board
    for clock in options.clocks or board.clocks_mhz[:1]:
        hardware = Hardware.for_board(board, workload, clock)
        if hardware in modelled.configurations:
            continue
        table = CostTable(modelled.space, hardware)
        scale = _scale(table, genome[None])
        one = Modelled(options.designs([table], [scale]), options.fps_of)
        faster = float(one.rates(genome[None])[0]) if one.fits(genome[None])[0] else 0.0
        if faster > max(rate * (1 + SPECIAL_GAIN), best[0] if best else 0.0):
            best = faster, table, scale
    if best is None:
        return modelled
    designs, (_, table, scale) = modelled.designs, best
    return Modelled(
        options.designs([*designs.tables, table], [*designs.scales, scale]), options.fps_of, modelled.replayed
    )


def configuration_for(modelled: Modelled, point: Point, fps: float, options: Options) -> Modelled:
    """Returns the configuration on which a network reaches a rate event by event with the least power at that rate.

    Tried are all configurations, each at its own clock and at lower ones of the options. Where powers are not known,
    the slowest clock counts, then the fewest slices.

    Raises:
        quasar_rt.InfeasibleError: the network reaches the rate on none of them.
    """
    genome = np.array([point.genome], np.uint8)
    found: list[tuple[tuple[float, float, int], Modelled]] = []
    for hardware in modelled.configurations:
        for clock in sorted(
            {hardware.clock_mhz, *(clock for clock in options.clocks if clock < hardware.clock_mhz)}
        ):
            one = Modelled.on_one(modelled.space, hardware.with_clock(clock), options.fps_of)
            held = options.designs(one.designs.tables, one.designs.scales).evaluate(genome)["fits"][0]
            if held and float(one.rates(genome)[0]) >= fps:
                power = one.power_w(one.on(genome)[0], fps)
                found.append(((power or 0.0, clock, one.hardware.resources.dsp), one))
    if not found:
        raise InfeasibleError(f"subnet {point.id} does not reach {fps:g} FPS on any configuration")
    return min(found, key=lambda pair: pair[0])[1]
