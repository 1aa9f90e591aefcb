"""The web service of docs/embedding.md, as printed there: requests at once, bad uploads, the end."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="needs the [test] extra")
pytest.importorskip("httpx", reason="needs the [test] extra")
pytest.importorskip("python_multipart", reason="needs the [test] extra")

import quasar_rt
from examples import ROOT
from quasar_rt.packaged import sample_images


@pytest.fixture(scope="module")
def app():
    page = (ROOT / "docs/embedding.md").read_text(encoding="utf-8")
    [source] = re.findall(r"```python\n(from contextlib.*?)```", page, re.DOTALL)
    names = {}
    exec(compile(source, "service.py", "exec"), names)
    return names["app"]


def test_the_documented_service_answers_all_requests_at_once(app):
    from fastapi.testclient import TestClient

    samples = sample_images("fashion-mnist")
    with TestClient(app) as client:

        def ask(number):
            sample = samples[number % len(samples)]
            answer = client.post("/classify", files={"image": sample.path.read_bytes()})
            return answer.status_code, answer.json()["label"] == sample.label

        with ThreadPoolExecutor(25) as pool:
            answers = list(pool.map(ask, range(100)))
        assert answers == [(200, True)] * 100
        bad = client.post("/classify", files={"image": b"no picture"})
        assert bad.status_code == 422
        assert "10 bytes" in bad.json()["detail"]
        assert app.state.engine.metrics().frames == 100
    with pytest.raises(quasar_rt.ClosedError):
        app.state.engine.infer(samples[0].path)
