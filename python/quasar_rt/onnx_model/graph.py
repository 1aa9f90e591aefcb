"""Collects the nodes and constants of an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["Graph"]

#: A code's scale: a code is its own real value.
_UNIT = np.float32(1)


class Graph:
    """Nodes in order, and constants. Each method appends what its result needs and returns the result's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def add(self, name: str, operator: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node whose one output has the node's name."""
        return self.add_split(operator, [name], *inputs, **attributes)[0]

    def add_split(self, operator: str, outputs: list[str], *inputs: str, **attributes: Any) -> list[str]:
        """Appends a node with several outputs."""
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, name=outputs[0], **attributes))
        return outputs

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        """Adds a constant, once for each name."""
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Adds an int64 constant: a shape, or axes."""
        return self.constant(name, np.array(values, np.int64))

    def number(self, value: float, dtype: type[np.floating[Any]]) -> str:
        """Adds a scalar constant."""
        return self.constant(f"{np.dtype(dtype).name}.{float(value)!r}", dtype(value))

    def codes(self, name: str, x: str, zero: np.generic) -> str:
        """Rounds float32 values to codes of the type of their zero point, and clamps them."""
        return self.add(name, "QuantizeLinear", x, *self._scale(zero))

    def floats(self, codes: str, zero: np.generic) -> str:
        """Returns the values of codes, float32."""
        return self.add(f"{codes}.float", "DequantizeLinear", codes, *self._scale(zero))

    def scaled(self, codes: str, scale: NDArray[np.float32], zero: np.generic, axis: int) -> str:
        """Returns the values of codes with a scale for each row, float32."""
        scales = self.constant(f"{codes}.scale", scale)
        zeros = self.constant(f"{codes}.zero", np.full(len(scale), zero))
        return self.add(f"{codes}.float", "DequantizeLinear", codes, scales, zeros, axis=axis)

    def quantized(self, name: str, x: str, zero: np.generic) -> str:
        """Returns the values of a value's codes, float32."""
        return self.floats(self.codes(f"{name}.codes", x, zero), zero)

    def _scale(self, zero: np.generic) -> tuple[str, str]:
        return self.constant("unit", _UNIT), self.constant(f"zero.{zero.dtype}.{zero}", zero)
