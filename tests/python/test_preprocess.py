"""Resize and crop against Pillow itself, bit for bit, on noise of many sizes and on photographs."""

import subprocess
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from quasar_rt import ConfigError, ImageError
from quasar_rt.images import preprocess

ROOT = Path(__file__).resolve().parents[2]
PILLOW = int(PIL.__version__.partition(".")[0])
RESAMPLING = getattr(Image, "Resampling", Image)  # before Pillow 9.1 the module has the filters
FILTERS = {
    name: getattr(RESAMPLING, name.upper()) for name in ("nearest", "box", "bilinear", "hamming", "bicubic")
}


def shorter(edge, name):
    return {"resize": {"mode": "shorter", "size": [edge], "filter": name}}


def exact(height, width, name):
    return {"resize": {"mode": "exact", "size": [height, width], "filter": name}}


def by_pillow(pixels, size, document):
    """Resizes and crops a Pillow image as torchvision's Resize and CenterCrop do, with Pillow alone."""
    height, width, channels = size
    image = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    resize = document["resize"]
    if resize["mode"] == "exact":
        h, w = resize["size"]
    elif resize["mode"] == "shorter":
        (edge,) = resize["size"]
        short, long = sorted(image.size)
        other = int(edge * long / short)
        w, h = (edge, other) if image.width <= image.height else (other, edge)
    else:
        w, h = image.size
    if (w, h) != image.size:
        # Before version 13 Pillow never begins with the rows (docs/integer-model.md); one axis at a time it agrees.
        rows_first = image.height - h > max(0, 2 * (image.width - w)) and resize["filter"] != "nearest"
        if rows_first and PILLOW < 13:
            image = image.resize((image.width, h), FILTERS[resize["filter"]])
        image = image.resize((w, h), FILTERS[resize["filter"]])
    top, left = int(round((h - height) / 2.0)), int(round((w - width) / 2.0))  # noqa: RUF046
    return np.asarray(image.crop((left, top, left + width, top + height))).reshape(size)


def is_pillows(pixels, size, document):
    np.testing.assert_array_equal(
        preprocess(pixels, size, document), by_pillow(np.ascontiguousarray(pixels), size, document)
    )


def noise(height, width, channels, seed=0):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


sides = st.integers(1, 130)
targets = st.integers(1, 70)
channels = st.sampled_from([1, 3])
filters = st.sampled_from(sorted(FILTERS))


@settings(max_examples=200, deadline=None)
@given(sides, sides, channels, targets, targets, channels, filters, st.integers(0, 9), st.integers(0, 9))
@example(1, 1, 1, 70, 70, 3, "bicubic", 0, 0)
@example(130, 1, 3, 1, 1, 1, "hamming", 1, 2)
def test_exact_resizes_are_pillows(h, w, c, height, width, out_channels, name, more_h, more_w):
    pixels = noise(h, w, c, seed=h * 1000 + w)
    is_pillows(pixels, (height, width, out_channels), exact(height + more_h, width + more_w, name))


@settings(max_examples=200, deadline=None)
@given(sides, sides, channels, targets, targets, channels, filters, st.integers(0, 9))
def test_shorter_edge_resizes_are_torchvisions(h, w, c, height, width, out_channels, name, more):
    pixels = noise(h, w, c, seed=h * 1000 + w)
    is_pillows(pixels, (height, width, out_channels), shorter(max(height, width) + more, name))


@settings(deadline=None)
@given(targets, targets, channels, st.integers(0, 9), st.integers(0, 9), channels)
def test_cropping_alone_rounds_as_torchvision(height, width, c, more_h, more_w, out_channels):
    pixels = noise(height + more_h, width + more_w, c)
    size = (height, width, out_channels)
    document = {"resize": {"mode": "none"}}
    if more_h or more_w:
        with pytest.raises(ImageError):
            preprocess(pixels, size, document)
    else:
        is_pillows(pixels, size, document)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("name", sorted(FILTERS))
def test_extreme_values_do_not_overflow(name, value):
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    for pixels in (np.full((64, 64), value, np.uint8), checks.astype(np.uint8)):
        for edge in (7, 33, 200):
            is_pillows(pixels, (edge, edge, 1), exact(edge, edge, name))


@pytest.fixture(scope="module")
def photographs():
    datasets = pytest.importorskip("sklearn.datasets")
    return datasets.load_sample_images().images


@pytest.mark.parametrize("name", sorted(FILTERS))
@pytest.mark.parametrize("edge", [28, 248, 256, 641])
def test_photographs(photographs, name, edge):
    assert len(photographs) == 2
    crop = min(edge, 384)
    for pixels in photographs:
        for turned in (pixels, pixels.swapaxes(0, 1)):
            for out_channels in (1, 3):
                is_pillows(turned, (crop, crop, out_channels), shorter(edge, name))


def test_photographs_as_torchvision_prepares_them(photographs):
    transforms = pytest.importorskip("torchvision.transforms")
    for name in FILTERS:
        for edge, crop in ((256, 224), (248, 224), (232, 224), (28, 28), (37, 32)):
            resize = transforms.Resize(edge, transforms.InterpolationMode[name.upper()])
            pipeline = transforms.Compose([resize, transforms.CenterCrop(crop)])
            for pixels in photographs:
                for cut in (pixels, pixels[:, :333], pixels[:101]):
                    expected = np.asarray(pipeline(Image.fromarray(cut)))
                    np.testing.assert_array_equal(
                        preprocess(cut, (crop, crop, 3), shorter(edge, name)), expected
                    )


def test_jpeg_files_are_what_pillow_decodes(photographs, tmp_path):
    path = tmp_path / "photograph.jpg"
    Image.fromarray(photographs[0]).save(path, quality=80)
    document = shorter(256, "bicubic")
    with Image.open(path) as image:
        expected = by_pillow(np.asarray(image), (224, 224, 3), document)
    np.testing.assert_array_equal(preprocess(path, (224, 224, 3), document), expected)


@pytest.mark.parametrize(
    ("size", "document", "message"),
    [
        ((0, 4, 1), shorter(4, "box"), "height"),
        ((4, 4, 2), shorter(4, "box"), "channels"),
        ((10**6, 4, 1), shorter(4, "box"), "height"),
        ((4, 4, 1), shorter(3, "box"), "size"),
        ((4, 4, 1), shorter(10**7, "box"), "size"),
        ((4, 4, 1), exact(4, 3, "box"), "size"),
        ((4, 4, 1), shorter(4, "lanczos"), "lanczos"),
        ((4, 4, 1), {"resize": {"mode": "shorter", "size": [4]}}, "filter"),
        ((4, 4, 1), {"resize": {"mode": "none"}, "mean": 0}, "mean"),
        ((4, 4, 1), {}, "resize"),
    ],
)
def test_unusable_documents_are_named(size, document, message):
    with pytest.raises(ConfigError, match=message):
        preprocess(np.zeros((4, 4), np.uint8), size, document)


def test_the_committed_vectors_are_made_again_by_make_vectors(tmp_path, monkeypatch):
    """The Rust tests read resize.safetensors; `make vectors` did not write it."""
    pytest.importorskip("torchvision")
    pytest.importorskip("safetensors")
    command = ["make", "--dry-run", "--assume-old=install-test", "vectors"]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tools = sorted(path.name for path in (ROOT / "tools").glob("*vectors.py"))
    assert [name for name in tools if f"python tools/{name}" not in plan] == []
    if PILLOW < 13:
        pytest.skip(f"the vectors are Pillow 13's, and this is Pillow {PIL.__version__}")
    import resize_vectors

    committed = resize_vectors.TARGET.read_bytes()
    monkeypatch.setattr(resize_vectors, "TARGET", tmp_path / "resize.safetensors")
    resize_vectors.main()
    assert resize_vectors.TARGET.read_bytes() == committed
