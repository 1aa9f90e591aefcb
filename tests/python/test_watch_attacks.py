"""`quasar-rt watch --web` under attack: clients that leave, stay, send without end or do not read."""

from __future__ import annotations

import json
import os
import queue
import random
import resource
import shutil
import socket
import struct
import subprocess
import threading
import time
from contextlib import ExitStack

import pytest

from helpers import COMMAND, wait_until
from quasar_rt import Engine
from quasar_rt.packaged import sample_images
from quasar_rt.watch import Live, Sighting

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
from quasar_rt.watch.web import Page

TOKEN = "a-long-and-secret-token"
PICTURE, *_ = [sample.path for sample in sample_images("fashion-mnist")]
SECONDS = 20
RESET = struct.pack("ii", 1, 0)


def request(line, *headers, token=None, body=b""):
    """Returns the bytes of a request."""
    bearer = [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([f"{line} HTTP/1.1", "Host: localhost", *bearer, *headers, "", ""]).encode() + body


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=SECONDS)


def status(port, sent):
    """Returns the status of the answer."""
    with connect(port) as client:
        client.sendall(sent)
        return int(client.recv(1000).split()[1])


class Watch:
    """The command, in a process that may open 256 files."""

    def __init__(self, folder):
        self.folder = folder / "incoming"
        self.folder.mkdir()
        self.errors = folder / "stderr"
        command = [*COMMAND, "watch", self.folder, "--json", "--web", "--port", "0"]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                ["sh", "-c", 'ulimit -n 256; exec "$@"', "sh", *command],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "QUASAR_WEB_TOKEN": TOKEN},
            )
        self.lines = queue.Queue()
        threading.Thread(target=lambda: [*map(self.lines.put, self.process.stdout)], daemon=True).start()
        wait_until(lambda: self.errors.read_text().endswith("/\n"), SECONDS)
        self.port = int(self.errors.read_text().rsplit(":", 1)[1].strip("/\n"))

    def assert_works(self):
        """Checks that it classifies a new picture, answers a viewer, and has printed its address alone."""
        name = f"{time.monotonic_ns()}.png"
        shutil.copy(PICTURE, self.folder / name)
        assert json.loads(self.lines.get(timeout=SECONDS))["image"] == name
        assert status(self.port, request("GET /state", token=TOKEN)) == 200
        assert self.errors.read_text() == f"Page: http://127.0.0.1:{self.port}/\n"

    def memory(self):
        """Returns the resident memory in MiB."""
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() >> 20


@pytest.fixture
def watch(tmp_path):
    watch = Watch(tmp_path)
    watch.assert_works()
    yield watch
    watch.process.terminate()
    assert watch.process.wait(SECONDS) == 0
    watch.process.stdout.close()


@pytest.fixture
def many_files():
    """Lets the test open more than 1,000 connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("this process may open fewer than 2,048 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


HALF = {
    "nothing": b"",
    "half a header": b"GET / HTTP/1.1\r\nHos",
    "half a body": request("POST /sign-in", "Content-Length: 100", body=b"token="),
    "a wrong token": request("GET /state", token="wrong-token-wrong-token"),
    "a whole request": request("GET /state", token=TOKEN),
    "whole and half a request": request("GET /page.js") + b"GET / HTTP/1.1\r\nHos",
    "half of what was announced": request("GET /page.js", "Content-Length: 100", body=b"x"),
}


def test_1000_idle_clients_blind_nobody(watch, many_files):
    before = watch.memory()
    for sent in HALF.values():
        with ExitStack() as clients:
            for _ in range(1000):
                client = clients.enter_context(connect(watch.port))
                client.sendall(sent)
            watch.assert_works()
            assert len(os.listdir(f"/proc/{watch.process.pid}/fd")) < 128
    assert watch.memory() - before < 32


def test_clients_that_send_nonsense_or_close_print_nothing_and_do_not_end_it(watch):
    chance = random.Random(0)
    shapes = [
        chance.randbytes(1000),
        b"\r\n" * 3000,
        b"\x16\x03\x01" + chance.randbytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        request("GET /" + "a" * 300_000),
        request("GET /picture/" + "9" * 5000 + ".jpg"),
        request("GET /%ff%00%2e", "Cookie: =;;==;"),
        request("GET //[/"),
        request("OPTIONS *"),
        request("GET /", "X: " + "a" * 300_000),
        request("GET /", "Upgrade: websocket", "Connection: upgrade"),
        request("GET /state/").replace(b"localhost", b"[::1]evil.com"),
        request("POST /sign-in", "Content-Length: 100", body=b"token="),
        request("POST /sign-in", "Transfer-Encoding: chunked", body=b"fffffffffffffff\r\nx"),
        request("POST /sign-in", "Transfer-Encoding: chunked", body=b"no chunk\r\n"),
        request("GET /", "Transfer-Encoding: chunked", body=b"no chunk\r\n"),
        request("HEAD /page.js", "Transfer-Encoding: chunked", body=b"no chunk\r\n"),
        request("GET /page.js") * 3 + b"\0" * 2000,
        request("POST /sign-in", "Content-Length: 9", "Expect: 100-continue", body=b"token=%%%"),
        *(
            request(f"GET {path}")
            for path in ("/", "/page.js", "/state", "/events", "/picture/1.jpg", "/none")
        ),
    ]
    for _ in range(20):
        for shape in shapes:
            with connect(watch.port) as client:
                try:
                    client.sendall(shape)
                    if chance.random() < 0.5:
                        client.shutdown(socket.SHUT_WR)
                        client.recv(100)
                    else:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                except OSError:  # refused before it was complete
                    pass
    watch.assert_works()


def test_clients_that_never_read_or_never_end_take_no_memory(watch):
    before = watch.memory()
    endless = request("POST /sign-in", "Content-Length: 99999999999")
    with ExitStack() as clients:
        for sent, more in [
            (request("GET /picture/1.jpg", token=TOKEN), request("GET /picture/1.jpg", token=TOKEN)),
            (request("GET /page.js"), request("GET /page.js")),
            (request("GET /events", token=TOKEN), request("GET /events", token=TOKEN)),
            (endless, b"x" * 1000),
        ]:
            for _ in range(10):
                client = clients.enter_context(connect(watch.port))
                client.sendall(sent)
                client.setblocking(False)
                try:
                    for _ in range(1000):
                        client.sendall(more * 10)
                except OSError:  # the server reads no more
                    pass
        watch.assert_works()
        assert watch.memory() - before < 32


# In this process, with shorter times.


@pytest.fixture(scope="module")
def engine():
    with Engine("fashion-mnist", "cpu", metrics=True) as engine:
        yield engine


@pytest.fixture
def live(engine):
    return Live(engine, "a folder")


@pytest.fixture
def page(live, monkeypatch):
    monkeypatch.setattr("quasar_rt.watch.connections._MOST_SECONDS", 0.5)
    page = Page(live, port=0, token=TOKEN)
    yield page
    page.close()


def ends(client, more=b""):
    """Returns whether the server soon ends the connection. What it sends is read, and `more` is sent now and then."""
    client.settimeout(0.05)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            client.sendall(more)
            if not client.recv(1 << 16):
                return True
        except TimeoutError:
            pass
        except ConnectionError:
            return True
    return False


@pytest.mark.parametrize(
    ("sent", "more"),
    [*((sent, b"") for sent in HALF.values()), *((sent, b"x") for sent in HALF.values() if b"Hos" in sent)],
)
def test_a_client_that_does_not_go_on_loses_its_connection(page, sent, more):
    with connect(page.port) as client:
        client.sendall(sent)
        assert ends(client, more)


def test_only_a_viewer_who_reads_keeps_a_connection(page, live):
    with connect(page.port) as reader, connect(page.port) as other, ExitStack() as idle:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for client in (reader, other):
            client.sendall(request("GET /events", token=TOKEN))
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        reads = threading.Thread(target=lambda: [*iter(lambda: reader.recv(1 << 20), b"")])
        reads.start()
        for number in range(20):
            live.publish(Sighting(f"{number}" * 50_000, None, "an error"))
            for _ in range(5):
                idle.enter_context(connect(page.port))
            time.sleep(0.15)
        assert ends(other)
        assert reads.is_alive()
        live.stopped.set()
        reader.shutdown(socket.SHUT_RD)
        reads.join(SECONDS)


def test_strangers_take_no_place_of_a_client_with_the_token(page, monkeypatch):
    monkeypatch.setattr("quasar_rt.watch.connections._MOST_SECONDS", SECONDS)
    with connect(page.port) as client, ExitStack() as strangers:
        for _ in range(3):
            client.sendall(request("GET /state", token=TOKEN))
            time.sleep(0.1)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
            for _ in range(100):
                strangers.enter_context(connect(page.port))


def test_a_header_has_a_largest_size(page):
    for size, expected in ((8_000, 401), (20_000, 400), (200_000, 400)):
        assert status(page.port, request("GET /state", "X: " + "x" * size)) == expected
        assert status(page.port, request("GET /state?" + "x" * size)) == expected


def test_only_so_many_viewers_are_allowed_at_a_time(page, monkeypatch):
    monkeypatch.setattr("quasar_rt.watch.connections._MOST_SECONDS", SECONDS)
    events = request("GET /events", token=TOKEN)
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(page.port)) for _ in range(40)]
        for client in clients:
            client.sendall(events)
        answers = sorted(int(client.recv(1000).split()[1]) for client in clients)
    assert answers == [200] * 16 + [503] * 24
    wait_until(lambda: status(page.port, events) == 200, SECONDS)
