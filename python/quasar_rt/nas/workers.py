"""Workers of a cluster that score candidates: Ray's tasks.

Ray shares the tasks out, gives each free worker the next one, and runs the tasks of a lost worker again. Depends on:
ray, where a search asks for it.
"""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any, Protocol, TypeVar

from ..errors import InvalidValueError, QuasarError

__all__ = ["LostWorkersError", "RayWorkers", "Workers", "WorkersError", "open_workers"]

T = TypeVar("T")
R = TypeVar("R")

#: Times that a task is run again after its worker was lost. A task that ends its worker each time would go on for ever.
RETRIES = 10
#: Seconds between looks at the cluster's head, and for which it may be away. Ray ends the process after 60 of them.
_LOOK, _AWAY = 5.0, 25.0


class WorkersError(QuasarError, RuntimeError):
    """The workers of a cluster cannot be reached."""


class LostWorkersError(WorkersError):
    """The cluster went away during a search, or a task was lost too often."""


class Workers(Protocol):
    """Runs one function on many items, elsewhere."""

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R]]:
        """Yields each item's index and the function's result, as they come."""

    def close(self) -> None:
        """Lets the workers go."""


def open_workers(name: str, threads: int = 1, gpus: bool = False) -> Workers:
    """Opens the workers that `name` describes.

    Args:
        name: ``ray``: Ray on this machine, with a worker for each core; ``ray:ADDRESS``: the cluster there (``auto``,
            ``HOST:6379`` on a machine of the cluster, ``ray://HOST:10001`` from elsewhere).
        threads: CPU threads of each worker.
        gpus: each worker has a GPU.

    Raises:
        quasar_rt.InvalidValueError: `name` is none of these.
        ImportError: Ray is not installed.
        WorkersError: there is no cluster at the address, or one without GPUs.
    """
    engine, _, address = name.partition(":")
    if engine != "ray" or name == "ray:":
        raise InvalidValueError(f"workers must be 'ray' or 'ray:ADDRESS', not '{name}'")
    return RayWorkers(address or None, threads, gpus)


class RayWorkers:
    """Workers of Ray. The arguments are those of `open_workers`; without an address Ray is started here, and ended."""

    def __init__(self, address: str | None, threads: int, gpus: bool) -> None:
        try:
            import ray
        except ImportError as error:
            raise ImportError("workers of Ray need Ray: pip install 'quasar-rt[ray]'") from error
        if address is None:
            # Otherwise Ray would join a cluster that this machine happens to run.
            options: dict[str, Any] = {
                "address": "local",
                "num_cpus": max(threads, len(os.sched_getaffinity(0))),
                "include_dashboard": False,
            }
        else:
            _knock(address)
            options = {"address": address}
        self._ray, self._mine = ray, not ray.is_initialized()
        self._remedy = "give the same command again"
        if address is not None or not self._mine:
            self._remedy = f"start the cluster and {self._remedy}"
        try:
            if self._mine:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FutureWarning)  # of Ray's own plans
                    ray.init(log_to_driver=False, logging_level="warning", **options)
        # Ray raises errors of many kinds for an address.
        except Exception as error:
            # Ray names no reason where a cluster wants a token, and asks for none by itself at a given address.
            token = address is not None and "RAY_AUTH_MODE" not in os.environ
            raise WorkersError(
                f"no workers at 'ray{f':{address}' if address else ''}': {' '.join(str(error).split())[:300]}"
                + "; if the cluster has token authentication, set RAY_AUTH_MODE=token" * token
            ) from error
        resources = ray.cluster_resources()
        if resources.get("CPU", 0) < threads:
            self.close()
            raise WorkersError(
                f"no machine of the cluster has {threads} CPUs: give fewer threads, or add workers to it"
            )
        if gpus and not resources.get("GPU", 0):
            self.close()
            raise WorkersError(
                "the cluster has no GPU, but this machine would score on one: give --device cpu"
            )
        remote = ray.remote(num_cpus=threads, num_gpus=int(gpus), max_retries=RETRIES)
        self._run = remote(_run)
        # Ray's client, for clusters from elsewhere, reports a lost connection by itself.
        client = (address or "").startswith("ray://")
        self._head = self._raylet = None
        if not client:
            here = ray.get_runtime_context()
            self._head = here.gcs_address
            [node] = [node for node in ray.nodes() if node["NodeID"] == here.get_node_id()]
            self._raylet = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
        self._lost = False

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R]]:
        """Yields each item's index and ``function(item)``, as they come.

        The function and what it holds go to each worker once.

        Raises:
            LostWorkersError: the cluster went away, or a task was lost too often.
            Exception: what the function raises.
        """
        ray = self._ray
        # Without it, `put` would end the process.
        self._require_raylet()
        # Ray would bring a reference that is an argument itself into memory for each task.
        holder = [ray.put(function)]
        index = {self._run.remote(version("quasar-rt"), holder, item): k for k, item in enumerate(items)}
        waiting = list(index)
        seen = time.monotonic()
        try:
            while waiting:
                done, waiting = self._wait(waiting)
                for one in done:
                    yield index[one], self._get(one)
                if done or _answers(self._head):
                    seen = time.monotonic()
                elif time.monotonic() - seen > _AWAY:
                    self._lost = True
                    raise LostWorkersError(f"Ray's head at {self._head} is gone; {self._remedy}")
        finally:
            # Ray would wait for a head that is gone, and then end the process.
            for one in () if self._lost else waiting:
                ray.cancel(one)

    def _wait(self, waiting: list[Any]) -> tuple[list[Any], list[Any]]:
        try:
            done, others = self._ray.wait(waiting, timeout=_LOOK)
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            self._lost = True
            reason = " ".join(str(error).split())[:300]
            raise LostWorkersError(f"the cluster went away: {reason}; {self._remedy}") from error
        return done, others

    def _require_raylet(self) -> None:
        """Raises a `LostWorkersError` if Ray's process on this machine is gone."""
        if not _answers(self._raylet):
            self._lost = True
            raise LostWorkersError(f"Ray's process on this machine is gone; {self._remedy}")

    def _get(self, reference: Any) -> Any:
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except exceptions.RayTaskError as error:
            # The function's own error.
            raise error.cause if isinstance(error.cause, Exception) else error from error
        except exceptions.RayError as error:
            self._require_raylet()
            raise LostWorkersError(
                f"a subnet's worker was lost {RETRIES + 1} times, or the cluster went away; often a worker has too "
                f"little memory: give each more --threads, so that fewer run on a machine ({type(error).__name__})"
            ) from error

    def close(self) -> None:
        """Leaves the cluster; ends Ray where this started it."""
        if self._mine and not self._lost and self._ray.is_initialized():
            self._ray.shutdown()


def _answers(address: str | None) -> bool:
    """Returns whether somebody listens at HOST:PORT; True without an address."""
    if address is None:
        return True
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_LOOK).close()
    except OSError:
        return False
    return True


def _knock(address: str) -> None:
    """Refuses an address where nobody listens, which Ray would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidValueError(
            f"'ray:{address}' has no HOST:PORT (ray:HOST:6379, ray:ray://HOST:10001 or ray:auto)"
        )
    try:
        socket.create_connection((host, int(port)), timeout=20).close()
    except OSError as error:
        raise WorkersError(
            f"no workers at 'ray:{address}': {error}; is the cluster up (ray status)?"
        ) from error


#: The function that this worker ran last, by its reference.
_held: dict[str, Any] = {}


def _run(of_search: str, holder: list[Any], item: Any) -> Any:
    """Runs the held function in a worker."""
    import ray

    if (here := version("quasar-rt")) != of_search:
        raise WorkersError(f"a worker has quasar_rt {here}, the search {of_search}: install one version")
    key = holder[0].hex()
    if key not in _held:
        _held.clear()
        _held[key] = ray.get(holder[0])
    return _held[key](item)
