"""Plain Vision Transformers in ONNX files: the weights are found by following the graph, whatever their names.

The graph is followed where its operators say what they are (LayerNorm, products, softmax, residual sums). What lies
between is run on numbers that show what it does: the order of heads and channels, scales, the activation function,
positions, pooling. In the end the file and the rebuilt network are run on the same pictures.

Depends on: onnx, torch, timm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import create_act_layer
from torch import nn

from .onnx_graph import Graph, Linear, Norm, likely_sizes
from .vit import (
    LoadedNetwork,
    NetworkError,
    RotaryTable,
    name_of,
    require,
    require_patch,
    resample,
    vision_transformer,
)

__all__ = ["load_onnx"]

Array = NDArray[Any]

#: Activation functions that are tried, timm's names.
_ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu")
#: Largest difference between the file's and the rebuilt network's features, as a share of the largest feature.
_TOLERANCE = 1e-4


def load_onnx(path: Path, size: tuple[int, int] | None) -> LoadedNetwork:
    """Rebuilds the Vision Transformer of an ONNX file.

    Args:
        path: the file.
        size: height and width of an image; by default those that the file states, or 224. If the file states others,
            the positions are resampled as timm does it.

    Raises:
        NetworkError: the graph is no plain Vision Transformer, or the rebuilt network computes something else.
    """
    try:
        found = _reader(path, size or (224, 224))
        network = found.network(name_of(path))
        found.compare(network.model)
        if size is not None and size != found.graph.shape[2:]:
            _resize(network, size)
    except NetworkError:
        raise
    # onnx and its runtimes refuse damaged files in errors of many kinds, and torch weights that do not fit.
    except Exception as error:
        problem = " ".join(str(error).split())[:400]
        raise NetworkError(f"'{path}' is no ONNX file that can be run: {problem}") from error
    return network


def _reader(path: Path, size: tuple[int, int]) -> _Reader:
    """Opens a file at an image size; where the graph cannot be run, at a size that its positions may be for."""
    first: Exception | None = None
    for attempt in _sizes(path, size):
        try:
            return _Reader(Graph(path, attempt))
        except NetworkError:
            raise
        except Exception as error:
            first = first or error
    assert first is not None
    raise first


def _sizes(path: Path, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    yield size
    with suppress(Exception):  # of a damaged file
        yield from (one for one in likely_sizes(path) if one != size)


class _Reader:
    """The parts of a Vision Transformer, as they are found along a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.state: dict[str, Array] = {}
        self.notices: list[str] = []
        #: The rotary positions, complex [tokens, pairs], and whether pairs are channels of both halves of a head.
        self.turns: tuple[Array, bool] | None = None
        #: For k, v and q of each block, whether they are rotated.
        self.rotated: list[bool] = []
        self.norms, self.linears = graph.norms(), graph.linears()
        self.require(bool(self.norms), "it has no LayerNorm")
        products = [tuple(node.input) for node in graph.nodes if node.op_type == "MatMul"]
        seen = {name for pair in products for name in pair if not graph.is_constant(name)}
        seen |= {one.input for one in self.linears} | {one.out for one in self.linears}
        seen |= {norm.x for norm in self.norms} | {norm.y for norm in self.norms}
        seen |= {node.output[0] for node in graph.nodes if node.op_type in ("MatMul", "Conv")}
        seen.discard(graph.image)
        names = sorted(seen)
        image = np.zeros(graph.shape, np.float32)
        self.shapes = {
            name: value.shape
            for name, value in zip(names, graph.run({graph.image: image}, names), strict=True)
        }
        self.mean, self.std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    def require(self, condition: bool, what: str) -> None:
        require(condition, self.graph.path, what)

    def network(self, name: str) -> LoadedNetwork:
        """Finds all parts, and makes the network."""
        stem = self._stem()
        x = self._embedding(stem)
        self.activations: set[str] = set()
        self.depth = 0
        while (half := self._half(x)) is not None:
            norm, branch, after = half
            self._attention(norm, branch, x)
            x = self.graph.same(after)
            half = self._half(x)
            self.require(half is not None, f"block {self.depth} has no MLP behind its attention")
            assert half is not None
            norm, branch, after = half
            self._mlp(norm, branch, x, f"blocks.{self.depth}.norm2", f"blocks.{self.depth}.mlp")
            x = self.graph.same(after)
            self.depth += 1
        self.require(
            self.depth > 0, "no pre-norm block of attention and MLP was found behind the first LayerNorm"
        )
        self.require(
            self.turns is None or self.rotated == [True, False, True] * self.depth,
            "it rotates some of its q and k, or v",
        )
        pool = self._tail(x)
        self.require(
            len(self.activations) == 1,
            f"its blocks differ in their activations ({', '.join(self.activations)})",
        )
        rotary = None if self.turns is None else RotaryTable(self.turns[0][self.prefix :], self.turns[1])
        _, channels, height, width = self.graph.shape
        model = vision_transformer(
            {key: torch.from_numpy(np.array(value, np.float32)) for key, value in self.state.items()},
            heads=self.heads,
            size=(height, width),
            activation=self.activations.pop(),
            eps=1e-6,
            pool=pool,
            rope=rotary,
            rotate_half=rotary is None or rotary.half,
            config={
                "architecture": name,
                "input_size": (channels, height, width),
                "mean": self.mean[:channels],
                "std": self.std[:channels],
                "interpolation": "bicubic",
                "crop_pct": 1.0,
                "crop_mode": "center",
            },
        )
        for key, eps in self.eps.items():
            model.get_submodule(key).eps = eps
        if self.mean is IMAGENET_DEFAULT_MEAN:
            self.notices.append(
                "an ONNX file has no preprocessing: its mean and std are taken to be ImageNet's, its resizing a "
                "bicubic one of the shorter side, unless mean, std and resize give others"
            )
        return LoadedNetwork(model, name, None, self.notices)

    # Probes

    def between(self, source: str, target: str) -> tuple[Array, Array, Array]:
        """Finds the columns of `source` that make up `target` by moving and scaling.

        Returns:
            For each element of `target`: its column in `source`'s last dimension, its row in all others, and its scale.
        """
        found = self._moved(source, target)
        self.require(
            found is not None,
            f"block {self.depth} does more than move and scale the channels of its q, k and v, and rotate q and k by "
            "the patches' positions (a norm, a mask, relative positions)",
        )
        assert found is not None
        return found

    def _moved(self, source: str, target: str) -> tuple[Array, Array, Array] | None:
        """Returns what `between` does; None if more happens than moving and scaling."""
        shape = self.shapes[source]
        columns = np.broadcast_to(np.arange(shape[-1]), shape)
        rows = np.broadcast_to(np.arange(math.prod(shape[:-1])).reshape(*shape[:-1], 1), shape)
        zero, one, column, row = (
            self.graph.run({source: value}, [target])[0]
            for value in (np.zeros(shape), np.ones(shape), columns, rows)
        )
        scale = one - zero
        known = bool((np.abs(zero).max() == 0) & (scale != 0).all())
        if known:
            column, row = column / scale, row / scale
            known = max(np.abs(x - x.round()).max() for x in (column, row)) < 0.1
        return (column.round().astype(int), row.round().astype(int), scale) if known else None

    def _turned(self, source: str, target: str, transposed: bool) -> tuple[Array, int, float] | None:
        """Reads rotary positions between `source` [batch, tokens, channels] and q or k.

        Returns:
            The columns of `source` by head, the head's size, and a scale. None if more happens than a rotation, or
            another one than elsewhere.
        """
        shape = self.shapes[source]
        if len(shape) != 3 or shape[:2] != (self.graph.shape[0], self.tokens) or not self.prefix:
            return None

        def heads_of(x: Array) -> Array:
            found = self.graph.run({source: np.broadcast_to(x, shape).astype(np.float32)}, [target])[0]
            found = np.swapaxes(found, -1, -2) if transposed else found
            first: Array = found.reshape(shape[0], -1, *found.shape[-2:])[0].astype(np.float64)
            return first

        scales = heads_of(np.ones(shape))[:, 0]
        heads, dim = scales.shape
        columns = (heads_of(np.arange(shape[2]))[:, 0] / scales[0, 0]).round().astype(int)
        scale = float(scales[0, 0])
        if (
            heads_of(np.zeros(shape)).any()
            or not np.allclose(scales, scale)
            or heads * dim != self.embed
            or dim % 4
        ):
            return None
        if len({*columns.ravel()} & {*range(shape[2])}) != self.embed:
            return None
        rng = np.random.default_rng(2)
        probes = [rng.normal(size=shape).astype(np.float32) for _ in range(4)]
        given = np.stack([probe[0][:, columns].transpose(1, 0, 2) for probe in probes]) * scale
        taken = np.stack([heads_of(probe) for probe in probes])
        for half in (True, False):
            first, second = (
                (slice(None, dim // 2), slice(dim // 2, None))
                if half
                else (slice(0, None, 2), slice(1, None, 2))
            )
            x, y = (part[..., first] + 1j * part[..., second] for part in (given, taken))
            # The one turn of each token and pair of channels that fits all heads and pictures best.
            turns = (x.conj() * y).sum(axis=(0, 1)) / (np.abs(x) ** 2).sum(axis=(0, 1))
            fits = np.abs(turns * x - y).max() < 1e-4 * np.abs(y).max()
            if (
                fits
                and np.allclose(np.abs(turns), 1, atol=1e-4)
                and np.allclose(turns[: self.prefix], 1, atol=1e-4)
            ):
                self.turns = (turns, half) if self.turns is None else self.turns
                same = self.turns[1] == half and np.allclose(turns, self.turns[0], atol=1e-4)
                return (columns, dim, scale) if same else None
        return None

    def scaled(self, linear: Linear, target: str) -> tuple[Array, Array]:
        """Returns weight and bias from the input of a linear layer to `target`, which scales and shifts its rows."""
        if self.graph.same(target) == linear.out:
            return linear.weight, linear.bias
        shape = self.shapes[linear.out]
        zero, one = (
            self.graph.run({linear.out: value}, [target])[0].reshape(-1, shape[-1])
            for value in (np.zeros(shape), np.ones(shape))
        )
        self.require(
            bool((zero == zero[0]).all() and (one == one[0]).all()),
            "a residual branch does more than scale its channels",
        )
        scale = one[0] - zero[0]
        return linear.weight * scale[:, None], linear.bias * scale + zero[0]

    # Parts, in the order of the graph

    def _stem(self) -> Any:
        """Reads the patch embedding, and returns its node."""
        graph = self.graph
        convolutions = [node for node in graph.nodes if node.op_type == "Conv"]
        self.require(bool(convolutions), "it has no convolution that cuts patches")
        node = convolutions[0]
        weight = graph.constants.get(node.input[1])
        self.require(weight is not None and weight.ndim == 4, "its first convolution has no constant weights")
        assert weight is not None
        high, wide = weight.shape[2:]
        attributes = {one.name: list(one.ints) for one in node.attribute if one.ints}
        self.require(
            high == wide
            and attributes.get("strides") == [high, wide]
            and not any(attributes.get("pads", []))
            and weight.shape[1] == graph.shape[1],
            f"its first convolution ({high}x{wide}, strides {attributes.get('strides')}, pads "
            f"{attributes.get('pads')}) does not cut the image into square patches",
        )
        bias = graph.constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
        if graph.same(node.input[0]) != graph.image:
            weight, bias = self._normalised(node.input[0], weight, bias)
        self.state |= {"patch_embed.proj.weight": weight, "patch_embed.proj.bias": bias}
        return node

    def _normalised(self, target: str, weight: Array, bias: Array) -> tuple[Array, Array]:
        """Folds a normalisation of the image in the graph into the patch embedding."""
        shape = self.graph.shape
        zero, one = (
            self.graph.run({self.graph.image: value}, [target])[0]
            for value in (np.zeros(shape), np.ones(shape))
        )
        self.require(
            zero.shape == shape and all(bool((x == x[:1, :, :1, :1]).all()) for x in (zero, one)),
            "the image is changed before the patch embedding by more than a normalisation",
        )
        offset = zero[0, :, 0, 0]
        scale = one[0, :, 0, 0] - offset
        # A network of pixels of 0 to 255 divides by tens.
        full = float(np.abs(scale).max()) < 0.1
        self.mean, self.std = (0.0,) * 3, (1 / 255 if full else 1.0,) * 3
        self.notices.append(
            f"it normalises the image itself: its mean is 0 and its std {'1/255' if full else '1'}, for pixels from 0 "
            f"to {255 if full else 1}"
        )
        return weight * scale[:, None, None], bias + (weight * offset[:, None, None]).sum(axis=(1, 2, 3))

    def _embedding(self, stem: Any) -> str:
        """Reads tokens and positions, and returns the residual stream in front of the first block."""
        graph, source = self.graph, stem.output[0]
        first = self.norms[0]
        self.require(
            source in graph.above(first.x), "its first LayerNorm does not depend on its first convolution"
        )
        shape = self.shapes[source]
        embed, patches = shape[1], shape[2] * shape[3]
        numbers = 1 + np.arange(patches).reshape(1, 1, *shape[2:])
        channels = 1 + np.arange(embed).reshape(1, embed, 1, 1)
        constant, patch, channel = (
            graph.run({source: np.broadcast_to(value, shape)}, [first.x])[0][0]
            for value in (np.zeros((1, 1, 1, 1)), numbers, channels)
        )
        self.require(
            constant.ndim == 2 and constant.shape[1] == embed and len(constant) >= patches,
            f"the input of its first LayerNorm is {list(constant.shape)}, no tokens of {embed} channels",
        )
        prefix = len(constant) - patches
        expected = np.concatenate([np.zeros(prefix), 1 + np.arange(patches)])[:, None]
        order = np.where(expected > 0, 1 + np.arange(embed), 0)
        off = max(np.abs(patch - constant - expected).max(), np.abs(channel - constant - order).max())
        self.require(bool(off < 0.1), "its tokens are not the patches row by row behind tokens of no patch")
        self.prefix, self.embed, self.tokens = prefix, embed, len(constant)
        positions = np.concatenate([np.zeros((prefix, embed), np.float32), constant[prefix:]])
        self.state["pos_embed"] = positions[None]
        if prefix:
            self.state["cls_token"] = constant[None, :1]
        if prefix > 1:
            self.state["reg_token"] = constant[None, 1:prefix]
        self.eps: dict[str, float] = {}
        if self._half(first.x) is not None:
            return first.x
        self._put(first, "norm_pre")
        return graph.same(first.y)

    def _put(self, norm: Norm, name: str) -> None:
        self.state |= {f"{name}.weight": norm.gamma, f"{name}.bias": norm.beta}
        self.eps[name] = norm.eps

    def _half(self, x: str) -> tuple[Norm, str, str] | None:
        """Returns the norm of a residual branch that reads `x`, the branch's end and the sum; None if there is none."""
        graph = self.graph
        norms = [norm for norm in self.norms if norm.x == x]
        for node in graph.readers(x) if norms else ():
            if node.op_type != "Add" or any(map(graph.is_constant, node.input)):
                continue
            for branch in node.input:
                if graph.same(branch) == x:
                    continue
                above = graph.above(branch, stop=[x, *(norm.y for norm in norms)])
                for norm in norms:
                    if norm.y in above:
                        return norm, branch, node.output[0]
        return None

    def _inside(self, branch: str, norm: Norm, x: str) -> tuple[dict[str, Any], list[Linear]]:
        """Returns the tensors of a branch with their nodes, and its linear layers."""
        above = self.graph.above(branch, stop=[norm.y, x])
        return above, [one for one in self.linears if one.out in above]

    def _attention(self, norm: Norm, branch: str, x: str) -> None:
        graph, where = self.graph, f"block {self.depth}"
        above, linears = self._inside(branch, norm, x)
        softmax = [node for node in above.values() if node is not None and node.op_type == "Softmax"]
        self.require(len(softmax) == 1, f"{where} has {len(softmax)} softmaxes in its first branch, not one")
        scores = graph.above(softmax[0].input[0], stop=[norm.y])
        products = [node for node in scores.values() if node is not None and self._is_product(node)]
        self.require(len(products) == 1, f"{where} has {len(products)} products of queries and keys, not one")
        query_key = products[0]
        values = [
            node
            for node in above.values()
            if node is not None and self._is_product(node) and node is not query_key
        ]
        self.require(
            len(values) == 1 and softmax[0].output[0] in graph.above(values[0].input[0]),
            f"{where} has no single product of attention and values",
        )
        value_product = values[0]
        proj = [one for one in linears if value_product.output[0] in graph.above(one.input, stop=[norm.y])]
        self.require(len(proj) == 1, f"{where} has {len(proj)} matrices behind its attention, not one")
        k, k_bias, dim, k_scale = self._projection(query_key.input[1], norm, linears, True)
        v, v_bias, _, v_scale = self._projection(value_product.input[1], norm, linears, False)
        query = graph.constants.get(query_key.input[0])
        if query is None:
            q, q_bias, _, q_scale = self._projection(query_key.input[0], norm, linears, False)
        else:
            self.require(query.size == self.embed, f"{where} has more than one constant query")
            q, q_bias, q_scale = np.zeros_like(k), query.reshape(-1), 1.0
        # Scores are the products times the scales of all three places; timm divides by the root of the head's size.
        middle = self.between(query_key.output[0], softmax[0].input[0])[2]
        factor = q_scale * k_scale * float(middle.flat[0]) * math.sqrt(dim)
        factor = 1.0 if abs(factor - 1) < 1e-5 else factor
        self.require(
            bool((middle == middle.flat[0]).all()), f"{where} scales its scores by more than a number"
        )
        order = self._order(value_product.output[0], proj[0], dim)
        weight, bias = self.scaled(proj[0], branch)
        if query is not None:
            name = "attn_pool"
            self.state |= {
                "attn_pool.latent": (factor * q_bias)[None, None],
                "attn_pool.q.weight": np.eye(self.embed),
                "attn_pool.q.bias": np.zeros(self.embed),
                "attn_pool.kv.weight": np.concatenate([k, v_scale * v]),
                "attn_pool.kv.bias": np.concatenate([k_bias, v_scale * v_bias]),
            }
        else:
            name = f"blocks.{self.depth}.attn"
            self._put(norm, f"blocks.{self.depth}.norm1")
            self.state |= {
                f"{name}.qkv.weight": np.concatenate([factor * q, k, v_scale * v]),
                f"{name}.qkv.bias": np.concatenate([factor * q_bias, k_bias, v_scale * v_bias]),
            }
        self.state |= {f"{name}.proj.weight": weight[:, order], f"{name}.proj.bias": bias}

    def _is_product(self, node: Any) -> bool:
        """Returns whether a node multiplies activations; a query may be constant."""
        return node.op_type == "MatMul" and not self.graph.is_constant(node.input[1])

    def _copies(self, source: str, target: str) -> bool:
        """Returns whether a tensor has the values of `source` in the same order."""
        graph = self.graph
        if graph.flat(target) == source or graph.image in graph.above(target, stop=[source]):
            return graph.flat(target) == source
        probe = np.random.default_rng(3).normal(size=self.shapes[source]).astype(np.float32)
        return np.array_equal(graph.run({source: probe}, [target])[0].ravel(), probe.ravel())

    def _projection(
        self, target: str, norm: Norm, linears: list[Linear], transposed: bool
    ) -> tuple[Array, Array, int, float]:
        """Returns the rows of q, k or v by head with their bias, the head's size and a scale behind them."""
        above = self.graph.above(target, stop=[norm.y])
        where = f"block {self.depth}"
        sources = [one for one in linears if one.out in above and self._copies(norm.y, one.input)]
        self.require(
            len(sources) == 1, f"{where}: q, k or v of all tokens comes from {len(sources)} matrices, not one"
        )
        plain = self._moved(sources[0].out, target)
        turned = self._turned(sources[0].out, target, transposed) if plain is None else None
        self.rotated.append(turned is not None)
        if turned is not None:
            columns, dim, turned_scale = turned
            self.heads = len(columns)
            rows = columns.reshape(-1)
            return sources[0].weight[rows], sources[0].bias[rows], dim, turned_scale
        column, row, scale = self.between(sources[0].out, target) if plain is None else plain
        if transposed:
            column, row, scale = (np.swapaxes(x, -1, -2) for x in (column, row, scale))
        tokens, dim = column.shape[-2:]
        column, row = (x.reshape(-1, tokens, dim) for x in (column, row))
        heads = len(column) // self.graph.shape[0]
        self.require(
            heads * dim == self.embed and tokens == self.tokens,
            f"{where} has {heads} heads of {dim} channels over {tokens} tokens; their product must be the "
            f"{self.embed} channels of {self.tokens} tokens",
        )
        self.require(
            bool((column == column[:, :1]).all() and (row[:heads] == np.arange(tokens)[:, None]).all()),
            f"{where} moves tokens between heads",
        )
        self.require(bool((scale == scale.flat[0]).all()), f"{where} scales q, k or v by more than a number")
        self.heads = heads
        rows = column[:heads, 0].reshape(-1)
        return sources[0].weight[rows], sources[0].bias[rows], dim, float(scale.flat[0])

    def _order(self, product: str, proj: Linear, dim: int) -> Array:
        """Returns the column of proj for each channel of each head."""
        shape = self.shapes[product]
        batch, heads = self.graph.shape[0], self.heads
        number = np.arange(heads).reshape(1, heads, 1, 1) * dim + np.arange(dim)
        queries = math.prod(shape) // (batch * heads * dim)
        indices = np.broadcast_to(number, (batch, heads, queries, dim)).reshape(shape)
        found = self.graph.run({product: indices}, [proj.input])[0].reshape(-1, self.embed)
        columns = found[0].round().astype(int)
        self.require(
            bool((found == found[0]).all()) and sorted(columns) == list(range(self.embed)),
            f"block {self.depth} does not join its heads in a fixed order",
        )
        return np.argsort(columns)

    def _mlp(self, norm: Norm, branch: str, x: str, norm_name: str, name: str) -> None:
        """Reads an MLP and the norm in front of it."""
        graph, where = self.graph, f"block {self.depth}"
        _, linears = self._inside(branch, norm, x)
        self.require(len(linears) == 2, f"{where} has {len(linears)} matrices in its second branch, not two")
        first, second = sorted(linears, key=lambda one: graph.flat(one.input) != norm.y)
        self.require(
            graph.flat(first.input) == norm.y and first.out in graph.above(second.input, stop=[norm.y]),
            f"{where}: its MLP is not two matrices in a row",
        )
        shape = self.shapes[first.out]
        count = math.prod(shape)
        points = np.resize(np.linspace(-8, 8, min(count, 1601), dtype=np.float32), count).reshape(shape)
        found = graph.run({first.out: points}, [second.input])[0]
        self.require(found.size == points.size, f"{where}: its MLP gates its hidden layer")
        errors = {
            name: float(
                np.abs(create_act_layer(name)(torch.from_numpy(points)).numpy().ravel() - found.ravel()).max()
            )
            for name in _ACTIVATIONS
        }
        best = min(errors, key=lambda name: errors[name])
        self.require(
            errors[best] < 1e-4,
            f"{where}: its activation function is none of {', '.join(_ACTIVATIONS)} (the nearest, {best}, differs by "
            f"{errors[best]:.2g})",
        )
        self.activations.add(best)
        weight, bias = self.scaled(second, branch)
        self._put(norm, norm_name)
        self.state |= {
            f"{name}.fc1.weight": first.weight,
            f"{name}.fc1.bias": first.bias,
            f"{name}.fc2.weight": weight,
            f"{name}.fc2.bias": bias,
        }

    # Behind the blocks

    def _tail(self, x: str) -> str:
        """Reads the last norm, the pooling and the classifier; returns the pooling."""
        graph = self.graph
        used = set(self.eps)
        below = graph.below(x)
        norms = self.norms[2 * self.depth + ("norm_pre" in used) :]
        final = next((norm for norm in norms if norm.x in below), None)
        self.require(final is not None, "it has no LayerNorm behind its blocks")
        assert final is not None
        self.final, self.behind = final, graph.below(final.y)
        self.logits: list[str] = []
        if self._attention_pool(final):
            return "map"
        probe = np.random.default_rng(0).normal(size=(self.graph.shape[0], self.tokens, self.embed))
        probe = probe.astype(np.float32)
        kinds = {
            "token": probe[:, 0],
            "pair": probe[:, 1],
            "avg": probe[:, self.prefix :].mean(axis=1),
            "all": probe,
        }
        if not self.prefix:
            del kinds["token"]

        def kind_of(found: Array) -> str | None:
            """Returns which tokens of the probe a tensor has."""
            return next(
                (
                    kind
                    for kind, value in kinds.items()
                    if found.size == value.size and np.allclose(found.ravel(), value.ravel(), atol=1e-5)
                ),
                None,
            )

        pooled_first = final.x != x
        before = kind_of(graph.run({x: probe}, [final.x])[0]) if pooled_first else "all"
        self.require(
            before in ("token", "avg", "all"),
            "the tokens are not pooled as the class token or the patches' mean",
        )
        heads: dict[str, Linear] = {}
        for linear in self.linears:
            if linear.input in self.behind:
                if pooled_first:
                    kind = before if graph.flat(linear.input) == final.y else None
                else:
                    kind = kind_of(graph.run({final.y: probe}, [linear.input])[0])
                if kind is not None and kind != "all" and self._is_output(linear, heads.get("token")):
                    heads[kind] = linear
                elif kind == "token" and self._pair_follows(linear):
                    heads["token"] = linear
        pool = self._pooling(heads, pooled_first, before, kind_of, probe)
        self._put(final, "fc_norm" if pooled_first and pool == "avg" else "norm")
        return pool

    def _attention_pool(self, norm: Norm) -> bool:
        """Reads the attention that pools behind the last norm, and the classifier; False if there is none."""
        graph = self.graph
        inner = next((one for one in self.norms if one is not norm and one.x in self.behind), None)
        if inner is None or not any(map(self._is_query, graph.above(inner.x, stop=[norm.y]).values())):
            return False
        heads = self.heads
        self._attention(norm, inner.x, norm.x)
        self.require(self.heads == heads, "its attention pooling has other heads than its blocks")
        half = self._half(inner.x)
        self.require(half is not None, "it has no MLP behind its attention pooling")
        assert half is not None
        self._mlp(half[0], half[1], inner.x, "attn_pool.norm", "attn_pool.mlp")
        self._put(norm, "norm")
        pooled = graph.same(half[2])
        self.logits = [pooled]
        for linear in self.linears:
            if linear.input in graph.below(pooled) and self._is_output(linear, None):
                self._put_head("head", linear)
                self.logits = [linear.out]
                return True
        outputs = [above for out in graph.outputs if pooled in (above := graph.above(out, stop=[pooled]))]
        self._note_left_out(outputs, "attention pooling")
        return True

    def _is_query(self, node: Any) -> bool:
        """Returns whether a node multiplies a constant query and keys."""
        return node is not None and self._is_product(node) and self.graph.is_constant(node.input[0])

    def _note_left_out(self, outputs: list[dict[str, Any]], behind: str, embedding: str = "") -> None:
        """Adds a notice of the operators in front of outputs; each has its tensors with their nodes."""
        nodes = (node for above in outputs for node in above.values() if node is not None)
        if left_out := sorted({node.op_type for node in nodes} & {*_PARTS}):
            self.notices.append(f"what follows its {behind} ({', '.join(left_out)}) is left out{embedding}")

    def _is_output(self, linear: Linear, partner: Linear | None) -> bool:
        """Returns whether an output of the graph is a layer's, or the mean of it and its partner's."""
        graph = self.graph
        for output in graph.outputs:
            above = graph.above(output, stop=[linear.out] + ([partner.out] if partner else []))
            if linear.out not in above:
                continue
            node = graph.producer.get(output)
            if graph.flat(output) == linear.out:
                return True
            if node is not None and node.op_type == "Softmax" and graph.flat(node.input[0]) == linear.out:
                self.notices.append("the softmax behind its classifier is left out")
                return True
            if partner is not None and partner.out in above:
                rng = np.random.default_rng(1)
                a, b = (rng.normal(size=self.shapes[one.out]).astype(np.float32) for one in (linear, partner))
                found = graph.run({linear.out: a, partner.out: b}, [output])[0]
                return bool(
                    found.size == a.size and np.allclose(found.ravel(), ((a + b) / 2).ravel(), atol=1e-5)
                )
        return False

    def _pair_follows(self, linear: Linear) -> bool:
        """Returns whether an output adds a layer's and that of another layer behind the last norm."""
        others = [
            one
            for one in self.linears
            if one is not linear and one.input in self.behind and len(one.bias) == len(linear.bias)
        ]
        return len(others) == 1 and self._is_output(linear, others[0])

    def _pooling(
        self, heads: dict[str, Linear], pooled_first: bool, before: str | None, kind_of: Any, probe: Array
    ) -> str:
        """Puts the heads into the state; returns the pooling."""
        graph = self.graph
        if {"token", "pair"} <= heads.keys():
            self.state["dist_token"] = self.state.pop("reg_token")
            self.require(self.prefix == 2, "two classifiers need a class token and a distillation token")
            self._put_head("head", heads["token"])
            self._put_head("head_dist", heads["pair"])
            self.logits = [heads["token"].out, heads["pair"].out]
            return "token"
        for kind in ("token", "avg"):
            if kind in heads:
                self._put_head("head", heads[kind])
                self.logits = [heads[kind].out]
                return kind
        if pooled_first:
            return str(before)
        pool = "token" if self.prefix else "avg"
        left_out = []
        for output in graph.outputs:
            if self.final.y not in (above := graph.above(output, stop=[self.final.y])):
                continue
            found = (
                kind_of(graph.run({self.final.y: probe}, [output])[0]) if output != self.final.y else "all"
            )
            if found is None:
                left_out.append(above)
            elif found in ("token", "avg"):
                pool = found
        kept = "the class token" if pool == "token" else "the mean of the patch tokens"
        self._note_left_out(left_out, "last norm", f"; the embedding is {kept}")
        return pool

    def _put_head(self, name: str, linear: Linear) -> None:
        self.state |= {f"{name}.weight": linear.weight, f"{name}.bias": linear.bias}

    def compare(self, model: nn.Module) -> None:
        """Runs the file and the network on two pictures.

        Raises:
            NetworkError: their features or logits differ.
        """
        graph = self.graph
        worst = 0.0
        for seed in range(2):
            image = np.random.default_rng(seed).normal(size=graph.shape).astype(np.float32)
            tokens, *logits = graph.run({graph.image: image}, [self.final.y, *self.logits])
            with torch.no_grad():
                features = model.forward_features(torch.from_numpy(image))
                pooled = model.forward_head(features, pre_logits=True)
                pairs = [(tokens, features.numpy() if features.numel() == tokens.size else pooled.numpy())]
                if logits:
                    answer = model.forward_head(features).numpy()
                    pairs.append((np.mean(logits, axis=0), answer))
            for expected, found in pairs:
                error = np.abs(found.ravel() - expected.ravel()).max() / np.abs(expected).max()
                worst = max(worst, float(error))
        self.require(
            worst < _TOLERANCE,
            f"the network that was rebuilt from it differs from it by {worst:.2g} of the largest feature, so the file "
            "computes something that was not recognised",
        )
        self.notices.insert(
            0,
            f"rebuilt as a plain Vision Transformer, which differs from the file by {worst:.1g} of the largest feature "
            "(two random pictures)",
        )


#: Operators that are named where what follows the last norm is left out.
_PARTS = (
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "Tanh",
    "Resize",
    "ReduceMean",
    "Softmax",
    "Sigmoid",
    "LayerNormalization",
)


def _resize(network: LoadedNetwork, size: tuple[int, int]) -> None:
    """Gives a network positions for another image size."""
    model = network.model
    stem = model.patch_embed
    require(
        getattr(model, "rope", None) is None,
        network.name,
        "its rotary positions are those of one image size, {}x{}".format(*stem.img_size),
    )
    require_patch(size, stem.patch_size, network.name)
    old, prefix = stem.grid_size, model.num_prefix_tokens
    stem.set_input_size(img_size=size)
    position = model.pos_embed.detach()[0]
    patches = resample(position[prefix:], old, stem.grid_size, antialias=True)
    model.pos_embed = nn.Parameter(torch.cat([position[:prefix], patches])[None])
    network.notices.append(
        "its positions are resampled from {}x{} to {}x{} patches".format(*old, *stem.grid_size)
    )
