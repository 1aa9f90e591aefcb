"""Fixtures that many tests use: small random subnets, and one trained supernet."""

import fcntl
import functools
import hashlib
import inspect
import os
import resource
import signal
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from browser import CHROMIUM, Browser
from quasar_rt import DoesNotFitError, random_subnet

# A shell's background job ignores Ctrl-C, and so do all its children: the tests of Ctrl-C would wait in vain.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# click before 8.2 mixes stderr into stdout, or has no output of both.
if "mix_stderr" in inspect.signature(CliRunner).parameters:
    CliRunner.__init__ = functools.partialmethod(CliRunner.__init__, mix_stderr=False)
    Result.output = property(lambda self: self.stdout + self.stderr)

# Tests run beside each other: commands that train, started by them, have one core each.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Returns `shared(name, make)`: a folder that `make(folder)` filled, once for all processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name, make):
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (base / f"{name}.done").exists():
                (base / name).mkdir()
                make(base / name)
                (base / f"{name}.done").touch()
        return base / name

    return folder


@pytest.fixture(scope="session", autouse=True)
def _designs(shared):
    """Lets searches find each space's configuration for a board once for all processes: it takes seconds."""
    from quasar_rt.hardware import Board, Hardware
    from quasar_rt.nas import boards

    search = boards._design

    def design(board, space):
        def make(folder):
            try:
                search(board, space).save(folder / "hardware.toml")
            except DoesNotFitError as error:
                (folder / "refusal").write_text(str(error))

        found = shared(f"design-{hashlib.sha256(f'{board}{space}'.encode()).hexdigest()}", make)
        if (found / "refusal").exists():
            raise DoesNotFitError((found / "refusal").read_text())
        return Hardware.load(found / "hardware.toml", Board.from_toml(board))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boards, "_design", design)
        yield


@pytest.fixture(scope="module")
def _chromium(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: apt install chromium, or `make browser`)")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(_chromium):
    """Returns headless Chromium, without the problems and requests of other tests."""
    _chromium.problems.clear()
    _chromium.requests.clear()
    return _chromium


@pytest.fixture
def full_disk():
    """Returns `full_disk(size)`: in its ``with`` no file can become larger, as on a disk that is full."""

    @contextmanager
    def full(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Python ignores the signal that comes with it; what remains is an error of each write.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full


@pytest.fixture
def waits():
    """Returns `waits(path)`: makes a pipe; its ``with`` fails if a reader waits for the pipe's other end."""

    @contextmanager
    def pipe(path):
        os.mkfifo(path)
        # A reader that waits gets an empty file in the end.
        writer = os.open(path, os.O_RDWR)
        limit = threading.Timer(5, os.close, [writer])
        limit.start()
        try:
            yield
            assert limit.is_alive()
        finally:
            limit.cancel()
            limit.join()
        os.close(writer)

    return pipe


@pytest.fixture(scope="session")
def gray_subnet():
    """Returns a subnet of Fashion-MNIST's shape: 28x28 gray, ten classes; resizes the shorter side."""
    return random_subnet(
        embed=32, depth=2, heads=2, image_size=28, channels=1, kernel=7, classes=10, seed=1, name="gray"
    )


@pytest.fixture(scope="session")
def colour_subnet():
    """Returns a subnet of 48x32 RGB images with mean pooling and mixed widths."""
    return random_subnet(
        embed=24,
        depth=2,
        heads=[1, 3],
        head_dim=8,
        image_size=(48, 32),
        channels=3,
        kernel=8,
        prefix_tokens=0,
        pool="mean",
        classes=7,
        seed=2,
        name="colour",
    )


@pytest.fixture(scope="session")
def tiny_subnet():
    """As small as a subnet gets: hostile-file tests read it thousands of times."""
    return random_subnet(
        embed=4, depth=1, heads=1, image_size=4, channels=1, kernel=4, classes=2, seed=3, name="tiny"
    )


@pytest.fixture(scope="session")
def digits_recipe():
    """Returns the packaged recipe `digits` with fewer epochs: a quarter of a minute on one core."""
    pytest.importorskip("torch", reason="needs the [host] extra")
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    from quasar_rt.train.recipe import load_recipe

    return load_recipe(
        "digits", ["float_stage.epochs=20", "supernet_stage.epochs=6", "quantized_stage.epochs=4"]
    )


@pytest.fixture(scope="session")
def digits_supernet(digits_recipe, shared):
    """Returns the path of a trained ``supernet.pt`` of scikit-learn's digits, in its run's folder."""
    import torch

    from quasar_rt.train import train

    torch.set_num_threads(1)
    return shared("digits", lambda folder: train(digits_recipe, folder, log=lambda _: None)) / "supernet.pt"


@pytest.fixture(scope="session")
def small_network(tmp_path_factory):
    """Returns a folder of transformers with a ViT of 20x20 images, random weights and no classes."""
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch", reason="needs the [host] extra")
    from hugging_face_folders import as_transformers, write_folder

    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=20, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=0
    )
    return write_folder(
        tmp_path_factory.mktemp("network"), as_transformers(model, "vit"), {"model_type": "vit"}
    )


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Makes pictures of two kinds, which even a network of random weights tells apart: warm and cold ones."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, colour in (("warm", (210, 90, 40)), ("cold", (40, 90, 210))):
        (root / name).mkdir()
        for number in range(12):
            pixels = np.clip(np.array(colour) + random.integers(-40, 40, (24, 24, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root
