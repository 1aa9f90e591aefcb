"""The form for runtimes that fuse QDQ pairs: float operators between codes.

A code is its own real value: the scales of activations are 1, and a row's scale is its multiplier, which float32
holds exactly. Codes may differ from the integer model's by rounding; `docs/onnx.md` states how far logits differ.
"""

from __future__ import annotations

from math import log

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from .network import OUTPUT, Network

__all__ = ["Qdq"]

#: Factors of a multiplier M * 2^-p for each kind of result (docs/integer-model.md, Requantize and Head).
_RESIDUAL, _CODE, _LOGIT = 2.0**-11, 2.0**-17, 2.0**-15


class Qdq(Network):
    """Float operators between codes."""

    def patches(self, image: str) -> str:
        """Returns the patch tokens of pixel codes."""
        graph, patch, channels = self.graph, self.config["patch"], self.config["image"]["channels"]
        kernel = patch["kernel"]
        codes, scale, bias = self._scaled_rows("embed", channels * kernel * kernel, _RESIDUAL)
        codes = codes.reshape(-1, channels, kernel, kernel)
        weights = graph.scaled(graph.constant("embed.weight", codes), scale, np.int8(0), axis=0)
        x = graph.add("embed", "Add", self.grid("embed", image, weights), bias)
        position = graph.constant("position", self.tensors["position"].astype(np.float32))
        return self.updated("embed.x", x, position)

    def update(self, name: str, a: str, columns: int) -> str:
        """Returns a layer's results in units of the residual stream."""
        return self._linear(name, a, columns, _RESIDUAL)

    def codes(self, name: str, a: str, columns: int, zero_point: int) -> str:
        """Returns a layer's results as int8 codes."""
        y = self._linear(name, a, columns, _CODE)
        if self.config.get("rotary") and name.endswith(".qkv"):
            y = self.turned(name, y, 1.0, np.float32)
        return self.graph.codes(f"{name}.codes", y, np.int8(zero_point))

    def updated(self, name: str, x: str, update: str) -> str:
        """Adds an update to the residual stream."""
        return self.graph.quantized(name, self.graph.add(f"{name}.sum", "Add", x, update), np.int16(0))

    def norm(self, name: str, x: str) -> str:
        """Normalises tokens to codes."""
        scale, bias = self._gain(name, 6)
        epsilon = float(self.tensors[f"{name}.epsilon"][0]) / self.config["embed"] ** 2
        y = self.graph.add(name, "LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)
        return self.graph.quantized(name, y, np.int8(0))

    def scaled(self, name: str, x: str) -> str:
        """Applies gain and offset of a norm to tokens as they are; returns codes."""
        scale, bias = self._gain(name, 15)
        y = self.graph.add(name, "Add", self.graph.add(f"{name}.product", "Mul", x, scale), bias)
        return self.graph.quantized(name, y, np.int8(0))

    def _gain(self, name: str, shift: int) -> tuple[str, str]:
        tensors, graph = self.tensors, self.graph
        frac = int(tensors[f"{name}.frac"][0])
        gain, offset = (tensors[f"{name}.{part}"].astype(np.float64) for part in ("gain", "bias"))
        # The integer offset has the rounding half of its shift to the right.
        offset = offset / 2**frac - (0.5 if frac else 0)
        scale = graph.constant(f"{name}.gain", (gain / 2 ** (frac + shift)).astype(np.float32))
        return scale, graph.constant(f"{name}.offset", offset.astype(np.float32))

    def weighted(self, name: str, products: str, v: str, heads: int) -> str:
        """Returns the attention's output before rounding."""
        graph = self.graph
        mult, out_mult, out_shift = (
            self.tensors[f"{name}.{part}"].astype(np.float64).reshape(heads, 1, 1)
            for part in ("mult", "out_mult", "out_shift")
        )
        # mult makes 64ths of a power of two of a product; Softmax takes powers of e.
        factor = graph.constant(f"{name}.factor", (mult / 2**20 / 64 * log(2)).astype(np.float32))
        scores = graph.add(f"{name}.scores", "Mul", products, factor)
        means = graph.add(f"{name}.means", "MatMul", graph.add(name, "Softmax", scores, axis=-1), v)
        gain = graph.constant(f"{name}.gain", (out_mult * 2**-out_shift).astype(np.float32))
        return graph.add(f"{name}.scaled", "Mul", means, gain)

    def mean(self, x: str) -> str:
        """Returns the tokens' rounded mean."""
        mean = self.graph.add("mean", "ReduceMean", x, self.graph.integers("mean.axis", [1]), keepdims=0)
        return self._rounded("pool", mean)

    def mean_of_whole(self, whole: str) -> str:
        """Returns the rounded mean of heads' results."""
        axis = self.graph.integers("mean.axis", [1])
        return self._rounded(
            "heads.pool", self.graph.add("heads.mean", "ReduceMean", whole, axis, keepdims=0)
        )

    def whole(self, pooled: list[str]) -> str:
        """Appends the heads, and adds their results."""
        parts = [
            self._rounded(f"{head}.whole", self._linear(head, features, self.config["embed"], _LOGIT))
            for head, features in zip(self.heads, pooled, strict=True)
        ]
        return parts[0] if len(parts) == 1 else self.graph.add("heads", "Add", *parts)

    def logits(self, whole: str, first: str) -> dict[str, int]:
        """Appends float logits."""
        name = f"{first}{OUTPUT}"
        self.graph.add(name, "Mul", whole, self.graph.number(self.config["logit_scale"], np.float32))
        return {name: TensorProto.FLOAT}

    def _linear(self, name: str, a: str, columns: int, unit: float) -> str:
        graph = self.graph
        codes, scale, bias = self._scaled_rows(name, columns, unit)
        columns_first = graph.constant(f"{name}.weight", np.ascontiguousarray(codes.T))
        weights = graph.scaled(columns_first, scale, np.int8(0), axis=1)
        return graph.add(name, "Add", graph.add(f"{name}.products", "MatMul", a, weights), bias)

    def _scaled_rows(
        self, name: str, columns: int, unit: float
    ) -> tuple[NDArray[np.int8], NDArray[np.float32], str]:
        """Returns a layer's codes [rows, columns], the rows' scales [rows], and its bias."""
        codes, bias = self.rows(name, columns)
        mult = self.tensors[f"{name}.mult"].astype(np.float64)
        shift = self.tensors.get(f"{name}.shift", np.zeros(len(mult))).astype(np.float64)
        scale = (mult * 2.0**-shift * unit).astype(np.float32)
        # Runtimes may refuse a scale of 0, which a dead row has.
        dead = scale == 0
        codes[dead], bias[dead], scale[dead] = 0, 0, 1
        return (
            codes,
            scale,
            self.graph.scaled(self.graph.constant(f"{name}.bias", bias), scale, np.int32(0), axis=0),
        )

    def _rounded(self, name: str, x: str) -> str:
        """Rounds half up, as the integer model does."""
        return self.graph.add(
            name, "Floor", self.graph.add(f"{name}.half", "Add", x, self.graph.number(0.5, np.float32))
        )
