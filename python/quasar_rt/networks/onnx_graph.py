"""An ONNX graph for one size of images: constants computed, its parts runnable on their own.

Depends on: onnx, and onnxruntime where it is installed (otherwise onnx's own reference runs the graph, slowly).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import checker, inliner, numpy_helper, shape_inference

from .vit import require

__all__ = ["Graph", "Linear", "Norm", "likely_sizes"]

Array = NDArray[Any]

#: Most nodes of a graph, and most values of one of its tensors: a few hundred bytes may stand for far more.
_MOST_NODES, _MOST_VALUES = 10_000, 1 << 26
#: Most image sizes that are tried.
_MOST_SIZES = 8

#: Nodes that return their input's values.
_SAME = ("Identity", "Cast", "Dropout")
#: Nodes that return their input's values in another shape, in the same order.
_RESHAPES = (*_SAME, "Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass
class Linear:
    """A product with a constant matrix [rows, columns] and its bias [rows]; `out` is the tensor with the bias added."""

    input: str
    out: str
    weight: Array
    bias: Array


@dataclass
class Norm:
    """A LayerNorm from tensor `x` to tensor `y`."""

    x: str
    y: str
    gamma: Array
    beta: Array
    eps: float


class Graph:
    """The part of a graph that depends on the image's values, and constants for all the rest.

    Args:
        path: the file; weights in half precision are read as float32.
        size: height and width of the image, where the file leaves them open.

    Raises:
        NetworkError: no graph of a single image, operators of others than ONNX, loops, or a graph that is too large.
        Others: those of onnx for a graph that is not valid, such as one with a cycle.
    """

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self.path = path
        model = onnx.load(str(path))
        nodes = _inlined_nodes(model)
        require(nodes <= _MOST_NODES, path, f"it has more than {_MOST_NODES:,} nodes")
        if model.functions:
            model = inliner.inline_local_functions(model)
        # The walks below end because a valid graph has no cycle.
        checker.check_model(model)
        loops = {node.op_type for node in _nodes_of(model.graph)} & {"Loop", "Scan", "SequenceMap"}
        require(not loops, path, f"it has a loop ({', '.join(sorted(loops))})")
        _widen(model.graph)
        self._model = model
        graph = model.graph
        self.constants: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        inputs = [value for value in graph.input if value.name not in self.constants]
        foreign = sorted({node.domain for node in graph.node} - {"", "ai.onnx"})
        require(
            not foreign, path, f"it has operators of {', '.join(foreign)}; export it without fusing operators"
        )
        require(len(inputs) == 1, path, f"it has {len(inputs)} inputs; a network of one image has one")
        self.image = inputs[0].name
        self.shape = self._fix_input(inputs[0], size)
        self.outputs = [value.name for value in graph.output]
        self.nodes: list[Any] = []
        self._fold()
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self._consumers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in _read_by(node):
                self._consumers.setdefault(name, []).append(node)
        self._sessions: dict[tuple[Any, ...], Any] = {}

    def _fix_input(self, value: Any, size: tuple[int, int]) -> tuple[int, int, int, int]:
        sides = [side.dim_value for side in value.type.tensor_type.shape.dim]
        require(len(sides) == 4, self.path, f"its input has {len(sides)} dimensions; an image has 4")
        require(sides[1] in (1, 3), self.path, f"its input has {sides[1]} channels; 1 and 3 are supported")
        shape = (sides[0] or 1, sides[1], sides[2] or size[0], sides[3] or size[1])
        for side, fixed in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            side.dim_value = fixed
        known = shape_inference.infer_shapes(self._model).graph
        for one in (*known.input, *known.value_info):
            count = math.prod(dim.dim_value for dim in one.type.tensor_type.shape.dim)
            require(
                count <= _MOST_VALUES,
                self.path,
                f"'{one.name}' has {count:,} values for images of {shape[2]}x{shape[3]} pixels, more than "
                f"{_MOST_VALUES:,}",
            )
        return shape

    def _fold(self) -> None:
        """Keeps the nodes that depend on the image's values, and computes what they read of the others."""
        graph = self._model.graph
        live, others = {self.image}, set()
        for node in graph.node:
            names = set(_read_by(node))
            if node.op_type not in ("Shape", "Size") and names & live:
                live.update(node.output)
                self.nodes.append(node)
                others |= names
        wanted = sorted(name for name in others - live if name and name not in self.constants)
        if wanted:
            zeros = {self.image: np.zeros(self.shape, np.float32)}
            self.constants |= zip(wanted, _session(self._model, wanted)(zeros), strict=True)

    # Walks

    def same(self, name: str, kinds: tuple[str, ...] = _SAME) -> str:
        """Returns the tensor whose values `name` has, before nodes that change nothing."""
        while (node := self.producer.get(name)) is not None and node.op_type in kinds:
            name = node.input[0]
        return name

    def flat(self, name: str) -> str:
        """Returns the tensor whose values in the same order `name` has."""
        return self.same(name, _RESHAPES)

    def readers(self, name: str) -> Iterator[Any]:
        """Yields the nodes that read the values of a tensor."""
        queue = [name]
        for tensor in queue:
            for node in self._consumers.get(tensor, ()):
                if node.op_type in _SAME:
                    queue.append(node.output[0])
                else:
                    yield node

    def above(self, *names: str, stop: Iterable[str] = ()) -> dict[str, Any]:
        """Returns the tensors that `names` are computed from, these included, with their nodes, the nearest first.

        The walk ends at the tensors of `stop`, which are included with None.
        """
        found: dict[str, Any] = {}
        stop, queue = set(stop), list(names)
        for tensor in queue:
            if tensor in found or tensor in self.constants or not tensor:
                continue
            found[tensor] = node = None if tensor in stop else self.producer.get(tensor)
            if node is not None:
                queue.extend(_read_by(node))
        return found

    def below(self, name: str) -> set[str]:
        """Returns the tensors that are computed from `name`, itself included."""
        found = {name}
        for node in self.nodes:
            if not found.isdisjoint(_read_by(node)):
                found.update(node.output)
        return found

    def is_constant(self, name: str) -> bool:
        """Returns whether a tensor does not depend on the image's values."""
        return name in self.constants

    # Parts

    def linears(self) -> list[Linear]:
        """Returns the products with constant matrices, in the graph's order."""
        return [found for node in self.nodes if (found := self._linear(node)) is not None]

    def _linear(self, node: Any) -> Linear | None:
        if node.op_type not in ("MatMul", "Gemm") or not self.is_constant(node.input[1]):
            return None
        weight = self.constants[node.input[1]]
        if weight.ndim != 2 or self.is_constant(node.input[0]):
            return None
        out, attributes = node.output[0], _attributes(node)
        if node.op_type == "Gemm":
            if attributes.get("transA"):
                return None
            weight = weight if attributes.get("transB") else weight.T
            bias = np.zeros(len(weight), np.float32)
            if len(node.input) > 2:
                bias = bias + attributes.get("beta", 1.0) * self.constants[node.input[2]]
            return Linear(node.input[0], out, attributes.get("alpha", 1.0) * weight, bias.reshape(-1))
        bias = np.zeros(weight.shape[1], np.float32)
        added = self._affine(out, "Add", weight.shape[1])
        if added is not None:
            out, bias = added
        return Linear(node.input[0], out, weight.T, bias)

    def norms(self) -> list[Norm]:
        """Returns the LayerNorms, of one operator or of several, in the graph's order."""
        return [found for node in self.nodes if (found := self._norm(node)) is not None]

    def _norm(self, node: Any) -> Norm | None:
        if node.op_type == "LayerNormalization":
            weight = self.constants[node.input[1]]
            bias = self.constants[node.input[2]] if len(node.input) > 2 else np.zeros_like(weight)
            eps = _attributes(node).get("epsilon", 1e-5)
            return Norm(self.same(node.input[0]), node.output[0], weight, bias, _decimal(eps))
        if node.op_type != "Sub":
            return None
        x = self.same(node.input[0])
        mean = self.producer.get(self.same(node.input[1]))
        if mean is None or mean.op_type != "ReduceMean" or self.same(mean.input[0]) != x:
            return None
        for scaled in self.readers(node.output[0]):
            sides = [name for name in scaled.input if self.same(name) != node.output[0]]
            if scaled.op_type in ("Div", "Mul") and len(sides) == 1 and not self.is_constant(sides[0]):
                gain = self._affine(scaled.output[0], "Mul")
                y, gamma = gain or (scaled.output[0], None)
                offset = self._affine(y, "Add")
                y, beta = offset or (y, None)
                size = next((one.size for one in (gamma, beta) if one is not None), 0)
                if size:
                    gamma, beta = (
                        np.full(size, usual, np.float32) if one is None else one
                        for one, usual in ((gamma, 1), (beta, 0))
                    )
                    return Norm(x, y, gamma, beta, self._eps(sides[0], node.output[0]))
        return None

    def _eps(self, deviation: str, stop: str) -> float:
        """Returns the constant that is added to a variance."""
        for node in self.above(deviation, stop=[stop]).values():
            if node is not None and node.op_type == "Add":
                for name in node.input:
                    if self.is_constant(name) and self.constants[name].size == 1:
                        return _decimal(float(self.constants[name].reshape(())))
        return 0.0

    def _affine(self, name: str, kind: str, size: int = 0) -> tuple[str, Array] | None:
        """Returns the only reader's output and its constant [size], where it is an `Add` or a `Mul` of a constant."""
        readers = list(self.readers(name))
        if len(readers) != 1 or readers[0].op_type != kind or name in self.outputs:
            return None
        constants = [self.constants[side] for side in readers[0].input if self.is_constant(side)]
        if len(constants) != 1 or constants[0].size == 1 != size or size not in (0, constants[0].size):
            return None
        return readers[0].output[0], constants[0].reshape(-1)

    # Runs

    def run(self, values: Mapping[str, Array], outputs: list[str]) -> list[Array]:
        """Computes tensors from the values of others, float32."""
        key = (*values, None, *outputs)
        if key not in self._sessions:
            self._sessions[key] = _session(self._part(values, outputs), outputs)
        found: list[Array] = self._sessions[key]({k: np.asarray(v, np.float32) for k, v in values.items()})
        return found

    def _part(self, values: Mapping[str, Array], outputs: list[str]) -> Any:
        """Returns a model of the nodes between tensors."""
        needed = set(self.above(*outputs, stop=values))
        nodes = [
            node for node in self.nodes if needed & set(node.output) and not set(node.output) & values.keys()
        ]
        read = {name for node in nodes for name in _read_by(node)}
        constants = [
            numpy_helper.from_array(self.constants[name], name)
            for name in sorted(read & self.constants.keys())
        ]
        inputs = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, value.shape)
            for name, value in values.items()
        ]
        named = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = onnx.helper.make_graph(nodes, "part", inputs, named, constants)
        return onnx.helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version
        )


def likely_sizes(path: Path) -> list[tuple[int, int]]:
    """Returns the sizes of square images that a file's constants could be positions for, the most tokens first."""
    graph = onnx.load(str(path)).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    stems = [
        shapes[node.input[1]] for node in graph.node if node.op_type == "Conv" and node.input[1] in shapes
    ]
    found = set()
    for shape in shapes.values():
        for embed, _, kernel, _ in stems[:1]:
            if len(shape) in (2, 3) and shape[-1] == embed:
                # With a class token, a distillation token, registers, or none.
                for patches in range(shape[-2] - 16, shape[-2] + 1):
                    if (side := math.isqrt(max(patches, 0))) > 1 and side * side == patches:
                        found.add((side * kernel, side * kernel))
    return sorted(found, reverse=True)[:_MOST_SIZES]


def _session(model: Any, outputs: list[str]) -> Any:
    """Returns a function from input tensors by name to the output tensors."""
    if list(outputs) != [value.name for value in model.graph.output]:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        del changed.graph.output[:]
        changed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        model = changed
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(model)
        return lambda values: evaluator.run(None, dict(values))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors become exceptions anyway
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda values: session.run(None, dict(values))


def _attributes(node: Any) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _nodes_of(graph: Any) -> Iterator[Any]:
    """Yields the nodes of a graph and of its branches."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes_of(attribute.g)


def _inlined_nodes(model: Any) -> int:
    """Returns the number of a model's nodes once its functions are inlined, or a number beyond the limit."""
    sizes: dict[tuple[str, str], int] = {}

    def count(part: Any) -> int:
        return sum(sizes.get((node.domain, node.op_type), 1) for node in _nodes_of(part))

    # A function's size is right once those that it calls are: after as many passes as there are functions.
    for _ in model.functions:
        sizes = {(one.domain, one.name): count(one) for one in model.functions}
        if max(sizes.values()) > _MOST_NODES:
            break
    return count(model.graph)


def _read_by(node: Any) -> list[str]:
    """Returns the tensors that a node reads, those of its branches included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            made = {name for inner in attribute.g.node for name in inner.output}
            made |= {tensor.name for tensor in attribute.g.initializer}
            names += [name for inner in attribute.g.node for name in _read_by(inner) if name not in made]
    return names


def _widen(graph: Any) -> None:
    """Makes all tensors in half precision float32."""
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    for tensor in graph.initializer:
        if tensor.data_type == half:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
            )
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = full
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _widen(attribute.g)
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == half:
                wide = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(wide))
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == half:
                attribute.i = full


def _decimal(number: float) -> float:
    """Returns the short decimal number that a float32 stands for."""
    return float(f"{number:.6g}")
