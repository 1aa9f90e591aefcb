"""The comparison of post-training quantizers: its figures, and that the page shows what was recorded."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the [host] extra")
pytest.importorskip("timm", reason="needs the [host] extra")

import compare_quantizers


def test_figures_of_a_network_next_to_its_float_network() -> None:
    expected = np.array([[1.0, 3.0], [3.0, 1.0], [2.0, 2.5]], np.float32)
    logits = np.array([[1.0, 3.0], [1.0, 3.0], [2.0, 2.5]], np.float32)
    found = compare_quantizers.measure(logits, expected, np.array([1, 0, 0]))
    # Two of six logits differ by 2; those of the float network are on average 13/18 from their means.
    assert found.logit_error == pytest.approx((4 / 6) / (13 / 18), rel=1e-6)
    assert (found.top1, found.agreement) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_the_page_shows_the_recorded_figures() -> None:
    document = json.loads(compare_quantizers.RECORD.read_text("utf-8"))
    page = compare_quantizers.PAGE.read_text("utf-8")
    (shown,) = re.findall(r"<!-- generated: quantizers -->\n\n(.*?)\n\n<!-- end -->", page, re.DOTALL)
    assert shown == compare_quantizers.table(document)


def test_every_quantizer_was_measured_on_every_network() -> None:
    document = json.loads(compare_quantizers.RECORD.read_text("utf-8"))
    assert {entry["network"] for entry in document["runs"]} == {
        task.name for task in compare_quantizers.TASKS
    }
    for entry in document["runs"]:
        assert set(entry["measured"]) == {"float", *compare_quantizers.QUANTIZERS}
