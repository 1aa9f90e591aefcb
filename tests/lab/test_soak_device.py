"""The soak of a simulated accelerator under faults."""

import pytest

import soak_device
from simulated import library


@pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")
def test_the_soak_passes_and_would_notice():
    library("tiny")
    injected, errors, differences = soak_device.soak("sim:tiny", 60, seed=5, rate=0.2, timeout=0.25)
    assert injected > 5
    assert sum(errors.values()) > 0
    assert differences == 0
