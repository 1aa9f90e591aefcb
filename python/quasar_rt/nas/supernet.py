"""Scores from a supernet: each candidate's slice, as training left it, on images that training never saw.

Without a GPU the slice is exported and runs on the integer engine, which is several times faster than PyTorch there; on
a GPU the slice runs in PyTorch, with the same bits.

The validation images that training set aside are halved (their order is the seed's): the search sees the first half,
the finalists' integer subnets are scored on the second. Workers of a cluster (`quasar_rt.nas.workers`) may score the
candidates. Under ``torchrun`` the candidates of a batch are shared out, every process goes through the same search, and
only the first one keeps files. Depends on: torch, `quasar_rt.train`.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..build import NetworkSpec, build_subnet
from ..engine import Engine
from ..errors import InvalidValueError
from ..evaluate import bootstrap
from ..space import Architecture, Space
from ..subnet import Subnet
from ..train import data as datasets
from ..train import distributed, train_architecture
from ..train.evaluation import logits_of
from ..train.model import ViT
from ..train.networks import check_split, read_supernet, supernet_of
from .folder import Folder
from .options import Options
from .record import Images
from .result import Integer, Scoring
from .scorer import Genomes, Progress
from .workers import Workers, open_workers

__all__ = ["ROUND_IMAGES", "Supernet"]

#: The largest number of search-validation images in each round of scoring. The first round scores all candidates, the
#: second round scores the survivors again on more images.
ROUND_IMAGES = (2_000, 10_000)
#: Training images that set the range of a candidate's residual stream, at most.
CALIBRATION = 256
#: Images that are decoded at once.
BATCH = 500


class Supernet:
    """A trained supernet as the source of scores and subnets.

    `model` is the supernet with its `recipe` and `space`; `data` the images that it was trained with, of which
    `calibration_images` (uint8 [n, channels, height, width]) set ranges and `finalist_images` are what finalists are
    scored on. `on_engine` is true if candidates are scored on the integer engine, not in PyTorch.

    Without workers this process scores the candidates, and under ``torchrun`` its group.

    Args:
        options: the checkpoint, its data, `test`, `gptq`, threads, device and workers.
        space: must be the supernet's space; None takes that one.

    Raises:
        quasar_rt.QuasarError: no supernet in the file, one of another space, data that are missing or others than those
            of the training, or too few validation images.
    """

    kind = "supernet"

    def __init__(self, options: Options, space: Space | None = None) -> None:
        path, threads, workers = options.supernet, options.threads, options.workers
        assert path is not None
        state = read_supernet(path)
        self._sha256 = state["sha256"]
        self.model, self.recipe, self.space = supernet_of(state, path)
        if space is not None and space != self.space:
            raise InvalidValueError(
                f"the supernet '{path}' is of the space '{self.space.name}' ({self.space.sha256[:12]}), not of "
                f"'{space.name}' ({space.sha256[:12]}); leave the space out, or train a supernet of it"
            )
        data = datasets.load(self.recipe, options.data, self.space)
        check_split(state, path, data)
        if threads is not None:
            torch.set_num_threads(threads)
        self._threads, self._root, self.data, self._test = threads, options.data, data, options.test
        self.group = distributed.init_process_group(options.device)
        if workers is not None and self.group.world > 1:
            raise InvalidValueError(
                "torchrun's processes score themselves: leave the workers out, or torchrun"
            )
        self.model.to(self.group.device)
        self.on_engine = self.group.device.type == "cpu"
        half = (len(data.validation) + 1) // 2
        if half == len(data.validation):
            raise InvalidValueError(
                f"the supernet has {half} validation image; the search needs two, one of them to hold out"
            )
        self._images = [min(half, most) for most in ROUND_IMAGES]
        self._search = datasets.Split(*data.validation.first(self._images[-1]))
        self._held_out = data.validation.subset(torch.arange(half, len(data.validation)))
        self.finalist_images = data.test() if options.test else self._held_out
        self._gptq = options.gptq
        calibration = min(self.recipe.quantization.calibration, CALIBRATION)
        self.calibration_images = data.train.first(calibration)[0]
        self.folder = Folder(None, {})
        self._workers: Workers | None = None
        if workers is not None:
            self._threads = threads or 1
            self._workers = open_workers(workers, self._threads, not self.on_engine)

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a worker needs: no files, no connections."""
        state = {
            key: value for key, value in self.__dict__.items() if key not in ("folder", "_workers", "group")
        }
        return {**state, "model": copy.deepcopy(self.model).cpu()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        torch.set_num_threads(self._threads or 1)
        # A worker sees the GPU that it was given.
        self.group = distributed.Group(device=distributed.choose_device("cpu" if self.on_engine else "cuda"))
        self.model.to(self.group.device)
        self.folder, self._workers = Folder(None, {}), None

    @property
    def first(self) -> bool:
        """True in the process that writes files."""
        return self.group.first

    @property
    def stages(self) -> int:
        """The number of rounds of scoring; one if the first round uses all search images."""
        return len(set(self._images))

    @property
    def held_out(self) -> str:
        """The finalists' images, in words."""
        return "test images" if self._test else "held-out validation images"

    def close(self) -> None:
        """Leaves the workers or the group of processes, at the end; the supernet cannot be used afterwards."""
        if self._workers is not None:
            self._workers.close()
        self.group.leave()

    def identity(self) -> dict[str, Any]:
        """Returns the checkpoint, the data and the use of its images, as JSON."""
        return {
            "score": "supernet",
            "scored_by": "integer engine" if self.on_engine else "PyTorch",
            "supernet_sha256": self._sha256,
            "data": self.data.identity,
            "search_images": self._images,
            "calibration_images": len(self.calibration_images),
            "finalists_on": self.held_out,
            "ranges": "trained",
        }

    def images_used(self) -> Images:
        """Describes the use of the images, for the record."""
        return Images(
            data=self.data.describe,
            calibration=f"the first {len(self.calibration_images):,} training images",
            search=f"the first {self._images[-1]:,} of {len(self.data.validation):,} validation images",
            finalists=f"{len(self.finalist_images):,} {self.held_out}",
            test_images_read=self._test,
        )

    def scoring(self, stage: int) -> Scoring:
        """Describes the scores of a round: top-1 of the slice."""
        images = self._images[stage]
        where = "integer engine" if self.on_engine else "PyTorch"
        label = f"supernet top-1 on {images:,} search images ({where})"
        return Scoring("supernet", label, "supernet top-1", "supernet_top1_search_validation", True, images)

    def score(self, genomes: Genomes, stage: int, progress: Progress) -> NDArray[np.float64]:
        """Returns the top-1 of each slice on the round's search-validation images, float64 [n]."""
        count = self._images[stage]
        images = datasets.Split(*self._search.first(count))

        def correct_on_engine(architecture: Architecture) -> int:
            return self.correct(self.subnet(architecture, "candidate", {}), images)

        def correct_in_pytorch(architecture: Architecture) -> int:
            network = self._slice(architecture)
            return int((logits_of(network, images.images, BATCH).argmax(dim=1) == images.labels).sum())

        count_correct = correct_on_engine if self.on_engine else correct_in_pytorch
        return self._counts(f"supernet {count}", count, genomes, count_correct, progress) / count

    def integer(self, genomes: Genomes, progress: Progress) -> list[Integer]:
        """Returns the top-1 of each exported subnet on the integer engine, on held-out images."""

        def count_correct(architecture: Architecture) -> int:
            return self.correct(self.finalist(architecture, "finalist", {}), self.finalist_images)

        count = len(self.finalist_images)
        found = self._counts(f"integer {count} {self.held_out}", count, genomes, count_correct, progress)
        return [Integer(right / count, count, self.held_out) for right in found.tolist()]

    def retrained(
        self, genomes: Genomes, epochs: int, folder: Path | None, progress: Progress
    ) -> list[Integer]:
        """Returns the top-1, as `integer` does, of the same networks trained on their own from the recipe's start.

        They get `epochs` epochs in float and a third of that with quantizers. A process trains its share of them, one
        after the other; each has a folder of checkpoints below `folder`.
        """
        stage = self.recipe.quantized_stage or self.recipe.supernet_stage
        assert stage is not None  # a recipe has one of them
        recipe = dataclasses.replace(
            self.recipe,
            float_stage=dataclasses.replace(self.recipe.float_stage, epochs=epochs),
            quantized_stage=dataclasses.replace(stage, epochs=max(1, round(epochs / 3))),
            baseline=False,
        )

        def count_correct(architecture: Architecture) -> int:
            name = self.space.encode(architecture).tobytes().hex()
            with tempfile.TemporaryDirectory() as temporary:
                run = Path(temporary) if folder is None else folder.absolute() / name
                # Each process has a group of its own: it trains its share of the networks alone.
                alone = distributed.Group(device=self.group.device)
                trained = train_architecture(
                    architecture, recipe, run, self._root, lambda _: None, group=alone
                )
            return self.correct(self._export(trained.model, "retrained", {}), self.finalist_images)

        count = len(self.finalist_images)
        what = f"retrained {epochs} {count} {self.held_out}"
        found = self._counts(what, count, genomes, count_correct, progress)
        return [Integer(right / count, count, self.held_out) for right in found.tolist()]

    def subnet(self, architecture: Architecture, name: str, provenance: Mapping[str, Any]) -> Subnet:
        """Exports the slice as an integer subnet, with the codes and ranges of its training."""
        return self._export(self._slice(architecture), name, provenance)

    def finalist(self, architecture: Architecture, name: str, provenance: Mapping[str, Any]) -> Subnet:
        """Exports the slice as `subnet` does or, with the option `gptq`, as `quasar-rt export` does where that wins.

        GPTQ wins if it classifies more of the held-out validation images rightly, by the 95 % interval of the gain. The
        provenance has the choice in `codes`. The same supernet and architecture give the same bytes.
        """
        network = self._slice(architecture).cpu()
        spec = self._spec(network, name, provenance)
        codes: dict[str, Any] = {"taken": "trained"}
        if self._gptq:
            from ..export.trained import requantized  # timm takes seconds to import

            anew = requantized(network, self.calibration_images, spec)
            trained, rounded = (self._right(build_subnet(one), self._held_out) for one in (spec, anew))
            (gain,) = bootstrap(np.subtract(rounded, trained, dtype=np.float64)[None], lambda means: means)
            if gain.low > 0:
                spec, codes["taken"] = anew, "GPTQ"
            codes |= {"gptq_gain": gain._asdict(), "images": len(trained)}
        return build_subnet(dataclasses.replace(spec, provenance={**provenance, "codes": codes}))

    def _slice(self, architecture: Architecture) -> ViT:
        """Copies the slice; its residual stream has another range than that of the largest network."""
        network: ViT = self.model.extract(architecture).eval()
        network.calibrate(self.calibration_images, None)
        return network

    def _export(self, network: Any, name: str, provenance: Mapping[str, Any]) -> Subnet:
        return build_subnet(self._spec(network.cpu(), name, provenance))

    def _spec(self, network: Any, name: str, provenance: Mapping[str, Any]) -> NetworkSpec:
        d, embedding = self.data, self.space.embedding
        spec: NetworkSpec = network.spec(name, list(d.classes), d.document, dict(provenance), embedding)
        return spec

    def correct(self, subnet: Subnet, images: datasets.AnySplit) -> int:
        """Counts the images that the integer engine classifies rightly."""
        return int(self._right(subnet, images).sum())

    def _right(self, subnet: Subnet, images: datasets.AnySplit) -> NDArray[np.bool_]:
        """Returns which images the integer engine classifies rightly."""
        with Engine(subnet, threads=self._threads) as engine:
            parts = [
                engine.infer_batch(datasets.engine_images(batch), top_k=1).indices == labels.numpy()
                for batch, labels in images.batches(BATCH)
            ]
        return np.concatenate(parts)

    def _counts(
        self,
        what: str,
        images: int,
        genomes: Genomes,
        count_correct: Callable[[Architecture], int],
        progress: Progress,
    ) -> NDArray[np.float64]:
        """Returns ``count_correct(architecture)`` of each genome, out of `images`.

        Known counts are read from the folder. The workers or the processes share the others and compute them.
        """
        keys = [genome.tobytes() for genome in genomes]
        known = self.group.from_first(lambda: [self.folder.get(what, key, images) for key in keys])
        counts = np.array([-1 if count is None else count for count in known], np.int64)
        missing = np.flatnonzero(counts < 0)
        if self._workers is not None:
            parts = [self.space.decode(genomes[i]) for i in missing]
            for done, (k, count) in enumerate(self._workers.map(count_correct, parts)):
                progress(what, len(keys) - len(missing) + done, len(keys))
                counts[missing[k]] = count
                self.folder.put(what, {keys[missing[k]]: count})
            return counts.astype(np.float64)
        # Small parts, so that little is lost when the search is stopped.
        step = 4 * self.group.world
        for start in range(0, len(missing), step):
            progress(what, len(keys) - len(missing) + start, len(keys))
            part = missing[start : start + step]
            found = np.zeros(len(part), np.int64)
            for at in range(self.group.rank, len(part), self.group.world):
                found[at] = count_correct(self.space.decode(genomes[part[at]]))
            counts[part] = self._sum(found)
            if self.first:
                self.folder.put(what, {keys[i]: int(counts[i]) for i in part})
        return counts.astype(np.float64)

    def _sum(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        total: NDArray[np.int64] = self.group.sum(torch.from_numpy(counts)).numpy()
        return total
