"""Engine: what it takes, what it gives, and how it behaves with several threads."""

import gc
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

import quasar_rt
from quasar_rt import DeviceError, Engine, ImageError, InvalidValueError, device, oracle
from quasar_rt.arguments import shown
from quasar_rt.build import random_subnet
from quasar_rt.evaluate import evaluate
from quasar_rt.images import preprocess
from simulated import library, small_subnet

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")


def photographs(count, seed=0):
    """Pictures of assorted sizes, gray and RGB."""
    rng = np.random.default_rng(seed)
    shapes = [(28, 28), (48, 32, 3), (61, 83, 3), (120, 40), (90, 200, 1)]
    return [rng.integers(0, 256, shapes[i % len(shapes)], np.uint8) for i in range(count)]


@pytest.fixture(scope="module")
def engine(colour_subnet):
    with Engine(colour_subnet, threads=2) as engine:
        yield engine


def test_logits_are_the_oracles(engine, colour_subnet):
    config = colour_subnet.config
    for image in photographs(10):
        expected = oracle.run(
            config, colour_subnet.tensors(), preprocess(image, (48, 32, 3), config["preprocess"])
        )
        prediction = engine.infer(image)
        assert prediction.integer_logits.dtype == np.int32
        np.testing.assert_array_equal(prediction.integer_logits, expected)


def test_a_prediction_follows_from_its_logits(engine, colour_subnet):
    prediction = engine.infer(photographs(1)[0], top_k=100)
    scaled = colour_subnet.config["logit_scale"] * prediction.integer_logits.astype(np.float64)
    assert prediction.logits.dtype == np.float32
    np.testing.assert_array_equal(prediction.logits, scaled.astype(np.float32))
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    assert len(prediction.top_k) == 7
    assert [score.index for score in prediction.top_k] == np.argsort(-scaled, kind="stable").tolist()
    for score in prediction.top_k:
        assert score.label == colour_subnet.classes[score.index]
        assert score.probability == pytest.approx(probabilities[score.index], rel=1e-12)
    best = prediction.top_k[0]
    assert (prediction.label, prediction.index, prediction.probability) == (
        best.label,
        best.index,
        best.probability,
    )
    assert prediction.timings.total_ms == sum(prediction.timings)
    assert all(time >= 0 for time in prediction.timings)


def test_predictions_show_themselves(engine):
    prediction = engine.infer(photographs(1)[0])
    assert prediction.label in repr(prediction)
    assert "ms" in repr(prediction)
    assert f"<td>{prediction.label}</td>" in prediction._repr_html_()
    assert repr(engine) == f"<Engine 'colour' on cpu ({engine.tier}, 2 threads)>"


def test_every_kind_of_image_is_the_same_picture(engine, tmp_path):
    pixels = photographs(3)[2]
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    expected = engine.infer(pixels).integer_logits
    with Image.open(path) as opened:
        encoded = path.read_bytes()
        binary = (encoded, bytearray(encoded), memoryview(encoded), io.BytesIO(encoded))
        for source in (*binary, path, str(path), opened, Image.fromarray(pixels), np.asfortranarray(pixels)):
            np.testing.assert_array_equal(engine.infer(source).integer_logits, expected)


def test_a_subnet_comes_as_object_path_or_name(colour_subnet, tmp_path):
    path = tmp_path / "colour.qvit"
    colour_subnet.save(path)
    for source in (colour_subnet, path, str(path)):
        assert Engine(source).subnet == colour_subnet
    with pytest.raises(quasar_rt.FileError, match="no packaged subnet"):
        Engine("no-such-name")


def test_an_untrained_subnet_warns(colour_subnet):
    with pytest.warns(quasar_rt.UntrainedWarning, match="'colour' is not trained"):
        Engine(colour_subnet)


def test_devices_and_tiers(colour_subnet, monkeypatch):
    cpu = device.cpu()
    for name in ("auto", "cpu"):
        assert Engine(colour_subnet, device=name).device == "cpu"
    with pytest.raises(DeviceError, match=r"'gpu'.*cpu.*auto"):
        Engine(colour_subnet, device="gpu")
    assert Engine(colour_subnet).tier == cpu.best_tier
    for tier in cpu.tiers:
        if tier.supported:
            assert Engine(colour_subnet, tier=tier.name).tier == tier.name
            monkeypatch.setenv("QUASAR_TIER", tier.name)
            assert Engine(colour_subnet).tier == tier.name
            assert Engine(colour_subnet, tier="scalar").tier == "scalar"
        else:
            with pytest.raises(quasar_rt.UnsupportedTierError, match=tier.name):
                Engine(colour_subnet, tier=tier.name)
            monkeypatch.setenv("QUASAR_TIER", tier.name)
            with pytest.raises(quasar_rt.UnsupportedTierError, match=tier.name):
                Engine(colour_subnet)
    assert not all(tier.supported for tier in cpu.tiers)
    monkeypatch.setenv("QUASAR_TIER", "mmx")
    with pytest.raises(DeviceError, match="mmx"):
        Engine(colour_subnet)
    monkeypatch.setenv("QUASAR_TIER", "")
    assert Engine(colour_subnet).tier == cpu.best_tier


def test_packed_weights_take_less_memory_and_give_the_same_bits(monkeypatch):
    subnet = quasar_rt.random_subnet(embed=128, depth=2, heads=2, image_size=32, classes=10, seed=3)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    with (
        Engine(subnet, "cpu", weights="unpacked") as unpacked,
        Engine(subnet, "cpu", weights="packed") as packed,
    ):
        assert (unpacked.weights, packed.weights) == ("unpacked", "packed")
        assert packed.weight_bytes < 0.8 * unpacked.weight_bytes
        np.testing.assert_array_equal(packed.infer(picture).logits, unpacked.infer(picture).logits)
    monkeypatch.setenv("QUASAR_WEIGHTS", "packed")
    assert Engine(subnet, "cpu").weights == "packed"
    assert Engine(subnet, "cpu", weights="unpacked").weights == "unpacked"
    with pytest.raises(InvalidValueError, match="zipped"):
        Engine(subnet, "cpu", weights="zipped")
    with pytest.raises(InvalidValueError, match="sim"):
        Engine(subnet, "sim", weights="packed")


@pytest.mark.parametrize("pool", ["token", "token_pair"])
def test_layers_shared_out_by_rows_of_weights_give_the_same_bits(pool):
    # The layers of the last block and the heads are large enough to be shared out.
    subnet = random_subnet(
        embed=384,
        depth=1,
        heads=6,
        image_size=32,
        classes=1000,
        pool=pool,
        prefix_tokens=1 + (pool == "token_pair"),
    )
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    expected = Engine(subnet, tier="scalar", threads=1).infer(picture).integer_logits
    for tier in device.cpu().tiers:
        for threads in (1, 2, 3, 8) if tier.supported else ():
            with Engine(subnet, tier=tier.name, threads=threads) as engine:
                for _ in range(3):
                    np.testing.assert_array_equal(engine.infer(picture).integer_logits, expected)
                traffic = engine.weight_traffic
                assert 1 <= len(traffic) <= threads
                # The rest, patch embedding and keys and values, is read by every thread.
                assert max(traffic) < engine.weight_bytes or threads == 1


@pytest.mark.parametrize("pool", ["token", "token_pair", "mean"])
def test_blocks_shared_out_by_heads_give_the_same_bits(pool):
    # Two and three threads share the first block out by heads, five the second one, where the tier gains from it.
    subnet = random_subnet(
        embed=384,
        depth=2,
        heads=[6, 5],
        head_dim=64,
        image_size=160,
        classes=10,
        pool=pool,
        prefix_tokens=1 + (pool == "token_pair"),
    )
    pictures = np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3), np.uint8)
    expected = [
        Engine(subnet, tier="scalar", threads=1).infer(picture).integer_logits for picture in pictures
    ]
    for tier in device.cpu().tiers:
        for threads in (1, 2, 3, 5) if tier.supported else ():
            with Engine(subnet, tier=tier.name, threads=threads) as engine:
                for _ in range(2):
                    for picture, logits in zip(pictures, expected, strict=True):
                        np.testing.assert_array_equal(engine.infer(picture).integer_logits, logits)
                by_heads = engine._open(1).by_heads(threads)
                assert by_heads[0] == (threads in (2, 3)) or tier.name not in ("avx512vnni", "amx")
                if any(by_heads):
                    # A thread does not read the weights of other threads' heads.
                    assert max(engine.weight_traffic) < 0.95 * engine.weight_bytes


def test_bits_do_not_depend_on_threads_or_tier(colour_subnet):
    images = photographs(6)
    results = [
        [prediction.integer_logits for prediction in run]
        for tier in device.cpu().tiers
        if tier.supported
        for threads in (1, 2, 3, 5)
        for engine in [Engine(colour_subnet, tier=tier.name, threads=threads)]
        for run in (map(engine.infer, images), engine.infer_batch(images), engine.stream(images))
    ]
    for result in results:
        np.testing.assert_array_equal(result, results[0])


# infer_batch


def test_a_batch_is_its_images_in_order(engine, tmp_path):
    images = photographs(70)
    for place in (3, 40):
        path = tmp_path / f"{place}.png"
        Image.fromarray(images[place]).save(path)
        images[place] = path
    expected = [engine.infer(image).integer_logits for image in images]
    for batch in (images, iter(images), tuple(images)):
        predictions = engine.infer_batch(batch, top_k=2)
        np.testing.assert_array_equal([prediction.integer_logits for prediction in predictions], expected)
        assert all(len(prediction.top_k) == 2 for prediction in predictions)
    assert engine.infer_batch([]) == []


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "png")
    return file.getvalue()


def test_batches_and_streams_take_bytes_and_files_that_close_soon(engine, tmp_path):
    images = photographs(40)
    expected = engine.infer_batch(images)

    def files():
        for place, image in enumerate(images):
            path = tmp_path / f"{place}.png"
            path.write_bytes(encoded(image))
            with path.open("rb") as file:
                yield file

    shared = io.BytesIO(encoded(images[2]))
    assert engine.infer_batch(map(encoded, images)) == expected
    assert engine.infer_batch(files()) == expected
    assert list(engine.stream(files())) == expected
    assert engine.infer_batch([shared] * 30) == [expected[2]] * 30


def test_a_stream_that_cannot_seek_can_be_profiled(engine):
    class Upload(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise io.UnsupportedOperation

    assert engine.profile(Upload(encoded(photographs(1)[0])), repeat=3).stages


def test_evaluate_takes_bytes_and_counts_those_that_are_no_images(engine):
    labelled = [(encoded(image), engine.infer(image).index) for image in photographs(4)]
    seen = []
    accuracy = evaluate(
        engine, [*labelled, (b"none", 0), (io.BytesIO(labelled[0][0]), -1)], on_unreadable=seen.append
    )
    assert (accuracy.images, accuracy.unreadable) == (5, 1)
    assert accuracy.top1 == pytest.approx(0.8)
    assert "not an image" in str(seen[0])


def test_the_place_of_a_bad_file_object_in_a_batch_is_named(engine):
    with pytest.raises(ImageError, match=r"^image 1 of the batch: .*mode 'rb'"):
        engine.infer_batch([photographs(1)[0], io.StringIO("text")])


@pytest.mark.parametrize(
    "image",
    [
        "picture.png",
        Path("picture.png"),
        b"secret",
        bytearray(b"secret"),
        io.BytesIO(b"secret"),
        Image.new("L", (28, 28)),
        np.zeros((28, 28), np.uint8),
        np.zeros((28, 30, 3), np.uint8),
        np.zeros((28, 30, 1), np.uint8),
        np.zeros((28, 30, 4), np.uint8),
    ],
)
def test_one_image_is_no_batch(engine, image):
    for call in (engine.infer_batch, engine.stream):
        with pytest.raises(InvalidValueError, match="give a list") as raised:
            call(image)
        assert "secret" not in str(raised.value)


def test_one_tensor_of_an_image_is_no_batch_and_of_several_is_one(engine):
    torch = pytest.importorskip("torch")
    for shape in ((28, 30), (3, 28, 30), (28, 30, 3)):
        with pytest.raises(InvalidValueError, match=r"Tensor of shape [\dx]+ is one image; give a list"):
            engine.infer_batch(torch.zeros(shape, dtype=torch.uint8))
    for count in (1, 2, 4):
        for images in (torch.zeros((count, 28, 30), dtype=torch.uint8), np.zeros((count, 28, 30), np.uint8)):
            assert len(engine.infer_batch(images)) == count


def test_the_frames_of_an_animation_are_a_batch(engine, tmp_path):
    pictures = [Image.new("L", (28, 28), shade) for shade in (0, 99, 200)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:])
    with Image.open(tmp_path / "a.gif") as animation:
        alone = [engine.infer(frame).logits.tolist() for frame in ImageSequence.Iterator(animation)]
        batch = engine.infer_batch(ImageSequence.Iterator(animation))
        futures = [engine.submit(frame) for frame in ImageSequence.Iterator(animation)]
        submitted = [future.result() for future in futures]
    assert len({str(logits) for logits in alone}) == 3
    assert [one.logits.tolist() for one in batch] == alone == [one.logits.tolist() for one in submitted]


def test_a_streams_format_is_checked_at_once(engine):
    with pytest.raises(ImageError, match="no format 'xyz'"):
        engine.stream([], format="xyz")


def test_predictions_pickle(engine):
    prediction = engine.infer(photographs(1)[0])
    again = pickle.loads(pickle.dumps(prediction))
    assert repr(again) == repr(prediction)
    np.testing.assert_array_equal(again.integer_logits, prediction.integer_logits)


def test_an_image_of_the_wrong_size_is_named(gray_subnet):
    config = {**gray_subnet.config, "preprocess": {"resize": {"mode": "none"}}}
    engine = Engine(quasar_rt.Subnet.from_parts(config, gray_subnet.tensors()))
    right, wrong = np.zeros((28, 28), np.uint8), np.zeros((28, 29), np.uint8)
    engine.infer(right)
    with pytest.raises(ImageError, match="28"):
        engine.infer(wrong)
    with pytest.raises(ImageError, match="image 20 of the batch"):
        engine.infer_batch([right] * 20 + [wrong] + [right] * 20)


# Threads


def test_many_threads_share_an_engine(engine):
    images = photographs(20)
    expected = [engine.infer(image).integer_logits for image in images]

    def work(worker):
        order = np.random.default_rng(worker).permutation(len(images))
        if worker % 3 == 0:
            predictions = engine.infer_batch([images[i] for i in order])
        elif worker % 3 == 1:
            predictions = list(engine.stream(images[i] for i in order))
        else:
            predictions = [engine.infer(images[i]) for i in order]
        for i, prediction in zip(order, predictions, strict=True):
            np.testing.assert_array_equal(prediction.integer_logits, expected[i])

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(24)))


def test_the_gil_is_released(tmp_path):
    subnet = quasar_rt.random_subnet(embed=192, depth=4, heads=3, image_size=224, classes=10)
    engine = Engine(subnet, tier="scalar", threads=1)
    image = np.zeros((224, 224, 3), np.uint8)
    finished = threading.Event()
    ticks = 0

    def work():
        engine.infer(image)
        finished.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not finished.wait(0.001):
        ticks += 1
    thread.join()
    assert ticks > 5


SLOW_FRAME = """
import signal, sys, warnings
import numpy as np
import quasar_rt
warnings.simplefilter("ignore")
# 64 blocks of 128 heads and 1024 tokens: minutes in the scalar tier.
subnet = quasar_rt.random_subnet(embed=8, depth=64, heads=128, head_dim=32, hidden=8, image_size=32, channels=1,
                                 kernel=1, prefix_tokens=0, pool="mean", classes=2)
engine = quasar_rt.Engine(subnet, tier="scalar", threads=int(sys.argv[1]))
image = np.zeros((32, 32, 1), np.uint8)
for name, call in {
    "infer": lambda: engine.infer(image),
    "batch": lambda: engine.infer_batch([image]),
    "profile": lambda: engine.profile(image),
    "nibbles": lambda: engine._engine.check_nibbles(subnet._inner, image),
}.items():
    print(name, flush=True)
    try:
        call()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_ends_a_frame_that_would_take_minutes(threads):
    command = [sys.executable, "-c", SLOW_FRAME, str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        try:
            for call in ("infer", "batch", "profile", "nibbles"):
                assert process.stdout.readline() == f"{call}\n"
                threading.Event().wait(0.2)
                process.send_signal(signal.SIGINT)
                assert process.stdout.readline() == "interrupted\n", call
        finally:
            watchdog.cancel()
            process.kill()


def test_an_enormous_top_k_lists_all_classes(engine):
    image = photographs(1)[0]
    assert len(engine.infer(image, top_k=2**70).top_k) == 7
    assert len(engine.infer_batch([image], top_k=2**70)[0].top_k) == 7
    assert len(next(engine.stream([image], top_k=2**70)).top_k) == 7


def test_a_path_that_is_too_long_is_an_image_error(engine):
    with pytest.raises(ImageError):
        engine.infer("x" * 300)


# Timings


FIRST_FRAME = """
import sys, time
import quasar_rt

class Slow:
    def find_spec(self, name, *_):
        if name in ("PIL.Image", "PIL.ImageOps", "PIL.PngImagePlugin", "PIL.TiffImagePlugin"):
            time.sleep(0.6)

sys.meta_path.insert(0, Slow())
with quasar_rt.Engine(sys.argv[1]) as engine:
    assert "PIL" not in sys.modules
    print(engine.infer(sys.argv[2]).timings.decode_ms)
    assert "PIL" in sys.modules
"""


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_the_first_frames_decoding_does_not_include_the_import_of_pillow(tmp_path, gray_subnet, suffix):
    subnet, picture = tmp_path / "gray.qvit", tmp_path / f"picture.{suffix}"
    gray_subnet.save(subnet)
    Image.fromarray(photographs(1)[0]).save(picture)
    command = [sys.executable, "-W", "ignore", "-c", FIRST_FRAME, subnet, picture]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert float(done.stdout) < 600


# Closing


def test_a_closed_engine_says_so(gray_subnet):
    image = photographs(1)[0]
    with Engine(gray_subnet) as engine:
        stream = engine.stream([image] * 10)
        next(stream)
    assert repr(engine) == "<Engine 'gray' closed>"
    for call in (
        lambda: engine.infer(image),
        lambda: engine.infer_batch([image]),
        lambda: engine.stream([image]),
        lambda: engine.profile(image),
        lambda: engine.tier,
        lambda: list(stream),
    ):
        with pytest.raises(quasar_rt.ClosedError):
            call()
    engine.close()


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no representation")


#: An integer that cannot be printed, and a value without a representation.
ENDLESS, UNPRINTABLE = 10**9999, Unprintable()
WHOLE = [0, -1, 1.5, "x", "x" * 9999, b"2", -ENDLESS, UNPRINTABLE]
NO_SECONDS = ["x", -1, float("nan"), float("inf"), 1e19, 1j, [2], b"2", ENDLESS, UNPRINTABLE]
NO_NAMES = [5, b"scalar", ["scalar"], "", "\ud800", ENDLESS, UNPRINTABLE]


def made(name, *devices):
    """Returns calls that make an engine with an argument."""
    return [lambda engine, _, value, on=on: Engine(engine.subnet, on, **{name: value}) for on in devices]


#: Of each argument its name, what it must be, calls with it, and values that are refused.
ARGUMENTS = [
    (
        "threads",
        "a whole number, from 1 to 256",
        made("threads", "cpu", "sim"),
        [*WHOLE, "2", True, 10**6, 2**70],
    ),
    ("queue", "a whole number, at least 1", made("queue", "cpu"), [*WHOLE, "many"]),
    (
        "timeout",
        "a number of seconds above 0 up to ",
        made("timeout", "auto", "cpu", "sim"),
        [*NO_SECONDS, 0],
    ),
    ("wait", "a number of seconds from 0 up to ", made("wait", "auto", "cpu", "sim"), NO_SECONDS),
    ("tier", r".* \(or None for ", made("tier", "auto", "cpu", "sim"), NO_NAMES),
    ("weights", r".* \(or None for ", made("weights", "auto", "cpu", "sim"), NO_NAMES),
    (
        "device",
        "a name, such as 'cpu'",
        [lambda engine, _, value: Engine(engine.subnet, value)],
        [None, 1, UNPRINTABLE],
    ),
    ("subnet", "", [lambda _, __, value: Engine(value)], [None, 3, UNPRINTABLE]),
    (
        "top_k",
        "a whole number, at least 1",
        [
            lambda engine, image, value: engine.infer(image, top_k=value),
            lambda engine, image, value: engine.infer_batch([image], top_k=value),
            lambda engine, image, value: engine.stream([image], top_k=value),
            lambda engine, image, value: engine.submit(image, top_k=value),
        ],
        [*WHOLE, None, np.zeros(999)],
    ),
    (
        "repeat",
        "a whole number, at least 1",
        [lambda engine, image, value: engine.profile(image, repeat=value)],
        [*WHOLE, None],
    ),
    ("ahead", "a whole number, at least 1", [lambda engine, _, value: engine.stream([], ahead=value)], WHOLE),
    (
        "drop",
        "'oldest', or None",
        [lambda engine, _, value: engine.stream([], drop=value)],
        ["newest", UNPRINTABLE],
    ),
    (
        "timeout",
        "a number of seconds from 0 up to ",
        [lambda engine, image, value: engine.submit(image, timeout=value)],
        NO_SECONDS,
    ),
]


@pytest.mark.parametrize(("name", "must_be", "calls", "values"), ARGUMENTS, ids=[row[0] for row in ARGUMENTS])
def test_an_argument_that_is_refused_is_named_with_its_value(engine, name, must_be, calls, values):
    image = photographs(1)[0]
    for call in calls:
        for value in values:
            with pytest.raises(
                InvalidValueError, match=rf"^{name} is .{{1,220}}; it must be {must_be}"
            ) as raised:
                call(engine, image, value)
            assert shown(value) in str(raised.value)


def test_numbers_may_be_numpys(gray_subnet):
    image = photographs(1)[0]
    with Engine(gray_subnet, timeout=np.float32(2.5)) as engine:
        assert len(engine.infer(image, top_k=np.int64(2)).top_k) == 2
        assert engine.submit(image, timeout=np.uint8(9)).result() == engine.infer(image)
        assert len(list(engine.stream([image], ahead=np.int8(1)))) == 1


@pytest.mark.parametrize("images", [None, 5, np.uint8(5), np.array(5, np.uint8), object()])
def test_images_are_an_iterable(engine, images):
    for call in (engine.infer_batch, engine.stream):
        with pytest.raises(InvalidValueError, match=r"images is .*; it must be a list of images") as raised:
            call(images)
        assert shown(images) in str(raised.value)


def test_a_sequence_without_an_iterator_is_an_iterable(engine):
    class Three:
        def __getitem__(self, place):
            return photographs(3)[place]

    expected = engine.infer_batch(photographs(3))
    assert engine.infer_batch(Three()) == expected
    assert list(engine.stream(Three())) == expected


def use():
    """Returns the resident bytes and the open files of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("name", "frames", "engines"),
    [
        ("cpu", 5_000, 300),
        pytest.param("cpu", 100_000, 10_000, marks=pytest.mark.slow),
        pytest.param("sim:tiny", 20_000, 1000, marks=pytest.mark.slow),
    ],
)
def test_memory_and_open_files_stay_flat(name, frames, engines):
    if name != "cpu":
        library(name.removeprefix("sim:"))
    subnet = small_subnet(seed=1)
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8), np.uint8)
    with Engine(subnet, name) as engine:
        expected = [engine.infer(image).integer_logits.tolist() for image in images]

        def frame(number):
            assert engine.infer(images[number % 16]).integer_logits.tolist() == expected[number % 16]

        def opened(number):
            # Every other engine is dropped without being closed.
            one = Engine(subnet, name)
            one.infer_batch(images[: number % 16])
            if number % 2:
                one.close()

        for count, step in ((frames, frame), (engines, opened)):
            for number in range(count):
                if number == count // 10:
                    gc.collect()
                    memory, files = use()
                step(number)
            gc.collect()
            now, open_now = use()
            assert now - memory < 8 << 20
            assert open_now <= files


# profile


def test_a_profile_lists_the_stages(engine, colour_subnet):
    profile = engine.profile(photographs(1)[0], repeat=3)
    names = [stage.name for stage in profile.stages]
    assert names[:3] == ["decode", "preprocess", "embed"]
    assert {"qkv", "attention", "proj", "fc1", "fc2", "head"} <= set(names)
    assert profile.total_ms == pytest.approx(sum(stage.ms for stage in profile.stages))
    assert sum(stage.macs for stage in profile.stages) == colour_subnet.summary().macs
    table = str(profile).splitlines()
    assert table[0].split() == ["stage", "ms", "share", "GMAC/s"]
    assert table[-1].startswith("total")


def test_a_tensor_is_a_picture(engine):
    torch = pytest.importorskip("torch")
    pixels = photographs(3)[2]
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    np.testing.assert_array_equal(engine.infer(tensor).integer_logits, engine.infer(pixels).integer_logits)


def test_an_engine_is_pickled_as_its_arguments(gray_subnet):
    engine = Engine(gray_subnet, "cpu", threads=1, tier="scalar")
    copy = pickle.loads(pickle.dumps(engine))
    image = np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)
    assert (copy.device, copy.threads, copy.tier) == ("cpu", 1, "scalar")
    np.testing.assert_array_equal(copy.infer(image).integer_logits, engine.infer(image).integer_logits)


@pytest.mark.parametrize("name", ["TIER", "WEIGHTS"])
def test_variables_that_are_no_utf8_are_named(gray_subnet, monkeypatch, name):
    monkeypatch.setenv(f"QUASAR_{name}", "\udcff")
    with pytest.raises(InvalidValueError, match=rf"^QUASAR_{name} is '\\udcff'; it must be "):
        Engine(gray_subnet, "cpu")
