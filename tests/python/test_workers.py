"""Candidates scored by workers: the same result as one process, whatever becomes of the workers."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="needs the [host] extra")

from quasar_rt import QuasarError, search  # noqa: E402
from quasar_rt.cli import cli  # noqa: E402
from quasar_rt.nas import check, supernet, workers  # noqa: E402
from quasar_rt.nas.options import Options  # noqa: E402
from quasar_rt.nas.supernet import Supernet  # noqa: E402
from quasar_rt.nas.workers import LostWorkersError, WorkersError, open_workers  # noqa: E402

SETTINGS: dict[str, Any] = dict(fps=[60000.0, 110000.0], fps_of="accelerator", population=6, generations=2)
FILES = ("front.json", "front.csv")


class Backwards:
    """Workers in this process that return the last result first, of a copy as another process would have it."""

    closed = False

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        import cloudpickle

        copied = cloudpickle.loads(cloudpickle.dumps(function))
        for index in reversed(range(len(items))):
            yield index, copied(items[index])

    def close(self) -> None:
        self.closed = True


def test_workers_give_the_result_of_one_process(
    digits_supernet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cloudpickle", reason="Ray has it")
    monkeypatch.setattr(check, "SAMPLE", 4)
    elsewhere = Backwards()
    monkeypatch.setattr(supernet, "open_workers", lambda name, threads, gpus: elsewhere)
    search(supernet=digits_supernet, out=tmp_path / "one", threads=1, **SETTINGS)
    search(supernet=digits_supernet, out=tmp_path / "many", workers="ray", **SETTINGS)
    assert elsewhere.closed
    for name in FILES:
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()

    def lines(folder: str) -> list[str]:
        return (tmp_path / folder / "scores.jsonl").read_text().splitlines()

    assert lines("many") != lines("one")
    assert sorted(lines("many")) == sorted(lines("one"))


@pytest.mark.parametrize("name", ["", "spark", "ray:", "rayon"])
def test_other_workers_are_refused_by_name(name: str) -> None:
    with pytest.raises(QuasarError, match=f"'ray' or 'ray:ADDRESS', not '{name}'"):
        open_workers(name)


def test_workers_without_a_supernet_are_refused() -> None:
    with pytest.raises(QuasarError, match="workers"):
        search("digits", workers="ray")


def test_torchrun_and_workers_exclude_each_other(
    digits_supernet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = supernet.distributed.Group(0, 2)
    monkeypatch.setattr(supernet.distributed, "init_process_group", lambda device: group)
    with pytest.raises(QuasarError, match="torchrun"):
        Supernet(Options(supernet=digits_supernet, workers="ray"))


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_networks_are_trained_again_on_the_searchs_device(
    digits_supernet: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    source = Supernet(Options(supernet=digits_supernet, threads=1))
    source.group = supernet.distributed.Group(device=torch.device(device))
    used = []

    def train(*_arguments: Any, group: Any) -> Any:
        used.append((group.device, group.world))
        raise StopIteration

    monkeypatch.setattr(supernet, "train_architecture", train)
    genome = source.space.encode(source.space.decode(source.space.smallest))
    with pytest.raises(StopIteration):
        source.retrained(np.stack([genome]), 1, None, lambda what, done, total: None)
    assert used == [(torch.device(device), 1)]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_without_a_cluster_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    with pytest.raises(WorkersError, match=f"'ray:{address}'.*refused"):
        open_workers(f"ray:{address}")


@pytest.mark.parametrize(("mode", "hint"), [(None, "; .* set RAY_AUTH_MODE=token"), ("token", "")])
def test_a_cluster_that_may_want_a_token_is_named(
    monkeypatch: pytest.MonkeyPatch, mode: str | None, hint: str
) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("Failed to connect\nto Ray cluster")

    ray = types.ModuleType("ray")
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(ray, "init", init, raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False, raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(
        WorkersError, match=f"^no workers at 'ray:auto': Failed to connect to Ray cluster{hint}$"
    ):
        open_workers("ray:auto")


@pytest.mark.parametrize("address", ["host", "host:", ":6379", "host:99999", "ray://host"])
def test_an_address_without_a_port_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    with pytest.raises(QuasarError, match="HOST:PORT"):
        open_workers(f"ray:{address}")


class SilentRay(types.ModuleType):
    """A Ray whose cluster never answers but for the raylet at `host`; what would wait for the cluster fails."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__("ray")
        errors = types.SimpleNamespace(RayError=type("RayError", (Exception,), {}))
        task = types.SimpleNamespace(remote=lambda *_: object())
        self.__dict__.update(
            exceptions=errors,
            init=lambda **_: None,
            is_initialized=lambda: False,
            cluster_resources=lambda: {"CPU": 1},
            remote=lambda **_: lambda function: task,
            put=lambda value: value,
            wait=lambda waiting, timeout: ([], waiting),
            get_runtime_context=lambda: types.SimpleNamespace(
                gcs_address="127.0.0.1:1", get_node_id=lambda: "here"
            ),
            nodes=lambda: [{"NodeID": "here", "NodeManagerAddress": host, "NodeManagerPort": port}],
        )


def test_a_cluster_that_is_gone_ends_a_search_with_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    raylet = socket.create_server(("127.0.0.1", 0))
    ray = SilentRay(*raylet.getsockname())
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(workers, "_AWAY", 0.0)
    for change, message in (
        ({}, r"Ray's head at 127\.0\.0\.1:1 is gone; give the same command again"),
        ({"is_initialized": lambda: True}, r"is gone; start the cluster and give the same command again"),
        (
            {"wait": lambda *_, **__: (_ for _ in ()).throw(ray.exceptions.RayError("the\nraylet died"))},
            "raylet died",
        ),
    ):
        ray.__dict__.update(change)
        found = open_workers("ray")
        with pytest.raises(LostWorkersError, match=message) as caught:
            list(found.map(str, [1, 2]))
        found.close()
    raylet.close()
    with pytest.raises(LostWorkersError, match=r"Ray's process on this machine is gone"):
        next(open_workers("ray").map(str, [1, 2]))

    def search(**_: object) -> None:
        raise caught.value

    monkeypatch.setattr("quasar_rt.nas.search", search)
    run = CliRunner().invoke(cli, ["search", "--out", str(tmp_path / "out")])
    assert run.exit_code == 1
    assert run.stderr.startswith("Error: the cluster went away: the raylet died")


# With Ray: make test-clusters.


@pytest.fixture
def on_ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="needs the [ray] extra")
    found = open_workers("ray")
    yield ray, found
    found.close()
    assert not ray.is_initialized()


@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(on_ray: Any, tmp_path: Path) -> None:
    _, found = on_ray

    def work(item: int) -> tuple[int, int]:
        # Each item's first attempt waits to be killed.
        mark = tmp_path / str(item)
        if not mark.exists():
            mark.write_text(str(os.getpid()))
            time.sleep(60)
        return item * item, os.getpid()

    def kill() -> None:
        killed: set[str] = set()
        while len(killed) < 3:
            for mark in tmp_path.iterdir():
                if mark.name not in killed and (text := mark.read_text()):
                    killed.add(mark.name)
                    os.kill(int(text), signal.SIGKILL)
            time.sleep(0.1)

    killer = threading.Thread(target=kill)
    killer.start()
    results = dict(found.map(work, range(3)))
    killer.join()
    assert {index: square for index, (square, _) in results.items()} == {0: 0, 1: 1, 2: 4}


@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_errors_of_a_task_and_lost_tasks_are_reported(on_ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, found = on_ray

    def fail(item: int) -> None:
        raise QuasarError(f"image {item} cannot be read")

    with pytest.raises(QuasarError, match="image 7 cannot be read"):
        list(found.map(fail, [7]))
    found._run = found._run.options(max_retries=1)
    with pytest.raises(WorkersError, match="too little memory"):
        list(found.map(lambda item: os._exit(1), [0]))


@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_ray_gives_the_result_of_one_process(
    digits_supernet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the [ray] extra")
    monkeypatch.setattr(check, "SAMPLE", 4)
    search(supernet=digits_supernet, out=tmp_path / "one", threads=1, **SETTINGS)
    search(supernet=digits_supernet, out=tmp_path / "many", workers="ray", **SETTINGS)
    for name in FILES:
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
