"""The supernet: slices, extracted and exported subnets, row sets, the optimizer that touches a slice alone."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [host] extra")

from quasar_rt import Engine  # noqa: E402
from quasar_rt.build import build_subnet  # noqa: E402
from quasar_rt.rows.bits import CRITERIA  # noqa: E402
from quasar_rt.space import Architecture, BlockShape, Space, eight_bit_rows  # noqa: E402
from quasar_rt.train.model import ViT, ViTConfig  # noqa: E402
from quasar_rt.train.optimizer import SliceAdamW  # noqa: E402
from quasar_rt.train.slices import Region, union  # noqa: E402
from quasar_rt.train.widths import gather_statistics, order_by_importance, rank_rows  # noqa: E402
from small_networks import pictures, stirred, with_quantizers  # noqa: E402

torch.set_num_threads(1)

SPACE = Space.from_toml("""
name = "test"
classes = 5
head_dim = 8
eight_bit_per = "matrix"
[image]
height = 12
width = 12
channels = 1
[patch]
kernel = 5
stride = 4
pad = 1
pad_value = 7
[choices]
embed = [16, 20, 24]
depth = [1, 2, 3]
heads = [1, 2, 3]
mlp_ratio = [1.0, 1.5, 2.0]
eight_bit = [0.0, 0.25, 0.5, 0.75, 1.0]
""")
CLASSES = [f"class {i}" for i in range(5)]
SAMPLES = [SPACE.sample(0, i) for i in range(6)]
ENDS = [SPACE.decode(SPACE.smallest), SPACE.decode(SPACE.largest)]


def supernet(seed: int = 0, layer_scale: float | None = 0.5) -> ViT:
    """Returns a supernet whose logits depend on the image, with layer scales of both signs."""
    torch.manual_seed(seed)
    return stirred(ViT(ViTConfig.of(SPACE, mean=(0.4,), std=(0.3,), layer_scale=layer_scale)))


def quantized(seed: int = 0, layer_scale: float | None = 0.5) -> ViT:
    return with_quantizers(supernet(seed, layer_scale))


@pytest.mark.parametrize("architecture", SAMPLES + ENDS)
@pytest.mark.parametrize("quantizers", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_an_extracted_subnet_computes_what_its_slice_does(
    architecture: Architecture, quantizers: bool, training: bool
) -> None:
    model = quantized().train(training)
    model.quantized = quantizers
    images = pictures(7, seed=3)
    state = torch.random.get_rng_state()
    alone = model.extract(architecture)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.active == ENDS[1]
    model.activate(architecture)
    with torch.no_grad():
        assert torch.equal(alone(images), model(images))
    shapes = [(b.qkv.weight.shape, b.fc2.weight.shape) for b in alone.blocks]
    d = architecture.embed
    assert shapes == [((3 * b.inner, d), (d, b.hidden)) for b in architecture.blocks]
    for name, layer in alone.matrices().items():
        assert torch.equal(layer.bits, model.matrices()[name].bits)


def test_an_extracted_subnet_learns_as_its_slice_does() -> None:
    model, images, labels = quantized().train(), pictures(8), torch.arange(8) % 5
    alone = model.extract(SAMPLES[0])
    model.activate(SAMPLES[0])
    for net in (alone, model):
        torch.nn.functional.cross_entropy(net(images), labels).backward()
    regions, found = model.regions(), dict(model.named_parameters())
    for name, parameter in alone.named_parameters():
        assert parameter.grad is not None
        view = next(regions[name].views(found[name].grad))
        torch.testing.assert_close(view.reshape(parameter.shape), parameter.grad, rtol=1e-5, atol=1e-7)
    for name, parameter in found.items():
        if parameter.grad is not None:
            outside = ~regions[name].mask(parameter) if name in regions else torch.ones_like(parameter).bool()
            assert not parameter.grad[outside].any()


@pytest.mark.parametrize("layer_scale", [None, 0.5])
@pytest.mark.parametrize("architecture", [*SAMPLES[:3], *ENDS])
def test_the_exported_subnet_has_the_bits_of_its_slice(
    architecture: Architecture, layer_scale: float | None
) -> None:
    model = quantized(layer_scale=layer_scale)
    model.activate(architecture)
    model.calibrate(pictures(64), 0.9999)
    images = pictures(300, seed=9)
    subnet = build_subnet(model.extract().spec("test", CLASSES, {"resize": {"mode": "none"}}, {}))
    direct = build_subnet(model.spec("test", CLASSES, {"resize": {"mode": "none"}}, {}))
    assert direct.to_bytes() == subnet.to_bytes()
    with Engine(subnet) as engine:
        integer = engine.infer_batch(list(images[:, 0].numpy())).logits
    with torch.no_grad():
        np.testing.assert_array_equal(model(images).numpy(), integer)
        model.train().exact = True
        np.testing.assert_array_equal(model(images).numpy(), integer)
        model.exact = False
        fake = model(images).numpy()
    # The roundings that fake quantizers leave out (docs/training.md) are a few hundredths of the logits' spread.
    assert 0 < np.sqrt(np.square(fake - integer).mean()) < 0.05 * fake.std()


def test_calibration_without_a_percentile_keeps_learned_scales() -> None:
    model = quantized()
    before = model.activation_scales()
    model.residual_scale.fill_(1.0)
    model.calibrate(pictures(64), None)
    assert model.activation_scales() == before
    assert before["residual"] != [1.0]


def test_calibration_sets_the_active_part_alone() -> None:
    model = quantized()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.activate(Architecture(16, (BlockShape(2, 8, 16, (0.5,) * 6),)))
    model.calibrate(pictures(16, seed=5), 0.99)
    for name, parameter in model.named_parameters():
        changed = parameter != before[name]
        active = name.startswith("blocks.0.") or name == "norm_out.log_scale"
        if not name.endswith("log_scale") or not active:
            assert not changed.any(), name
        elif name == "blocks.0.qkv_out.log_scale":
            assert changed.view(3, 3).tolist() == [[True, True, False]] * 3
        else:
            assert changed.all(), name


def test_autocast_keeps_the_codes() -> None:
    model, images = quantized(), pictures(200, seed=4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        short = model(images)
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(model(images), short)
        model.train()
        short = model(images)
        with torch.autocast("cpu", enabled=False):
            exact = model(images)
    assert short.dtype == torch.float32
    assert 0 < (short - exact).square().mean().sqrt() < 0.05 * exact.std()
    layer, scale = model.blocks[0].fc1, torch.tensor(0.5)
    codes = torch.randint(-255, 256, (1, 24), generator=torch.Generator().manual_seed(0)).float()
    # One code at a time: nothing is lost but the rounding of the sum, and here the sum is one product.
    one = torch.eye(24) * codes
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found, step = layer.integer(one, scale)
    expected = one @ layer.quantized()[0].detach().t() * step.detach()
    torch.testing.assert_close(found - layer.bias.detach(), expected, rtol=2**-8, atol=1e-5)


def test_negative_layer_scales_flip_rows() -> None:
    model = quantized()
    layer, gamma = model.blocks[0].proj, model.blocks[0].gamma1
    assert (gamma < 0).any()
    assert (gamma > 0).any()
    spec = model.spec("test", CLASSES, {"resize": {"mode": "none"}}, {}).blocks[0].proj
    codes, scales = (x.detach().double().numpy() for x in layer.quantized())
    factor = gamma.detach().double().numpy()
    np.testing.assert_array_equal(
        np.round(spec.weight / spec.scales[:, None]), codes * np.sign(factor)[:, None]
    )
    np.testing.assert_allclose(spec.scales, scales * np.abs(factor))
    np.testing.assert_allclose(spec.bias, layer.bias.detach().double().numpy() * factor)


def test_row_sets_are_nested_and_follow_the_ranks() -> None:
    model = quantized()
    shape = dataclasses.replace(SAMPLES[0].blocks[0], heads=2)
    previous = [set[int]() for _ in range(6)]
    for fraction in (0.0, 0.25, 0.5, 0.75, 1.0):
        block = dataclasses.replace(shape, eight_bit=(fraction,) * 6)
        model.activate(Architecture(20, (block,)))
        b = model.blocks[0]
        # Queries, keys and values are counted apart.
        parts = [
            *zip(b.qkv.bits.chunk(3), b.qkv.active_rank().chunk(3), strict=True),
            *((layer.bits, layer.active_rank()) for layer in (b.proj, b.fc1, b.fc2)),
        ]
        for i, (bits, rank) in enumerate(parts):
            eight = set(torch.nonzero(bits == 8).flatten().tolist())
            assert len(eight) == eight_bit_rows(block.rows(20)[i], fraction)
            assert previous[i] <= eight
            assert eight == set(rank.argsort()[: len(eight)].tolist())
            previous[i] = eight


def test_queries_keys_and_values_each_have_the_rows_of_their_fraction() -> None:
    model = quantized()
    shape = dataclasses.replace(SAMPLES[0].blocks[0], heads=2, eight_bit=(0.0, 0.5, 1.0, 0.25, 0.0, 0.0))
    model.activate(Architecture(20, (shape,)))
    counts = [int((part == 8).sum()) for part in model.blocks[0].qkv.bits.chunk(3)]
    assert counts == list(shape.eight_bit_rows(20)[:3]) == [0, 8, 16]


def test_an_8_bit_rows_step_is_that_of_its_slice() -> None:
    model = quantized()
    model.activate(ENDS[0])
    layer = model.blocks[0].fc1
    layer.activate(16, 16, [1.0])
    with torch.no_grad():
        layer.weight[0, 20] = 100.0
    assert layer.quantized()[1][0] == layer.weight[0, :16].abs().max() / 127


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: dataclasses.replace(a, embed=25), "embed is 25; this network holds 1 to 24"),
        (lambda a: dataclasses.replace(a, blocks=a.blocks * 2), "depth is 6"),
        (lambda a: dataclasses.replace(a, blocks=()), "depth is 0"),
        (lambda a: _block(a, heads=4), "heads of block 0 is 4"),
        (lambda a: _block(a, hidden=49), "hidden of block 0 is 49"),
        (lambda a: _block(a, head_dim=4), "head_dim of block 0 is 4; this network's is 8"),
    ],
)
def test_what_a_supernet_does_not_hold_is_named(change: Any, message: str) -> None:
    model = supernet()
    with pytest.raises(ValueError, match=message):
        model.activate(change(ENDS[1]))
    assert model.active == ENDS[1]


def _block(architecture: Architecture, **change: Any) -> Architecture:
    first, *rest = architecture.blocks
    return dataclasses.replace(architecture, blocks=(dataclasses.replace(first, **change), *rest))


def test_loaded_ranks_take_effect_at_once() -> None:
    one, other = quantized(0), quantized(1)
    for model in (one, other):
        model.activate(SAMPLES[1])
    assert not torch.equal(one.blocks[0].qkv.bits, other.blocks[0].qkv.bits)
    other.load_state_dict(one.state_dict())
    for name, layer in one.matrices().items():
        assert torch.equal(layer.bits, other.matrices()[name].bits)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_ranks_all_rows(criterion: Any) -> None:
    model = supernet()
    statistics = gather_statistics(model, pictures(16), torch.arange(16) % 5)
    rank_rows(model, statistics, criterion, seed=3)
    first = {name: layer.rank.clone() for name, layer in model.matrices().items()}
    for rank in first.values():
        assert rank.sort().values.tolist() == list(range(len(rank)))
    weight = model.blocks[1].fc1.weight.detach()
    best = int(first["blocks.1.fc1"].argmin())
    if criterion == "prefix":
        assert best == 0
    if criterion == "magnitude":
        assert best == int(weight.abs().mean(dim=1).argmax())
    if criterion == "variance":
        assert best == int(weight.var(dim=1).argmax())
    rank_rows(model, statistics, criterion, seed=4)
    same = [torch.equal(layer.rank, first[name]) for name, layer in model.matrices().items()]
    # Nor are matrices of one size ranked alike.
    assert not any(same) if criterion == "random" else all(same)
    assert criterion != "random" or not torch.equal(first["blocks.0.fc1"], first["blocks.1.fc1"])


def test_an_unknown_criterion_is_named() -> None:
    model = supernet()
    statistics = gather_statistics(model, pictures(16), torch.arange(16) % 5)
    with pytest.raises(
        ValueError, match="must be one of loss, magnitude, variance, random, prefix, not 'luck'"
    ):
        rank_rows(model, statistics, "luck")  # type: ignore[arg-type]


def step(model: ViT, optimizer: Any, architectures: list[Architecture], seed: int) -> dict[str, Region]:
    """Takes one step on the sum of the sampled subnets' losses; returns the regions that it touched."""
    images, labels = pictures(8, seed), torch.arange(8) % 5
    optimizer.zero_grad()
    touched = []
    for architecture in architectures:
        model.activate(architecture)
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        touched.append(model.touched())
    merged = union(touched)
    if isinstance(optimizer, SliceAdamW):
        optimizer.step(merged)
    else:
        optimizer.step()
    return merged


def everything(model: ViT, optimizer: Any) -> dict[str, list[Any]]:
    """Copies each parameter with its moments and step counts; the counts are spread over its elements."""
    out = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {})
        zero = torch.zeros(())
        values = [parameter] + [state.get(key, zero) for key in ("exp_avg", "exp_avg_sq", "step")]
        out[name] = [v.detach().expand_as(parameter).clone() for v in values]
    return out


@pytest.mark.parametrize("quantizers", [False, True])
def test_a_step_changes_the_sampled_slices_and_nothing_else(quantizers: bool) -> None:
    model = quantized().train()
    model.quantized = quantizers
    optimizer = SliceAdamW(model, lr=1e-2, weight_decay=0.1)
    # Momentum first, everywhere: all 4-bit and all 8-bit rows.
    four = Architecture(24, tuple(dataclasses.replace(b, eight_bit=(0.0,) * 6) for b in ENDS[1].blocks))
    for i in range(3):
        step(model, optimizer, [ENDS[1], four], i)
    named = dict(model.named_parameters())
    partly = 0
    for i, architectures in enumerate([SAMPLES[:1], SAMPLES[1:3], [ENDS[0]], SAMPLES[3:5], SAMPLES[5:]]):
        before = everything(model, optimizer)
        touched = step(model, optimizer, architectures, 10 + i)
        for name, (value, average, square, count) in everything(model, optimizer).items():
            mask = touched[name].mask(named[name]) if name in touched else torch.zeros_like(value).bool()
            partly += 0 < int(mask.sum()) < mask.numel()
            old = before[name]
            for new, was in zip((value, average, square, count), old, strict=True):
                assert torch.equal(new[~mask], was[~mask]), name
            if named[name].grad is None:
                continue
            assert torch.equal(count[mask], old[3][mask] + 1)
            assert (value != old[0])[mask].float().mean() > 0.9 or not mask.any(), name
    assert partly > 50


def test_a_4_bit_step_moves_only_where_its_row_was_4_bit() -> None:
    model = quantized().train()
    model.activate(SAMPLES[0])
    touched = model.touched()
    seen = 0
    for name, layer in model.matrices().items():
        region = touched.get(f"{name}.log_step")
        if region is None:
            continue
        view = region.mask(layer.log_step).view(layer.parts, -1)[:, : layer.rows // layer.parts]
        assert torch.equal(view.flatten(), layer.bits == 4)
        assert int(region.mask(layer.log_step).sum()) == int((layer.bits == 4).sum())
        seen += 1
    assert seen > 1
    assert not any(name.startswith(f"blocks.{SAMPLES[0].depth}") for name in touched)
    model.quantized = False
    assert not any("log_" in name for name in model.touched())


def test_where_all_is_touched_it_is_adamw() -> None:
    model = quantized().train()
    other = copy.deepcopy(model)
    mine = SliceAdamW(model, lr=1e-2, betas=(0.8, 0.99), weight_decay=0.1)
    groups = [
        {"params": [p for p in other.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in other.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.99), fused=True)
    for i in range(4):
        step(model, mine, [ENDS[1]], i)
        step(other, reference, [ENDS[1]], i)
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_each_element_has_its_own_bias_correction() -> None:
    """Checks that a slice that is first touched late moves as if training began then."""
    layer = torch.nn.Linear(6, 4)
    fresh = copy.deepcopy(layer)
    whole = {"weight": Region((1, 4, 6), ((4, 6),)), "bias": Region((1, 4, 1), ((4, 1),))}
    part = {"weight": Region((1, 4, 6), ((2, 3),)), "bias": Region((1, 4, 1), rows=torch.arange(4) < 2)}
    gradients = [torch.randn(4, 6, generator=torch.Generator().manual_seed(i)) for i in range(8)]

    def steps(net: Any, optimizer: Any, chosen: list[Any]) -> None:
        for gradient, touched in chosen:
            net.weight.grad, net.bias.grad = gradient.clone(), gradient[:, 0].clone()
            optimizer.step(touched)

    steps(
        layer,
        SliceAdamW(layer, 0.1),
        [(g, part) for g in gradients[:4]] + [(g, whole) for g in gradients[4:]],
    )
    steps(fresh, SliceAdamW(fresh, 0.1), [(g, whole) for g in gradients[4:]])
    mask = part["weight"].mask(layer.weight)
    torch.testing.assert_close(layer.weight[~mask], fresh.weight[~mask], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.bias[2:], fresh.bias[2:], rtol=1e-5, atol=1e-6)
    assert (layer.weight[mask] != fresh.weight[mask]).all()


def test_the_optimizers_state_can_be_saved(tmp_path: Any) -> None:
    model = quantized().train()
    optimizer = SliceAdamW(model, lr=1e-2)
    for i in range(3):
        step(model, optimizer, SAMPLES[i : i + 2], i)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    other = supernet(5).train()
    other.quantized = True
    again = SliceAdamW(other, lr=1.0)
    other.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    for net, opt in ((model, optimizer), (other, again)):
        for i in range(3):
            step(net, opt, SAMPLES[i : i + 2], 20 + i)
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_union_of_boxes_is_covered_once() -> None:
    boxes = [(4, 2), (1, 6), (3, 3), (2, 3), (4, 2)]
    regions = [Region((2, 5, 6), (box,)) for box in boxes]
    merged = union([{"w": region} for region in regions])["w"]
    x = torch.zeros(10, 6)
    for view in merged.views(x):
        view.add_(1)
    expected = torch.zeros(2, 5, 6)
    for rows, columns in boxes:
        expected[:, :rows, :columns] = 1
    assert torch.equal(x.view(2, 5, 6), expected)
    assert torch.equal(merged.mask(x), x.bool())
    assert (merged | Region((2, 5, 6), ((5, 6),))).whole


@pytest.mark.parametrize("layer_scale", [None, 0.5])
def test_ordering_by_importance_keeps_the_function(layer_scale: float | None) -> None:
    model = quantized(layer_scale=layer_scale)
    images, labels = pictures(64), torch.arange(64) % 5
    statistics = gather_statistics(model, images, labels)
    before_fake = model(images)
    model.quantized = False
    before = model(images)
    weights = model.blocks[0].fc1.weight.detach().clone()
    order_by_importance(model, statistics)
    assert not torch.equal(model.blocks[0].fc1.weight, weights)
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-4)
    model.quantized = True
    # Sums in another order may move a code here and there.
    assert (model(images) - before_fake).abs().mean() < 0.1 * (before_fake - before).abs().mean()
    # The statistics moved along: gathering them anew gives the same.
    for name, s in gather_statistics(model, images, labels).items():
        torch.testing.assert_close(s.inputs, statistics[name].inputs, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(s.gradients, statistics[name].gradients, rtol=1e-2, atol=1e-6)
    # And a second ordering finds nothing to do, but for ties.
    kept = model.state_dict()["blocks.1.qkv.weight"].clone()
    order_by_importance(model, statistics)
    torch.testing.assert_close(model.blocks[1].qkv.weight.detach(), kept)


def test_ordering_brings_what_matters_into_the_slice() -> None:
    model = supernet(layer_scale=None)
    with torch.no_grad():
        # Only the last hidden units, the last head and the last channels of every block do anything.
        for block in model.blocks:
            block.fc2.weight[:, :32] = 0
            block.proj.weight[:, :16] = 0
        for layer in [model.head] + [m for b in model.blocks for m in (b.qkv, b.fc1)]:
            layer.weight[:, :4] = 0
    images, labels = pictures(64), torch.arange(64) % 5
    narrow = Architecture(24, (BlockShape(1, 8, 16, (1.0,) * 6),) * 3)
    model.activate(narrow)
    unordered = model(images)
    model.activate(None)
    whole = model(images)
    order_by_importance(model, gather_statistics(model, images, labels))
    model.activate(narrow)
    torch.testing.assert_close(model(images), whole, rtol=1e-4, atol=1e-4)
    assert (unordered - whole).abs().max() > 0.1
    assert not model.head.weight[:, 20:].any()
