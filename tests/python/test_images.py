"""Everything that holds a picture becomes uint8 pixels, or an error with the remedy."""

import errno
import io
import mmap
import os
import re
import struct
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from quasar_rt import ImageError, images
from quasar_rt._native import is_decoded
from quasar_rt.images import to_pixels

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (6, 9), np.uint8)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)


def same(expected, *sources):
    """Checks that each source is the expected picture."""
    for source in sources:
        np.testing.assert_array_equal(to_pixels(source), expected)


def same_opened(expected, path):
    """Checks that a file is the expected picture, and that it is when the caller opens it."""
    with Image.open(path) as image:
        same(expected, path, image)


def test_arrays_keep_their_values():
    same(GRAY[:, :, None], GRAY, GRAY[:, :, None])
    same(RGB, RGB)


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::-1], np.s_[::2, 1::3]])
def test_arrays_of_any_layout_are_made_contiguous(view):
    for array in (GRAY[view], RGB[view], np.asfortranarray(RGB)[view]):
        pixels = to_pixels(array)
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels.squeeze(), array)


@pytest.mark.parametrize("shape", [(100_000, 100_000, 3), (60_000, 60_000), (1, 1 << 40, 1)])
def test_an_array_that_repeats_its_memory_is_not_copied_at_any_size(shape):
    array = np.broadcast_to(np.uint8(0), shape)
    words = "x".join(map(str, [*shape, 1][:3]))
    message = rf"the array of shape {words} \({array.nbytes:,} bytes\) repeats its memory.*scale it down"
    with pytest.raises(ImageError, match=message):
        to_pixels(array)
    with pytest.raises(ImageError, match=r"repeats its memory"):
        images.to_input(array[..., 0] if array.ndim == 3 else array, "gray")
    windows = np.lib.stride_tricks.as_strided(np.zeros(200_000, np.uint8), (60_000, 60_000), (1, 1))
    with pytest.raises(ImageError, match=r"repeats its memory"):
        to_pixels(windows)


def test_a_small_array_that_repeats_its_memory_is_an_image():
    array = np.broadcast_to(GRAY[:, :, np.newaxis], (6, 9, 3))
    same(array, array)


def test_a_copy_that_does_not_fit_memory_is_an_image_error(monkeypatch):
    def full(array):
        raise MemoryError

    monkeypatch.setattr(np, "ascontiguousarray", full)
    with pytest.raises(ImageError, match=r"the array of shape 6x9x3 \(162 bytes\).*no memory for a copy"):
        to_pixels(RGB[:, ::-1])
    same(RGB, RGB)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4)), r"float64.*\* 255"),
        (np.zeros((4, 4, 3), np.float32), r"float32.*\* 255"),
        (np.zeros((4, 4), np.float16), r"float16"),
        (np.zeros((4, 4), bool), r"bool.*255"),
        (np.zeros((4, 4), np.int64), r"int64.*astype\('uint8'\)"),
        (np.zeros((4, 4), np.uint16), r"uint16"),
        (np.zeros((4, 4), np.int8), r"int8"),
        (np.zeros((4, 4), object), r"object"),
        (np.zeros((4, 4, 4), np.uint8), r"4x4x4.*alpha.*\.\.\., :3"),
        (np.zeros((4, 4, 2), np.uint8), r"format='yuyv'.*gray with alpha.*\.\.\., 0"),
        (np.frombuffer(b"\xff\xd8\xff\xe0 of a camera", np.uint8)[None], r"one row.*MJPEG.*tobytes"),
        (np.frombuffer(b"\x89PNG\r\n\x1a\n", np.uint8)[None, :, None], r"one row.*tobytes"),
        (np.zeros((3, 8, 8), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((1, 8, 8), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((8, 8, 8), np.uint8), r"8x8x8"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"infer_batch"),
        (np.zeros(8, np.uint8), r"shape 8;.*tobytes"),
        (np.zeros(1, np.uint8), r"shape 1;.*tobytes"),
        (np.zeros((), np.uint8), r"scalar"),
        (np.zeros((0, 8), np.uint8), r"empty"),
        (np.zeros((8, 0, 3), np.uint8), r"empty"),
    ],
)
def test_other_arrays_are_errors_that_say_what_to_do(array, message):
    with pytest.raises(ImageError, match=message):
        to_pixels(array)


@pytest.mark.parametrize(
    "value", [None, 3, [1, 2], {"a": 1}, object(), [[0, 1]], ImageDraw.Draw(Image.new("RGB", (4, 4)))]
)
def test_other_values_are_errors_that_say_what_to_give(value):
    with pytest.raises(ImageError, match=r"give a path|cannot use a PIL\.ImageDraw\.ImageDraw as an image"):
        to_pixels(value)


def test_8_bit_modes_of_pillow():
    rgb, gray = Image.fromarray(RGB), Image.fromarray(GRAY)
    clear = rgb.convert("RGBA")
    clear.putalpha(0)
    cases = {
        "1": (gray.convert("1"), np.asarray(gray.convert("1").convert("L"))),
        "L": (gray, GRAY),
        "LA": (gray.convert("LA"), GRAY),
        "P": (rgb.convert("P"), np.asarray(rgb.convert("P").convert("RGB"))),
        "RGB": (rgb, RGB),
        "RGBA": (clear, RGB),  # alpha is dropped, not blended
        "RGBX": (rgb.convert("RGBX"), RGB),
        "CMYK": (rgb.convert("CMYK"), np.asarray(rgb.convert("CMYK").convert("RGB"))),
        "YCbCr": (rgb.convert("YCbCr"), np.asarray(rgb.convert("YCbCr").convert("RGB"))),
        "HSV": (rgb.convert("HSV"), np.asarray(rgb.convert("HSV").convert("RGB"))),
    }
    for mode, (image, expected) in cases.items():
        assert image.mode == mode
        np.testing.assert_array_equal(to_pixels(image).squeeze(), expected, err_msg=mode)
        assert image.mode == mode, "the caller's image must stay as it was"


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_wide_modes_are_refused(tmp_path, mode):
    image = Image.new(mode, (4, 4))
    image.save(tmp_path / "deep.tiff")
    for source in (image, tmp_path / "deep.tiff"):
        with pytest.raises(ImageError, match="8 bits"):
            to_pixels(source)


@pytest.mark.parametrize("transparency", [0, bytes(range(256))])
def test_palettes_with_transparency(tmp_path, transparency):
    palette = Image.fromarray(RGB).convert("P")
    path = tmp_path / "palette.png"
    palette.save(path, transparency=transparency)
    same_opened(np.asarray(palette.convert("RGB")), path)


def test_transparent_colours(tmp_path):
    for array, colour in ((RGB, tuple(int(value) for value in RGB[0, 0])), (GRAY, int(GRAY[0, 0]))):
        path = tmp_path / "colour.png"
        Image.fromarray(array).save(path, transparency=colour)
        np.testing.assert_array_equal(to_pixels(path).squeeze(), array)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    turned = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }[orientation](RGB)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(RGB).save(path, exif=exif)
    same_opened(turned, path)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_tiff_is_turned_once_whether_it_is_loaded_or_not(tmp_path, compression):
    path = tmp_path / "turned.tiff"
    Image.fromarray(RGB).save(path, tiffinfo={0x0112: 6}, compression=compression)
    with Image.open(path) as image:
        same(np.rot90(RGB, -1), path, path.read_bytes(), image, image)  # it is loaded the second time


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tiff", "gif", "webp"])
def test_lossless_formats_by_path(tmp_path, suffix):
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(GRAY).save(path, **({"lossless": True} if suffix == "webp" else {}))
    for source in (path, str(path)):
        pixels = to_pixels(source)
        np.testing.assert_array_equal(pixels, np.broadcast_to(GRAY[:, :, None], pixels.shape))


def test_an_animation_is_its_first_frame(tmp_path):
    path = tmp_path / "animation.gif"
    frames = [Image.new("L", (5, 5), shade) for shade in (10, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert set(to_pixels(path).ravel().tolist()) == {10}


def test_paths_that_are_no_images(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.jpg").touch()
    for path, message in [
        (tmp_path / "missing.png", "no file"),
        (tmp_path, "directory"),
        (tmp_path / "text.png", "not an image"),
        (tmp_path / "empty.jpg", "not an image"),
        (Path("bad\0name.png"), "cannot read"),
    ]:
        with pytest.raises(ImageError, match=message):
            to_pixels(path)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's errors")
def test_what_the_system_refuses_to_read_is_named_with_the_reason(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")

    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    for image, code in [
        (tmp_path / "loop.png", errno.ELOOP),
        (tmp_path / ("x" * 5000), errno.ENAMETOOLONG),
        (Path("/proc/self/mem"), errno.EIO),
        (Broken(), errno.EIO),
    ]:
        with pytest.raises(ImageError, match=rf"^cannot read .{{1,300}}: {os.strerror(code)}$") as raised:
            to_pixels(image)
        assert "Errno" not in str(raised.value)


def test_paths_in_messages_have_no_control_characters_and_no_surrogates(tmp_path):
    (tmp_path / "x\x1b[31m.png").write_text("not a picture")
    with pytest.raises(ImageError, match=r"x\\x1b\[31m\.png' is not an image"):
        to_pixels(tmp_path / "x\x1b[31m.png")
    with pytest.raises(ImageError, match=r"^cannot read the image '\\ud800': its name is not UTF-8"):
        to_pixels("\ud800")


def test_a_pipe_is_refused_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(ImageError, match="regular file"):
            to_pixels(path)


def test_postscript_is_not_run(tmp_path):
    path = tmp_path / "program.eps"
    Image.fromarray(RGB).save(path)
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        with pytest.raises(ImageError, match="PostScript"):
            to_pixels(source)


@pytest.mark.parametrize(("opened", "message"), [(Image.open, "the image"), (open, r"picture\.png'.*closed")])
def test_a_closed_image_or_file_is_an_image_error(tmp_path, opened, message):
    path = tmp_path / "picture.png"
    Image.fromarray(RGB).save(path)
    with opened(path) as closed:
        pass
    closed.close()
    with pytest.raises(ImageError, match=message):
        to_pixels(closed)


def test_only_what_an_engine_can_take_as_it_is_counts_as_decoded():
    read_only = RGB.copy()
    read_only.flags.writeable = False
    for array in (RGB, GRAY[:, :, None], RGB[2:4], read_only):
        assert is_decoded(array)
        assert images.to_input(array) is array
    others = [GRAY, RGB[:, ::-1], RGB[..., :2], RGB[:0], RGB[None], RGB.view(np.int8), RGB.astype(np.float32)]
    others += [np.asfortranarray(RGB), RGB[:1], np.ma.masked_array(RGB), RGB.tolist(), bytes(RGB), None]
    assert not any(map(is_decoded, others))


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tiff", "webp", "ppm"])
@pytest.mark.parametrize("times", [1.5, 2.5])  # Pillow warns of one and refuses the other
def test_a_decompression_bomb_is_our_error_alone(tmp_path, monkeypatch, suffix, times):
    path = tmp_path / f"large.{suffix}"
    Image.new("L", (60, 50)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(3000 / times))
    size = rf" has (60 x 50|3,000) pixels.* more than {int(3000 / times):,} pixels; .*MAX_IMAGE_PIXELS"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ImageError, match=r"large\." + suffix + "'" + size):
            to_pixels(path)
        with pytest.raises(ImageError, match=r"the encoded image \([\d,]+ bytes\)" + size):
            to_pixels(path.read_bytes())
    assert not caught
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert to_pixels(path).shape[:2] == (50, 60)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore:Image was not the expected")
@pytest.mark.parametrize("times", [1.5, 2.5])
def test_a_bomb_inside_an_icon_is_our_error(monkeypatch, times):
    icon = io.BytesIO()
    Image.new("RGB", (16, 16)).save(icon, "ico")
    picture = io.BytesIO()
    Image.new("RGB", (60, 50)).save(picture, "png")
    data = icon.getvalue()[:14] + struct.pack("<II", len(picture.getvalue()), 22) + picture.getvalue()
    assert to_pixels(data).shape == (50, 60, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(3000 / times))
    with pytest.raises(ImageError, match=r"has (60 x 50|3,000) pixels, which may be an attack: more than "):
        to_pixels(data)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tiff", "webp", "ppm"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_are_image_errors(tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(RGB).save(whole)
    data = whole.read_bytes()
    damaged = tmp_path / f"damaged.{suffix}"

    def check(content):
        damaged.write_bytes(content)
        try:
            pixels = to_pixels(damaged)
        except ImageError as error:
            assert "damaged" in str(error)  # noqa: PT017
            with pytest.raises(ImageError, match="encoded image") as raised:
                to_pixels(content)
            # Nothing of the bytes is printed, not even by the error that Pillow raised.
            assert not re.search(r"b['\"]|\\x", str(raised.value))
            assert raised.value.__cause__ is None
            assert raised.value.__suppress_context__ or raised.value.__context__ is error  # noqa: PT017
        else:
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            same(pixels, content)

    for length in range(0, len(data), max(1, len(data) // 200)):
        check(data[:length])
    for place in range(0, len(data), max(1, len(data) // 400)):
        check(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])


@pytest.fixture(scope="module")
def encoded():
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "png")
    return file.getvalue()


def test_the_bytes_of_a_file_are_its_picture(encoded):
    strided = memoryview(bytes(byte for pair in zip(encoded, encoded, strict=True) for byte in pair))[::2]
    same(RGB, encoded, bytearray(encoded), memoryview(encoded), strided)


def test_a_file_object_is_read_from_its_start_and_stays_open(encoded, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded)
    with (
        path.open("rb") as buffered,
        path.open("rb", buffering=0) as raw,
        tempfile.TemporaryFile() as temporary,
    ):
        temporary.write(encoded)
        mapped = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
        for file in (buffered, raw, temporary, io.BytesIO(encoded), mapped):
            same(RGB, file, file)
            assert not file.closed
        mapped.close()


def test_a_stream_that_cannot_seek_is_read_to_its_end(encoded, tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("picture.png", encoded)
    with zipfile.ZipFile(tmp_path / "pictures.zip") as archive, archive.open("picture.png") as member:
        same(RGB, member)

    class Trickle:  # a socket gives a few bytes at a time
        left = encoded

        def read(self, size):
            piece, self.left = self.left[: min(size, 7)], self.left[min(size, 7) :]
            return piece

    same(RGB, Trickle())


class Reads:
    def __init__(self, result):
        self.result = result

    def read(self, size):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", r"encoded image \(0 bytes\) is empty"),
        (memoryview(b""), "empty"),
        (b"secret bytes", r"\(12 bytes\) is not an image.*raw pixels"),
        (np.zeros(784, np.uint8).tobytes(), r"\(784 bytes\) is not an image.*Frame"),
        (memoryview(np.zeros((28, 28), np.float32)), r"3,136 bytes"),
        (io.BytesIO(b"secret bytes"), "not an image"),
        (io.StringIO("text"), "mode 'rb'"),
        (Reads((True, None)), r"Reads is no binary file object: its read\(\) gives a tuple"),
        (Reads(OSError("unplugged")), "unplugged"),
    ],
)
def test_bytes_and_file_objects_that_are_no_images(value, message):
    with pytest.raises(ImageError, match=message) as raised:
        to_pixels(value)
    assert "secret" not in str(raised.value)


def test_an_endless_file_object_is_refused(monkeypatch):
    monkeypatch.setattr(images, "MOST_ENCODED_BYTES", 1000)
    with pytest.raises(ImageError, match="more than 1,000 bytes"):
        to_pixels(Reads(bytes(100)))


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def test_the_shapes_of_tensors(torch):
    gray, rgb = torch.from_numpy(GRAY), torch.from_numpy(RGB)
    for tensor, expected in [
        (gray, GRAY[:, :, None]),
        (gray[None], GRAY[:, :, None]),
        (gray[:, :, None], GRAY[:, :, None]),
        (rgb, RGB),
        (rgb.permute(2, 0, 1), RGB),
        (rgb.permute(2, 0, 1).contiguous(), RGB),
        (rgb.flip(0), RGB[::-1]),
        (rgb[:3, :3], RGB[:3, :3].transpose(1, 2, 0)),  # ambiguous: the channels come first
    ]:
        same(expected, tensor)


def test_other_tensors_are_errors_that_say_what_to_do(torch):
    for tensor in (torch.zeros(3, 4, 4), torch.zeros(3, 4, 4, requires_grad=True)):
        with pytest.raises(
            ImageError, match=r"tensor has dtype float32.*\* 255\)\.round\(\)\.to\(torch\.uint8\)"
        ):
            to_pixels(tensor)
    with pytest.raises(ImageError, match="cannot read the tensor"):
        to_pixels(torch.zeros(4, 4, dtype=torch.bfloat16))
    with pytest.raises(ImageError, match="2x3x4x4"):
        to_pixels(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))


def test_advice_for_wide_values_can_be_followed():
    wide = np.full((4, 4), 0x8000, np.uint16)
    with pytest.raises(ImageError, match=r"\(image >> 8\)\.astype\('uint8'\)"):
        to_pixels(wide)
    image = Image.fromarray(np.full((4, 4), 0.5, np.float32))
    with pytest.raises(ImageError, match=r"255 \* numpy\.asarray\(image\)") as raised:
        to_pixels(image)
    advice = str(raised.value).split("e.g. ")[1].split(" for ")[0]
    assert to_pixels(eval(advice, {"numpy": np, "image": image, "Image": Image}))[0, 0, 0] == 128
