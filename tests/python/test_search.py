"""Hardware-aware search: networks in numbers, the search itself, what it leaves."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from quasar_rt import (
    DoesNotFitError,
    Engine,
    InfeasibleError,
    QuasarError,
    Subnet,
    UntrainedWarning,
    random_subnet,
    search,
)
from quasar_rt.cli import cli
from quasar_rt.hardware import RATES_OF, Hardware, RatesOf, Workload, board_names, estimate, rates
from quasar_rt.nas.best_front import proxy_front
from quasar_rt.nas.boards import Modelled
from quasar_rt.nas.folder import Folder, SearchFolderError
from quasar_rt.nas.layers import eight_bit_share, linear_layers, nominal_macs, untrained_subnet, weight_bytes
from quasar_rt.nas.report import nondominated
from quasar_rt.nas.scores import proxy_scores
from quasar_rt.nas.stats import hypervolume
from quasar_rt.space import Space, space_names

NEEDS_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="needs the [host] extra")


@pytest.mark.parametrize(
    ("name", "embedding"),
    [("digits", False), ("digits", True), ("fashion-mnist-coarse", False), ("tiny", False), ("tiny", True)],
)
def test_a_networks_numbers_are_its_subnets(name, embedding):
    plain = Space.load(name)
    space = plain.with_embedding() if embedding else plain
    assert space.genes == plain.genes
    assert (space == plain) != embedding
    architecture = space.sample(0, 1)
    subnet = untrained_subnet(space, architecture, 5, "some", {"search": {"target_fps": 9}})
    assert subnet.has_embedding == embedding
    summary = subnet.summary()
    assert [(*layer[:3], layer.rows8) for layer in summary.layers] == linear_layers(space, architecture)
    assert summary.weight_bytes == weight_bytes(space, architecture)
    assert summary.nominal_macs == nominal_macs(space, architecture)
    blocks = [layer for layer in summary.layers if layer.name.startswith("blocks")]
    assert eight_bit_share(architecture) == sum(b.rows8 for b in blocks) / sum(b.rows for b in blocks)
    assert subnet.config["provenance"]["search"] == {"target_fps": 9}
    assert not subnet.trained
    hardware = Hardware.for_board("zcu102", space)
    costs = [
        estimate(workload, hardware)
        for workload in (Workload.of_architecture(space, architecture), Workload.of_subnet(subnet))
    ]
    assert costs[0].period_cycles == costs[1].period_cycles


@pytest.mark.parametrize("fractions", [[[0.5] * 6], [[0.5] * 4] * 2, [[0.5, 0.5, 0.5, 0.5, 0.5, 1.5]] * 2])
def test_fractions_of_another_shape_are_refused(fractions):
    with pytest.raises(ValueError, match="eight_bit_fraction"):
        random_subnet(
            embed=8, depth=2, heads=1, image_size=8, kernel=4, classes=2, eight_bit_fraction=fractions
        )


IDENTITY = {"format": 2, "space": "digits", "fps": [100.0], "seed": 0}


def test_a_folder_keeps_scores_and_survives_a_torn_line(tmp_path):
    folder = Folder(tmp_path / "a", IDENTITY)
    folder.put("supernet 20", {b"\x00\x01": 7, b"\x02\x00": 9})
    folder.close()
    file = tmp_path / "a" / "scores.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b'["supernet 20", "01')
    again = Folder(tmp_path / "a", IDENTITY)
    assert again.get("supernet 20", b"\x00\x01", 20) == 7
    assert again.get("supernet 20", b"\x01\x01", 20) is None
    assert again.get("integer 20", b"\x00\x01", 20) is None
    again.put("supernet 20", {b"\x01\x01": 3})
    again.close()
    assert file.read_bytes() == whole + b'["supernet 20", "0101", 3]\n'


def test_a_folder_of_something_else_is_refused(tmp_path):
    Folder(tmp_path / "a", IDENTITY).close()
    with pytest.raises(SearchFolderError, match=r"fps: \[100.0\] there, \[250.0\] now"):
        Folder(tmp_path / "a", {**IDENTITY, "fps": [250.0]})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").touch()
    with pytest.raises(SearchFolderError, match="other files and no search"):
        Folder(tmp_path / "b", IDENTITY)
    (tmp_path / "c").touch()
    with pytest.raises(QuasarError, match="cannot be used"):
        Folder(tmp_path / "c", IDENTITY)
    for text in ("[1", "[1]", "[" * 100_000):
        (tmp_path / "a" / "search.json").write_text(text)
        with pytest.raises(SearchFolderError, match="damaged"):
            Folder(tmp_path / "a", IDENTITY)


@pytest.mark.parametrize(
    "line",
    [
        *("nonsense", '["x", "01", -1]', '["x", "01", 1.5]', '["x", "01", 1e999]', '["x", "01", true]'),
        *('["x", "zz", 1]', '[["x"], "01", 1]', '["x", "01"]', "[" * 100_000),
    ],
)
def test_damaged_scores_are_named(tmp_path, line):
    folder = Folder(tmp_path / "a", IDENTITY)
    folder.put("x", {b"\x01": 1})
    folder.close()
    with (tmp_path / "a" / "scores.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(SearchFolderError, match=r"scores.jsonl', line 2"):
        Folder(tmp_path / "a", IDENTITY)


def test_more_right_answers_than_images_are_refused(tmp_path):
    folder = Folder(tmp_path, IDENTITY)
    folder.put("supernet 20", {b"\x01": 20, b"\x02": 21})
    assert folder.get("supernet 20", b"\x01", 20) == 20
    folder.close()
    with pytest.raises(
        SearchFolderError, match=r"scores.jsonl' records 21 of 20 images as right for the subnet 02"
    ):
        Folder(tmp_path, IDENTITY).get("supernet 20", b"\x02", 20)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40))
def test_the_front_is_what_nothing_beats(points):
    front = nondominated([(float(a), float(b)) for a, b in points])

    def beats(p, q):
        return p != q and p[0] >= q[0] and p[1] >= q[1]

    expected = {p for p in points if not any(beats(q, p) for q in points)}
    assert {points[i] for i in front} == expected
    assert len(front) == len(expected)
    assert [points[i][0] for i in front] == sorted((p[0] for p in expected), reverse=True)


# One search on the proxy, and what it leaves.


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proxy") / "out"
    return search("digits", population=24, generations=12, out=folder)


def test_a_search_leaves_its_folder(proxy):
    names = {path.name for path in proxy.folder.iterdir()}
    assert {"front.json", "front.csv", "index.html", "search.json"} <= names
    assert ("front.png" in names) == (find_spec("matplotlib") is not None)
    assert {target.file for target in proxy.targets} <= names
    assert not [name for name in names if name.startswith(".")]
    assert json.loads((proxy.folder / "front.json").read_text()) == json.loads(json.dumps(proxy.document))


def test_every_figure_of_the_front_is_the_models(proxy):
    space = proxy.space
    boards = {board: Modelled.of(space, board) for board in proxy.document["boards"]}
    assert len(boards) > 3
    for board, model in boards.items():
        fps = [point.modelled[board].closed_fps for point in proxy.front]
        assert fps == model.fps(proxy.genomes).tolist()
        for point in proxy.front[:3]:
            assert space.decode(np.array(point.genome, np.uint8)) == point.architecture
            found, on = model.estimate(point.architecture), point.modelled[board]
            assert found.fps == on.closed_fps
            assert 1000 * found.latency_s == on.latency_ms
            if board != "zcu102":
                assert (found.fps, found.fps_with_host) == (on.fps, on.fps_with_host)
    model = boards["zcu102"]
    for point in proxy.front:
        workload = Workload.of_architecture(space, point.architecture)
        found = model.rates_of(workload)
        assert point.modelled["zcu102"].fps == found.accelerator_fps
        assert point.modelled["zcu102"].fps_with_host == found.fps
    fps = [point.modelled["zcu102"].rate(proxy.document["settings"]["fps_of"]) for point in proxy.front]
    scores = [point.score for point in proxy.front]
    assert fps == sorted(fps, reverse=True)
    assert scores == sorted(scores)
    assert proxy_scores(space, proxy.genomes).tolist() == scores


def test_targets_get_the_best_score_that_reaches_them(proxy):
    assert len(proxy.targets) == 3
    model = Modelled.of(proxy.space, "zcu102")
    for target in proxy.targets:
        assert target.replayed_fps_with_host >= target.fps
        # A better one would have been chosen if it reached the rate event by event.
        better = [p for p in proxy.front if p.score > target.point.score]
        sizes = [Workload.of_architecture(proxy.space, p.architecture) for p in better]
        assert all(model.rates_of(one).fps < target.fps for one in sizes)
        assert proxy.subnets[target.fps] is target.subnet


def test_subnets_carry_the_record_of_their_search(proxy):
    for target in proxy.targets:
        subnet = Subnet.load(proxy.folder / target.file)
        assert subnet == target.subnet
        record = subnet.config["provenance"]["search"]
        assert record["target_fps"] == target.fps
        assert record["modelled"]["fps"] == target.point.modelled["zcu102"].fps
        assert record["score"] == target.point.score
        assert record["score_kind"] == "proxy score (not an accuracy)"
        assert record["genome"] == list(target.point.genome)
        assert record["board"] == "zcu102"
        assert record["seed"] == 0
        layers = {layer.name: layer for layer in subnet.summary().layers}
        for i, block in enumerate(target.point.architecture.blocks):
            *qkv, proj, fc1, fc2 = block.eight_bit_rows(target.point.architecture.embed)
            found = [layers[f"blocks.{i}.{m}"].rows8 for m in ("qkv", "proj", "fc1", "fc2")]
            assert found == [sum(qkv), proj, fc1, fc2]
        # The model counts the very rows of the file.
        counted = Workload.of_architecture(proxy.space, target.point.architecture, subnet.name)
        of_file = Workload.of_subnet(subnet).settings
        assert all(
            of_file[key] == counted.settings[key] for key in ("embed", "blocks", "patch_rows", "head_rows")
        )
        with pytest.warns(UntrainedWarning), Engine(target.subnet) as engine:
            engine.infer(np.zeros((8, 8), np.uint8))


def test_front_json_and_notes_say_how_close_the_front_is_to_the_exact_one(proxy):
    yardstick = proxy.document["search"]["yardstick"]
    exact = proxy_front(proxy.space, Modelled.of(proxy.space, "zcu102").table)
    assert yardstick["kind"] == "exact"
    assert yardstick["subnets"] == len(exact)
    reference = tuple(yardstick["reference"])
    assert yardstick["best"] == exact.hypervolume(reference)
    assert yardstick["hypervolume"] == yardstick["share"] * yardstick["best"]
    # The front is that of the rates event by event; by the closed form, it has nearly all of the scored networks' area.
    points = [(p.modelled["zcu102"].closed_fps, p.score) for p in proxy.front]
    assert 0.9 < hypervolume(points, reference) / yardstick["hypervolume"] <= 1
    assert 0.95 < yardstick["share"] <= 1
    said = f"{yardstick['share']:.2%} of the exact hypervolume"
    assert said in " ".join(proxy.notes)
    assert said in (proxy.folder / "index.html").read_text(encoding="utf-8")


def test_the_proxy_is_never_called_an_accuracy(proxy):
    label = "proxy score (not an accuracy)"
    assert proxy.scoring.label == label
    assert proxy.document["score"] == {
        **proxy.scoring._asdict(),
        "accuracy": False,
        "kind": "proxy",
        "label": label,
    }
    header, *lines = csv.reader((proxy.folder / "front.csv").read_text().splitlines())
    assert "proxy_score_not_an_accuracy" in header
    assert not [name for name in header if "top1" in name and not name.startswith("integer")]
    at = header.index("proxy_score_not_an_accuracy")
    assert [float(line[at]) for line in lines] == [point.score for point in proxy.front]
    assert all(len(line) == len(header) for line in lines)


def test_the_same_search_gives_the_same_files(proxy, tmp_path):
    again = search("digits", population=24, generations=12, out=tmp_path / "again")
    for path in sorted(proxy.folder.iterdir()):
        assert (again.folder / path.name).read_bytes() == path.read_bytes(), path.name
    other = search("digits", population=24, generations=12, seed=1)
    assert other.document["front"] != proxy.document["front"]


def test_a_finished_search_can_be_asked_again_but_not_for_something_else(proxy):
    assert search("digits", population=24, generations=12, out=proxy.folder).document == proxy.document
    with pytest.raises(SearchFolderError, match="seed: 0 there, 3 now"):
        search("digits", population=24, generations=12, seed=3, out=proxy.folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"board": "nowhere"}, "nowhere.*zcu102"),
        ({"space": "no-such-space"}, "shipped spaces: .*digits"),
        ({"fps": 1e12}, r"fastest one is modelled at [\d.]+ FPS"),
        *(({"fps": fps}, "positive") for fps in ([10, -1], [])),
        *(({"fps": fps}, "fps must be a number or several") for fps in ("abc", [None], [[1]], 10**400)),
        ({"fps_of": "host"}, "fps_of is 'host'; it must be one of board, accelerator"),
        ({"retrain": 1}, "supernet"),
        *(({"retrain": epochs}, "retrain must be a whole number") for epochs in (0.5, -1)),
        *(({"seed": seed}, "seed must be a whole number") for seed in ("0", -1)),
        ({"strategy": "best"}, "strategy is 'best'; it must be one of guided, evolution"),
        ({"configurations": 0}, "configurations must be a whole number of at least 1"),
        ({"configurations": 2, "hardware": "some.toml"}, "leave configurations and clocks out"),
        ({"max_latency_ms": -1}, "must be a positive number"),
        ({"clocks": [0.5]}, "clock"),
        ({"objectives": ["watts"]}, "must be one of fps, latency, energy"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(QuasarError, match=message):
        search(**{"space": "digits", **arguments})


def test_targets_that_lie_close_have_files_of_their_own(tmp_path):
    result = search(
        "digits", fps=[np.int64(20000), 20000.25], population=8, generations=2, out=tmp_path / "out"
    )
    names = [target.file for target in result.targets]
    assert names == ["digits-zcu102-20000fps.qvit", "digits-zcu102-20000.25fps.qvit"]


def test_a_path_names_a_space_whose_name_does_not_lead_out_of_the_folder(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(Space.load("digits").to_toml().replace('"digits"', '"../../é x"'), encoding="utf-8")
    result = search(file, population=8, generations=2, out=tmp_path / "a" / "b" / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "mine.toml"}
    assert result.targets[0].file.startswith(".._.._é_x-zcu102-")
    assert (result.folder / result.targets[0].file).is_file()


TOOL = Path(__file__).resolve().parents[2] / "tools" / "search.py"


def tool(folder, *arguments):
    return subprocess.run(
        [sys.executable, TOOL, *arguments], cwd=folder, capture_output=True, text=True, timeout=300
    )


def test_the_command_prints_a_table_and_warns(tmp_path, monkeypatch):
    command = "--space digits --population 8 --generations 2 --fps 19000 --fps 2e4"
    done = tool(tmp_path, *command.split())
    assert done.returncode == 0
    assert "target FPS" in done.stdout
    assert "digits-zcu102-19000fps.qvit" in done.stdout
    assert "FPS with the processor" in done.stdout
    assert "accelerator alone" in done.stdout
    assert "not an accuracy" in done.stderr
    (folder,) = (tmp_path / "runs" / "search").iterdir()
    assert str(folder.relative_to(tmp_path)) in done.stdout
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli, ["search", *command.split()]).exit_code == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert CliRunner().invoke(cli, ["search", *command.split(), "--seed", "1"]).exit_code == 0
    assert len(list((tmp_path / "runs" / "search").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        ("--board vu9p", ["vu9p", "zcu102"], 2),
        ("--space huge", ["huge", "digits"], 2),
        ("--space digits --fps 1e9", ["1000000000 FPS", "fastest"], 1),
        ("--space digits --fps 0", ["--fps"], 2),
        ("--retrain 3", ["supernet"], 2),
        ("--objective fps", ["latency", "energy"], 2),
        ("--hardware none.toml", ["none.toml"], 2),
        ("--set seed=1", ["--set goes with --recipe"], 2),
        pytest.param("--supernet none.pt", ["none.pt"], 2, marks=NEEDS_TORCH),
        pytest.param("--recipe digits --supernet x.pt", ["leave --space and"], 2, marks=NEEDS_TORCH),
        pytest.param("--recipe digits --space tiny", ["leave --space and"], 2, marks=NEEDS_TORCH),
        pytest.param("--recipe no-such-recipe", ["no-such-recipe"], 2, marks=NEEDS_TORCH),
    ],
)
def test_the_commands_errors_leave_nothing(tmp_path, monkeypatch, arguments, words, status):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["search", *arguments.split()])
    assert result.exit_code == status
    assert all(word in result.stderr for word in words), result.stderr
    assert not list(tmp_path.iterdir())


def test_a_hardware_file_names_its_board(tmp_path):
    file = tmp_path / "mine.toml"
    space = Space.load("digits")
    Hardware.for_board("kv260", space, clock_mhz=100).save(file)
    result = search(space, hardware=file, population=8, generations=2)
    assert result.board == "kv260"
    assert result.document["boards"]["kv260"]["label"] == "kv260, 100 MHz"
    assert result.document["boards"]["kv260"]["hardware"] == Hardware.load(file).settings
    with pytest.raises(QuasarError, match="'kv260', not for 'zcu102'"):
        search(space, board="zcu102", hardware=file)


@pytest.mark.slow
def test_a_board_that_holds_only_the_smaller_networks_is_left_out_and_named(tmp_path):
    space = Space.from_toml(Space.load("tiny").to_toml().replace("depth = [12, 13, 14]", "depth = [1, 2]"))
    result = search(space, population=8, generations=2, out=tmp_path)
    assert "buffer" in result.document["search"]["boards_left_out"]["pynq-z2"]
    assert "pynq-z2" not in result.document["boards"]
    assert not any("pynq-z2" in note for note in result.notes)
    assert "No figures for pynq-z2" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "kv260" in result.document["boards"]
    # Searched for, it has the networks that it holds.
    small = search(space, board="pynq-z2", population=8, generations=2)
    assert small.board == "pynq-z2"
    assert all(point.modelled["pynq-z2"].fps > 0 for point in small.front)


def test_numpy_is_enough_for_a_search_on_the_proxy(tmp_path):
    script = """
import sys
for name in ("torch", "matplotlib", "timm", "sklearn"):
    sys.modules[name] = None
import quasar_rt
result = quasar_rt.search("digits", population=8, generations=2, out="out")
try:
    quasar_rt.search(supernet="x.pt")
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "pip install 'quasar-rt[host]'" in done.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "index.html" in names
    assert "front.png" not in names


@pytest.mark.parametrize(
    ("space", "board"),
    [("digits", "pynq-z2"), pytest.param("fashion-mnist", "ultra96v2", marks=pytest.mark.slow)],
)
def test_each_target_is_reached_event_by_event_by_the_file_s_own_rows(tmp_path, space, board):
    result = search(space, board=board, population=24, generations=8, out=tmp_path / "found")
    hardware = Hardware.for_board(board, Space.load(space))
    for target, entry in zip(result.targets, result.document["targets"], strict=True):
        subnet = Subnet.load(tmp_path / "found" / target.file)
        found, record = rates(subnet, hardware), subnet.config["provenance"]["search"]
        assert found.accelerator_fps == target.replayed_fps == entry["replayed_fps"] == record["replayed_fps"]
        assert found.fps == target.replayed_fps_with_host == entry["replayed_fps_with_host"]
        assert found.fps == record["replayed_fps_with_host"]
        assert entry["gap"] == found.accelerator_fps / entry["modelled_fps"] - 1 == target.gap
        assert found.fps >= target.fps
        assert record["fps_of"] == "board"


def test_a_search_for_embeddings_counts_their_rows_and_holds_its_targets(tmp_path):
    result = search("digits", board="pynq-z2", population=24, generations=8, out=tmp_path, embedding=True)
    space = Space.load("digits").with_embedding()
    model = Modelled.of(space, "pynq-z2")
    assert result.space == space
    for target in result.targets:
        subnet = Subnet.load(tmp_path / target.file)
        assert subnet.has_embedding
        assert model.rates_of(subnet).fps == target.replayed_fps_with_host >= target.fps
    # The same folder goes on with the same search alone.
    with pytest.raises(SearchFolderError, match="space_sha256"):
        search("digits", board="pynq-z2", population=24, generations=8, out=tmp_path)


@pytest.mark.parametrize("fps_of", RATES_OF)
def test_no_scored_network_beats_the_front_event_by_event(fps_of):
    space = Space.load("digits")
    model = Modelled.of(space, "zcu102", fps_of=fps_of)
    genomes = np.stack([space.encode(space.sample(3, k)) for k in range(300)])
    scores = proxy_scores(space, genomes)
    found = model.replayed_front(genomes, scores)
    workloads = [Workload.of_architecture(space, space.decode(genome)) for genome in genomes]
    expected = [rates(workload, model.hardware).of(fps_of) for workload in workloads]
    assert found == nondominated(list(zip(expected, scores.tolist(), strict=True)))
    assert model.rates(genomes).tolist() == expected


def test_a_target_beyond_the_closed_forms_fastest_network_is_held_if_the_events_reach_it():
    space = Space.load("digits")
    # A hardware on which the closed form is too pessimistic about the fastest network.
    beyond = []
    for board in ("zcu102", "kv260", "pynq-z2", "ultra96v2"):
        model = Modelled.of(space, board, fps_of="accelerator")
        effort = {"board": board, "fps_of": "accelerator", "population": 16, "generations": 2}
        closed, (_, fastest) = model.table.fastest()[1], model.fastest_replayed()
        if fastest > closed:
            beyond.append(board)
            result = search(space, fps=[closed, fastest], **effort)
            assert [target.replayed_fps >= target.fps for target in result.targets] == [True, True]
        with pytest.raises(InfeasibleError, match=rf"fastest one is modelled at {fastest:.1f} FPS"):
            search(space, fps=1.001 * fastest, **effort)
    assert beyond


@pytest.mark.slow
@pytest.mark.parametrize("board", board_names())
@pytest.mark.parametrize("space", space_names())
def test_every_shipped_pair_of_space_and_board_holds_its_targets(tmp_path, space, board):
    try:
        result = search(space, board=board, population=24, generations=8, out=tmp_path / "found")
    except DoesNotFitError:
        # Refused by name, by the search as by the explorer.
        with pytest.raises(DoesNotFitError):
            Hardware.for_board(board, Space.load(space))
        return
    model = Modelled.of(Space.load(space), board)
    for target in result.targets:
        subnet = Subnet.load(tmp_path / "found" / target.file)
        assert model.rates_of(subnet).fps == target.replayed_fps_with_host >= target.fps


def test_a_target_that_only_the_closed_form_reaches_is_refused(monkeypatch):
    monkeypatch.setattr(
        "quasar_rt.nas.boards.replay_periods",
        lambda space, genomes, hardware, gaps: np.full(len(genomes), hardware.clock_mhz * 1e6 / 90),
    )
    with pytest.raises(InfeasibleError, match=r"100 FPS on zcu102 .*the fastest has 90\.0"):
        search("tiny", fps=100, population=8, generations=2)


def test_a_stop_names_the_folder_only_where_the_search_has_one(tmp_path, monkeypatch):
    def stopped(made: bool):
        def search(out, **_):
            if made:
                out.mkdir(parents=True)
                (out / "search.json").write_text("{}")
            raise KeyboardInterrupt

        monkeypatch.setattr("quasar_rt.nas.search", search)
        result = CliRunner().invoke(cli, ["search", "--out", str(tmp_path / str(made))])
        assert result.exit_code == 130
        return result.output

    assert "continues from" in stopped(True)
    assert "continues from" not in stopped(False)
    assert "starts again" in stopped(False)


def test_a_command_finds_the_default_folder_of_earlier_versions(monkeypatch):
    found = []

    def search(out, **_):
        found.append(str(out))
        raise QuasarError("enough")

    monkeypatch.setattr("quasar_rt.nas.search", search)
    newer = "--configurations 4 --clock 100 --clock 200 --max-latency 2 --max-energy 3.5 --objective latency"
    others = "--strategy evolution --population 8 --generations 2 --log wandb"
    # Earlier versions had no other reading of a rate than the accelerator's.
    for arguments in ("", "--space digits --fps 5 --fps 7.5", f"{newer} {others}"):
        CliRunner().invoke(cli, ["search", "--fps-of", "accelerator", *arguments.split()])
    names = ("tiny-zcu102-69d5bb51", "digits-zcu102-e57dfd72", "tiny-zcu102-73a901db")
    assert found == [f"runs/search/{name}" for name in names]
    CliRunner().invoke(cli, ["search"])
    assert found[3] not in found[:3]


def test_a_folder_of_an_earlier_version_goes_on_by_the_accelerators_rate_alone(tmp_path):
    effort = {"population": 8, "generations": 2, "out": tmp_path}
    result = search("digits", fps=60_000, fps_of="accelerator", **effort)
    assert "fps_of" not in json.loads((tmp_path / "search.json").read_text())
    with pytest.raises(SearchFolderError, match='fps_of: null there, "board" now'):
        search("digits", fps=19_000, **effort)
    assert search("digits", fps=60_000, fps_of="accelerator", **effort).document == result.document


#: Spaces and boards of drawn targets. Searches of the first two replay all networks that matter; those of the third,
#: of networks of 224x224, only those next to the targets.
DRAWN = [
    ("digits", ("zcu102", "pynq-z2", "ultra96v2")),
    ("fashion-mnist", ("ultra96v2", "kv260", "pynq-z2")),
    ("tiny", ("zcu102", "kv260", "ultra96v2")),
]


def missed(number: int, fps_of: RatesOf, folder: Path) -> str:
    """Searches for a target that is drawn between a board's slowest and fastest network; names a miss."""
    rng = np.random.default_rng(number)
    name, boards = DRAWN[number % len(DRAWN)]
    space, board = Space.load(name), boards[rng.integers(len(boards))]
    model = Modelled.of(space, board, fps_of=fps_of)
    slowest = float(model.rates(model.table.slowest()[0][None])[0])
    fps = float(rng.uniform(slowest, model.fastest_replayed()[1]))
    out = folder / f"{number}-{fps_of}"
    [target] = search(
        space, board=board, fps=fps, fps_of=fps_of, population=16, generations=4, seed=number, out=out
    ).targets
    found = rates(Subnet.load(out / target.file), model.hardware)
    assert (found.fps, found.accelerator_fps) == (target.replayed_fps_with_host, target.replayed_fps)
    return "" if found.of(fps_of) >= fps else f"{name} on {board}: {found.of(fps_of)} of {fps} ({fps_of})"


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fps_of", RATES_OF)
def test_no_drawn_target_is_missed(tmp_path, fps_of, count):
    assert not [miss for number in range(count) if (miss := missed(number, fps_of, tmp_path))]


def test_a_rate_that_only_the_accelerator_alone_has_is_refused_with_both_rates():
    with pytest.raises(
        InfeasibleError,
        match=r"modelled at ([\d.]+) FPS.*serves at most \1;.*; ask for that with --fps-of accelerator",
    ):
        search("digits", board="pynq-z2", fps=20_000, population=8, generations=2)
