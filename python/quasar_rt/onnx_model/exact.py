"""The form that computes the integer model bit for bit, section by section as `docs/integer-model.md` has it.

Matrix products are float32 products of codes whose sums stay below 2^24, where float32 is exact in every order; rows
that could leave that range are multiplied in nibbles. All other steps are float64 on whole numbers below 2^53.

Weights become floats by Cast: two operands of DequantizeLinear would make ONNX Runtime multiply integers in their place
(its MatMulIntegerToFloat), which 1.22 to 1.26 do wrongly on CPUs with AMX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from .network import INTEGER_OUTPUT, OUTPUT, Network

__all__ = ["Exact"]

#: Below it, float32 holds all whole numbers.
_FLOAT32_WHOLE = 1 << 24
#: 12-bit powers of two, 255 * 16 at 0.
_TABLE = np.floor(4080 * 2.0 ** (-np.arange(64) / 64) + 0.5)


def _powers(base: float, exponents: Iterable[int]) -> NDArray[np.float64]:
    return np.array([float(base) ** exponent for exponent in exponents])


class Exact(Network):
    """The integer model's steps."""

    def patches(self, image: str) -> str:
        """Embedding."""
        patch, channels = self.config["patch"], self.config["image"]["channels"]
        kernel = patch["kernel"]
        codes, bias = self.rows("embed", channels * kernel * kernel)

        def product(name: str, part: NDArray[np.int8]) -> str:
            weight = self.graph.constant(f"{name}.weight", part.reshape(-1, channels, kernel, kernel))
            return self.grid(name, image, self._float(weight))

        z = self._requantized("embed", self._accumulated("embed", codes, bias, product))
        return self._saturated(
            "embed.x", self._op("Add", z, self._constant("position", self.tensors["position"]))
        )

    def update(self, name: str, a: str, columns: int) -> str:
        """Linear and ``requant16``."""
        return self._requantized(name, self._linear(name, a, columns))

    def codes(self, name: str, a: str, columns: int, zero_point: int) -> str:
        """Linear and ``requant8``."""
        z = self.update(name, a, columns)
        if self.config.get("rotary") and name.endswith(".qkv"):
            y = self._shifted(self.turned(name, z, 2.0**14, np.float64), 2.0**-20)
        else:
            y = self._shifted(z, 2.0**-6)
        return self.graph.codes(f"{name}.codes", self._float(y), np.int8(zero_point))

    def updated(self, name: str, x: str, update: str) -> str:
        """Residual."""
        return self._saturated(name, self._op("Add", self._double(x), update))

    def norm(self, name: str, x: str) -> str:
        """LayerNorm."""
        d, x = self._number(self.config["embed"]), self._double(x)
        s = self._sum(x)
        q = self._sum(self._op("Mul", x, x))
        v = self._op("Sub", self._op("Mul", d, q), self._op("Mul", s, s))
        v = self._op("Add", v, self._number(int(self.tensors[f"{name}.epsilon"][0])))
        b = self._count_reached(v, _powers(4, range(26)))
        root = self._op(
            "Floor",
            self._op("Sqrt", self._op("Mul", v, self._looked_up(b, "root", _powers(4, range(26, -1, -1))))),
        )
        inv = self._op(
            "Min", self._number(32767), self._op("Floor", self._op("Div", self._number(2**40), root))
        )
        c = self._op("Sub", self._op("Mul", d, x), s)
        t = self._shifted(c, self._looked_up(b, "norm", _powers(2, range(10, -17, -1))))
        return self._scaled(name, self._shifted(self._op("Mul", t, inv), 2.0**-15))

    def scaled(self, name: str, x: str) -> str:
        """Pooling by attention."""
        return self._scaled(name, self._double(x))

    def _scaled(self, name: str, n: str) -> str:
        tensors = self.tensors
        gain, bias = (
            self._constant(f"{name}.{part}", tensors[f"{name}.{part}"]) for part in ("gain", "bias")
        )
        y = self._op("Add", self._shifted(self._op("Mul", n, gain), 2.0**-15), bias)
        y = self._op(
            "Mul", self._clipped(y, -32768, 32767), self._number(2.0 ** -int(tensors[f"{name}.frac"][0]))
        )
        return self.graph.quantized(name, self._float(self._op("Floor", y)), np.int8(0))

    def weighted(self, name: str, products: str, v: str, heads: int) -> str:
        """Attention, from its products on."""
        mult, out_mult, out_shift = (
            self._constant(f"{name}.{part}", self.tensors[f"{name}.{part}"].reshape(heads, 1, 1))
            for part in ("mult", "out_mult", "out_shift")
        )
        limit = self._constant(
            f"{name}.limit",
            ((2**31 - 2**20) // self.tensors[f"{name}.mult"].astype(np.int64)).reshape(heads, 1, 1),
        )
        tokens = self.tokens
        a = self._double(products)
        axis = self.graph.integers("last", [-1])
        d = self._op("Min", self._op("Sub", self._op("ReduceMax", a, axis), a), limit)
        u = self._shifted(self._op("Mul", d, mult), 2.0**-20)
        n = self._op("Floor", self._op("Mul", u, self._number(1 / 64)))
        f = self._op("Sub", u, self._op("Mul", n, self._number(64)))
        power = self._op(
            "Mul",
            self._looked_up(f, "powers", 2 * _TABLE),
            self._looked_up(n, "right", _powers(0.5, range(64))),
        )
        e12 = self._op(
            "Floor",
            self._op("Mul", self._op("Add", self._op("Floor", power), self._number(1)), self._number(0.5)),
        )
        e8 = self._op("Floor", self._op("Mul", self._op("Add", e12, self._number(8)), self._number(1 / 16)))
        s12 = self._sum(e12)
        residue = self._op("Sub", s12, self._op("Mul", self._sum(e8), self._number(16)))
        # |e8 v| <= 255 * 128 for each token.
        exact = tokens * 255 * 128 < _FLOAT32_WHOLE
        wide = self._double(v)
        sums = self._double(self._op("MatMul", self._float(e8), v)) if exact else self._op("MatMul", e8, wide)
        values = self._op("ReduceSum", wide, self.graph.integers("second_last", [-2]))
        mean_factor = (2 * 2**20 + tokens) // (2 * tokens)
        mean = self._shifted(self._op("Mul", values, self._number(mean_factor)), 2.0**-16)
        num = self._op(
            "Add",
            self._op("Mul", sums, self._number(16)),
            self._shifted(self._op("Mul", residue, mean), 2.0**-4),
        )
        b = self._count_reached(s12, _powers(2, range(23)))
        r = self._op(
            "Floor",
            self._op(
                "Div", self._op("Mul", out_mult, self._looked_up(b, "left", _powers(2, range(24)))), s12
            ),
        )
        halve = self._count_reached(r, np.array([2.0**15]))
        r = self._op("Floor", self._op("Mul", r, self._looked_up(halve, "right", _powers(0.5, range(64)))))
        p = self._op("Sub", self._op("Add", self._op("Sub", b, halve), out_shift), self._number(21))
        t = self._clipped(
            self._shifted(num, self._looked_up(p, "right", _powers(0.5, range(64)))), -32768, 32767
        )
        o = self._shifted(self._shifted(self._op("Mul", t, r), 2.0**-15), 2.0**-6)
        return self._float(o)

    def mean(self, x: str) -> str:
        """Returns the tokens' rounded mean."""
        return self._float(self.mean_of_whole(self._double(x)))

    def mean_of_whole(self, whole: str) -> str:
        """Returns the rounded mean of values in float64."""
        count = self.patch_tokens
        sums = self._op("ReduceSum", whole, self.graph.integers("mean.axis", [1]), keepdims=0)
        sums = self._op("Add", sums, self._number(count // 2))
        return self._op("Floor", self._op("Div", sums, self._number(count)))

    def whole(self, pooled: list[str]) -> str:
        """Head."""
        parts = []
        for head, features in zip(self.heads, pooled, strict=True):
            acc = self._linear(head, features, self.config["embed"])
            mult = self._constant(f"{head}.mult", self.tensors[f"{head}.mult"])
            parts.append(self._shifted(self._op("Mul", acc, mult), 2.0**-15))
        return parts[0] if len(parts) == 1 else self._op("Add", *parts)

    def logits(self, whole: str, first: str) -> dict[str, int]:
        """Appends float logits and integer ones."""
        integers, floats = f"{first}{INTEGER_OUTPUT}", f"{first}{OUTPUT}"
        self.graph.add(integers, "Cast", whole, to=TensorProto.INT32)
        scaled = self._op("Mul", whole, self._number(self.config["logit_scale"]))
        self.graph.add(floats, "Cast", scaled, to=TensorProto.FLOAT)
        return {floats: TensorProto.FLOAT, integers: TensorProto.INT32}

    # Linear and Requantize.

    def _linear(self, name: str, a: str, columns: int) -> str:
        codes, bias = self.rows(name, columns)

        def product(name: str, part: NDArray[np.int8]) -> str:
            weight = self.graph.constant(f"{name}.weight", np.ascontiguousarray(part.T))
            return self._op("MatMul", a, self._float(weight))

        return self._accumulated(name, codes, bias, product)

    def _accumulated(
        self,
        name: str,
        codes: NDArray[np.int8],
        bias: NDArray[np.int32],
        product: Callable[[str, NDArray[np.int8]], str],
    ) -> str:
        """Returns ``bias + W a``, float64, from products of `codes` or of their nibbles."""
        if 128 * np.abs(codes.astype(np.int64)).sum(axis=1).max() < _FLOAT32_WHOLE:
            sums = self._double(product(name, codes))
        else:
            # At most 15 * 128 * 4096, 2^23, in each.
            high, low = product(f"{name}.hi", codes >> 4), product(f"{name}.lo", codes & 15)
            sums = self._op("Mul", self._double(high), self._number(16))
            sums = self._op("Add", sums, self._double(low))
        return self._op("Add", sums, self._constant(f"{name}.bias", bias))

    def _requantized(self, name: str, acc: str) -> str:
        shift = self.tensors[f"{name}.shift"].astype(np.float64)
        mult = self._constant(f"{name}.mult", self.tensors[f"{name}.mult"])
        t = self._shifted(acc, self._constant(f"{name}.shift", 2.0 ** (4 - shift)))
        return self._shifted(self._op("Mul", self._clipped(t, -32768, 32767), mult), 2.0**-15)

    def _saturated(self, name: str, x: str) -> str:
        return self.graph.add(name, "Cast", self._clipped(x, -32767, 32767), to=TensorProto.FLOAT)

    # Whole numbers in float64.

    def _shifted(self, x: str, factor: float | str) -> str:
        """Multiplies by a power of two, at most 1 where that leaves a fraction, and rounds half up."""
        by = factor if isinstance(factor, str) else self._number(factor)
        return self._op("Floor", self._op("Add", self._op("Mul", x, by), self._number(0.5)))

    def _sum(self, x: str) -> str:
        return self._op("ReduceSum", x, self.graph.integers("last", [-1]))

    def _count_reached(self, x: str, thresholds: NDArray[np.float64]) -> str:
        """Returns the number of thresholds that x [..., 1] reaches: a length in bits, without a logarithm."""
        table = self.graph.constant(f"thresholds.{len(thresholds)}.{thresholds[-1]:.0f}", thresholds)
        return self._sum(self._double(self._op("GreaterOrEqual", x, table)))

    def _looked_up(self, index: str, name: str, table: NDArray[np.float64]) -> str:
        at = self._op("Cast", index, to=TensorProto.INT64)
        return self._op("Gather", self.graph.constant(f"table.{name}", table), at, axis=0)

    def _clipped(self, x: str, low: int, high: int) -> str:
        return self._op("Clip", x, self._number(low), self._number(high))

    def _double(self, x: str) -> str:
        return self._op("Cast", x, to=TensorProto.DOUBLE)

    def _float(self, x: str) -> str:
        return self._op("Cast", x, to=TensorProto.FLOAT)

    def _number(self, value: float) -> str:
        return self.graph.number(value, np.float64)

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        return self.graph.constant(f"{name}.exact", values.astype(np.float64))

    def _op(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return self.graph.add(f"{operator}.{len(self.graph.nodes)}", operator, *inputs, **attributes)
