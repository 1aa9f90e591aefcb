"""Searches with a trained supernet: what its scores are, which images they use, stops, several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="needs the [host] extra")

from quasar_rt import Engine, QuasarError, search  # noqa: E402
from quasar_rt.build import build_subnet  # noqa: E402
from quasar_rt.cli import cli  # noqa: E402
from quasar_rt.evaluate import evaluate  # noqa: E402
from quasar_rt.export.trained import requantized  # noqa: E402
from quasar_rt.nas import boards, check, search_boards, supernet  # noqa: E402
from quasar_rt.nas.folder import Folder  # noqa: E402
from quasar_rt.nas.options import Options  # noqa: E402
from quasar_rt.nas.stats import kendall_tau  # noqa: E402
from quasar_rt.nas.supernet import Supernet  # noqa: E402
from quasar_rt.space import Space  # noqa: E402
from quasar_rt.train import data as datasets  # noqa: E402
from quasar_rt.train import distributed, load_supernet  # noqa: E402

SETTINGS = dict(fps=[60000.0, 110000.0], fps_of="accelerator", population=6, generations=2)
ON_ENGINE = "search images (integer engine)"
FILES = ("front.json", "front.csv", "front.png", "index.html", "scores.jsonl")


def nothing(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def found(digits_supernet, tmp_path_factory):
    """Runs a small search, during which the test images cannot be read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.Data, "test", lambda self: pytest.fail("the test images were read"))
        patch.setattr(check, "SAMPLE", 8)
        return search(
            supernet=digits_supernet, out=tmp_path_factory.mktemp("found") / "out", threads=1, **SETTINGS
        )


@pytest.fixture(scope="module")
def halves(digits_supernet):
    """Returns search and held-out images with their labels, and training images, straight from the data set."""
    _, recipe, space = load_supernet(digits_supernet)
    data = datasets.load(recipe, None, space)
    images, labels = data.validation.first(len(data.validation))
    half = (len(labels) + 1) // 2
    return (images[:half], labels[:half]), (images[half:], labels[half:]), data.train.first(256)[0], recipe


def test_scores_are_the_top1_of_exported_slices_on_the_first_half(found, halves, digits_supernet):
    (images, labels), *_ = halves
    source = Supernet(Options(supernet=digits_supernet, threads=1))
    assert source.on_engine
    assert found.scoring.images == len(labels)
    assert found.document["score"]["label"].endswith(ON_ENGINE)
    for point in found.front:
        with Engine(source.subnet(point.architecture, "one", {})) as engine:
            accuracy = evaluate(engine, zip(images.numpy()[:, 0], labels.tolist(), strict=True))
        assert point.score == accuracy.top1


def test_scores_in_pytorch_are_the_top1_of_stand_alone_slices(halves, digits_supernet):
    (images, labels), _, calibration, _ = halves
    source = Supernet(Options(supernet=digits_supernet, threads=1))
    space = source.space
    genomes = np.array([space.encode(space.sample(2, k)) for k in range(4)])
    on_engine = source.score(genomes, 0, nothing)
    source.on_engine = False
    source.folder = Folder(None, {})
    scores = source.score(genomes, 0, nothing)
    assert source.scoring(0).label.endswith("(PyTorch)")
    assert source.identity()["scored_by"] == "PyTorch"
    model, _, _ = load_supernet(digits_supernet)
    for genome, score in zip(genomes, scores, strict=True):
        network = model.extract(space.decode(genome))
        network.calibrate(calibration, None)
        with torch.no_grad():
            assert score == (network(images).argmax(dim=1) == labels).double().mean().item()
    assert scores.tolist() == on_engine.tolist()


def test_integer_figures_are_the_exported_subnets_on_the_other_half(found, halves):
    _, (images, labels), _, _ = halves
    finalists = [point for point in found.front if point.integer is not None]
    assert {target.point.id for target in found.targets} <= {point.id for point in finalists}
    for target in found.targets:
        assert target.subnet.trained
        with Engine(target.subnet) as engine:
            accuracy = evaluate(engine, zip(images.numpy()[:, 0], labels.tolist(), strict=True))
        integer = target.point.integer
        assert (integer.top1, integer.images) == (accuracy.top1, len(labels))
        assert integer.split == "held-out validation images"
        record = target.subnet.config["provenance"]["search"]
        assert record["integer"]["top1"] == accuracy.top1
        assert record["images"]["test_images_read"] is False
        assert record["score_kind"] == f"supernet top-1 on {found.scoring.images} {ON_ENGINE}"


def rounded_anew(source, architecture):
    network = source._slice(architecture)
    return build_subnet(requantized(network, source.calibration_images, source._spec(network, "one", {})))


def test_codes_found_anew_follow_the_float_slice_and_keep_its_rows(digits_supernet, halves):
    images = halves[1][0]
    source = Supernet(Options(supernet=digits_supernet, threads=1))
    source.space = source.space.with_embedding()
    pictures = list(images.numpy()[:, 0])
    errors = []
    for k in range(3):
        architecture = source.space.sample(4, k)
        network = source.model.extract(architecture)
        with torch.no_grad():
            expected = network.float_logits(images).numpy()
        anew = rounded_anew(source, architecture)
        for subnet in (source.subnet(architecture, "one", {}), anew):
            assert subnet.has_embedding
            with Engine(subnet) as engine:
                errors.append(np.abs(engine.infer_batch(pictures).logits - expected).mean())
        tensors = anew.tensors()
        for i, shape in enumerate(architecture.blocks):
            bits = [*np.split(tensors[f"blocks.{i}.qkv.bits"], 3)]
            bits += [tensors[f"blocks.{i}.{name}.bits"] for name in ("proj", "fc1", "fc2")]
            assert tuple((part == 8).sum() for part in bits) == shape.eight_bit_rows(architecture.embed)
    assert sum(errors[1::2]) < 0.7 * sum(errors[::2])


def test_finalists_have_their_trained_codes_unless_gptq_wins(digits_supernet):
    plain, choosing = (
        Supernet(Options(supernet=digits_supernet, threads=1, gptq=gptq)) for gptq in (False, True)
    )
    architecture = plain.space.sample(4, 1)
    trained = plain.finalist(architecture, "one", {})
    assert trained.config["provenance"]["codes"] == {"taken": "trained"}
    assert _same_tensors(trained, plain.subnet(architecture, "one", {}))
    kept = choosing.finalist(architecture, "one", {})
    codes = kept.config["provenance"]["codes"]
    assert (codes["taken"], codes["images"]) == ("trained", 148)
    assert codes["gptq_gain"]["low"] <= 0
    assert _same_tensors(kept, trained)
    # Steps that training has not chosen: the float weights are better off with others.
    with torch.no_grad():
        for layer in choosing.model.matrices().values():
            layer.log_step += 2
    other = choosing.finalist(architecture, "one", {})
    codes = other.config["provenance"]["codes"]
    assert codes["taken"] == "GPTQ"
    assert codes["gptq_gain"]["low"] > 0
    assert _same_tensors(other, rounded_anew(choosing, architecture))


def _same_tensors(one, other):
    tensors = other.tensors()
    return all(np.array_equal(values, tensors[name]) for name, values in one.tensors().items())


def test_codes_found_anew_are_the_same_on_any_number_of_threads(digits_supernet):
    architecture = Supernet(Options(supernet=digits_supernet)).space.sample(4, 1)
    before, found = torch.get_num_threads(), set()
    try:
        for threads in (1, 3):
            source = Supernet(Options(supernet=digits_supernet, threads=threads))
            found.add(rounded_anew(source, architecture).to_bytes())
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


def test_taus_networks_are_finalists_and_random_ones(found):
    (correlation,) = found.document["search"]["correlations"]
    pairs = correlation["pairs"]
    tau = kendall_tau([p["supernet"] for p in pairs], [p["stand_alone"] for p in pairs], seed=0)
    assert (correlation["tau_b"], correlation["low"], correlation["high"]) == (tau.tau, tau.low, tau.high)
    assert correlation["low"] <= correlation["tau_b"] <= correlation["high"]
    finalists = [point for point in found.front if point.integer is not None]
    assert correlation["finalists"] == len(finalists)
    assert [p["stand_alone"] for p in pairs[: len(finalists)]] == [point.integer.top1 for point in finalists]
    assert len(pairs) == correlation["subnets"] >= len(finalists) + 7
    assert len({tuple(p["genome"]) for p in pairs}) == len(pairs)
    assert f"{tau.tau:.2f}" in found.notes[-1]


def test_scores_do_not_depend_on_what_was_scored_before(digits_supernet):
    source = Supernet(Options(supernet=digits_supernet, threads=1))
    space = source.space
    genomes = np.array([space.encode(space.sample(1, k)) for k in range(4)])
    forward = source.score(genomes, 0, nothing)
    again = Supernet(Options(supernet=digits_supernet, threads=1)).score(genomes[::-1].copy(), 0, nothing)
    assert forward.tolist() == again[::-1].tolist()
    assert len(set(forward.tolist())) > 1


@pytest.fixture
def two_rounds(digits_supernet, monkeypatch):
    """The arguments of a small search that scores its survivors again, on 120 images instead of 40."""
    monkeypatch.setattr(supernet, "ROUND_IMAGES", (40, 120))
    monkeypatch.setattr(check, "SAMPLE", 2)
    return dict(
        supernet=digits_supernet, threads=1, fps=60000, fps_of="accelerator", population=6, generations=3
    )


def test_survivors_are_scored_on_more_images(two_rounds):
    said = {}
    result = search(**two_rounds, progress=lambda what, done, total: said.update({what: (done, total)}))
    # The words are for people, not the keys of scores.jsonl; each kind of work is reported to its end.
    assert list(said) == [
        "modelling the board",
        "searching",
        "scoring on more images",
        "modelling other boards",
        "running finalists on the integer engine",
        "choosing the subnets",
        "reading layers",
    ]
    assert all(done == total > 0 for done, total in said.values())
    first, second = result.document["search"]["rounds"]
    assert (first["subnets"], first["score"]) == (18, f"supernet top-1 on 40 {ON_ENGINE}")
    assert 6 <= second["subnets"] < 18
    assert result.scoring.images == 120
    assert all(round(point.score * 120) == pytest.approx(point.score * 120) for point in result.front)


def test_fronts_of_latency_and_energy_have_the_scores_of_the_last_round(digits_supernet, two_rounds):
    result = search(**two_rounds, objectives=["latency", "energy"])
    _, second = result.document["search"]["rounds"]
    assert 6 <= second["subnets"] < 18
    source = Supernet(Options(supernet=digits_supernet, threads=1))
    for name in ("latency_ms", "energy_mj"):
        front = result.document["fronts"][name]
        genomes = np.array([entry["genome"] for entry in front], np.uint8)
        scores = [entry["score"] for entry in front]
        assert scores == sorted(set(scores))
        assert scores == source.score(genomes, 1, nothing).tolist()


def test_a_model_of_the_scores_chooses_the_candidates_and_estimates_the_front(digits_supernet, monkeypatch):
    monkeypatch.setattr(check, "SAMPLE", 2)
    arguments = dict(
        supernet=digits_supernet, threads=1, fps=60000, fps_of="accelerator", population=6, generations=3
    )
    record = search(**arguments).document["search"]
    assert record["predictor"]["samples"] == 12  # all but the first generation
    yardstick = record["yardstick"]
    assert yardstick["kind"] == "model"
    assert 0 < yardstick["low"] < yardstick["share"]
    assert yardstick["share"] == yardstick["hypervolume"] / yardstick["best"]
    plain = search(**arguments, strategy="evolution")
    record = plain.document["search"]
    assert "predictor" not in record
    assert "yardstick" not in record
    assert f"is not known: {record['no_yardstick']}." in " ".join(plain.notes)


def test_networks_can_be_trained_on_their_own(digits_supernet, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "SAMPLE", 2)
    monkeypatch.setattr(check, "FINALISTS", 1)
    result = search(
        supernet=digits_supernet,
        threads=1,
        out=tmp_path / "out",
        fps=110000,
        fps_of="accelerator",
        population=4,
        generations=1,
        retrain=2,
    )
    integer, own = result.document["search"]["correlations"]
    assert "trained on their own for 2 epochs" in own["against"]
    assert [p["genome"] for p in own["pairs"]] == [p["genome"] for p in integer["pairs"]]
    assert [p["stand_alone"] for p in own["pairs"]] != [p["stand_alone"] for p in integer["pairs"]]
    assert len(list((tmp_path / "out" / "retrained").iterdir())) == len(own["pairs"])


def test_the_test_images_are_read_when_asked_for(digits_supernet, monkeypatch):
    monkeypatch.setattr(check, "SAMPLE", 2)
    monkeypatch.setattr(check, "FINALISTS", 1)
    result = search(
        supernet=digits_supernet,
        threads=1,
        fps=110000,
        fps_of="accelerator",
        population=4,
        generations=1,
        test=True,
    )
    assert result.targets[0].point.integer.split == "test images"
    assert result.document["search"]["images"]["test_images_read"] is True
    assert "Test images were read" in " ".join(result.notes)


#: The command with few networks for the correlation and few boards to compare, which take most of its time.
SMALL = """\
from quasar_rt.nas import boards, check
from quasar_rt.cli.search import command
check.SAMPLE, boards.board_names = 4, lambda: ["kv260"]
command()
"""


@pytest.fixture(autouse=True, scope="module")
def few_boards():
    """Lets reports compare the board with one other: configurations for all of them take long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boards, "board_names", lambda: ["kv260"])
        yield


def arguments(path: Path, out: Path) -> list[str]:
    fps = [word for target in SETTINGS["fps"] for word in ("--fps", str(target))] + [
        "--fps-of",
        "accelerator",
    ]
    size = ["--population", "6", "--generations", "2", "--threads", "1"]
    (script := out.with_suffix(".py")).write_text(SMALL)
    return [str(script), "--supernet", str(path), *fps, *size, "--out", str(out)]


def same_files(one: Path, other: Path) -> None:
    names = [*FILES, *(path.name for path in one.glob("*.qvit"))]
    assert len(names) == len(FILES) + 2
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(scope="module")
def whole(digits_supernet, tmp_path_factory):
    """Runs the same search by the command, without a stop; returns its folder."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = subprocess.run(
        [sys.executable, *arguments(digits_supernet, out)], capture_output=True, text=True, check=True
    )
    assert "integer top-1" in done.stdout
    assert "Kendall's tau-b" in done.stdout
    return out


@pytest.mark.slow
def test_a_search_that_was_stopped_and_killed_goes_on_to_the_same_files(digits_supernet, whole, tmp_path):
    out = tmp_path / "out"
    scores = out / "scores.jsonl"
    known = 0
    for how in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(
            [sys.executable, *arguments(digits_supernet, out)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        while not (scores.exists() and scores.read_bytes().count(b"\n") >= known + 4):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(how)
        _, errors = process.communicate(timeout=120)
        known = scores.read_bytes().count(b"\n")
        assert not (out / "front.json").exists()
        if how == signal.SIGINT:
            assert process.returncode == 130
            assert f"continues from {out}" in errors
    subprocess.run([sys.executable, *arguments(digits_supernet, out)], capture_output=True, check=True)
    assert scores.read_bytes().count(b"\n") > known
    same_files(whole, out)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(digits_supernet, whole, tmp_path):
    out = tmp_path / "out"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*launch, *arguments(digits_supernet, out)], capture_output=True, check=True, env=environment
    )
    same_files(whole, out)


def test_a_search_leaves_the_group_of_processes_at_its_end_and_when_it_fails(digits_supernet, monkeypatch):
    left = []
    monkeypatch.setattr(distributed.Group, "leave", lambda self: left.append(self))
    monkeypatch.setattr(check, "SAMPLE", 2)
    monkeypatch.setattr(check, "FINALISTS", 1)
    search(supernet=digits_supernet, threads=1, fps=60000, fps_of="accelerator", population=4, generations=1)
    assert len(left) == 1
    with pytest.raises(QuasarError, match="nowhere"):
        search(supernet=digits_supernet, threads=1, board="nowhere")
    assert len(left) == 2


def test_a_search_for_several_boards_scores_no_network_twice(digits_supernet, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "SAMPLE", 4)
    calls = []
    correct = Supernet.correct
    monkeypatch.setattr(Supernet, "correct", lambda *given: calls.append(1) or correct(*given))
    boards = ["zcu102", "kv260"]
    found = search_boards(
        boards, None, 5000, digits_supernet, out=tmp_path, threads=1, population=6, generations=2
    )
    lines = [set((tmp_path / board / "scores.jsonl").read_text().splitlines()) for board in boards]
    assert len(calls) == len(lines[0] | lines[1])
    assert lines[0] & lines[1]
    for board in boards:
        (target,) = found[board].targets
        assert target.subnet.trained
        assert target.replayed_fps_with_host >= 5000
        entry = found.document["boards"][board]["targets"][0]
        assert entry["integer_top1"] == target.point.integer.top1
    # Each folder has all scores of its search: it goes on alone.
    before = len(calls)
    search_boards(boards, None, 5000, digits_supernet, out=tmp_path, threads=1, population=6, generations=2)
    assert len(calls) == before


def test_a_supernet_of_another_space_is_refused(digits_supernet):
    with pytest.raises(QuasarError, match=r"of the space 'digits' .* not of 'tiny'"):
        search("tiny", supernet=digits_supernet)
    assert search.__module__ == "quasar_rt.nas.run"


def test_the_supernets_own_space_may_be_named(digits_supernet):
    assert Supernet(Options(supernet=digits_supernet), Space.load("digits")).space.name == "digits"


def test_a_file_that_is_no_supernet_is_named(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"nothing")
    with pytest.raises(QuasarError, match=r"x\.pt"):
        search(supernet=tmp_path / "x.pt")
    with pytest.raises(FileNotFoundError, match="none"):
        search(supernet=tmp_path / "none.pt")


def test_state_lines_are_counts_of_images(found):
    lines = [json.loads(line) for line in (found.folder / "scores.jsonl").read_text().splitlines()]
    kinds = {kind for kind, _, _ in lines}
    assert kinds == {f"supernet {found.scoring.images}", "integer 148 held-out validation images"}
    assert len({(kind, genome) for kind, genome, _ in lines}) == len(lines)


@pytest.mark.slow
def test_one_command_trains_searches_and_exports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "SAMPLE", 2)
    arguments = [
        "search",
        "--recipe",
        "digits",
        "--fps",
        "60000",
        "--fps-of",
        "accelerator",
        "--threads",
        "1",
        "--out",
        "found",
    ]
    for key in ("float_stage.epochs=1", "supernet_stage.epochs=1"):
        arguments += ["--set", key]
    first = CliRunner().invoke(cli, [*arguments, "--population", "4", "--generations", "2"])
    assert first.exit_code == 0, first.output
    subnet = Path("found/digits-zcu102-60000fps.qvit")
    with Engine(subnet) as engine:
        assert engine.subnet.trained
    trained = Path("runs/digits/supernet.pt").stat().st_mtime_ns
    again = CliRunner().invoke(cli, [*arguments, "--population", "4", "--generations", "2"])
    assert again.exit_code == 0, again.output
    assert Path("runs/digits/supernet.pt").stat().st_mtime_ns == trained
