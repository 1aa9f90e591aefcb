"""The integer model, image to logits: one function for each section of ``docs/integer-model.md``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
#: An int64 array; the trainer gives torch's integers, of whole batches (`quasar_rt.train.integer`).
Integers = TypeVar("Integers", bound=Any)
Trace = dict[str, NDArray[Any]]

#: ``T[f] = round(4080 * 2^(-f/64))``: 12-bit powers of two, 255 * 16 at 0. From the formula, not from the core's
#: table: the oracle shares nothing with what it judges.
EXP_TABLE: Int = np.floor(4080 * 2.0 ** (-np.arange(64) / 64) + 0.5).astype(np.int64)


def rshift(x: Integers, s: Any) -> Integers:
    """Computes ``(x + 2^(s-1)) >> s``, rounding half up; returns `x` where s is 0. `s` broadcasts against `x`."""
    half = (1 << s) >> 1
    shifted: Integers = (x + half) >> s
    return shifted


def sat16(x: Integers) -> Integers:
    """Clamps to [-32768, 32767]."""
    clamped: Integers = x.clip(-32768, 32767)
    return clamped


def clamp8(x: Integers) -> Integers:
    """Clamps to [-128, 127]."""
    clamped: Integers = x.clip(-128, 127)
    return clamped


def sat_residual(x: Integers) -> Integers:
    """Clamps to the residual stream's symmetric range [-32767, 32767]."""
    clamped: Integers = x.clip(-32767, 32767)
    return clamped


def bitlen(x: Int) -> Int:
    """Returns the number of bits of each positive value."""
    return np.array([int(v).bit_length() for v in x.ravel()], dtype=np.int64).reshape(x.shape)


def within(x: Int, bits: int, what: str) -> None:
    """Asserts ``|x| < 2^bits``, the documented width of `what`."""
    if x.size and int(np.abs(x).max()) >= 1 << bits:
        raise AssertionError(f"{what} leaves its documented width: |{int(np.abs(x).max())}| >= 2^{bits}")


def unpack_rows(data: NDArray[np.uint8], bits: NDArray[np.uint8], columns: int) -> Int:
    """Unpacks rows (section "Row-wise mixed precision") to codes, int64 [rows, columns]."""
    codes = np.empty((len(bits), columns), np.int64)
    at = 0
    for row, width in enumerate(bits):
        size = columns if width == 8 else (columns + 1) // 2
        raw = data[at : at + size]
        at += size
        if width == 8:
            codes[row] = raw.view(np.int8)
        else:
            nibbles = np.stack([raw & 15, raw >> 4], axis=1).reshape(-1)[:columns].astype(np.int64)
            codes[row] = np.where(nibbles > 7, nibbles - 16, nibbles)
    return codes


@dataclass
class Linear:
    """A linear layer: codes int64 [rows, columns], bias, mult and shift int64 [rows] (shift is 0 for the head)."""

    weight: Int
    bias: Int
    mult: Int
    shift: Int

    @classmethod
    def read(cls, tensors: Mapping[str, NDArray[Any]], name: str, columns: int) -> Linear:
        """Reads the layer `name` of a subnet's tensors and unpacks its rows."""
        bits = tensors[f"{name}.bits"]
        shift = tensors.get(f"{name}.shift", np.zeros(len(bits), np.uint8))
        return cls(
            unpack_rows(tensors[f"{name}.weight"], bits, columns),
            tensors[f"{name}.bias"].astype(np.int64),
            tensors[f"{name}.mult"].astype(np.int64),
            shift.astype(np.int64),
        )

    def accumulate(self, a: Int) -> Int:
        """Computes ``bias + W a`` for each row of `a` [tokens, columns]: int64 [tokens, rows], below 2^26."""
        acc: Int = a @ self.weight.T + self.bias
        within(acc, 26, "an accumulator")
        return acc


def requant16(acc: Integers, linear: Any) -> Integers:
    """Converts accumulators [tokens, rows] to the residual stream's units, by the layer's `mult` and `shift` [rows]."""
    t = sat16(rshift(16 * acc, linear.shift))
    scaled: Integers = rshift(t * linear.mult, 15)
    return scaled


def requant8(acc: Integers, linear: Any, zero_point: int) -> Integers:
    """Converts accumulators [tokens, rows] to s8 codes."""
    shifted: Integers = rshift(requant16(acc, linear), 6) + zero_point
    return clamp8(shifted)


def patches(image: NDArray[np.uint8], patch: Mapping[str, int]) -> Int:
    """Cuts an image uint8 [height, width, channels] into patch codes int64 [grid, columns].

    The columns are ordered (channel, ky, kx).
    """
    kernel, stride, pad = patch["kernel"], patch["stride"], patch["pad"]
    border = ((pad, pad), (pad, pad), (0, 0))
    padded = np.pad(image, border, constant_values=patch["pad_value"]).astype(np.int64)
    rows = (padded.shape[0] - kernel) // stride + 1
    columns = (padded.shape[1] - kernel) // stride + 1
    out = [
        padded[y * stride : y * stride + kernel, x * stride : x * stride + kernel].transpose(2, 0, 1).ravel()
        for y in range(rows)
        for x in range(columns)
    ]
    return np.stack(out) - 128


def layer_norm(x: Int, gain: Int, bias: Int, frac: int, epsilon: int) -> Int:
    """Normalizes int16 rows x [tokens, embed] to s8 codes [tokens, embed]."""
    d = x.shape[1]
    s = x.sum(axis=1)
    q = (x * x).sum(axis=1)
    v = d * q - s * s + epsilon
    within(v, 52, "LayerNorm's variance")
    b = (bitlen(v) + 1) // 2
    root = np.array(
        [isqrt(int(vi) << (2 * (26 - int(bi)))) for vi, bi in zip(v, b, strict=True)], dtype=np.int64
    )
    inv = np.minimum(32767, (np.int64(1) << 40) // root)[:, None]
    c = d * x - s[:, None]
    shift = (b - 10)[:, None]
    t = np.where(shift >= 0, rshift(c, np.maximum(shift, 0)), c << np.maximum(-shift, 0))
    within(t, 15, "LayerNorm's t")
    n = rshift(t * inv, 15)
    return scale(n, gain, bias, frac)


def scale(n: Int, gain: Int, bias: Int, frac: int) -> Int:
    """Applies a LayerNorm's gain and offset to n [tokens, embed], normalised or not; returns s8 codes."""
    within(n * gain, 30, "a gain's product")
    return clamp8(sat16(rshift(n * gain, 15) + bias) >> frac)


def rotate(z: Int, cosine: Int, sine: Int) -> Int:
    """Rotates z [tokens, heads, head_dim] in 64ths of a code to s8 codes, by [tokens, 1, pairs]."""
    even, odd = z[..., 0::2], z[..., 1::2]
    turned = np.stack([even * cosine - odd * sine, odd * cosine + even * sine], axis=-1)
    within(turned, 30, "a rotated value")
    return clamp8(rshift(turned, 20)).reshape(z.shape)


def rotations(config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> tuple[Int, Int]:
    """Returns cosine and sine of each token and pair of a head's rows, int64 [tokens, 1, head_dim / 2] each."""
    rows, columns = (tensors[f"rotary.{axis}"].astype(np.int64) for axis in ("rows", "columns"))
    y, x = np.divmod(np.arange(len(rows) * len(columns)), len(columns))
    patches = np.concatenate([rows[y], columns[x]], axis=1)
    prefix = np.full((config["prefix_tokens"], *patches.shape[1:]), (2**14, 0))
    both = np.concatenate([prefix, patches])[:, None]
    return both[..., 0], both[..., 1]


def attention(q: Int, k: Int, v: Int, mult: int, out_mult: int, out_shift: int) -> Int:
    """Computes one head: q, k, v are s8 codes [tokens, head_dim], and so is the result."""
    tokens = k.shape[0]
    a = q @ k.T
    d = np.minimum(a.max(axis=1, keepdims=True) - a, (2**31 - 2**20) // mult)
    u = (d * mult + 2**19) >> 20
    e12 = ((2 * EXP_TABLE[u & 63] >> (u >> 6)) + 1) >> 1
    e8 = (e12 + 8) >> 4
    s12 = e12.sum(axis=1)
    rounding_residue = s12 - 16 * e8.sum(axis=1)
    mean_factor = (2 * 2**20 + tokens) // (2 * tokens)  # round(2^20 / tokens), half up
    mean = (v.sum(axis=0) * mean_factor + 2**15) >> 16
    num = 16 * (e8 @ v) + ((rounding_residue[:, None] * mean + 8) >> 4)
    within(num, 30, "attention's numerator")

    b = bitlen(s12)
    r = (np.int64(out_mult) << b) // s12
    halve = r >= 2**15
    r, b = np.where(halve, r >> 1, r), np.where(halve, b - 1, b)
    p = b + out_shift - 21
    t = sat16(rshift(num, p[:, None]))
    return clamp8(rshift(rshift(t * r[:, None], 15), 6))


def rounded_mean(x: Int) -> Int:
    """Computes ``floor((sum + floor(n/2)) / n)`` over the first axis."""
    n = x.shape[0]
    mean: Int = (x.sum(axis=0) + n // 2) // n
    return mean


def run(
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    image: NDArray[np.uint8],
    trace: Trace | None = None,
) -> Int:
    """Computes the logits of one preprocessed image.

    Args:
        config: the subnet's config (``Subnet.config``).
        tensors: the subnet's tensors by name (``Subnet.tensors()``).
        image: the output of preprocessing, uint8 [height, width, channels].
        trace: receives the intermediates under the names of the golden vectors.

    Returns:
        int64 [classes]; with an embedding [classes + embed], its codes behind the logits. With patch tokens
        [(1 + patches) * (classes + embed)]: the image's outputs, then those of each patch.
    """
    trace = {} if trace is None else trace
    embed = config["embed"]
    prefix = config["prefix_tokens"]

    def norm(name: str, x: Int) -> Int:
        return _norm(tensors, name, x)

    def linear(name: str, columns: int) -> Linear:
        return Linear.read(tensors, name, columns)

    codes = patches(image, config["patch"])
    stem = linear("embed", codes.shape[1])
    x = sat_residual(requant16(stem.accumulate(codes), stem) + tensors["position"])
    if config.get("embed_norm"):
        normed = norm("embed_norm", x)
        trace["embed_sum"], trace["embed_norm"] = x.astype(np.int16), normed.astype(np.int8)
        layer = linear("embed_proj", embed)
        x = sat_residual(requant16(layer.accumulate(normed), layer))
    if prefix:
        x = np.concatenate([tensors["prefix"].astype(np.int64), x])
    trace["embed"] = x.astype(np.int16)

    turns = rotations(config, tensors) if config.get("rotary") else None
    for i, block in enumerate(config["blocks"]):
        pools = config["pool"] == "attention" and i + 1 == len(config["blocks"])
        x = _block(f"blocks.{i}", block, tensors, x, trace, turns, pools)
    heads = ["head"]
    if config.get("patch_tokens"):
        pooled = norm("norm", x)
        trace["pooled"] = pooled.astype(np.int8)
        head = linear("head", embed)
        outputs: Int = (head.accumulate(pooled) * head.mult + 2**14) >> 15
        first = outputs[0] if config["pool"] == "token" else rounded_mean(outputs[prefix:])
        logits = np.concatenate([first, outputs[prefix:].ravel()])
        trace["logits"] = logits.astype(np.int32)
        return logits
    if config["pool"] == "token":
        pooled = norm("norm", x[:1])[0]
    elif config["pool"] == "attention":
        gain, bias = (tensors[f"norm.{part}"].astype(np.int64) for part in ("gain", "bias"))
        pooled = scale(x[0], gain, bias, int(tensors["norm.frac"][0]))
    elif config["pool"] == "token_pair":
        heads.append("head_dist")
        pooled = norm("norm", x[:2]).ravel()
    elif config["pool"] == "mean":
        pooled = norm("norm", rounded_mean(x[prefix:])[None])[0]
    else:
        pooled = rounded_mean(norm("norm", x[prefix:]))
    logits = np.zeros(1, np.int64)
    for name, features in zip(heads, pooled.reshape(-1, embed), strict=True):
        head = linear(name, embed)
        logits = logits + ((head.accumulate(features) * head.mult + 2**14) >> 15)
    trace["pooled"] = pooled.astype(np.int8)
    trace["logits"] = logits.astype(np.int32)
    return logits


def _norm(tensors: Mapping[str, NDArray[Any]], name: str, x: Int) -> Int:
    gain, bias = (tensors[f"{name}.{part}"].astype(np.int64) for part in ("gain", "bias"))
    return layer_norm(x, gain, bias, int(tensors[f"{name}.frac"][0]), int(tensors[f"{name}.epsilon"][0]))


def _block(
    name: str,
    block: Mapping[str, int],
    tensors: Mapping[str, NDArray[Any]],
    x: Int,
    trace: Trace,
    turns: tuple[Int, Int] | None,
    pools: bool,
) -> Int:
    """Computes a block on the residual stream [tokens, embed]; `turns` are the rotations of q and k.

    A block that pools gives the token that it pools, [1, embed].
    """
    heads, head_dim, embed = block["heads"], block["head_dim"], x.shape[1]
    y = _norm(tensors, f"{name}.norm1", x)
    layer = Linear.read(tensors, f"{name}.qkv", embed)
    acc = layer.accumulate(y)
    qkv = requant8(acc, layer, 0)
    if turns is not None:
        z = requant16(acc, layer).reshape(len(x), 3 * heads, head_dim)
        qkv[:, : 2 * heads * head_dim] = rotate(z[:, : 2 * heads], *turns).reshape(len(x), -1)
    q, k, v = (part.reshape(-1, heads, head_dim) for part in np.split(qkv, 3, axis=1))
    if pools:
        q, x = q[:1], np.zeros_like(x[:1])
    factors = (tensors[f"{name}.attn.{part}"] for part in ("mult", "out_mult", "out_shift"))
    o = np.concatenate(
        [
            attention(q[:, h], k[:, h], v[:, h], int(mult), int(out_mult), int(out_shift))
            for h, (mult, out_mult, out_shift) in enumerate(zip(*factors, strict=True))
        ],
        axis=1,
    )
    layer = Linear.read(tensors, f"{name}.proj", heads * head_dim)
    mid = sat_residual(x + requant16(layer.accumulate(o), layer))

    z = _norm(tensors, f"{name}.norm2", mid)
    layer = Linear.read(tensors, f"{name}.fc1", embed)
    table = tensors[f"{name}.gelu"].astype(np.int64)
    act = table[requant8(layer.accumulate(z), layer, block["fc1_zero_point"]) + 128]
    layer = Linear.read(tensors, f"{name}.fc2", block["hidden"])
    x = sat_residual(mid + requant16(layer.accumulate(act), layer))

    for part, value in (("norm1", y), ("qkv", qkv), ("attn", o), ("norm2", z), ("act", act)):
        trace[f"{name}.{part}"] = value.astype(np.int8)
    for part, value in (("mid", mid), ("x", x)):
        trace[f"{name}.{part}"] = value.astype(np.int16)
    return x
