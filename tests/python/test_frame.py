"""Camera frames: each format against the oracle's reading of it, bit for bit, and errors that name what is wrong."""

import importlib.util
import mmap
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import ROOT, examples
from quasar_rt import Engine, Frame, ImageError
from quasar_rt.frame import FORMATS, MATRICES
from quasar_rt.images import preprocess, to_pixels
from quasar_rt.oracle import pixels_of_frame, rgb_of_yuv

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")

BYTES = {"gray": 1, "rgb": 3, "bgr": 3, "nv12": 1, "yuyv": 2}
AS_IT_IS = {"resize": {"mode": "none"}}


def random_frame(rng, width, height, format, gap=0):
    """Bytes that end with the last row, and the stride."""
    stride = width * BYTES[format] + gap
    rows = height * 3 // 2 if format == "nv12" else height
    return rng.integers(0, 256, rows * stride - gap, np.uint8).tobytes(), stride


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.sampled_from(MATRICES),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 9),
    st.sampled_from([1, 3]),
    st.sampled_from(["none", "shorter", "exact"]),
    st.sampled_from(["nearest", "box", "bilinear", "bicubic"]),
    st.integers(0, 2**32 - 1),
)
def test_every_format_is_read_as_the_oracle_reads_it(
    format, matrix, half_width, half_height, gap, channels, mode, resampling, seed
):
    width, height = 2 * half_width, 2 * half_height
    data, stride = random_frame(np.random.default_rng(seed), width, height, format, gap)
    frame = Frame(data, width, height, format, stride=stride, matrix=matrix)
    size = {"none": [], "shorter": [11], "exact": [13, 9]}[mode]
    seen = {"none": (height, width), "shorter": (9, 7), "exact": (13, 8)}[mode]
    document = {"resize": {"mode": mode, "size": size, "filter": resampling}} if size else AS_IT_IS
    expected = preprocess(
        pixels_of_frame(data, width, height, format, stride, matrix), (*seen, channels), document
    )
    np.testing.assert_array_equal(preprocess(frame, (*seen, channels), document), expected)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("format", ["nv12", "yuyv"])
def test_grey_ramps_stay_grey_and_keep_their_ends(format, matrix):
    luma = np.arange(256, dtype=np.uint8)
    if format == "nv12":
        data = np.concatenate([luma, luma, np.full(256, 128, np.uint8)]).tobytes()
        frame = Frame(data, 256, 2, format, matrix=matrix)
    else:
        data = np.stack([luma, np.full(256, 128, np.uint8)], axis=-1).tobytes() * 2
        frame = Frame(data, 256, 2, format, matrix=matrix)
    rgb = preprocess(frame, (2, 256, 3), AS_IT_IS)
    assert np.ptp(rgb, axis=2).max() == 0
    ramp = rgb[0, :, 0].astype(int)
    assert (ramp[:17] == 0).all()
    assert (ramp[235:] == 255).all()
    assert (np.diff(ramp) >= 0).all()


def test_the_matrices_are_those_of_the_standards():
    # Within half a unit of the real formula, for which Kr and Kb stand in the standards.
    y, cb, cr = (
        np.random.default_rng(0).integers(low, high, 5000) for low, high in [(16, 236)] + [(16, 241)] * 2
    )
    for matrix, kr, kb in [("bt601", 0.299, 0.114), ("bt709", 0.2126, 0.0722)]:
        luma, blue, red = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
        r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
        g = (luma - kr * r - kb * b) / (1 - kr - kb)
        exact = np.clip(255 * np.stack([r, g, b], axis=-1), 0, 255)
        # OpenCV's factors of BT.601 have three decimals: up to 0.2 more.
        assert np.abs(rgb_of_yuv(y, cb, cr, matrix) - exact).max() < 0.5 + (
            0.25 if matrix == "bt601" else 0.001
        )


@pytest.mark.parametrize("format", FORMATS)
def test_engines_take_frames_and_arrays_of_a_format(colour_subnet, format):
    rng = np.random.default_rng(1)
    frames = [Frame(*_args(rng, 60, 50, format)) for _ in range(3)]
    arrays = [_array(frame) for frame in frames]
    decoded = [pixels_of_frame(f.data.tobytes(), 60, 50, format, f.stride) for f in frames]
    with Engine(colour_subnet, threads=2) as engine:
        expected = [p.integer_logits for p in engine.infer_batch(decoded)]
        assert len({tuple(logits) for logits in expected}) == 3

        def same(predictions):
            np.testing.assert_array_equal([p.integer_logits for p in predictions], expected)

        same(engine.infer(frame) for frame in frames)
        same(engine.infer(array, format=format) for array in arrays)
        same(engine.infer_batch(frames))
        same(engine.infer_batch(arrays, format=format))
        same(engine.stream(frames))
        same(engine.stream(arrays, format=format))
        assert engine.profile(frames[0], repeat=1).stages[0].name == "decode"


def _args(rng, width, height, format):
    data, _ = random_frame(rng, width, height, format)
    return data, width, height, format


def _array(frame):
    """Returns OpenCV's array of a frame without gaps."""
    tail = {"gray": (), "nv12": (), "yuyv": (2,)}.get(frame.format, (3,))
    rows = frame.height * 3 // 2 if frame.format == "nv12" else frame.height
    return frame.data.reshape(rows, frame.width, *tail)


@pytest.mark.parametrize("format", ["gray", "rgb", "bgr", "yuyv"])
def test_crops_are_read_where_they_are(format):
    rng = np.random.default_rng(2)
    shape = (40, 60) if BYTES[format] == 1 else (40, 60, BYTES[format])
    whole = rng.integers(0, 256, shape, np.uint8)
    crop = whole[4:30, 10:50]
    frame = Frame.from_array(crop, format)
    assert np.shares_memory(frame.data, whole)
    assert frame.stride == 60 * BYTES[format]
    seen = (26, 40, 3)
    expected = preprocess(Frame.from_array(crop.copy(), format), seen, AS_IT_IS)
    np.testing.assert_array_equal(preprocess(frame, seen, AS_IT_IS), expected)
    # Upside down or with pixels apart it is copied.
    flipped = Frame.from_array(crop[::-1], format)
    np.testing.assert_array_equal(preprocess(flipped, seen, AS_IT_IS), expected[::-1])


def test_planes_of_nv12_may_be_apart():
    data, stride = random_frame(np.random.default_rng(3), 24, 16, "nv12", gap=8)
    luma, chroma = data[: 16 * stride], data[16 * stride :]
    together = Frame(data, 24, 16, "nv12", stride=stride)
    apart = Frame(luma, 24, 16, "nv12", stride=stride, chroma=chroma)
    padded = luma + bytes(4 * stride) + chroma
    view = memoryview(padded)[20 * stride :]
    expected = preprocess(together, (16, 24, 3), AS_IT_IS)
    for frame in (apart, Frame(padded, 24, 16, "nv12", stride=stride, chroma=view)):
        np.testing.assert_array_equal(preprocess(frame, (16, 24, 3), AS_IT_IS), expected)


def test_memory_of_many_kinds_is_borrowed():
    pixels = np.random.default_rng(4).integers(0, 256, (8, 10), np.uint8)
    area = mmap.mmap(-1, pixels.size)
    area.write(pixels.tobytes())
    for data in (pixels.tobytes(), bytearray(pixels.tobytes()), memoryview(pixels), pixels, area):
        frame = Frame(data, 10, 8, "gray")
        np.testing.assert_array_equal(preprocess(frame, (8, 10, 1), AS_IT_IS)[..., 0], pixels)
    assert np.shares_memory(Frame(pixels, 10, 8, "gray").data, pixels)


def test_a_stream_has_read_a_frame_when_it_asks_for_the_next(gray_subnet):
    rng = np.random.default_rng(5)
    pictures = rng.integers(0, 256, (12, 40, 40), np.uint8)
    memory = np.empty((40, 40), np.uint8)
    threads = set()

    def camera():
        for picture in pictures:
            threads.add(threading.current_thread().name)
            memory[:] = picture
            yield Frame(memory, 40, 40, "gray")
            memory[:] = 0

    with Engine(gray_subnet, threads=1) as engine:
        streamed = [p.integer_logits for p in engine.stream(camera(), ahead=3)]
        np.testing.assert_array_equal(streamed, [engine.infer(p).integer_logits for p in pictures])
    assert threads == {"quasar-stream"}


@pytest.mark.parametrize("size", [40, 800])  # the large one is resized on all cores
def test_a_stream_keeps_no_frame_whose_successor_it_asks_for(gray_subnet, size):
    def camera():
        for _ in range(5):
            memory = mmap.mmap(-1, size * size)
            yield Frame(memory, size, size, "gray")
            memory.close()  # BufferError where somebody still holds it

    with Engine(gray_subnet, threads=1 if size < 100 else len(os.sched_getaffinity(0))) as engine:
        assert len(list(engine.stream(camera()))) == 5


def test_a_closed_stream_reads_no_frame_any_more(gray_subnet, monkeypatch):
    begin, begun, ended = Engine._begin, [], []

    def slow(*arguments):
        begun.append(time.monotonic())
        time.sleep(0.05)
        try:
            return begin(*arguments)
        finally:
            ended.append(time.monotonic())

    def camera():
        while True:
            yield Frame(bytes(1600), 40, 40, "gray")

    monkeypatch.setattr(Engine, "_begin", staticmethod(slow))
    with Engine(gray_subnet, threads=1) as engine:
        stream = engine.stream(camera(), ahead=8)
        next(stream)
        stream.close()
        closed = time.monotonic()
        time.sleep(0.15)
    assert len(begun) == len(ended)
    assert max(ended) <= closed


def test_one_row_is_a_frame(gray_subnet):
    row = np.arange(120, dtype=np.uint8).reshape(40, 3)[np.newaxis]
    for array in (row, row[::-1], np.repeat(row, 2, axis=0)[:1][::-1]):
        frame = Frame.from_array(array, "bgr")
        assert (frame.width, frame.height, frame.stride) == (40, 1, 120)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Frame(bytes(64), 8, 8, "nv21"),
            r"no format 'nv21' of frames; there are gray, rgb, bgr, nv12",
        ),
        (lambda: Frame(bytes(64), 8, 8, "nv12", matrix="bt2020"), r"no matrix 'bt2020' of frames"),
        (
            lambda: Frame(bytes(64), 0, 8, "gray"),
            r"width is 0; it must be a whole number from 1 to 2147483647",
        ),
        (lambda: Frame(bytes(64), 8, -1, "gray"), r"height is -1"),
        (lambda: Frame(bytes(64), 8, 8.0, "gray"), r"height is 8\.0"),
        (lambda: Frame(bytes(64), 8, 8, "gray", stride=True), r"stride is True"),
        (lambda: Frame("text", 8, 8, "gray"), r"the frame's data gives no bytes"),
        (lambda: Frame(b"", 8, 8, "nv12", chroma=3), r"the frame's chroma gives no bytes"),
        (
            lambda: Frame(np.zeros((8, 8)), 8, 8, "gray"),
            r"contiguous bytes \(uint8\), but the array is float64",
        ),
        (
            lambda: Frame(np.zeros((8, 9), np.uint8)[:, :8], 8, 8, "gray"),
            r"not contiguous; Frame\.from_array",
        ),
        (
            lambda: Frame.from_array(np.zeros((8, 8, 3), np.uint8), "nv12"),
            r"'nv12' is \(H\*3/2\)xW, not 8x8x3",
        ),
        (lambda: Frame.from_array(np.zeros((8, 8), np.uint8), "bgr"), r"'bgr' is HxWx3, not 8x8"),
        (lambda: Frame.from_array(np.zeros((8, 8), np.uint8), "nv12"), r"3/2 as many rows"),
        (lambda: Frame.from_array(np.zeros((8, 8)), "gray"), r"a uint8 array, of float64"),
        (lambda: Frame.from_array("a.png", "gray"), r"a uint8 array, not str"),
        (lambda: Frame.from_array(np.zeros((0, 8), np.uint8), "gray"), r"not 0x8"),
    ],
)
def test_what_is_no_frame_is_an_error(make, message):
    with pytest.raises(ImageError, match=message):
        make()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ((bytes(63), 8, 8, "gray"), r"63 bytes with a stride of 8 do not hold 8 rows of 8 pixels of gray"),
        ((bytes(96 - 1), 8, 8, "nv12"), r"64 bytes and 31 of chroma with a stride of 8 do not hold"),
        ((bytes(40), 8, 8, "nv12"), r"40 bytes and 0 of chroma"),
        (
            (bytes(999), 7, 8, "nv12"),
            r"7 pixels wide and 8 high, but pixels of nv12 share their colour two by two, so sides are even",
        ),
        ((bytes(999), 8, 7, "nv12"), r"sides are even"),
        ((bytes(999), 7, 8, "yuyv"), r"sides are even"),
        ((bytes(999_999), 65_502, 1, "gray"), r"sides are at most 65500"),
        (
            (bytes(200), 8, 8, "bgr", {"stride": 23}),
            r"a stride of 23 do not hold 8 rows of 8 pixels of bgr: a row has 24",
        ),
        ((bytes(200), 8, 8, "gray", {"chroma": bytes(200)}), r"gray has no plane of chroma"),
        ((bytes(200), 8, 8, "gray", {"stride": 2**31 - 1}), r"do not hold"),
    ],
)
def test_sizes_that_do_not_fit_the_bytes_are_errors(frame, message):
    *arguments, options = frame if isinstance(frame[-1], dict) else (*frame, {})
    with pytest.raises(ImageError, match=message):
        Frame(*arguments, **options)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", "x", r"width is 'x'; it must be a whole number from 1 to 2147483647"),
        ("width", None, r"width is None; it must be a whole number"),
        ("width", 8.0, r"width is 8\.0; "),
        ("height", -8, r"height is -8; "),
        ("height", 0, r"height is 0; "),
        ("height", True, r"height is True; "),
        ("height", 2**31, r"height is 2147483648; "),
        ("stride", -8, r"stride is -8; "),
        ("stride", 2**70, r"stride is 1180591620717411303424; "),
        pytest.param("stride", 10**9999, r"stride is (of class int|10{99}\.\.\.0+); ", id="endless"),
        ("stride", b"secret", r"stride is of class bytes; "),
        ("format", 5, r"format is 5; it must be one of gray, rgb, bgr, nv12, yuyv"),
        ("format", "nv21", r"format is 'nv21'; it must be one of gray"),
        ("format", "x" * 9999, r"format is 'x{1,99}\.\.\.x+'; it must be one of gray"),
        ("format", None, r"format is None; "),
        ("matrix", "bt2020", r"matrix is 'bt2020'; it must be bt601 or bt709"),
        ("matrix", None, r"matrix is None; "),
        ("data", None, r"data is None; it must be a contiguous uint8 array of one dimension"),
        ("data", b"secret", r"data is of class bytes; it must be"),
        ("data", np.zeros(64), r"data is an array of float64 \[64\]; it must be"),
        ("data", np.zeros((8, 8), np.uint8), r"data is an array of uint8 \[8, 8\]; it must be"),
        ("data", np.zeros(128, np.uint8)[::2], r"data is an array of uint8 \[64\], not contiguous; "),
        ("chroma", 3, r"chroma is 3; it must be None or a contiguous uint8 array of one dimension"),
    ],
)
def test_an_attribute_that_was_overwritten_is_named(gray_subnet, name, value, message):
    frame = Frame(bytes(64), 8, 8, "gray")
    setattr(frame, name, value)
    with pytest.raises(ImageError, match=rf"the frame's {message}"):
        preprocess(frame, (8, 8, 1), AS_IT_IS)
    with Engine(gray_subnet, threads=1) as engine:
        with pytest.raises(ImageError, match=rf"image 1 of the batch: .*the frame's {message}"):
            engine.infer_batch([np.zeros((28, 28), np.uint8), frame])
        with pytest.raises(ImageError, match=message):
            next(engine.stream([frame]))


@pytest.mark.parametrize(
    ("name", "value"), [("width", 9), ("stride", 9), ("format", "rgb"), ("data", np.zeros(63, np.uint8))]
)
def test_sizes_that_no_longer_fit_the_bytes_are_errors(gray_subnet, name, value):
    frame = Frame(bytes(64), 8, 8, "gray")
    setattr(frame, name, value)
    with pytest.raises(ImageError):
        preprocess(frame, (8, 8, 1), AS_IT_IS)
    with Engine(gray_subnet, threads=1) as engine:
        with pytest.raises(ImageError):
            engine.infer(frame)
        with pytest.raises(ImageError, match="image 1 of the batch"):
            engine.infer_batch([np.zeros((28, 28), np.uint8), frame])
        with pytest.raises(ImageError):
            next(engine.stream([frame]))


def test_an_attribute_that_was_deleted_is_named():
    frame = Frame(bytes(64), 8, 8, "gray")
    del frame.stride
    with pytest.raises(ImageError, match=r"the Frame has no stride; it must be a whole number"):
        preprocess(frame, (8, 8, 1), AS_IT_IS)


def test_attributes_that_were_overwritten_with_right_values_count():
    frame = Frame(bytes(64), 8, 8, "gray")
    frame.data, frame.width, frame.stride = np.arange(128, dtype=np.uint8), np.int64(4), np.uint8(16)
    frame.format, frame.matrix = np.str_("rgb"), "bt709"
    expected = np.lib.stride_tricks.as_strided(frame.data, (8, 4, 3), (16, 3, 1))
    np.testing.assert_array_equal(preprocess(frame, (8, 4, 3), AS_IT_IS), expected)


def test_a_format_is_for_arrays_and_a_frame_has_its_own(gray_subnet):
    frame = Frame(bytes(64), 8, 8, "gray")
    with Engine(gray_subnet, threads=1) as engine:
        with pytest.raises(ImageError, match=r"the frame is of format 'gray', not 'bgr'"):
            engine.infer(frame, format="bgr")
        with pytest.raises(ImageError, match=r"a uint8 array, not str"):
            engine.infer("a.png", format="bgr")
    with pytest.raises(ImageError, match="no decoded image"):
        to_pixels(frame)


#: Debian's, for the system's Python; another Python of the same version can load it, too.
GI = "/usr/lib/python3/dist-packages/gi"
WITH_GSTREAMER = """
from quasar_rt.images import preprocess

for width, height in (322, 242), (1922, 1082):  # rows padded to multiples of four; BT.601 and BT.709
    source = f"videotestsrc pattern=red num-buffers=1 ! video/x-raw,format=NV12,width={width},height={height}"
    [rgb] = (preprocess(frame, (height, width, 3), {"resize": {"mode": "none"}}) for frame in frames(source))
    assert abs(rgb.astype(int) - [255, 0, 0]).max() < 3, rgb
try:
    list(frames("filesrc location=none ! rawvideoparse format=nv12 width=4 height=4"))
except RuntimeError as error:
    print(error)
"""


def test_the_page_reads_nv12_from_gstreamer(tmp_path):
    if importlib.util.find_spec("gi") is None and os.path.isdir(GI):
        (tmp_path / "gi").symlink_to(GI)

    def run(code):
        command = [sys.executable, "-c", code]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    page = (ROOT / "docs/cameras.md").read_text(encoding="utf-8")
    [code] = [example.body for example in examples(page, "cameras.md") if "appsink" in example.body]
    camera = "v4l2src device=/dev/video0"
    assert camera in code
    imports = code.partition("def frames")[0]
    if (absent := run(imports)).returncode:
        pytest.skip(f"no GStreamer for this Python (make gstreamer): {absent.stderr.splitlines()[-1]}")
    done = run(code.replace(camera, "videotestsrc num-buffers=9") + WITH_GSTREAMER)
    assert done.returncode == 0, done.stderr
    *labels, error = done.stdout.splitlines()
    assert labels
    assert error == "Resource not found."
