"""The simulation of a frame's schedule on more cores than there are."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quasar_rt import Engine
from quasar_rt.bench import open_subnet
from quasar_rt.build import random_subnet
from quasar_rt.schedule import (
    Cores,
    Frame,
    Job,
    _jobs,
    last_worthwhile,
    measured_jobs,
    modelled_jobs,
    simulate,
)

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")
FREE = Cores("free", 0.0, 0.0, 1e15)


def test_a_job_takes_its_longest_piece_what_others_wrote_and_a_meeting():
    cores = Cores("cores", meeting_us=2.0, further_us=0.5, exchange=1e6)
    frame = simulate([Job([3e-3, 1e-3, 2e-3], 0, exchange=1000)], cores, 3)
    assert frame == pytest.approx(Frame(3, 3 + 1 + 2.5e-3, 2, 1, 0, 1, 2.5e-3))


def test_what_is_behind_a_piece_fills_the_wait_for_others():
    first = Job([3e-3, 1e-3], 0, behind=[1e-3, 1e-3])
    frame = simulate([first, Job([1e-3, 4e-3], 0)], FREE, 2)
    # The second thread goes on after 3 ms, the first one after 4.
    assert frame == pytest.approx(Frame(2, 7, 5.5, 1.5, 0, 0, 0))
    # Nobody waits for the last one's.
    assert simulate([first, Job([1e-3, 1e-3], 0)], FREE, 2).ms == pytest.approx(5)


def test_a_job_waits_for_the_weights_of_all_cores_or_of_one_in_step():
    job = Job([1e-3, 1e-3], weights=3_000_000)
    cores = Cores("cores", 0, 0, 1e15, memory=1e9)
    assert simulate([job], cores, 2).ms == pytest.approx(6)
    assert simulate([job], cores._replace(in_step=True), 2).ms == pytest.approx(3)
    assert simulate([job], cores._replace(memory=1e12), 2).memory_ms == 0


def test_a_thread_without_a_piece_neither_reads_nor_meets():
    cores = Cores("cores", 5, 5, 1e15, memory=1e9)
    frame = simulate([Job([2e-3, 0.0], weights=1_000_000)], cores, 2)
    assert (frame.ms, frame.meetings_ms) == pytest.approx((2, 0))


def test_the_last_worthwhile_number_of_threads_is_before_the_first_small_gain():
    frames = [Frame(n, ms, ms, 0, 0, 0, 0) for n, ms in ((1, 10.0), (2, 5.2), (4, 4.4), (8, 2.0))]
    assert last_worthwhile(frames) == 2
    assert last_worthwhile(frames, 0.1) == 8


def test_modelled_jobs_add_up_to_the_frame_and_scale_without_costs():
    subnet = open_subnet("deit-tiny")
    of_block = dict.fromkeys(("norm1", "qkv", "attention", "proj", "norm2", "fc1", "fc2"), 1e-3)
    seconds = {**of_block, "embed": 2e-3, "head": 4e-3}
    one = simulate(modelled_jobs(subnet, seconds, 0.0, 1), FREE, 1)
    # The last block is one token's after its qkv.
    assert one.ms == pytest.approx(2 + 11 * 7 + 2 + 5 / 197 + 4)
    two = simulate(modelled_jobs(subnet, seconds, 0.0, 2), FREE, 2)
    assert two.ms == pytest.approx(one.ms / 2, rel=0.01)
    # What each thread repeats does not scale.
    repeating = simulate(modelled_jobs(subnet, seconds, 0.5, 2), FREE, 2)
    assert repeating.ms == pytest.approx(two.ms + 11 * 0.25, rel=0.02)


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_measured_pieces_are_those_of_each_thread(private, threads):
    subnet = random_subnet(embed=64, depth=2, heads=2, image_size=64, classes=10)
    picture = np.zeros((64, 64, 3), np.uint8)
    with Engine(subnet, "cpu", 1) as engine:
        jobs = measured_jobs(engine, picture, threads, private, repeat=2)
        assert all(len(job.pieces) <= threads for job in jobs)
        # Preprocessing; embedding; a block; the last attention, three layers and a norm, or all in one; pooling; head.
        assert len(jobs) == (10 if threads > 1 else 6)
        assert all(piece >= 0 for job in jobs for piece in job.pieces)
        assert simulate(jobs, FREE, threads).ms > 0


def test_threads_with_heads_of_their_own_meet_twice_in_a_block():
    subnet = random_subnet(
        embed=384, depth=2, heads=[6, 5], head_dim=64, image_size=64, classes=10, pool="mean"
    )
    stages = ("norm1", "qkv", "attention", "proj", "norm2", "fc1", "fc2")
    names = [
        "preprocess",
        "embed",
        *(f"blocks.{i}.{stage}" for i in (0, 1) for stage in stages),
        "pool",
        "head",
    ]
    pieces = [dict.fromkeys(names, 1.0)] * 2
    jobs = _jobs(subnet, pieces, {"blocks.0.qkv": 1000}, 2, [True, False])
    # Preprocessing; embedding and a norm; the first attention; up to the second block's keys and values; its end;
    # pooling; head.
    assert [sum(job.pieces) for job in jobs] == pytest.approx([1, 4, 3, 2 * (4 + 1 + 2 / 3), 2 * 5, 1, 1])
    # A thread's outputs for its own tokens, and queries.
    assert [sum(job.behind) for job in jobs] == pytest.approx([0, 0, 1, 2 / 3, 0, 0, 0])
    rows = 17 // 2
    assert [job.exchange for job in jobs] == [0, 0, rows * 384, rows * 192, rows * 2 * 320, 0, 0]
    assert jobs[2].weights == 500


def test_the_tool_labels_its_figures_simulated():
    tool = Path(__file__).parents[2] / "tools/simulate_threads.py"
    run = lambda *words: subprocess.run(  # noqa: E731
        [sys.executable, tool, *words], capture_output=True, text=True, timeout=60
    )
    printed = run("deit-tiny", "--zcu102").stdout
    assert "simulated" in printed.splitlines()[0]
    document = json.loads(run("--zcu102", "--json").stdout)
    four = document["simulated"][0]["frames"][-1]
    assert four["threads"] == 4
    assert 60 < four["ms"] < 90
    assert "known for deit-tiny" in run("deit-small", "--zcu102").stderr
