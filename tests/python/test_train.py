"""The trainable network: the fake quantizers against the integer model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [host] extra")

from quasar_rt import Engine, Subnet, oracle  # noqa: E402
from quasar_rt.build import build_subnet, random_subnet  # noqa: E402
from quasar_rt.datasets import MissingDatasetError, load_digits, load_fashion_mnist  # noqa: E402
from quasar_rt.rows import quantize_rows  # noqa: E402
from quasar_rt.space import Architecture, BlockShape  # noqa: E402
from quasar_rt.train.integer import IntegerModel, Trace  # noqa: E402
from quasar_rt.train.integer import attention as exact_attention  # noqa: E402
from quasar_rt.train.model import ViT, ViTConfig  # noqa: E402
from quasar_rt.train.quantizers import (  # noqa: E402
    ActQuantizer,
    RowLinear,
    Unrounded,
    attention,
    best_step,
    fake,
    layer_norm,
)
from quasar_rt.train.runtime import fused  # noqa: E402
from quasar_rt.train.widths import gather_statistics, rank_rows  # noqa: E402
from small_networks import pictures, stirred, with_quantizers  # noqa: E402

torch.set_num_threads(1)

CLASSES = [f"class {i}" for i in range(5)]


def small_model(seed: int = 0, **change: Any) -> ViT:
    """Returns a network whose logits depend on the image: 12x12 pixels, 3x3 overlapping patches, 2 blocks."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "height": 12,
        "width": 12,
        "channels": 1,
        "kernel": 5,
        "stride": 4,
        "pad": 1,
        "pad_value": 7,
        "architecture": Architecture(24, (BlockShape(3, 8, 40, (0.25,) * 6),) * 2),
        "classes": len(CLASSES),
        "mean": (0.4,),
        "std": (0.3,),
    }
    return stirred(ViT(ViTConfig(**{**shape, **change})))


def quantized_model(**change: Any) -> ViT:
    return with_quantizers(small_model(**change))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_exact_logits_are_the_engines_and_fake_quantized_ones_are_close(seed: int, channels: int) -> None:
    # A row's step belongs to the whole row: channels of unequal std are the harder case.
    change = {"channels": channels, "mean": (0.4, 0.5, 0.6)[:channels], "std": (0.3, 0.2, 0.45)[:channels]}
    model = quantized_model(seed=seed, **change)
    images = pictures(300, seed=9, channels=channels)
    subnet = build_subnet(model.spec("small", CLASSES, {"resize": {"mode": "none"}}, {}))
    pixels = images.permute(0, 2, 3, 1).numpy()
    with Engine(subnet) as engine:
        integer = engine.infer_batch([p[..., 0] if channels == 1 else p for p in pixels]).logits
    with torch.no_grad():
        # Pixels of a mixed batch are rounded.
        np.testing.assert_array_equal(model(images + 0.3).numpy(), integer)
        float_logits = model.float_logits(images).numpy()
        fake_logits = model.train()(images).numpy()
    # Quantizing costs `loss`; the fake quantizers must differ from the integers by far less.
    loss = np.sqrt(np.square(fake_logits - float_logits).mean())
    difference = np.sqrt(np.square(fake_logits - integer).mean())
    assert 0 < difference < 0.4 * loss
    assert (fake_logits.argmax(1) == integer.argmax(1)).mean() >= 0.96


def test_an_exact_passes_gradients_are_those_of_the_fake_quantizers() -> None:
    model, images = quantized_model(layer_scale=0.5).train(), pictures(100, seed=4)

    def gradient() -> Any:
        model.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(images), torch.arange(100) % 5).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    fake = gradient()
    model.exact = True
    exact = gradient()
    assert 0 < (exact - fake).norm() < 0.1 * fake.norm()
    model.recompute = True
    assert torch.equal(gradient(), exact)


def test_exact_codes_replace_the_values_and_keep_their_gradients() -> None:
    values = torch.tensor([3.4, 126.0, 129.0, -129.5, -127.0, 5.0], requires_grad=True)
    codes = torch.tensor([4, 127, 127, -128, -128, 5], dtype=torch.int8)
    zero = torch.zeros(())
    found = Unrounded(values, torch.ones(()), zero).exactly(codes).codes()
    assert found.tolist() == codes.tolist()
    found.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1, 1, 0, 0, 1, 1]


#: Pictures of each network that is compared with the engine.
IMAGES = 500
VECTORS = Path(__file__).resolve().parents[1] / "vectors"


@pytest.mark.parametrize("name", sorted(path.stem for path in VECTORS.glob("*.qvit")))
def test_the_integer_model_gives_the_golden_vectors(name: str) -> None:
    load_file = pytest.importorskip("safetensors.numpy").load_file
    path = VECTORS / f"{name}.qvit"
    golden, subnet = load_file(path.with_suffix(".safetensors")), Subnet.load(path)
    trace: list[Trace] = []
    image = torch.from_numpy(golden["image"].transpose(2, 0, 1).copy())[None]
    outputs = IntegerModel(subnet, torch.device("cpu")).outputs(image, trace)
    np.testing.assert_array_equal(outputs.flatten().numpy(), golden["logits"].ravel())
    np.testing.assert_array_equal(trace[-1]["pooled"].numpy().ravel(), golden["pooled"].ravel())
    for i, block in enumerate(trace[:-1]):
        for part in ("norm1", "qkv", "attn", "norm2", "act"):
            np.testing.assert_array_equal(block[part][0].numpy(), golden[f"blocks.{i}.{part}"])


@pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"pool": "mean", "prefix_tokens": 0},
        {"pool": "mean_after_norm", "prefix_tokens": 3},
        {"pool": "token_pair", "prefix_tokens": 2},
        {"pool": "attention", "prefix_tokens": 0},
        {"rotary": True, "prefix_tokens": 5},
        {"rotary": True, "pool": "mean_after_norm", "patch_tokens": True, "embedding": True},
        {"patch_tokens": True, "embed_norm": True},
    ],
    ids=str,
)
def test_the_integer_model_gives_the_engines_outputs_of_every_pooling(options: dict[str, Any]) -> None:
    """Of so many pictures each: 10,000 when the test was written."""
    shape = {"embed": 24, "depth": 2, "heads": 3, "hidden": 40, "image_size": 12, "kernel": 3}
    subnet = random_subnet(**shape, classes=7, **options)
    images = pictures(IMAGES, seed=5, channels=3)
    model = IntegerModel(subnet, torch.device("cpu"))
    with Engine(subnet) as engine:
        for part in images.split(500):
            found = engine.infer_batch(list(part.permute(0, 2, 3, 1).numpy()))
            np.testing.assert_array_equal(model(part).numpy(), found.logits)
            if subnet.has_patch_tokens:
                logits = model.outputs(part)[:, 1:, :7].double() * subnet.config["logit_scale"]
                expected = np.stack([one.patch_logits for one in found]).reshape(logits.shape)
                np.testing.assert_array_equal(logits.float().numpy(), expected)
    assert len(np.unique(found.logits.argmax(axis=1))) > 1


@pytest.mark.parametrize(
    ("name", "load"),
    [("digits", load_digits), pytest.param("fashion-mnist", load_fashion_mnist, marks=pytest.mark.slow)],
)
def test_the_integer_model_gives_the_engines_logits_of_packaged_subnets(name: str, load: Any) -> None:
    """Of all test images: 360, and 10,000."""
    try:
        images, _ = load("test")
    except (MissingDatasetError, ImportError) as error:
        pytest.skip(str(error))
    subnet = Subnet.load(name)
    model = IntegerModel(subnet, torch.device("cpu"))
    with Engine(subnet) as engine:
        for part in np.array_split(images, -(-len(images) // 500)):
            found = model(torch.tensor(part)[:, None]).numpy()
            np.testing.assert_array_equal(found, engine.infer_batch(list(part)).logits)


@pytest.mark.parametrize("tokens", [37, 600])
def test_attention_is_the_oracles_and_the_fake_one_within_a_code(tokens: int) -> None:
    rng = np.random.default_rng(0)
    q, k, v = rng.integers(-127, 128, (3, 2, 4, tokens, 16))
    s_q, s_v, s_o = 0.02, 0.03, 0.011
    mult = round(2**20 * 64 * math.log2(math.e) * s_q * s_q / math.sqrt(16))
    fraction, exponent = math.frexp(s_v / s_o)
    codes = [torch.from_numpy(a).float() for a in (q, k, v)]
    out = attention(*codes, torch.full((4,), float(mult)))
    fake = np.clip(np.floor(out.numpy() * (s_v / s_o) + 0.5), -128, 127)
    factors = mult, math.floor(fraction * 2**15 + 0.5), 15 - exponent
    found = exact_attention(*codes, *(torch.full((4,), f, dtype=torch.int32) for f in factors)).numpy()
    for b in range(2):
        for h in range(4):
            exact = oracle.attention(q[b, h], k[b, h], v[b, h], *factors)
            np.testing.assert_array_equal(found[b, h], exact)
            assert np.abs(fake[b, h] - exact).max() <= 1
            assert (fake[b, h] == exact).mean() > 0.95


@pytest.mark.parametrize("embed", [8, 192, 1000])
def test_layer_norm_is_the_oracles(embed: int) -> None:
    rng = np.random.default_rng(embed)
    spread = np.array([0, 1, 5, 300, 9000, 32767])[:, None]
    x = np.clip(rng.normal(size=(6, embed)) * spread + rng.integers(-3, 4, (6, 1)) * spread, -32767, 32767)
    x = np.concatenate([x, np.full((1, embed), 32767), np.where(np.arange(embed) % 2, 32767, -32767)[None]])
    x = x.astype(np.int64)
    gain, bias = rng.integers(-32767, 32768, (2, embed))
    for frac, epsilon in ((0, 1), (5, 12345), (8, 2**49)):
        found = layer_norm(
            torch.from_numpy(x).int(), *(torch.from_numpy(a).int() for a in (gain, bias)), frac, epsilon
        )
        np.testing.assert_array_equal(found.numpy(), oracle.layer_norm(x, gain, bias, frac, epsilon))


def test_attentions_gradient_is_the_softmaxs() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = [(torch.randn(2, 3, 11, 8, generator=generator) * 40).round().requires_grad_() for _ in range(3)]
    scale = torch.full((3,), 0.02, requires_grad=True)
    factor = 2**20 * 64 * math.log2(math.e) / math.sqrt(8)
    weights = torch.randn(2, 3, 11, 8, generator=generator)
    (attention(*codes, scale * 0.02 * factor) * weights).sum().backward()
    found = [c.grad.clone() for c in codes] + [scale.grad.clone()]
    for leaf in (*codes, scale):
        leaf.grad = None
    q, k, v = codes
    logits = q @ k.transpose(-1, -2) * (scale.view(-1, 1, 1) * 0.02 / math.sqrt(8))
    ((logits.softmax(-1) @ v) * weights).sum().backward()
    for mine, exact in zip(found, [c.grad for c in codes] + [scale.grad], strict=True):
        assert (mine - exact).norm() < 0.02 * exact.norm()


def test_rounding_passes_gradients_inside_and_stops_them_outside() -> None:
    quantizer = ActQuantizer()
    with torch.no_grad():
        quantizer.log_scale.fill_(math.log(0.5))
        quantizer.zero_point.fill_(-100)
    x = torch.tensor([[-20.0, -13.9, 0.2, 0.26, 113.4, 120.0]], requires_grad=True)
    found = quantizer(x)
    codes, scale = found.codes(), found.scale
    assert codes.tolist() == [[-28, -28, 0, 1, 227, 227]]
    (codes * scale).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 1, 1, 1, 1, 0]]
    # LSQ: d(s*code)/ds is code - x/s inside and the bound outside; times s for its logarithm, times the gradient scale.
    ratio = x.detach() / 0.5
    inside = (codes.detach() - ratio)[0, 1:5].sum() + (-28 + 227)
    assert quantizer.log_scale.grad.item() == pytest.approx(
        inside.item() * 0.5 / math.sqrt(127 * 6), rel=1e-5
    )


def rounded(x: Any, scale: Any, low: Any, high: Any) -> Any:
    """Rounds as the integer model does, in single steps of autograd: straight through inside, nothing outside."""
    ratio = x / scale
    code = torch.floor(ratio.detach() + 0.5)
    codes = code.clamp(low, high)
    return codes + torch.where(code == codes, ratio - ratio.detach(), 0.0)


def by_single_steps(block: Any, x: Any) -> Any:
    """Computes `Block.quantized` as it is defined: real values, divided by their scale and rounded."""

    def norm(layer: Any, out: Any) -> Any:
        return limited(
            torch.nn.functional.layer_norm(x, x.shape[-1:], layer.weight, layer.bias, layer.eps), out
        )

    def limited(real: Any, out: Any) -> Any:
        scale, zero = out.learned(real[0].numel()), out.zero_point
        if len(scale) > 1:
            scale = scale.repeat_interleave(real.shape[-1] // len(scale))
        return rounded(real, scale, -128 - zero, 127 - zero), scale

    def linear(layer: Any, codes: Any, scale: Any) -> Any:
        return layer.integer(codes, scale.squeeze())[0]

    heads, dim = block.heads, block.head_dim
    codes, scale = limited(linear(block.qkv, *norm(block.norm1, block.norm1_out)), block.qkv_out)
    q, k, v = codes.unflatten(-1, (3 * heads, dim)).transpose(1, 2).chunk(3, dim=1)
    q_scale, k_scale, v_scale = scale[::dim].chunk(3)
    mult = q_scale * k_scale * (2**20 * 64 * math.log2(math.e) * dim**-0.5)
    out = (attention(q, k, v, mult) * v_scale.view(-1, 1, 1)).transpose(1, 2).flatten(2)
    x = x + linear(block.proj, *limited(out, block.attn_out)) * block.gamma1
    codes, scale = limited(linear(block.fc1, *norm(block.norm2, block.norm2_out)), block.fc1_out)
    codes, scale = limited(torch.nn.functional.gelu(codes * scale), block.act_out)
    return x + linear(block.fc2, codes, scale) * block.gamma2


@pytest.mark.parametrize("fuse", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_blocks_gradients_are_those_of_its_single_steps(fuse: bool) -> None:
    model = quantized_model(layer_scale=0.5)
    block, generator = model.blocks[0].train(), torch.Generator().manual_seed(0)
    # Ranges so small that many values are outside.
    with torch.no_grad():
        for quantizer in model.quantizers().values():
            quantizer.log_scale -= 1.0
    x = torch.randn(6, 10, model.config.architecture.embed, generator=generator, requires_grad=True)
    weights = torch.randn(x.shape, generator=generator)

    def gradients(compute: Any) -> dict[str, Any]:
        x.grad = None
        block.zero_grad(set_to_none=True)
        (compute(x) * weights).sum().backward()
        found = {name: p.grad for name, p in block.named_parameters() if p.grad is not None}
        return {"x": x.grad, **found}

    with fused(fuse):
        mine = gradients(lambda x: block.quantized(x, model.residual_scale))
    exact = gradients(lambda x: by_single_steps(block, x))
    assert mine.keys() == exact.keys()
    for name, gradient in exact.items():
        # A value at the edge between two codes may fall to either side.
        assert (mine[name] - gradient).norm() <= 1e-3 * gradient.norm(), name


def test_rows_codes_are_the_packers() -> None:
    torch.manual_seed(3)
    layer = RowLinear(21, 12)
    layer.rank.copy_(torch.tensor([6, 0, 7, 1, 8, 2, 9, 3, 10, 4, 11, 5]))
    layer.activate(12, 21, [0.5])
    layer.start_steps(torch.ones(21))
    assert layer.bits.tolist() == [4, 8] * 6
    codes, scales = layer.quantized()
    packed = quantize_rows(layer.weight.detach().numpy(), layer.bits.numpy(), scales=scales.detach().numpy())
    np.testing.assert_array_equal(codes.detach().numpy(), packed.unpack())
    assert codes[::2].abs().max() == 7
    assert codes[1::2].abs().max() == 127


def test_best_step_beats_the_covering_step() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    importance = torch.rand(64, generator=torch.Generator().manual_seed(1))

    def error(step: Any) -> Any:
        return ((fake(weight, step, 7) - weight).square() * importance).sum(dim=1)

    assert (error(best_step(weight, importance, 7)) <= error(weight.abs().amax(dim=1) / 7)).all()


def test_a_step_gets_a_gradient_only_in_4_bit_rows() -> None:
    layer = RowLinear(9, 4)
    layer.rank.copy_(torch.tensor([2, 0, 3, 1]))
    layer.activate(4, 9, [0.5])
    layer.start_steps(torch.ones(9))
    layer.integer(torch.randn(5, 9), torch.tensor(0.1))[0].square().sum().backward()
    assert layer.log_step.grad is not None
    assert (layer.log_step.grad != 0).tolist() == [True, False, True, False]


def test_widths_are_the_fraction_asked_for() -> None:
    model = small_model()
    statistics = gather_statistics(model, pictures(20), torch.arange(20) % 5, batch=10)
    rank_rows(model, statistics)
    for name, layer in model.matrices().items():
        share = (layer.bits == 8).float().mean().item()
        assert share == (1 if name in ("embed", "head") else 0.25)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_statistics_do_not_depend_on_the_batch() -> None:
    model = small_model()
    images, labels = pictures(20), torch.arange(20) % 5
    for name, one in gather_statistics(model, images, labels, batch=20).items():
        four = gather_statistics(model, images, labels, batch=5)[name]
        torch.testing.assert_close(one.inputs, four.inputs)
        torch.testing.assert_close(one.gradients, four.gradients)


def test_float_model_is_untouched_by_quantizers() -> None:
    model = small_model()
    before = model(pictures(4))
    model.calibrate(pictures(8), 0.9999)
    torch.testing.assert_close(model(pictures(4)), before)
    assert all(not quantizer.observing for quantizer in model.quantizers().values())
