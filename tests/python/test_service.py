"""The web service of docs/embedding.md, as printed there: requests at once, bad uploads, the end."""

from __future__ import annotations

import asyncio
import re

import pytest

pytest.importorskip("fastapi", reason="needs the [test] extra")
httpx = pytest.importorskip("httpx", reason="needs the [test] extra")
pytest.importorskip("python_multipart", reason="needs the [test] extra")

import quasar_rt  # noqa: E402
from examples import ROOT  # noqa: E402
from quasar_rt.packaged import sample_images  # noqa: E402


@pytest.fixture(scope="module")
def app():
    page = (ROOT / "docs/embedding.md").read_text(encoding="utf-8")
    [source] = re.findall(r"```python\n(from contextlib.*?)```", page, re.DOTALL)
    names = {}
    exec(compile(source, "service.py", "exec"), names)
    return names["app"]


def test_the_documented_service_answers_all_requests_at_once(app):
    samples = sample_images("fashion-mnist")

    async def talk():
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://board") as client,
        ):

            async def ask(number):
                sample = samples[number % len(samples)]
                answer = await client.post("/classify", files={"image": sample.path.read_bytes()})
                return answer.status_code, answer.json()["label"] == sample.label

            answers = await asyncio.gather(*map(ask, range(100)))
            bad = await client.post("/classify", files={"image": b"no picture"})
            return answers, bad, app.state.engine.metrics().frames

    answers, bad, frames = asyncio.run(talk())
    assert answers == [(200, True)] * 100
    assert bad.status_code == 422
    assert "10 bytes" in bad.json()["detail"]
    assert frames == 100
    with pytest.raises(quasar_rt.ClosedError):
        app.state.engine.infer(samples[0].path)
