"""A subnet's nodes in the order of a frame. The forms fill in the arithmetic."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ..embedding import embedding_size
from ..oracle import rotations
from ..rows import unpack_rows
from .graph import Graph

__all__ = ["EMBEDDING_OUTPUT", "INPUT", "INTEGER_OUTPUT", "OPSET", "OUTPUT", "Network", "Source"]

#: Version of ONNX's operators: the first one whose QuantizeLinear gives int16, the residual stream's type.
OPSET = 21
_IR_VERSION = 10  # the first one that has OPSET
#: Name of the input, uint8 [batch, height, width, channels].
INPUT = "pixels"
#: Name of the output, float32 [batch, classes].
OUTPUT = "logits"
#: Name of the form `exact`'s second output, int32 [batch, classes].
INTEGER_OUTPUT = "integer_logits"
#: Name of the embedding, float32 [batch, embed], where the subnet has one.
EMBEDDING_OUTPUT = "embedding"


#: Outputs by name: ONNX type, and sizes without the batch.
_Outputs: TypeAlias = dict[str, tuple[int, list[int]]]


class Source(Protocol):
    """The attributes of a `quasar_rt.Subnet` that a model is made of; the class itself depends on this package."""

    @property
    def config(self) -> dict[str, Any]:
        """The configuration."""

    @property
    def sha256(self) -> str:
        """The digest."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Returns the tensors by name."""


class Network(ABC):
    """The network's flow. All values between its steps are float32 with whole numbers: codes, or residual units."""

    def __init__(self, subnet: Source) -> None:
        self.config = subnet.config
        self.tensors = subnet.tensors()
        self.graph = Graph()
        self.heads = ["head", "head_dist"] if self.config["pool"] == "token_pair" else ["head"]
        grid = self.config.get("embedding")
        self.embedding_size = embedding_size(self.config)
        projected = (grid or {}).get("projected")
        self.projects, self.projected_shift = projected is not None, (projected or {}).get("shift", 0)
        if grid and not self.projects:
            # A head's last rows repeat its input, which `_embedding` takes directly.
            rows, columns = len(self.config["classes"]), self.config["embed"]
            for head in self.heads:
                for part in ("bits", "bias", "mult"):
                    self.tensors[f"{head}.{part}"] = self.tensors[f"{head}.{part}"][:rows]
                weight = self.tensors[f"{head}.weight"]
                self.tensors[f"{head}.weight"] = weight[: len(weight) - columns * -(-columns // 2)]
        self._sha256 = subnet.sha256
        image, patch = self.config["image"], self.config["patch"]
        kernel, stride, pad = patch["kernel"], patch["stride"], patch["pad"]
        grid = [(image[side] + 2 * pad - kernel) // stride + 1 for side in ("height", "width")]
        self.patch_grid = grid
        self.patch_tokens = grid[0] * grid[1]
        self.tokens = self.patch_tokens + self.config["prefix_tokens"]

    def model(self) -> onnx.ModelProto:
        """Returns the model; ONNX's checker has passed it."""
        config, graph = self.config, self.graph
        x = self._tokens()
        for index in range(len(config["blocks"])):
            x = self._block(index, x)
        outputs = self._patch_outputs(x) if config.get("patch_tokens") else self._outputs(x)
        image = config["image"]
        pixels = ["batch", image["height"], image["width"], image["channels"]]
        model = helper.make_model(
            helper.make_graph(
                graph.nodes,
                config["name"],
                [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, pixels)],
                [
                    helper.make_tensor_value_info(name, dtype, ["batch", *shape])
                    for name, (dtype, shape) in outputs.items()
                ],
                list(graph.constants.values()),
            ),
            producer_name="quasar_rt",
            producer_version=version("quasar-rt"),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
        )
        about: dict[str, str] = {
            key: json.dumps(config[key], ensure_ascii=False)
            for key in ("classes", "preprocess", "trained", "embedding")
            if key in config
        }
        helper.set_model_props(model, {**about, "sha256": self._sha256})
        onnx.checker.check_model(model, full_check=True)
        return model

    def _outputs(self, x: str) -> _Outputs:
        """Appends pooling, the heads and the embedding."""
        config, pooled = self.config, self._pooled(x)
        outputs: _Outputs = {}
        whole = self.whole(pooled) if config["classes"] or self.projects else ""
        if config["classes"]:
            outputs |= self._logits(self._classes("", whole))
        if "embedding" in config:
            codes = self._projected("", whole) if self.projects else self._pooled_codes(pooled)
            outputs |= self._embedding(codes)
        return outputs

    def _classes(self, first: str, whole: str) -> str:
        """Returns the head's outputs of the classes; those of a projection follow them."""
        return self._rows(f"{first}heads.classes", whole, 0, len(self.config["classes"]))

    def _projected(self, first: str, whole: str) -> str:
        """Returns the codes of a projected embedding, float32."""
        name, classes = f"{first}embedding.projected", len(self.config["classes"])
        rows = self._rows(f"{name}.rows", whole, classes, classes + self.embedding_size)
        # Whole numbers below 2^27 and halves: exact in float64 only.
        rows = self.graph.add(f"{name}.double", "Cast", rows, to=TensorProto.DOUBLE)
        step = self.graph.number(2.0**self.projected_shift, np.float64)
        rows = self.graph.add(f"{name}.scaled", "Div", rows, step)
        rows = self.graph.add(f"{name}.half", "Add", rows, self.graph.number(0.5, np.float64))
        rows = self.graph.add(f"{name}.floor", "Floor", rows)
        rows = self.graph.add(f"{name}.float", "Cast", rows, to=TensorProto.FLOAT)
        low, high = (self.graph.number(value, np.float32) for value in (-128, 127))
        return self.graph.add(name, "Clip", rows, low, high)

    def _rows(self, name: str, whole: str, start: int, end: int) -> str:
        if end - start == len(self.config["classes"]) + self.projects * self.embedding_size:
            return whole
        bounds = {"start": start, "end": end, "axis": -1}
        return self.graph.add(
            name, "Slice", whole, *(self.graph.integers(f"{name}.{k}", [n]) for k, n in bounds.items())
        )

    def _patch_outputs(self, x: str) -> _Outputs:
        """Appends the outputs of the image and those of each patch, float32 [batch, rows, columns, outputs]."""
        token = self.config["pool"] == "token"
        normed = self.norm("norm", x if token else self._patches("patches", x))
        outputs: _Outputs = {}

        def of_patches(name: str, values: str) -> str:
            # ONNX Runtime would move a Slice or a Reshape of codes in front of their DequantizeLinear, with a wrong
            # type; so these follow products or sums.
            patches = self._patches(f"{name}.patches", values) if token else values
            shape = self.graph.integers("patch_grid", [0, *self.patch_grid, -1])
            return self.graph.add(name, "Reshape", patches, shape)

        def of_image(name: str, values: str, mean: Callable[[str], str]) -> str:
            if not token:
                return mean(values)
            return self.graph.add(
                name, "Gather", values, self.graph.constant("pool.token", np.int64(0)), axis=1
            )

        of_heads, grid_of_heads = "", ""
        if self.config["classes"] or self.projects:
            whole = self.whole([normed])
            of_heads = of_image("logits.image", whole, self.mean_of_whole)
            grid_of_heads = of_patches("logits.grid", whole)
        if self.config["classes"]:
            outputs |= self._logits(self._classes("", of_heads))
            outputs |= self._logits(self._classes("patch_", grid_of_heads), patches=True)
        if "embedding" in self.config:
            name = f"patch_{EMBEDDING_OUTPUT}"
            if self.projects:
                outputs |= self._embedding(self._projected("", of_heads))
                self._real(name, self._projected("patch_", grid_of_heads))
            else:
                outputs |= self._embedding(of_image("embedding.codes", normed, self.mean))
                of_patches(name, self._real("embedding.patches", normed))
            outputs[name] = TensorProto.FLOAT, [*self.patch_grid, self.embedding_size]
        return outputs

    def _patches(self, name: str, x: str) -> str:
        """Leaves the prefix tokens out."""
        prefix = self.config["prefix_tokens"]
        if not prefix:
            return x
        bounds = {"start": prefix, "end": np.iinfo(np.int64).max, "axis": 1}
        parts = (self.graph.integers(f"patches.{k}", [n]) for k, n in bounds.items())
        return self.graph.add(name, "Slice", x, *parts)

    def _logits(self, whole: str, patches: bool = False) -> _Outputs:
        first, shape = ("patch_", [*self.patch_grid]) if patches else ("", [])
        shape.append(len(self.config["classes"]))
        return {name: (dtype, shape) for name, dtype in self.logits(whole, first).items()}

    def _tokens(self) -> str:
        config, graph = self.config, self.graph
        pad, border = config["patch"]["pad"], config["patch"]["pad_value"]
        image = graph.add("image", "Transpose", INPUT, perm=[0, 3, 1, 2])
        if pad:
            pads = graph.integers("image.pads", [0, 0, pad, pad] * 2)
            value = graph.constant("image.border", np.uint8(border))
            image = graph.add("image.padded", "Pad", image, pads, value)
        x = self.patches(graph.floats(image, np.uint8(128)))
        if config.get("embed_norm"):
            normed = self.update("embed_proj", self.norm("embed_norm", x), config["embed"])
            nothing = graph.add("embed.nothing", "Mul", x, graph.number(0, np.float32))
            x = self.updated("embed.normed", nothing, normed)
        if not config["prefix_tokens"]:
            return x
        batch = graph.add("batch", "Shape", INPUT, start=0, end=1)
        ones = graph.integers("prefix.ones", [1, 1])
        shape = graph.add("prefix.shape", "Concat", batch, ones, axis=0)
        prefix = graph.constant("prefix", self.tensors["prefix"][None].astype(np.float32))
        return graph.add("tokens", "Concat", graph.add("prefix.batch", "Expand", prefix, shape), x, axis=1)

    def _block(self, index: int, x: str) -> str:
        name, block, embed = f"blocks.{index}", self.config["blocks"][index], self.config["embed"]
        inner = block["heads"] * block["head_dim"]
        y = self.norm(f"{name}.norm1", x)
        qkv = self.graph.floats(self.codes(f"{name}.qkv", y, embed, 0), np.int8(0))
        pools = self.config["pool"] == "attention" and index + 1 == len(self.config["blocks"])
        if pools:
            x = self.graph.add(f"{name}.first", "Gather", x, self.graph.integers("pool.first", [0]), axis=1)
            x = self.graph.add(f"{name}.nothing", "Mul", x, self.graph.number(0, np.float32))
        o = self._attention(f"{name}.attn", qkv, block["heads"], block["head_dim"], pools)
        x = self.updated(f"{name}.mid", x, self.update(f"{name}.proj", o, inner))
        z = self.norm(f"{name}.norm2", x)
        act = self._activation(name, self.codes(f"{name}.fc1", z, embed, block["fc1_zero_point"]))
        return self.updated(f"{name}.x", x, self.update(f"{name}.fc2", act, block["hidden"]))

    def _attention(self, name: str, qkv: str, heads: int, head_dim: int, pools: bool) -> str:
        graph = self.graph
        parts = graph.add_split("Split", [f"{name}.{part}" for part in "qkv"], qkv, axis=2, num_outputs=3)
        shape = graph.integers(f"{name}.heads", [0, 0, heads, head_dim])
        q, k, v = (
            graph.add(
                f"{part}.heads", "Transpose", graph.add(f"{part}.split", "Reshape", part, shape), perm=perm
            )
            for part, perm in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
        if pools:
            q = graph.add(f"{name}.query", "Gather", q, graph.integers("pool.first", [0]), axis=2)
        out = self.weighted(name, graph.add(f"{name}.products", "MatMul", q, k), v, heads)
        out = graph.add(f"{name}.tokens", "Transpose", out, perm=[0, 2, 1, 3])
        inner = graph.integers(f"{name}.inner", [0, 0, heads * head_dim])
        return graph.quantized(f"{name}.out", graph.add(f"{name}.joined", "Reshape", out, inner), np.int8(0))

    def _activation(self, block: str, codes: str) -> str:
        """Looks codes up in the block's table, which any activation function may have made."""
        graph, name = self.graph, f"{block}.gelu"
        signed = graph.add(f"{name}.signed", "Cast", codes, to=TensorProto.INT32)
        index = graph.add(f"{name}.index", "Add", signed, graph.constant("gelu.first", np.int32(128)))
        found = graph.add(f"{name}.codes", "Gather", graph.constant(name, self.tensors[name]), index, axis=0)
        return graph.floats(found, np.int8(0))

    def _pooled(self, x: str) -> list[str]:
        """Appends pooling and the final norm; returns the input of each head."""
        graph, pool = self.graph, self.config["pool"]
        if pool in ("token", "attention"):
            x = graph.add("pool", "Gather", x, graph.constant("pool.token", np.int64(0)), axis=1)
            return [(self.norm if pool == "token" else self.scaled)("norm", x)]
        if pool == "token_pair":
            normed = self.norm("norm", x)
            tokens = [graph.constant(f"pool.token{i}", np.int64(i)) for i in range(2)]
            return [graph.add(f"pool{i}", "Gather", normed, token, axis=1) for i, token in enumerate(tokens)]
        x = self._patches("patches", x)
        return [self.norm("norm", self.mean(x)) if pool == "mean" else self.mean(self.norm("norm", x))]

    def _pooled_codes(self, pooled: list[str]) -> str:
        """Returns the embedding's codes."""
        graph, codes = self.graph, pooled[0]
        if len(pooled) == 2:
            # Half of each token's codes: the first rounded up, the second down.
            up = graph.add("embedding.up", "Add", codes, graph.number(1, np.float32))
            halves = [
                graph.add(
                    f"{part}.half",
                    "Floor",
                    graph.add(f"{part}.real", "Mul", part, graph.number(0.5, np.float32)),
                )
                for part in (up, pooled[1])
            ]
            codes = graph.add("embedding.mean", "Add", *halves)
        return codes

    def _embedding(self, codes: str) -> _Outputs:
        return {self._real(EMBEDDING_OUTPUT, codes): (TensorProto.FLOAT, [self.embedding_size])}

    def _real(self, name: str, codes: str) -> str:
        """Appends the real values of an embedding's codes."""
        graph, grid = self.graph, self.config["embedding"]
        centred = graph.add(f"{name}.centred", "Sub", codes, graph.number(grid["zero_point"], np.float32))
        return graph.add(name, "Mul", centred, graph.number(grid["scale"], np.float32))

    def rows(self, name: str, columns: int) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
        """Returns a layer's codes, int8 [rows, columns], and its bias [rows]."""
        tensors = self.tensors
        codes = unpack_rows(tensors[f"{name}.weight"], tensors[f"{name}.bits"], columns)
        return codes, tensors[f"{name}.bias"]

    def turned(self, name: str, x: str, one: float, dtype: type[np.float32] | type[np.float64]) -> str:
        """Rotates q and k of a layer's results [batch, tokens, q, k and v] and multiplies them and v by `one`."""
        c, s = (part[:, 0] / 2**14 for part in rotations(self.config, self.tensors))
        heads = len(self.tensors[f"{name}.bias"]) // 3 // self.config["blocks"][0]["head_dim"]
        turns = c.repeat(2, axis=1), np.stack([-s, s], axis=2).reshape(len(s), -1)
        cosine, sine = (
            np.concatenate([np.tile(turn, 2 * heads), np.full((len(s), heads * turn.shape[1]), v)], axis=1)
            for turn, v in zip(turns, (1.0, 0.0), strict=True)
        )
        graph, size = self.graph, f"{heads}.{np.dtype(dtype).name}"
        cosines, sines = (
            graph.constant(f"rotary.{part}.{size}", (one * turn).astype(dtype))
            for part, turn in (("cosine", cosine), ("sine", sine))
        )
        partners = graph.constant(f"rotary.partners.{heads}", np.arange(cosine.shape[1]) ^ 1)
        other = graph.add(f"{name}.partner", "Gather", x, partners, axis=2)
        parts = graph.add(f"{name}.cosine", "Mul", x, cosines), graph.add(f"{name}.sine", "Mul", other, sines)
        return graph.add(f"{name}.turned", "Add", *parts)

    def grid(self, name: str, image: str, weights: str) -> str:
        """Multiplies the patches: float32 [batch, patches, embed]."""
        graph, stride = self.graph, self.config["patch"]["stride"]
        grid = graph.add(f"{name}.grid", "Conv", image, weights, strides=[stride, stride])
        flat = graph.add(f"{name}.flat", "Reshape", grid, graph.integers("embed.flat_shape", [0, 0, -1]))
        return graph.add(f"{name}.patches", "Transpose", flat, perm=[0, 2, 1])

    @abstractmethod
    def patches(self, image: str) -> str:
        """Returns the patch tokens, [batch, patches, embed], of pixel codes [batch, channels, height, width]."""

    @abstractmethod
    def update(self, name: str, a: str, columns: int) -> str:
        """Returns a layer's results in units of the residual stream."""

    @abstractmethod
    def codes(self, name: str, a: str, columns: int, zero_point: int) -> str:
        """Returns a layer's results as int8 codes; those of q and k are rotated where the subnet says so."""

    @abstractmethod
    def updated(self, name: str, x: str, update: str) -> str:
        """Adds an update to the residual stream."""

    @abstractmethod
    def norm(self, name: str, x: str) -> str:
        """Normalises tokens to codes."""

    @abstractmethod
    def scaled(self, name: str, x: str) -> str:
        """Applies gain and offset of a norm to tokens as they are; returns codes."""

    @abstractmethod
    def weighted(self, name: str, products: str, v: str, heads: int) -> str:
        """Returns the attention's output codes, unrounded or not, from the products of q and k."""

    @abstractmethod
    def mean(self, x: str) -> str:
        """Returns the tokens' rounded mean."""

    @abstractmethod
    def whole(self, pooled: list[str]) -> str:
        """Appends the heads, one for each input, and adds up their whole-number results."""

    @abstractmethod
    def mean_of_whole(self, whole: str) -> str:
        """Returns the rounded mean of heads' results."""

    @abstractmethod
    def logits(self, whole: str, first: str) -> dict[str, int]:
        """Appends the logits of heads' results; returns the outputs' names, `first` before each, and ONNX types."""
