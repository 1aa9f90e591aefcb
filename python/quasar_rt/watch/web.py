"""The page of a watch, for a board without a screen: Starlette on uvicorn, the extra ``[web]``.

The page shows the last picture, its classes, latencies and counters; server-sent events keep it current. All that it
needs comes from this server. Without a token, the server answers only requests that name this machine's loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import re
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ..errors import InvalidValueError, QuasarError
from .live import Live

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["LEAST_TOKEN", "Page", "WebError", "application", "check_address", "is_loopback"]

#: Least length of a token in characters.
LEAST_TOKEN = 16
#: Largest number of pages that are open at a time.
_MOST_VIEWERS = 16
#: Bytes that the kernel keeps for a client that does not read them.
_SEND_BUFFER = 1 << 16
#: Seconds from one update of a page to the next, at least.
_PERIOD = 0.1
#: Seconds after which the counters are sent anew although no image came.
_REFRESH = 1.0
#: Seconds that an answer to a wrong token takes.
_WRONG_TOKEN_DELAY = 1.0
#: Largest body of a sign-in, in bytes.
_MOST_BODY = 4096

#: The name or address in a Host header, and its port.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^][:/?#@\s]*)(?::[0-9]*)?")

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class WebError(QuasarError, OSError):
    """The page cannot be served; the message names the remedy."""


def is_loopback(host: str) -> bool:
    """Returns whether an address or name means this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_address(host: str, token: str | None) -> None:
    """Checks that the page may be served at an address.

    Raises:
        InvalidValueError: the address is reachable from other machines and there is no token, or the token is too short
            or has characters other than visible ASCII.
    """
    if token is None:
        if not is_loopback(host):
            raise InvalidValueError(
                f"other machines can reach {host}: give a token of {LEAST_TOKEN} characters or more, for example that "
                'of `python -c "import secrets; print(secrets.token_urlsafe())"`'
            )
        return
    if len(token) < LEAST_TOKEN or not all("!" <= sign <= "~" for sign in token):
        raise InvalidValueError(
            f"the token must have {LEAST_TOKEN} or more characters, all of them visible ASCII, no spaces"
        )


class Page:
    """Serves the page of a watch in a thread.

    Args:
        live: the state to show.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        token: what viewers must give, in a form of the page or as ``Authorization: Bearer TOKEN``; None for none.

    Raises:
        WebError: the extra is not installed, or the address cannot be used.
        InvalidValueError: as for `check_address`.
    """

    def __init__(
        self, live: Live, host: str = "127.0.0.1", port: int = 8000, token: str | None = None
    ) -> None:
        check_address(host, token)
        try:
            import uvicorn

            from .connections import Server, bounds

            app = application(live, token)
        except ImportError as error:
            raise WebError(
                "the page needs Starlette and uvicorn, which are not installed: pip install 'quasar-rt[web]'"
            ) from error
        self._live = live
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        """The port."""
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"
        """The page's address."""
        config = uvicorn.Config(
            app,
            **bounds(),
            access_log=False,
            log_level="error",  # whoever reaches the port could fill a log with warnings
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        self._server = Server(config)
        self._thread = threading.Thread(target=self._serve, name="quasar-page", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def close(self) -> None:
        """Ends the open pages' connections and the server."""
        self._live.stopped.set()
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            listening.bind(address)
            listening.listen(128)
        except BaseException:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WebError(
            f"cannot listen on {host}, port {port}: {reason}; give another --port or --host"
        ) from error
    return listening


def application(live: Live, token: str | None) -> Starlette:
    """Returns the ASGI application, for a server with `connections.Connection`.

    Raises:
        ImportError: Starlette is not installed.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import (
        PlainTextResponse,
        RedirectResponse,
        Response,
        StreamingResponse,
    )
    from starlette.routing import Route

    from .connections import CONNECTION

    folder = files("quasar_rt.watch")
    session = secrets.token_urlsafe()  # of this process: a cookie never holds the token
    viewers = 0

    def asset(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
        content = folder.joinpath(name).read_bytes()

        async def answer(request: Request) -> Response:
            return Response(content, media_type=kind)

        return answer

    def cookie(request: Request) -> str:
        return f"quasar_watch_{request.scope['server'][1]}"  # browsers share cookies among a host's ports

    def may_see(request: Request) -> bool:
        given = request.headers.get("authorization", "")
        known = (
            token is None
            or (given.startswith("Bearer ") and _same(given[len("Bearer ") :], token))
            or _same(request.cookies.get(cookie(request), ""), session)
        )
        if known:
            request.scope["state"][CONNECTION].is_known = True
        return known

    def guarded(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guard(request: Request) -> Response:
            if may_see(request):
                return await answer(request)
            if "authorization" in request.headers:
                await _delay(request)
            return PlainTextResponse("a token is needed", 401, headers={"WWW-Authenticate": "Bearer"})

        return guard

    page = asset("page.html", "text/html")
    sign_in_page = folder.joinpath("sign_in.html").read_text("utf-8")

    def sign_in(status: int, problem: str = "") -> Response:
        return Response(sign_in_page.replace("__PROBLEM__", problem), status, media_type="text/html")

    async def home(request: Request) -> Response:
        return await page(request) if may_see(request) else sign_in(401)

    async def signed_in(request: Request) -> Response:
        from urllib.parse import parse_qs

        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_BODY:
                return sign_in(413, "This is no token.")
        given = parse_qs(body.decode("ascii", "replace")).get("token", [""])[0].strip()
        if token is not None and not _same(given, token):
            await _delay(request)
            return sign_in(401, "The token is wrong.")
        answer = RedirectResponse("./", 303)
        answer.set_cookie(cookie(request), session, httponly=True, samesite="strict")
        return answer

    async def state(request: Request) -> Response:
        # In ASCII, as names of files may not be UTF-8.
        return Response(json.dumps(await asyncio.to_thread(live.state)), media_type="application/json")

    async def picture(request: Request) -> Response:
        number = request.path_params["number"]
        # Python converts no more than 4,300 digits.
        known = len(number) < 20 and number.isdecimal()
        jpeg = await asyncio.to_thread(live.picture, int(number)) if known else None
        if jpeg is None:
            return PlainTextResponse("this picture is gone", 404)
        return Response(jpeg, media_type="image/jpeg")

    async def updates() -> AsyncIterator[str]:
        shown, at = -1, 0.0
        clock = asyncio.get_running_loop().time
        while not live.stopped.is_set():
            number, _ = live.last()
            if number != shown or clock() - at >= _REFRESH:
                document = await asyncio.to_thread(live.state)
                shown, at = document["number"], clock()
                yield f"data: {json.dumps(document)}\n\n"
            await asyncio.sleep(_PERIOD)
        yield "event: end\ndata: {}\n\n"

    class Updates(StreamingResponse):  # type: ignore[misc]
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            # Counted before anything is awaited: others may ask at the same time.
            nonlocal viewers
            viewers += 1
            connection = scope["state"][CONNECTION]
            connection.is_viewer = True
            try:
                await super().__call__(scope, receive, send)
            finally:
                viewers -= 1
                connection.is_viewer = False

    async def events(request: Request) -> Response:
        if viewers >= _MOST_VIEWERS:
            return PlainTextResponse(f"{_MOST_VIEWERS} pages are open, the limit", 503)
        return Updates(updates(), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/", home),
            Route("/sign-in", signed_in, methods=["POST"]),
            Route("/page.css", asset("page.css", "text/css")),
            Route("/page.js", asset("page.js", "text/javascript")),
            Route("/state", guarded(state)),
            Route("/events", guarded(events)),
            Route("/picture/{number}.jpg", guarded(picture)),
        ],
        middleware=[Middleware(_Protected, loopback_only=token is None)],
    )


def _same(given: str, expected: str) -> bool:
    """Compares in a time that does not depend on the place of the first difference."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


async def _delay(request: Request) -> None:
    """Waits before the answer to a wrong token, as long as the client does."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(gone(), _WRONG_TOKEN_DELAY)


class _Protected:
    """Adds the protecting headers, and refuses names of other machines where there is no token.

    A page of another site could otherwise reach this server under its own name (DNS rebinding).
    """

    def __init__(self, app: Callable[..., Awaitable[None]], loopback_only: bool) -> None:
        self._app = app
        self._loopback_only = loopback_only

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        from starlette.requests import ClientDisconnect
        from starlette.responses import PlainTextResponse

        async def protected(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *given]}
            await send(message)

        host = _HOST.fullmatch(dict(scope["headers"]).get(b"host", b"").decode("latin-1"))
        if host is None or (self._loopback_only and not is_loopback(host[1])):
            answer = PlainTextResponse("this page is for this machine alone", 421)
            await answer(scope, receive, protected)
            return
        # The server ends while a page is open, or a client leaves before its request is complete.
        with contextlib.suppress(asyncio.CancelledError, ClientDisconnect):
            await self._app(scope, receive, protected)
