"""Bounds the page's connections: their number, the time that each may wait, and the size of a request's header.

uvicorn alone counts connections only when a request is complete, and waits for that without end. Needs the ``[web]``
extra.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, h11

__all__ = ["CONNECTION", "Connection", "Server", "bounds"]

#: Largest number of connections. Fewer are allowed where the process may open few files.
_MOST_CONNECTIONS = 64
#: Seconds in which a client must send its request, and in which it must read what it is sent.
_MOST_SECONDS = 10.0
#: Largest header of a request, in bytes.
_MOST_HEADER = 1 << 14
#: Bytes that h11 gets at a time: it measures incomplete headers only.
_PIECE = 1 << 10
#: Largest number of connections that the kernel keeps until they are accepted.
_QUEUE = 1024
#: Key of the `Connection` in the ``state`` of its requests.
CONNECTION = "connection"


def bounds() -> dict[str, Any]:
    """Returns the options of `uvicorn.Config` that bound the connections of a `Server`."""
    # `backlog` connections are accepted at a time, and closed later. With them, half of the descriptors are in use.
    most = min(_MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
    return {
        "loop": "asyncio",
        "http": Connection,
        # For uvicorn, it also limits the tasks, of which connections that have just been closed have some.
        "limit_concurrency": 2 * most,
        "backlog": max(1, most // 4),
        "h11_max_incomplete_event_size": _MOST_HEADER,
    }


class Server(uvicorn.Server):  # type: ignore[misc]
    """uvicorn's server. The kernel may queue more connections than are accepted at a time."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to accept connections."""
        await super().startup(sockets)
        for listening in sockets or []:
            listening.listen(_QUEUE)


class Connection(H11Protocol):  # type: ignore[misc]
    """A connection, one of at most half of `limit_concurrency`.

    A new connection replaces the oldest one without the token, or else the oldest. Viewers keep their places. Since few
    connections are accepted at a time, a request that follows at once is answered before.
    """

    is_known = False
    """Whether a request had the token."""
    is_viewer = False
    """Whether an answer is under way that goes on as long as its viewer stays."""
    _deadline: asyncio.TimerHandle
    _made: float

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(_MOST_SECONDS, self._expire)

    def _expire(self) -> None:
        if self.flow.write_paused or not self.is_viewer:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Makes room for the connection."""
        others = [connection for connection in self.connections if not connection.is_viewer]
        super().connection_made(transport)
        self.app_state = {CONNECTION: self}
        self._made = self.loop.time()
        self._wait()
        if 2 * len(self.connections) > self.limit_concurrency:
            least = min(others, key=lambda other: (other.is_known, other._made), default=self)
            least.transport.abort()
            self.connections.discard(least)  # now: `connection_lost` is called later

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the wait."""
        self._deadline.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads a part of a request."""
        for start in range(0, len(data), _PIECE):
            if not self.transport.is_closing():
                super().data_received(data[start : start + _PIECE])

    def send_400_response(self, msg: str) -> None:
        """Answers what is no request."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # another answer has begun, or may have no body
            self.transport.abort()
        if self.cycle is not None:  # its answer would be a second one
            self.cycle.disconnected = True

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        self._deadline.cancel()
        self._wait()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Waits until the viewer reads."""
        if self.is_viewer:
            self._deadline.cancel()
            self._wait()
        super().pause_writing()
