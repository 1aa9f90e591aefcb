"""Searches over configurations of the accelerator and over several boards, and the page that compares them."""

from __future__ import annotations

import copy
import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner

from quasar_rt import InfeasibleError, InvalidValueError, Subnet, search
from quasar_rt.cli import cli
from quasar_rt.hardware import Board, CostTable, Designs, Hardware, Workload, estimate, replay
from quasar_rt.nas import report, search_boards
from quasar_rt.nas.best_front import proxy_front
from quasar_rt.nas.boards import Modelled
from quasar_rt.nas.configurations import explore
from quasar_rt.nas.folder import Folder
from quasar_rt.nas.options import Options
from quasar_rt.nas.scores import proxy_scores
from quasar_rt.nas.stats import hypervolume
from quasar_rt.space import Space

#: By the accelerator's rate alone: the processor of pynq-z2 serves 6,549 small pictures a second, fewer than the
#: slowest network of the space makes there.
SMALL = {"population": 24, "generations": 6, "fps_of": "accelerator"}


@pytest.fixture(scope="module")
def explored(tmp_path_factory):
    """Runs a search of the digits space on a board, with configurations and clocks."""
    folder = tmp_path_factory.mktemp("explored")
    fps = [7_000, 22_000]
    return search("digits", "pynq-z2", fps, out=folder / "a", configurations=4, clocks=[60, 100], **SMALL)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Runs a search of the digits space for two boards; the larger target is beyond the smaller board."""
    folder = tmp_path_factory.mktemp("compared")
    return search_boards(["pynq-z2", "zcu102"], "digits", [15_000, 90_000], out=folder / "a", **SMALL)


def test_designs_give_each_network_its_best_configuration():
    space = Space.load("digits")
    networks = [space.smallest, space.largest]
    tables = [
        CostTable(space, Hardware.for_board("pynq-z2", Workload.of_architecture(space, space.decode(genome))))
        for genome in networks
    ]
    genomes = np.stack([*networks, *(space.encode(space.sample(0, k)) for k in range(50))])
    scales = [1.0, 0.96]
    costs = Designs(tables, scales).evaluate(genomes)
    each = [table.evaluate(genomes) for table in tables]
    rates = np.stack([np.where(one["fits"], one["fps"] * s, 0) for one, s in zip(each, scales, strict=True)])
    assert np.array_equal(costs["fps"], rates.max(axis=0))
    assert np.array_equal(costs["design"], rates.argmax(axis=0))
    assert set(costs["design"]) == {0, 1}
    assert costs["fits"].all()
    first = Designs(tables).evaluate(genomes, 0)
    for name in ("fps", "latency_s", "energy_j", "fits"):
        assert np.array_equal(first[name], each[0][name])
    limit = 1000 * float(np.median(costs["latency_s"]))
    limited = Designs(tables, scales, max_latency_ms=limit).evaluate(genomes)
    assert (limited["latency_s"][limited["fits"]] <= limit / 1000).all()
    assert 0 < limited["fits"].sum() < len(genomes)
    with pytest.raises(InvalidValueError, match="at least one"):
        Designs([])
    with pytest.raises(InvalidValueError, match="no such configuration"):
        Designs(tables).evaluate(genomes, 2)
    with pytest.raises(InvalidValueError, match="each hardware configuration needs a scale"):
        Designs(tables, [1.0])
    other = Space.load("fashion-mnist")
    others = CostTable(other, Hardware.for_board("zcu102", other))
    with pytest.raises(InvalidValueError, match="different spaces"):
        Designs([tables[0], others])


def test_the_energy_of_a_frame_is_what_the_boards_powers_say():
    space = Space.load("tiny")
    workload = Workload.of_architecture(space, space.decode(space.largest))
    hardware = Hardware.for_board("zcu102", workload)
    found, power = estimate(workload, hardware), Board.load("zcu102").settings["power"]
    array = hardware.settings["array"]
    slices = array["tokens"] * array["pairs"] * array["cascade"]
    slice_cycles = slices * array["clock_ratio"] * found.period_cycles
    products = found.share * slice_cycles
    expected = power["idle_w"] / found.fps + 1e-12 * (
        products * power["product_pj"] + (slice_cycles - products) * power["waiting_pj"]
    )
    transfers = 1e-12 * found.transfer_bytes * power["byte_pj"]
    # Transfers count by their cycles, in some of which memory waits for the load kernel.
    assert expected + transfers < found.energy_j < expected + 1.6 * transfers
    table = CostTable(space, hardware)
    assert table.evaluate([space.largest])["energy_j"] == pytest.approx([found.energy_j])
    standing = (
        power["idle_w"]
        + 1e-12 * slices * array["clock_ratio"] * hardware.clock_mhz * 1e6 * (power["waiting_pj"])
    )
    assert table.standing_w == pytest.approx(standing)
    modelled = Modelled.on_one(space, hardware, "board")
    (on,) = modelled.on(space.largest[None])
    assert modelled.power_w(on, on.closed_fps) == pytest.approx(found.energy_j * found.fps)
    assert modelled.power_w(on, 0.0) == pytest.approx(standing)


def test_a_board_without_powers_has_no_energies_and_no_limit_of_them(tmp_path):
    text = Board.load("zcu102").to_toml()
    file = tmp_path / "mine.toml"
    file.write_text(text[: text.index("[power]")].replace('"zcu102"', '"mine"'))
    result = search("digits", str(file), 20_000, configurations=2, **SMALL)
    (target,) = result.targets
    assert target.on.energy_mj is None
    assert target.power_w is None
    with pytest.raises(InvalidValueError, match=r"no \[power\]"):
        search("digits", str(file), 20_000, max_energy_mj=1, **SMALL)
    with pytest.raises(InvalidValueError, match=r"no \[power\]"):
        search("digits", str(file), 20_000, objectives=["energy"], **SMALL)


def test_explored_configurations_are_faster_than_the_spaces_own():
    space = Space.load("digits")
    own = Modelled.of(space, "kv260", fps_of="accelerator")
    options = Options(configurations=6, fps_of="accelerator")
    found = explore(space, "kv260", options, lambda *_: None)
    assert found.configurations[0] == own.hardware
    genomes = np.stack([space.encode(space.sample(1, k)) for k in range(40)])
    gains = found.rates(genomes) / own.rates(genomes) - 1
    assert gains.min() >= 0
    assert gains.max() > 0.02
    assert gains.mean() > 0.01
    # The rate is that of the configuration that is named.
    (on,) = found.replayed_on(genomes[:1])
    workload = Workload.of_architecture(space, space.decode(genomes[0]))
    expected = found.rates_of(workload, on.configuration)
    assert (expected.accelerator_fps, expected.fps) == (on.fps, on.fps_with_host)


def test_each_target_is_held_on_its_own_configuration_with_the_least_power(explored):
    space = explored.space
    for target in explored.targets:
        hardware = Hardware.load(explored.folder / target.hardware_file)
        subnet = Subnet.load(explored.folder / target.file)
        assert hardware == target.hardware
        hardware.check_board()
        fps = hardware.clock_mhz * 1e6 / replay(subnet, hardware).period_cycles
        assert fps == target.replayed_fps >= target.fps
        # No slower clock would do, since it takes less power.
        for clock in (60, 100):
            if clock < hardware.clock_mhz:
                slower = hardware.with_clock(clock)
                assert clock * 1e6 / replay(subnet, slower).period_cycles < target.fps
        record = subnet.config["provenance"]["search"]
        assert record["hardware"]["hardware"] == hardware.settings
        found = estimate(Workload.of_architecture(space, target.point.architecture), hardware)
        assert target.on.latency_ms == pytest.approx(1000 * found.latency_s)
        assert target.on.energy_mj == pytest.approx(1000 * found.energy_j)
    clocks = [target.hardware.clock_mhz for target in explored.targets]
    assert clocks == [60, 100]


def test_front_json_and_the_tables_have_the_configurations(explored):
    document = json.loads((explored.folder / "front.json").read_text())
    board = document["boards"]["pynq-z2"]
    assert document["settings"]["clocks_mhz"] == [60, 100]
    used = {point["modelled"]["pynq-z2"]["configuration"] for point in document["front"]}
    assert used <= set(range(len(board["configurations"])))
    assert len(used) > 1
    for entry, target in zip(document["targets"], explored.targets, strict=True):
        assert entry["hardware"] == target.hardware.settings
        assert entry["resources"]["DSP"]["used"] == target.hardware.resources.dsp
        assert entry["power_w"] == target.power_w
    with (explored.folder / "front.csv").open() as file:
        assert {int(row["configuration"]) for row in csv.DictReader(file)} == used
    assert any(
        "Configurations of the accelerator were explored at 60, 100 MHz" in note for note in explored.notes
    )


def test_least_latency_and_energy_are_of_a_configuration_that_holds_the_network():
    space = Space.load("digits")
    networks = [Workload.of_architecture(space, space.decode(one)) for one in (space.smallest, space.largest)]
    tables = [CostTable(space, Hardware.for_board("pynq-z2", network)) for network in networks]
    genomes = np.stack([space.encode(space.sample(0, k)) for k in range(50)])
    small, large = (table.evaluate(genomes) for table in tables)
    beyond = ~small["fits"]
    assert beyond.any()
    assert large["fits"].all()
    least = Modelled(Designs(tables)).least(genomes)
    for name, values in zip(("latency_s", "energy_j"), least, strict=True):
        # The costs of a network that the buffers do not hold may be less.
        assert (small[name][beyond] < large[name][beyond]).any()
        assert np.array_equal(values[beyond], 1000 * large[name][beyond])


def test_fronts_of_latency_and_energy_are_those_of_all_scored_networks():
    # The effort suffices for all networks of the space.
    text = Space.load("digits").to_toml()
    for name, value in (
        ("embed", "[16]"),
        ("depth", "[1]"),
        ("heads", "[2, 4]"),
        ("eight_bit", "[0.0, 1.0]"),
    ):
        line = next(line for line in text.splitlines() if line.startswith(f"{name} ="))
        text = text.replace(line, f"{name} = {value}")
    space = Space.from_toml(text)
    effort = {"population": 64, "generations": 8, "fps_of": "accelerator"}
    result = search(space, "pynq-z2", 10_000, configurations=3, **effort)
    assert result.document["search"]["scored"] == space.size
    model = explore(space, "pynq-z2", Options(configurations=3, fps_of="accelerator"), lambda *_: None)
    shape = [choices for _, choices in space.genes]
    genomes = np.array(list(np.ndindex(*shape)), np.uint8)
    scores = proxy_scores(space, genomes)
    fronts = result.document["fronts"]
    for name, column in (("latency_ms", "latency_s"), ("energy_mj", "energy_j")):
        costs = [model.designs.evaluate(genomes, number) for number in range(len(model.designs))]
        # A configuration need not hold every network.
        values = 1000 * np.stack([np.where(one["fits"], one[column], np.inf) for one in costs]).min(axis=0)
        for entry in fronts[name]:
            better = (values <= entry["value"]) & (scores >= entry["score"])
            better &= (values < entry["value"]) | (scores > entry["score"])
            assert not better.any()
        found = [(entry["value"], entry["score"]) for entry in fronts[name]]
        assert found == sorted(found)
        assert min(values) >= found[0][0] * (1 - 1e-12)
        assert found[-1][1] == pytest.approx(scores.max())


def test_the_same_exploration_gives_the_same_files(explored, tmp_path):
    again = search(
        "digits", "pynq-z2", [22_000, 7_000], out=tmp_path / "b", configurations=4, clocks=[100, 60], **SMALL
    )
    for file in sorted(path.name for path in explored.folder.iterdir()):
        assert (again.folder / file).read_bytes() == (explored.folder / file).read_bytes(), file


def test_limits_hold_for_the_whole_front():
    free = search("digits", "pynq-z2", 10_000, **SMALL)
    figures = [point.modelled["pynq-z2"] for point in free.front]
    latency = float(np.median([on.latency_ms for on in figures]))
    energy = float(np.median([on.energy_mj for on in figures]))
    limited = search("digits", "pynq-z2", 10_000, max_latency_ms=latency, max_energy_mj=energy, **SMALL)
    for point in limited.front:
        on = point.modelled["pynq-z2"]
        assert on.latency_ms <= latency
        assert on.energy_mj <= energy
    assert limited.targets[0].point.score < free.targets[0].point.score
    assert limited.document["settings"]["max_latency_ms"] == latency
    assert "leaves limits" in limited.document["search"]["no_yardstick"]
    with pytest.raises(InfeasibleError, match=r"a latency of at most 0\.0001 ms"):
        search("digits", "pynq-z2", 10_000, max_latency_ms=1e-4, **SMALL)


def test_a_search_for_latency_and_energy_says_how_close_their_fronts_come(tmp_path):
    plain = search("digits", "kv260", 10_000, **SMALL)
    assert "objectives" not in plain.document["search"]
    assert "objectives" not in plain.document["settings"]
    found = search("digits", "kv260", 10_000, objectives=["energy", "latency"], out=tmp_path / "a", **SMALL)
    document = json.loads((tmp_path / "a" / "front.json").read_text())
    assert document["settings"]["objectives"] == ["latency", "energy"]
    page = (tmp_path / "a" / "index.html").read_text(encoding="utf-8")
    table = CostTable(found.space, Hardware.for_board("kv260", found.space))
    for objective, front in (("latency", "latency_ms"), ("energy", "energy_mj")):
        yardstick = document["search"]["objectives"][objective]
        exact = proxy_front(found.space, table, objective)
        assert yardstick["kind"] == "exact"
        assert yardstick["best"] == exact.hypervolume(tuple(yardstick["reference"]))
        points = [(1000 / one["value"], one["score"]) for one in document["fronts"][front]]
        assert hypervolume(points, tuple(yardstick["reference"])) == pytest.approx(yardstick["hypervolume"])
        assert 0.95 < yardstick["share"] <= 1 + 1e-6
        said = f"{yardstick['share']:.2%} of the exact hypervolume of score and {objective}"
        assert said in " ".join(found.notes)
        assert said in page
    assert any("powers are assumed" in note for note in found.notes)
    limited = search("digits", "kv260", 10_000, objectives=["latency"], max_latency_ms=1, **SMALL)
    assert "leaves limits" in limited.document["search"]["no_objectives"]["latency"]
    assert any("its front is to the best one is not known" in note for note in limited.notes)
    both = search_boards(["kv260", "zcu102"], "digits", 10_000, objectives=["latency"], **SMALL)
    assert all(one.document["search"]["objectives"].keys() == {"latency"} for one in both.results.values())
    assert list(both.document["settings"]["objectives"]) == ["latency"]


def test_each_board_has_a_search_of_its_own_and_all_scored_networks(compared):
    for board, result in compared.results.items():
        assert result.folder == compared.folder / board
        assert (result.folder / "front.json").exists()
        model = Modelled.of(result.space, board)
        for target in result.targets:
            found = model.rates_of(Subnet.load(result.folder / target.file))
            assert (target.replayed_fps, target.replayed_fps_with_host) == (found.accelerator_fps, found.fps)
            assert found.accelerator_fps >= target.fps
    # A network of another board's front is not better than this board's front.
    for board, result in compared.results.items():
        model = Modelled.of(result.space, board, fps_of="accelerator")
        here = sorted((point.modelled[board].fps, point.score) for point in result.front)
        for other in compared.results.values():
            genomes = other.genomes[model.fits(other.genomes)]
            scores = {point.genome: point.score for point in other.front}
            for genome, fps in zip(genomes, model.rates(genomes), strict=True):
                best = max((score for rate, score in here if rate >= fps), default=-np.inf)
                assert scores[tuple(genome.tolist())] <= best
    scored = {result.document["search"]["scored"] for result in compared.results.values()}
    assert max(scored) > SMALL["population"] * SMALL["generations"]


def test_targets_out_of_reach_and_boards_that_are_too_small_are_named(compared):
    assert list(compared["pynq-z2"].subnets) == [15_000]
    assert list(compared.missed["pynq-z2"]) == [90_000]
    assert "no network of this space reaches 90000 FPS on pynq-z2" in compared.missed["pynq-z2"][90_000]
    with pytest.raises(
        InvalidValueError, match="no result for the board 'kv260': searched were pynq-z2, zcu102"
    ):
        compared["kv260"]
    with pytest.raises(InfeasibleError, match=r"no board can be searched for: zcu102: .*; pynq-z2: "):
        search_boards(["zcu102", "pynq-z2"], "digits", 1e7, **SMALL)
    for boards in ([], ["zcu102", "zcu102"]):
        with pytest.raises(InvalidValueError, match="each once"):
            search_boards(boards, "digits")


@pytest.mark.slow
def test_a_board_that_holds_no_network_of_the_space_is_left_out():
    small = search_boards(["zcu102", "pynq-z2"], "small", 100, **SMALL)
    assert (list(small.results), list(small.left_out)) == (["zcu102"], ["pynq-z2"])


def test_the_comparison_has_every_target_of_every_board(compared):
    document = json.loads((compared.folder / "boards.json").read_text())
    assert document == json.loads(json.dumps(compared.document))
    with (compared.folder / "boards.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = [
        (b, t.fps, t.replayed_fps, t.replayed_fps_with_host)
        for b, r in compared.results.items()
        for t in r.targets
    ]
    numbers = ("target_fps", "modelled_fps_event_by_event", "modelled_fps_with_host_event_by_event")
    assert [(row["board"], *(float(row[name]) for name in numbers)) for row in rows] == expected
    for row in rows:
        assert (compared.folder / row["file"]).exists()


def test_scores_of_another_board_are_kept_in_a_boards_own_folder(tmp_path):
    first = Folder(tmp_path / "a", {"board": "a"})
    first.put("supernet 20", {b"\x00": 7})
    second = Folder(tmp_path / "b", {"board": "b"}, [first])
    assert second.get("supernet 20", b"\x00", 20) == 7
    assert second.get("supernet 20", b"\x01", 20) is None
    assert second.get("supernet 30", b"\x00", 30) is None
    first.close()
    second.close()
    assert Folder(tmp_path / "b", {"board": "b"}).get("supernet 20", b"\x00", 20) == 7


def test_a_boards_name_does_not_lead_out_of_the_folder(tmp_path):
    text = Board.load("zcu102").to_toml()
    files = {name: tmp_path / f"{number}.toml" for number, name in enumerate(["..", "../../evil"])}
    for name, file in files.items():
        file.write_text(text.replace('name = "zcu102"', f'name = "{name}"'))
    boards = [str(file) for file in files.values()]
    result = search_boards(boards, "digits", 6000, out=tmp_path / "a" / "out", population=8, generations=2)
    folders = [result.document["boards"][name]["folder"] for name in files]
    assert folders == ["board", "_.._evil"]
    assert sorted(path.name for path in (tmp_path / "a" / "out").iterdir() if path.is_dir()) == sorted(
        folders
    )
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


def test_the_command_compares_boards(tmp_path):
    arguments = ["search", "--space", "digits", "--board", "zcu102", "--board", "pynq-z2", "--fps", "6000"]
    arguments += ["--population", "8", "--generations", "2", "--out", str(tmp_path / "out")]
    run = CliRunner().invoke(cli, arguments)
    assert run.exit_code == 0, run.output
    assert "zcu102/digits-zcu102-6000fps.qvit" in run.output
    assert "W at target" in run.output
    assert f"Boards compared: {tmp_path / 'out' / 'index.html'}" in run.output
    wrong = CliRunner().invoke(cli, [*arguments, "--hardware", str(tmp_path / "some.toml")])
    assert wrong.exit_code == 2
    assert "--hardware names its board" in wrong.output


def test_the_page_compares_the_boards(browser, compared, explored):
    browser.open((compared.folder / "index.html").as_uri())
    count = sum(len(result.targets) for result in compared.results.values())
    for name in ("#targets", "#designs"):
        assert browser.run(f"document.querySelectorAll('{name} tbody tr').length") == count
    assert browser.run("document.querySelectorAll('#chart .front').length") == 2
    assert browser.run("document.querySelectorAll('#chart .chosen').length") == count
    assert "no network of this space reaches 90000 FPS" in browser.run(
        "document.querySelector('#missed').innerText"
    )
    before = browser.run("document.querySelector('#chart .front').getAttribute('d')")
    browser.choose("#axis", "latency_ms")
    assert browser.run("document.querySelector('#chart .front').getAttribute('d')") != before
    assert browser.run("location.hash") == "#axis=latency_ms"
    links = browser.run(
        "[...document.querySelectorAll('#targets a')].map((link) => link.getAttribute('href'))"
    )
    assert all((compared.folder / link).exists() for link in links)
    for width in (360, 1200):
        assert browser.look(width, 900, False).startswith(b"\x89PNG")
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    # The page of one board has its configurations.
    browser.open((explored.folder / "index.html").as_uri())
    table = browser.run("document.querySelector('#designs').innerText")
    for target in explored.targets:
        assert target.hardware_file in table
    assert browser.problems == []


def test_names_never_become_markup(browser, compared, tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    document = copy.deepcopy(dict(compared.document))
    document["space"]["name"] = evil
    document["boards"][evil] = document["boards"].pop("zcu102")
    path = tmp_path / "evil.html"
    path.write_text(report.filled("boards.html", evil, document), encoding="utf-8")
    browser.open(path.as_uri())
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert evil in browser.run("document.querySelector('#targets').textContent")
    assert browser.problems == []
