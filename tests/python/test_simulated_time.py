"""The cycles that the simulated device counts next to those of the event model, unit by unit.

Both have their depths and gaps from `rust/hardware/src/declared.rs`. Everything else the device has from the HLS
sources: trip counts, queues, the order of reads and writes.
"""

from pathlib import Path

import numpy as np
import pytest

import simulated
from quasar_rt import Engine, Subnet
from quasar_rt.errors import DoesNotFitError

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")

VECTORS = Path(__file__).parents[1] / "vectors"
SUBNETS = ["all-4", "all-8", "mean", "mean-after-norm", "overlap", "token"]
#: Largest difference of a count, of the cycles that a frame takes by the model. The model ends a command of the norm
#: and of the softmax behind the gap of its last loop, 32 cycles late; and it has no queues within a unit but those of
#: commands, so that an item may pass a few cycles earlier or later.
BOUND = 0.02


def profile(name, vector, monkeypatch, seed=0):
    """Returns the profile of one frame."""
    simulated.library(name)
    monkeypatch.setenv("QUASAR_SIM_SEED", str(seed))
    try:
        engine = Engine(Subnet.load(VECTORS / f"{vector}.qvit"), f"sim:{name}")
    except DoesNotFitError:
        pytest.skip("the subnet does not fit the configuration")
    with engine:
        return engine.profile(np.zeros((32, 32, 3), np.uint8), repeat=1)


def beyond(found):
    """Returns the counts that differ by more than the bound."""
    return [
        difference
        for difference in found.differences()
        if difference.what == "commands"
        or abs(difference.counted - difference.modelled) > BOUND * found.modelled_cycles
    ]


@pytest.mark.parametrize("vector", SUBNETS)
@pytest.mark.parametrize("name", ["tiny", "odd", "wide"])
def test_each_unit_takes_the_cycles_of_the_event_model(name, vector, monkeypatch):
    assert beyond(profile(name, vector, monkeypatch)) == []


@pytest.mark.parametrize("vector", ["overlap", "token"])
def test_the_cycles_do_not_depend_on_the_seed(vector, monkeypatch):
    first, *others = (profile("tiny", vector, monkeypatch, seed) for seed in (0, 1, 7, 12345))
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("source", "old", "new", "units"),
    [
        # Each pass is planned three times as slowly as declared.
        ("timing", '{"plan.pass", declared::PLAN_INTERVAL}', '{"plan.pass", 24}', {"plan", "array"}),
        # An exponential takes ten cycles.
        (
            "softmax",
            'interval("softmax.exponential");',
            'interval("softmax.exponential"); gap(9);',
            {"softmax"},
        ),
    ],
)
def test_a_slower_unit_is_seen(source, old, new, units, tmp_path, monkeypatch):
    simulated.broken("tiny", tmp_path, source, old, new)
    monkeypatch.setenv("QUASAR_SIM_DIR", str(tmp_path))
    found = profile("tiny", "token", monkeypatch)
    assert units <= {difference.unit for difference in beyond(found)}
