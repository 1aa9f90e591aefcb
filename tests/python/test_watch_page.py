"""The page of `quasar-rt watch --web`: what it shows in headless Chromium, and who may see it."""

from __future__ import annotations

import http.client
import io
import json
import os
import socket
import subprocess

import numpy as np
import pytest
from PIL import Image

import quasar_rt
from helpers import COMMAND, running
from quasar_rt import Engine
from quasar_rt.packaged import sample_images
from quasar_rt.watch import Live, Sighting

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
from quasar_rt.watch.web import Page, WebError, check_address, is_loopback

TOKEN = "a-long-and-secret-token"
BOOT, PULLOVER, *_ = [sample.path for sample in sample_images("fashion-mnist")]
SECONDS = 20


@pytest.fixture(scope="module")
def engine():
    with Engine("fashion-mnist", "cpu", metrics=True) as engine:
        yield engine


@pytest.fixture
def live(engine):
    return Live(engine, "a folder")


@pytest.fixture
def page(live):
    page = Page(live, port=0)
    yield page
    page.close()
    assert not running("quasar-page")


@pytest.fixture
def secret(live, monkeypatch):
    monkeypatch.setattr("quasar_rt.watch.web._WRONG_TOKEN_DELAY", 0.05)
    page = Page(live, port=0, token=TOKEN)
    yield page
    page.close()


def see(engine, live, path):
    live.publish(Sighting(path.name, engine.infer(path), source=path))


def ask(page, path, method="GET", body=None, **headers):
    """Returns status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=SECONDS)
    try:
        connection.request(
            method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


# What it gives.


def test_the_state_is_plain_values_and_names_a_picture(engine, live, page):
    status, _, body = ask(page, "/state")
    assert (status, json.loads(body)["last"], json.loads(body)["picture"]) == (200, None, False)
    see(engine, live, BOOT)
    state = json.loads(ask(page, "/state")[2])
    assert state["subnet"] == "fashion-mnist"
    assert state["last"]["label"] == "Ankle boot"
    assert state["metrics"]["frames"] == engine.metrics().frames
    status, headers, jpeg = ask(page, f"/picture/{state['number']}.jpg")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    shown, given = (np.asarray(Image.open(source)).astype(int) for source in (io.BytesIO(jpeg), BOOT))
    assert np.abs(shown - given).mean() < 8
    assert ask(page, f"/picture/{state['number'] + 1}.jpg")[0] == 404


def test_a_picture_of_any_number_and_a_name_of_any_bytes_are_no_errors(live, secret):
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for number in ("9" * 5000, "9" * 30, "-1", "x", "%D9%A3"):
        assert ask(secret, f"/picture/{number}.jpg")[0] == 401
        assert ask(secret, f"/picture/{number}.jpg", **bearer)[0] == 404
    live.publish(Sighting(os.fsdecode(b"\xff.png"), None, "an error"))
    status, _, body = ask(secret, "/state", **bearer)
    assert (status, json.loads(body)["last"]["image"]) == (200, "\udcff.png")


def test_events_come_with_each_image_and_end_with_the_watch(engine, live, page):
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=SECONDS)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    assert answer.getheader("content-type").startswith("text/event-stream")

    def event():
        lines = []
        while line := answer.readline().decode().strip():
            lines.append(line)
        return lines

    assert json.loads(event()[0].removeprefix("data: "))["last"] is None
    for path in (BOOT, PULLOVER):
        see(engine, live, path)
        while (state := json.loads(event()[0].removeprefix("data: ")))["number"] != live.last()[0]:
            pass
        assert state["last"]["image"] == path.name
    live.stopped.set()
    while "event: end" not in event():
        pass
    connection.close()


def test_a_picture_that_is_gone_is_no_error(engine, live, page, tmp_path):
    path = tmp_path / "gone.png"
    path.write_bytes(BOOT.read_bytes())
    see(engine, live, path)
    path.unlink()
    state = json.loads(ask(page, "/state")[2])
    assert (state["last"]["label"], state["picture"]) == ("Ankle boot", False)


# Who may see it.


def test_loopback_alone_needs_no_token_and_no_poor_one_is_taken():
    for host in ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LOCALHOST"):
        assert is_loopback(host)
        check_address(host, None)
    for host in (
        "0.0.0.0",
        "::",
        "192.168.1.2",
        "board.local",
        "",
        "127.0.0.1.example.com",
        "localhost.example",
    ):
        with pytest.raises(quasar_rt.InvalidValueError, match="token"):
            check_address(host, None)
        check_address(host, TOKEN)
    for token in ("", "short", "fifteen-letters", "sixteen letters and more", "x" * 20 + "\n", "ü" * 20):
        for host in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(quasar_rt.InvalidValueError, match="16"):
                check_address(host, token)


PATHS = ("/state", "/events", "/picture/1.jpg")


def test_without_the_token_nothing_is_given(engine, live, secret):
    see(engine, live, BOOT)
    live.state()
    for path in PATHS:
        for headers in (
            {},
            {"Authorization": "Bearer wrong-token-wrong-token"},
            {"Authorization": TOKEN},
            {"Authorization": "Bearer "},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": f"Bearer {TOKEN[:-1]}"},
            {"Cookie": f"quasar_watch_{secret.port}={TOKEN}"},
            {"Cookie": f"quasar_watch_{secret.port}="},
        ):
            status, _, body = ask(secret, path, **headers)
            assert (status, body) == (401, b"a token is needed")
        assert ask(secret, f"{path}?token={TOKEN}")[0] == 401
    status, _, body = ask(secret, "/")
    assert status == 401
    assert b'type="password"' in body
    assert b"Ankle boot" not in body


def test_a_form_gives_a_cookie_that_is_not_the_token(secret):
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    status, headers, body = ask(secret, "/sign-in", "POST", "token=wrong", **form)
    assert (status, "set-cookie" in headers) == (401, False)
    assert b"The token is wrong" in body
    assert ask(secret, "/sign-in", "POST", "token=" + "x" * 5000, **form)[0] == 413
    assert ask(secret, "/sign-in", "POST", b"\xff\x00", **form)[0] == 401
    assert ask(secret, "/sign-in")[0] == 405
    status, headers, _ = ask(secret, "/sign-in", "POST", f"token={TOKEN}", **form)
    assert (status, headers["location"]) == (303, "./")
    cookie = headers["set-cookie"]
    assert "httponly" in cookie.lower()
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in cookie
    assert ask(secret, "/state", Cookie=cookie.split(";")[0])[0] == 200


OTHER_HOSTS = """
attacker.example attacker.example:80 127.0.0.1.attacker.example [::2]:80 127.0.0.1:attacker.example localhost:80:80
[::1]attacker.example [::1].attacker.example [::1]:attacker.example [::1]:80:80 [::1%x] [::1 ::1 [localhost]
localhost/ x@localhost
"""


def test_a_page_of_another_site_cannot_reach_it_by_a_name_of_its_own(page):
    for host in ["", *OTHER_HOSTS.split()]:
        for path in ("/", *PATHS, "/page.js"):
            assert ask(page, path, Host=host)[0] == 421
    for host in ("localhost", f"localhost:{page.port}", "127.0.0.1", "[::1]:80"):
        assert ask(page, "/state", Host=host)[0] == 200


def test_every_answer_has_the_protecting_headers(page, secret):
    for server, path in ((page, "/"), (page, "/page.js"), (page, "/none"), (secret, "/"), (secret, "/state")):
        _, headers, _ = ask(server, path)
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_an_address_in_use_is_named(live):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            WebError, match=rf"127\.0\.0\.1, port {port}: Address already in use; give another"
        ):
            Page(live, port=port)
    with pytest.raises(WebError, match="cannot listen on no-such-host"):
        Page(live, "no-such-host.invalid", 0, TOKEN)


def test_the_command_serves_the_page_and_never_prints_the_token(tmp_path):
    (tmp_path / "boot.png").write_bytes(BOOT.read_bytes())
    arguments = ["watch", str(tmp_path), "--existing", "--json", "--web", "--host", "0.0.0.0", "--port", "0"]
    command = [*COMMAND, *arguments, "--token", TOKEN]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = process.stderr.readline()
        page = type("Address", (), {"port": int(address.rsplit(":", 1)[1].strip("/\n"))})
        assert json.loads(process.stdout.readline())["label"] == "Ankle boot"
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert json.loads(ask(page, "/state", **bearer)[2])["last"]["image"] == "boot.png"
        assert ask(page, "/", Host="board.local")[0] == 401
        assert ask(page, f"/?token={TOKEN}")[0] == 401
        with socket.create_connection(("127.0.0.1", page.port)) as raw:
            raw.sendall(f"GET /{TOKEN} nonsense\r\n\r\n".encode())  # the server must not log it
            raw.recv(100)
    finally:
        process.terminate()
        stdout, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert TOKEN not in address + stdout + stderr


# In a browser.


def text(browser, selector):
    return browser.run(f"document.querySelector({json.dumps(selector)}).innerText")


def number(browser, list_, name):
    return browser.run(
        f"[...document.querySelectorAll('#{list_} dt')]"
        f".find((e) => e.innerText === {json.dumps(name)}).nextElementSibling.innerText"
    )


def test_the_page_follows_the_watch(browser, engine, live, page):
    browser.open(page.url)
    assert text(browser, "#image") == "Waiting for the first image"
    see(engine, live, BOOT)
    browser.wait(f"document.querySelector('#image').innerText === {json.dumps(BOOT.name)}")
    browser.wait("document.querySelector('#picture').naturalWidth === 28")
    rows = browser.run(
        "[...document.querySelectorAll('#classes tr')].map((r) => [r.cells[0].innerText, r.cells[2].innerText,"
        " r.cells[1].firstChild.value])"
    )
    expected = engine.infer(BOOT).top_k
    assert rows == [[s.label, f"{s.probability * 100:.1f} %", s.probability] for s in expected]
    for name, value in engine.metrics().latency_ms._asdict().items():
        shown = f"{value:.{2 if value < 10 else 1}f} ms"
        browser.wait(f"document.querySelector('#latency').innerText.includes({json.dumps(shown)})")
        assert number(browser, "latency", name) == shown
    assert text(browser, "#link") == "live"
    assert text(browser, "#kind") == "measured"
    browser.wait(f"document.querySelector('#counters dd').innerText === '{engine.metrics().frames}'")
    assert browser.run("document.querySelector('#device').innerText") == ""

    # Names are text, whatever they hold; an error takes the place of the classes.
    name = "<img src=x onerror=alert(1)>.png"
    live.publish(Sighting(name, None, "'<b>' is not an image"))
    browser.wait(f"document.querySelector('#image').innerText === {json.dumps(name)}")
    assert text(browser, "#error") == "'<b>' is not an image"
    assert browser.run("document.querySelectorAll('#classes tr').length") == 0
    assert browser.run("document.querySelector('#picture').hidden")

    for width, height, dark in ((1200, 760, False), (390, 800, True)):
        browser.look(width, height, dark)
        assert browser.run("document.documentElement.scrollWidth") <= width
    # What cannot be read is shown as long as it lasts.
    problem = "document.querySelector('#problem')"
    assert browser.run(f"{problem}.hidden")
    live.problem = "cannot read '<b>': Input/output error; trying again"
    browser.wait(f"!{problem}.hidden && {problem}.innerText === {json.dumps(live.problem)}")
    live.problem = None
    browser.wait(f"{problem}.hidden")

    live.stopped.set()
    browser.wait("document.querySelector('#link').innerText === 'ended'")
    assert browser.problems == []
    assert all(url.startswith((page.url, "about:", "data:")) for url in browser.requests)


def test_the_page_shows_an_accelerators_counters(browser, live, page, monkeypatch):
    device = dict(frames=1234, faults=2, resets=3, lost_interrupts=4, spurious_interrupts=5)
    read = type(live).metrics
    monkeypatch.setattr(live, "metrics", lambda: read(live)._replace(device=device))
    browser.open(page.url)
    assert not browser.run("document.querySelector('#device-title').hidden")
    assert number(browser, "device", "frames") == "1,234"
    assert number(browser, "device", "lost interrupts") == "4"
    assert browser.problems == []


def test_the_page_says_so_when_the_connection_is_lost(browser, live):
    page = Page(live, port=0)
    browser.open(page.url)
    page._server.force_exit = page._server.should_exit = True
    browser.wait("document.querySelector('#link').className === 'lost'")
    page.close()


def test_a_viewer_signs_in(browser, engine, live, secret):
    see(engine, live, PULLOVER)
    browser.open(secret.url)
    for token, ready in (
        ("wrong-wrong-wrong-wrong", "document.querySelector('#problem')?.innerText"),
        (TOKEN, None),
    ):
        browser.run(f"document.querySelector('#token').value = {json.dumps(token)}")
        # Not a click: Chromium ignores the mouse until it has painted the page.
        browser.run("document.querySelector('form').requestSubmit(document.querySelector('button'))")
        browser.wait(ready or f"document.querySelector('#image')?.innerText === {json.dumps(PULLOVER.name)}")
    assert text(browser, "#link") == "live"
    assert browser.run("document.cookie") == ""  # no script reads the session
    assert TOKEN not in browser.run("location.href")
