"""Models the costs of a space's subnets on a board, for a search and its page.

Depends on `quasar_rt.hardware`, `quasar_rt.space`, and `quasar_rt.nas.result`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DoesNotFitError, InvalidValueError, TooLargeError
from ..hardware import (
    Board,
    CostTable,
    Designs,
    Estimate,
    Hardware,
    Rates,
    RatesOf,
    Workload,
    board_names,
    estimate,
    rates,
    replay_periods,
)
from ..space import Architecture, Space
from ..subnet import Subnet
from .best_front import proxy_front
from .objectives import Objective
from .options import DEFAULT_BOARD
from .report import nondominated
from .result import OnBoard, Point
from .scorer import Progress

__all__ = ["Modelled", "Parts", "other_boards", "resources_of"]

#: Points next to a target whose replays show how far the closed form is off there, and a margin on that.
NEAREST = 6
MARGIN = 1.01
#: Passes of the array that a search may replay to find its front: some ten seconds of one core.
REPLAYED_PASSES = 3_000_000
#: The cost of a replay besides its passes, in passes.
REPLAY_OVERHEAD = 400
#: Configurations are tried whose closed forms are less than this share below the best one's: on large networks, and on
#: small ones, where the closed form is further off.
APART = 0.02
SMALL_APART = 0.15
#: Configurations that are tried for a network, about.
TRIED = 3
#: A search that may replay fewer networks than this goes by the closed form, which is close for such large networks.
FEWEST = 24
#: A target this close to the closed form's fastest network may be in reach of another one, event by event.
NEAR_FASTEST = 0.75
#: Steps of the search for the fastest network, event by event.
STEPS = 4
#: Names of the resources, for display.
_RESOURCES = {"dsp": "DSP", "lut": "LUT", "ff": "FF", "bram36": "BRAM (36 kbit)", "uram": "URAM"}


@lru_cache(maxsize=64)
def _design(board: str, space: str) -> Hardware:
    """Searches a configuration for a space on a board, both as TOML, once in a process: it takes seconds."""
    return Hardware.for_board(Board.from_toml(board), Space.from_toml(space))


@dataclass(frozen=True)
class Modelled:
    """A space on a board: on one hardware configuration, or each network on the one of several that suits it best.

    `closed`, `rates` and what goes by them are by one of the two readings of a frame rate. Frame rates of one
    configuration are the closed form's. Those of several are the closed form's times `Designs.scales`, so that they can
    be compared.
    """

    designs: Designs
    fps_of: RatesOf = "board"
    replayed: dict[tuple[int, bytes, RatesOf], float] = field(default_factory=dict, compare=False, repr=False)
    """Replayed rates by configuration, genome and reading."""

    @classmethod
    def of(
        cls,
        space: Space,
        board: str | None,
        file: str | os.PathLike[str] | None = None,
        fps_of: RatesOf = "board",
    ) -> Modelled:
        """Reads the configuration in `file`; without a file, searches one for the space on the board.

        Raises:
            quasar_rt.QuasarError: an unknown board, a board that is too small, a file that cannot be used, or one for
                another board.
        """
        if file is None:
            hardware = _design(Board.load(board or DEFAULT_BOARD).to_toml(), space.to_toml())
        else:
            hardware = Hardware.load(file, None if board is None else _named(board, Path(file)))
        return cls.on_one(space, hardware, fps_of)

    @classmethod
    def on_one(cls, space: Space, hardware: Hardware, fps_of: RatesOf) -> Modelled:
        """Returns the space on one configuration, without limits."""
        return cls(Designs([CostTable(space, hardware)]), fps_of)

    @property
    def space(self) -> Space:
        """The space."""
        return self.designs.space

    @property
    def table(self) -> CostTable:
        """Costs on the first configuration."""
        return self.designs.tables[0]

    @property
    def hardware(self) -> Hardware:
        """The first configuration."""
        return self.table.hardware

    @property
    def configurations(self) -> list[Hardware]:
        """All configurations."""
        return [table.hardware for table in self.designs.tables]

    @property
    def board(self) -> str:
        """The board's name."""
        return self.hardware.board.name

    @property
    def label(self) -> str:
        """The board and its clock, or the number of its configurations, in words."""
        if len(self.designs) > 1:
            return f"{self.board}, {len(self.designs)} configurations"
        return f"{self.board}, {self.hardware.clock_mhz:g} MHz"

    @property
    def sha256(self) -> str:
        """The digest (hex) of board and configurations."""
        parts = [self.hardware.board.to_toml(), *(hardware.to_toml() for hardware in self.configurations)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def fps(self, genomes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns the accelerator's frames a second of canonical genomes, by the closed form."""
        return np.ascontiguousarray(self.designs.evaluate(genomes)["fps"])

    def closed(self, genomes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns frames a second of canonical genomes by the closed form."""
        name = "fps_with_host" if self.fps_of == "board" else "fps"
        return np.ascontiguousarray(self.designs.evaluate(genomes)[name])

    def fits(self, genomes: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Returns for canonical genomes whether a configuration holds them within the limits."""
        return np.ascontiguousarray(self.designs.evaluate(genomes)["fits"])

    def on(self, genomes: NDArray[np.uint8]) -> list[OnBoard]:
        """Returns modelled figures of canonical genomes, each on its best configuration by the closed form."""
        return self._figures(self.designs.evaluate(genomes))

    def replayed_on(self, genomes: NDArray[np.uint8]) -> list[OnBoard]:
        """Returns modelled figures of canonical genomes, on their best configurations event by event."""
        numbers = self.replays(genomes)[1]
        costs = np.empty(len(genomes), self.designs.DTYPE)
        fps, with_host = np.empty(len(genomes)), np.empty(len(genomes))
        for number in set(numbers.tolist()):
            chosen = numbers == number
            costs[chosen] = self.designs.evaluate(genomes[chosen], number)
            fps[chosen] = self._replays_on(number, genomes[chosen], "accelerator")
            with_host[chosen] = self._replays_on(number, genomes[chosen], "board")
        return [
            on._replace(fps=alone, fps_with_host=board)
            for on, alone, board in zip(self._figures(costs), fps.tolist(), with_host.tolist(), strict=True)
        ]

    def _figures(self, costs: NDArray[np.void]) -> list[OnBoard]:
        return [
            OnBoard(
                fps,
                1000 * latency,
                with_host,
                fps / self.designs.scales[number],
                None if math.isnan(energy) else 1000 * energy,
                number,
            )
            for fps, with_host, latency, energy, _, number in costs.tolist()
        ]

    def least(self, genomes: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns the least latency, in ms, and the least energy of a frame, in mJ, of canonical genomes.

        Each is that of the configuration that has least. Both are infinite where none holds a network within
        the limits, and energies where the board's file has no powers.
        """
        each = [self.designs.evaluate(genomes, number) for number in range(len(self.designs))]
        held = np.stack([costs["fits"] for costs in each])

        def smallest(name: str) -> NDArray[np.float64]:
            values = np.stack([costs[name] for costs in each])
            found: NDArray[np.float64] = 1000 * np.where(held & ~np.isnan(values), values, np.inf).min(axis=0)
            return found

        return smallest("latency_s"), smallest("energy_j")

    def rates_by(self, genomes: NDArray[np.uint8], objective: Objective) -> NDArray[np.float64]:
        """Returns closed-form rates of canonical genomes that fit, each on the configuration that is best for it."""
        if objective == "fps":
            return self.fps(genomes)
        latencies, energies = self.least(genomes)
        return 1000 / (latencies if objective == "latency" else energies)

    def power_w(self, on: OnBoard, fps: float) -> float | None:
        """Returns the watts of a network's configuration at a frame rate; None where the board's file has no powers.

        Between frames the clocks run and nothing is multiplied.
        """
        standing = self.designs.tables[on.configuration].standing_w
        if standing is None or on.energy_mj is None:
            return None
        return standing + fps * (on.energy_mj / 1000 - standing / on.closed_fps)

    def fastest(self) -> tuple[NDArray[np.uint8], float]:
        """Returns the network of most frames a second of the accelerator, by the closed form, and its rate there."""
        return self.designs.fastest()

    def lowest_rate(self, objective: Objective) -> float:
        """Returns the accelerator's lowest rate of a network on the first configuration, by the closed form."""
        return self.table.lowest_rate(objective) * (self.designs.scales[0] if objective == "fps" else 1)

    def rates_of(self, network: Subnet | Workload, number: int = 0) -> Rates:
        """Returns a network's modelled frames a second on a configuration, event by event."""
        return rates(network, self.configurations[number])

    def rate(self, point: Point) -> float:
        """Returns a point's modelled frames a second, event by event; replays it once."""
        return float(self.rates(np.array([point.genome], np.uint8))[0])

    def rates(self, genomes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns modelled frames a second, event by event, of canonical genomes that fit; replays each once."""
        return self.replays(genomes)[0]

    def replays(self, genomes: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.uint32]]:
        """Returns event by event the best rate of each of the canonical genomes, which fit, and its configuration.

        Tried are the configurations that the closed form puts close to the best one: on small networks it is further
        off than the configurations are apart.
        """
        near = self._near(genomes)
        found = np.zeros(near.shape)
        for number, chosen in enumerate(near):
            found[number, chosen] = self._replays_on(number, genomes[chosen], self.fps_of)
        return found.max(axis=0), found.argmax(axis=0).astype(np.uint32)

    def _replays_on(self, number: int, genomes: NDArray[np.uint8], fps_of: RatesOf) -> NDArray[np.float64]:
        """Returns rates on one configuration, event by event; replays each genome once."""
        keys = [(number, genome.tobytes(), fps_of) for genome in genomes]
        new = {key: i for i, key in enumerate(keys) if key not in self.replayed}
        if new:
            table, of_board = self.designs.tables[number], fps_of == "board"
            periods = replay_periods(self.space, genomes[list(new.values())], table.hardware, gaps=of_board)
            found = table.hardware.clock_mhz * 1e6 / periods
            if of_board:
                found = np.minimum(found, table.host.fps)
            self.replayed.update(zip(new, found.tolist(), strict=True))
        return np.array([self.replayed[key] for key in keys])

    def _near(self, genomes: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Returns which configurations are tried for which genomes, bool [configurations, n]."""
        if len(self.designs) == 1:
            return np.ones((1, len(genomes)), np.bool_)
        each = [self.designs.evaluate(genomes, number) for number in range(len(self.designs))]
        rates = np.stack([np.where(costs["fits"], costs["fps"], 0) for costs in each])
        apart = SMALL_APART if self._passes * FEWEST <= REPLAYED_PASSES else APART
        tried: NDArray[np.bool_] = (rates > 0) & (rates >= (1 - apart) * rates.max(axis=0))
        return tried

    @cached_property
    def _passes(self) -> int:
        """The work of a replay on the first configuration, in passes of the array."""
        genome = self.table.slowest()[0]
        workload = Workload.of_architecture(self.space, self.space.decode(genome))
        layers = estimate(workload, self.hardware).layers
        return sum(layer.row_tiles * layer.token_tiles for layer in layers) + REPLAY_OVERHEAD

    @cached_property
    def affordable(self) -> int:
        """The number of networks that a search may replay: large networks take seconds, small ones milliseconds."""
        return REPLAYED_PASSES // (self._passes * min(len(self.designs), TRIED))

    def replayed_front(self, genomes: NDArray[np.uint8], scores: NDArray[np.float64]) -> list[int] | None:
        """Finds the networks that no other one beats in score and in its rate event by event.

        The closed form shows which networks are worth a replay: the rate of each network is compared with the best one
        of those that score as much or more. Networks that could not be on the front if the closed form were as wrong
        about them as about any of its front are left out, and so are the least promising ones beyond `affordable`.

        Args:
            genomes: networks that fit, uint8 [n, genes].
            scores: their scores, float64 [n].

        Returns:
            indices by falling rate; None where replaying the closed form's front is too much work.
        """
        closed = self.closed(genomes)
        front = nondominated(list(zip(closed.tolist(), scores.tolist(), strict=True)))
        if max(len(front), FEWEST) > self.affordable:
            return None
        order = np.lexsort((-closed, -scores))
        promise = np.empty(len(closed))
        promise[order] = closed[order] / np.maximum.accumulate(closed[order])
        off = self.rates(genomes[front]) / closed[front]
        worth = np.flatnonzero(promise * off.max() * MARGIN >= off.min())
        worth = worth[np.argsort(-promise[worth], kind="stable")][: self.affordable]
        chosen = np.sort(np.union1d(worth, front))
        rates = self.rates(np.ascontiguousarray(genomes[chosen]))
        best = nondominated(list(zip(rates.tolist(), scores[chosen].tolist(), strict=True)))
        return [int(i) for i in chosen[best]]

    def fastest_replayed(self) -> tuple[NDArray[np.uint8], float]:
        """Finds the network of most frames a second event by event: the closed form's, and better ones next to it.

        Returns:
            its canonical genome, uint8 [genes], and its rate.
        """
        best = self.fastest()[0]
        rate = float(self.rates(best[None])[0])
        for _ in range(STEPS):
            near = self._neighbours(best)
            rates = self.rates(near)
            if not len(near) or rates.max() <= rate:
                break
            best, rate = near[int(rates.argmax())], float(rates.max())
        return best, rate

    def _neighbours(self, genome: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns the networks that fit and differ in one gene, those that could be faster; as many as affordable."""
        others = []
        for gene, (_, choices) in enumerate(self.space.genes):
            for choice in range(choices):
                other = genome.copy()
                other[gene] = choice
                others.append(self.space.canonical(other))
        near = np.unique(np.stack(others), axis=0)
        costs = self.designs.evaluate(near)
        quick = costs["fits"] & (costs["fps"] >= NEAR_FASTEST * self.fastest()[1])
        order = np.argsort(-costs["fps"][quick], kind="stable")[: self.affordable]
        return np.ascontiguousarray(near[quick][order])

    def closed_form_of(self, fps: float) -> float:
        """Returns the accelerator's rate, by the closed form, of networks that have `fps` event by event.

        Networks that have about that rate and the best proxy scores are replayed. The search goes by the closed form of
        the accelerator; with this rate as its target it looks where the target will be held.
        """
        fastest = self.fastest()[1]
        # Without replays, none of a gap is taken to be hidden: a rate that is a little too high holds the target.
        rest = 1 / fps - (self.table.host.gap_s if self.fps_of == "board" else 0.0)
        unknown = min(1 / rest, fastest) if rest > 0 else fastest
        if self.affordable < FEWEST:
            return unknown
        try:
            front = proxy_front(self.space, self.designs)
        except TooLargeError:
            return unknown
        genomes = np.ascontiguousarray(
            front.genomes[self.fits(front.genomes)]
        )  # The exact front leaves limits out.
        if not len(genomes):
            return unknown
        closed = self.closed(genomes)
        nearest = np.argsort(np.abs(closed - fps), kind="stable")[:NEAREST]
        wanted = fps / float(np.median(self.rates(np.ascontiguousarray(genomes[nearest])) / closed[nearest]))
        reaching = self.fps(genomes[closed >= wanted])
        return float(min(reaching.min(initial=fastest), fastest))

    def holding(self, points: Sequence[Point], fps: float) -> Iterator[Point]:
        """Yields the points that reach a rate event by event, the best score first.

        Where it is too much work to replay all points, the closed form shows which are worth it: those that would reach
        the rate if it were as pessimistic about them as it is about any of those next to the rate.
        """
        order = sorted(points, key=lambda point: (-point.score, point.id))
        genomes = np.array([point.genome for point in order], np.uint8)
        worth = np.ones(len(order), np.bool_)
        if len(order) > self.affordable:
            closed = self.closed(genomes)
            nearest = np.argsort(np.abs(closed - fps), kind="stable")[:NEAREST]
            most = (self.rates(np.ascontiguousarray(genomes[nearest])) / closed[nearest]).max(initial=1.0)
            worth = closed * most * MARGIN >= fps
        for point, promising in zip(order, worth.tolist(), strict=True):
            if promising and self.rate(point) >= fps:
                yield point

    def estimate(self, architecture: Architecture, number: int = 0) -> Estimate:
        """Estimates one frame on a configuration, layer by layer."""
        return estimate(Workload.of_architecture(self.space, architecture), self.configurations[number])

    def to_dict(self) -> dict[str, Any]:
        """Returns the board and its configuration as front.json has them."""
        host = self.table.host
        several = {
            "configurations": [
                {"hardware": hardware.settings, "resources": resources_of(hardware), "scale": scale}
                for hardware, scale in zip(self.configurations, self.designs.scales, strict=True)
            ]
        }
        return {
            "label": self.label,
            "hardware": self.hardware.settings,
            "sha256": self.sha256,
            "resources": resources_of(self.hardware),
            "host_fps": host.fps,
            "host_source_pixels": host.source_pixels,
            **(several if len(self.designs) > 1 else {}),
        }


def resources_of(hardware: Hardware) -> dict[str, dict[str, int]]:
    """Returns what a configuration takes of its board, for each resource that the board has."""
    used, available = hardware.resources, hardware.board.resources
    return {
        name: {"used": getattr(used, key), "available": getattr(available, key)}
        for key, name in _RESOURCES.items()
        if getattr(available, key)
    }


def other_boards(modelled: Modelled, progress: Progress) -> tuple[dict[str, Modelled], dict[str, str]]:
    """Returns every other shipped board that holds all networks of the space, and why each of the others does not."""
    fits, left_out, space = {}, {}, modelled.space
    largest = space.decode(space.largest)
    names = board_names()
    for number, name in enumerate(names):
        progress("modelling other boards", number, len(names))
        if name != modelled.board:
            try:
                one = Modelled.of(space, name, fps_of=modelled.fps_of)
                # A small board's configuration may fit the smaller networks only.
                one.estimate(largest)
                fits[name] = one
            except DoesNotFitError as error:
                left_out[name] = str(error)
    progress("modelling other boards", len(names), len(names))
    return fits, left_out


def _named(board: str, file: Path) -> Board:
    found = Board.load(board)
    named = Hardware.load(file).board.name
    if named != found.name:
        raise InvalidValueError(
            f"'{file}' is a configuration for the board '{named}', not for '{found.name}'"
        )
    return found


class Parts:
    """Collects the parts of networks (patch embedding, blocks, head) and their layers; equal parts are stored once.

    `networks` has by id the (prefix, number) of each part of a network, in order; `parts` holds each part once: its
    `layers` (name without the prefix, kind, rows, columns, rows4, rows8) and for each board the layers' `cycles`, their
    `use` of the array's peak and their `limit`.
    """

    def __init__(self) -> None:
        self.parts: list[dict[str, Any]] = []
        self.networks: dict[int, list[tuple[str, int]]] = {}
        self._numbers: dict[str, int] = {}

    def add(self, number: int, estimates: Mapping[str, Estimate]) -> None:
        """Adds a network by its estimates on each board."""
        found: dict[str, dict[str, Any]] = {}
        for board, one in estimates.items():
            for prefix, rows in _by_part(one).items():
                part = found.setdefault(prefix, {"layers": [row[0] for row in rows], "boards": {}})
                cycles, use, limit = ([row[i] for row in rows] for i in (1, 2, 3))
                part["boards"][board] = {"cycles": cycles, "use": use, "limit": limit}
        network = []
        for prefix, part in found.items():
            key = json.dumps(part)
            if key not in self._numbers:
                self._numbers[key] = len(self.parts)
                self.parts.append(part)
            network.append((prefix, self._numbers[key]))
        self.networks[number] = network

    def to_dict(self) -> dict[str, Any]:
        """Returns the parts as the page takes them."""
        return {"parts": self.parts, "networks": self.networks}


#: A layer's shape, its cycles, its use of the array's peak, and what limits it.
_Row = tuple[dict[str, Any], int, float | None, str]


def _by_part(found: Estimate) -> dict[str, list[_Row]]:
    """Returns the array's stages by part, in order.

    A layer that reads a LayerNorm follows a row of the LayerNorm, with the cycles that the array waits for it.
    """
    norms = {"qkv": "norm1", "fc1": "norm2", "head": "norm"}
    exposed = {stage.name: stage.exposed for stage in found.vector}
    parts: dict[str, list[_Row]] = {}
    for layer in found.layers:
        block = re.match(r"blocks\.\d+\.", layer.name)
        prefix = block[0] if block else ""
        name = layer.name.removeprefix(prefix)
        # Without a prefix there are two parts, at both ends.
        rows = parts.setdefault(prefix if block else f"{name}:", [])
        if name in norms:
            waits = exposed[prefix + norms[name]]
            rows.append(({"name": norms[name], "kind": "other"}, waits, None, "dependency"))
        shape: dict[str, Any] = {"name": name, "kind": "attention"}
        if not name.startswith("attn."):
            shape = {
                "name": name,
                "kind": "linear",
                "rows": layer.four_bit_rows + layer.eight_bit_rows,
                "columns": layer.columns,
                "rows4": layer.four_bit_rows,
                "rows8": layer.eight_bit_rows,
            }
        rows.append((shape, layer.cycles, round(layer.share, 4), layer.bound))
    return parts
