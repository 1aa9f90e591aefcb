"""The search's page in headless Chromium: what it shows, and what mouse and keys do."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from quasar_rt import search
from quasar_rt.nas import report
from quasar_rt.nas.boards import Modelled
from quasar_rt.nas.layers import linear_layers


@pytest.fixture(scope="module")
def found():
    """Runs a quick search of the digits space on the proxy."""
    return search("digits", fps=None, population=24, generations=12)


@pytest.fixture(scope="module")
def page(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    found.save(folder)
    return folder / "index.html"


@pytest.fixture(autouse=True)
def without_problems(browser):
    """Fails if the page throws, logs an error or fetches anything."""
    yield
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "about:"))] == []


def text(browser, selector):
    return browser.run(f"document.querySelector({json.dumps(selector)}).innerText")


def rows(browser, column):
    """Returns a column of the front's table, in its order."""
    return browser.run(
        f"[...document.querySelectorAll('#front tbody tr')].map((row) => row.cells[{column}].innerText)"
    )


def shown(browser):
    """Returns the state that the address holds."""
    return dict(part.split("=") for part in browser.run("location.hash")[1:].split("&"))


def other_point(found):
    """Returns a point that no target chose."""
    chosen = {target.point.id for target in found.targets}
    return next(point for point in found.front if point.id not in chosen)


def test_it_opens_with_every_point_and_says_what_the_score_is(browser, page, found):
    browser.open(page.as_uri())
    assert browser.run("document.querySelectorAll('#chart .point').length") == len(found.front)
    assert len(rows(browser, 0)) == len(found.front)
    assert "proxy score (not an accuracy)" in text(browser, "#banner")
    assert "meaningless" in text(browser, "#banner")
    assert "not measured" in text(browser, "footer")
    labels = browser.run("[...document.querySelectorAll('.axis-label')].map((e) => e.textContent)")
    board = found.document["boards"]["zcu102"]["label"]
    assert labels[:2] == [f"modelled FPS with the processor ({board})", "proxy score (not an accuracy)"]


def test_hovering_and_focusing_a_point_shows_its_figures(browser, page, found):
    browser.open(page.as_uri())
    point = other_point(found)
    assert browser.run("document.querySelector('#tip').hidden")
    browser.hover(f"#chart [data-subnet='{point.id}'] .area")
    assert not browser.run("document.querySelector('#tip').hidden")
    tip = text(browser, "#tip")
    assert f"Subnet #{point.id}" in tip
    assert f"{point.score:.4f}" in tip
    assert "FPS with the processor" in tip
    assert "FPS, accelerator alone" in tip
    browser.hover("#title")
    assert browser.run("document.querySelector('#tip').hidden")
    browser.run(f"document.querySelector(\"[data-subnet='{point.id}']\").focus()")
    assert f"Subnet #{point.id}" in text(browser, "#tip")


def test_a_click_shows_the_layers(browser, page, found):
    browser.open(page.as_uri())
    point = other_point(found)
    browser.click(f"#chart [data-subnet='{point.id}'] .area")
    assert shown(browser)["subnet"] == str(point.id)
    assert text(browser, "#detail-title").startswith(f"Subnet #{point.id} on zcu102")
    model = Modelled.of(found.space, "zcu102").estimate(point.architecture)
    cycles = {layer.name: layer.cycles for layer in model.layers}
    table = browser.run(
        "[...document.querySelectorAll('#layers tbody tr')].map((r) => [...r.cells].map((c) => c.innerText))"
    )
    table = {row[0]: row for row in table}
    assert cycles.keys() <= table.keys()
    assert set(table) - set(cycles) == {stage.name for stage in model.vector if "norm" in stage.name}
    assert {name: table[name][5] for name in cycles} == {name: f"{count:,}" for name, count in cycles.items()}
    for layer in linear_layers(found.space, point.architecture):
        expected = (layer.rows, layer.columns, layer.rows - layer.rows8, layer.rows8)
        assert table[layer.name][1:5] == [f"{count:,}" for count in expected]
    # The bars: the longest fills its cell, and a layer of both widths has both colours.
    widths = browser.run(
        "[...document.querySelectorAll('#layers .bar')].map((b) => [...b.children].reduce("
        "(sum, part) => sum + parseFloat(part.style.width), 0))"
    )
    every = [int(row[5].replace(",", "")) for row in table.values()]
    assert widths == pytest.approx([100 * count / max(every) for count in every], abs=0.02)
    assert browser.run("document.querySelectorAll('#blocks rect').length") > len(point.architecture.blocks)


def test_the_board_changes_every_figure(browser, page, found):
    browser.open(page.as_uri())
    other = "pynq-z2"  # of another clock: its figures differ whatever bounds them
    assert other in found.document["boards"]
    before = rows(browser, 1)
    browser.choose("#board", other)
    assert shown(browser)["board"] == other
    assert rows(browser, 1) != before
    fps = sorted((point.modelled[other].fps_with_host for point in found.front), reverse=True)
    assert [float(value.replace(",", "")) for value in rows(browser, 1)] == pytest.approx(fps, rel=1e-2)
    assert "searched for zcu102" in text(browser, "#board-note")
    assert found.document["boards"][other]["label"] in text(browser, "#detail-title")


def test_a_target_filters_the_table_and_shows_its_subnet(browser, page, found):
    browser.open(page.as_uri())
    target = found.targets[-1]
    browser.choose("#target", browser.run("document.querySelector('#target option:last-child').value"))
    reaching = [point for point in found.front if point.modelled["zcu102"].fps_with_host >= target.fps]
    assert 0 < len(reaching) < len(found.front)
    assert len(rows(browser, 0)) == len(reaching)
    assert browser.run("document.querySelectorAll('#chart .point.out').length") == len(found.front) - len(
        reaching
    )
    assert text(browser, "#detail-title").startswith(f"Subnet #{target.point.id} ")
    links = browser.run("[...document.querySelectorAll('#facts a')].map((link) => link.getAttribute('href'))")
    assert target.file in links
    chosen = f"#front tr[data-row='{target.point.id}'] td:last-child"
    assert f"{target.fps:,g} FPS" in text(browser, chosen)


def test_columns_sort_both_ways(browser, page, found):
    browser.open(page.as_uri())
    scores = [f"{point.score:.4f}" for point in sorted(found.front, key=lambda point: point.score)]
    browser.click("th[data-key=score] button")
    assert rows(browser, 4) == scores[::-1]
    assert (
        browser.run("document.querySelector('th[data-key=score]').getAttribute('aria-sort')") == "descending"
    )
    browser.click("th[data-key=score] button")
    assert rows(browser, 4) == scores
    assert browser.run("document.querySelector('th[data-key=fps]').getAttribute('aria-sort')") == "none"


def test_keys_walk_along_the_front(browser, page, found):
    browser.open(page.as_uri())
    order = sorted(found.front, key=lambda point: point.modelled["zcu102"].fps_with_host)
    start = found.targets[0].point
    browser.run("document.querySelector('#chart .point.selected').focus()")
    browser.press("ArrowRight")
    following = order[order.index(start) + 1].id
    assert browser.run("document.activeElement.dataset.subnet") == str(following)
    assert shown(browser)["subnet"] == str(start.id)
    browser.press("Enter")
    assert shown(browser)["subnet"] == str(following)
    browser.press("End")
    assert browser.run("document.activeElement.dataset.subnet") == str(order[-1].id)
    # One stop for the whole chart in the order of the Tab key.
    assert browser.run("document.querySelectorAll('#chart [tabindex=\"0\"]').length") == 1


def test_the_address_restores_the_state(browser, page, found):
    point, other = other_point(found), list(found.document["boards"])[-1]
    browser.open(f"{page.as_uri()}#board={other}&subnet={point.id}&sort=score-up&cloud=0")
    assert text(browser, "#detail-title").startswith(f"Subnet #{point.id} on {other}")
    assert browser.run("document.querySelector('#chart .cloud')") is None
    assert rows(browser, 4)[0] == f"{min(p.score for p in found.front):.4f}"
    browser.open(f"{page.as_uri()}#board=nowhere&subnet=99999&sort=nothing&target=x")
    assert text(browser, "#detail-title").startswith(f"Subnet #{found.targets[0].point.id} on zcu102")


def test_two_subnets_stand_side_by_side(browser, page, found):
    first, other = found.targets[0].point, other_point(found)
    browser.open(f"{page.as_uri()}#subnet={first.id}&compare={other.id}")
    assert text(browser, "#detail-title").startswith(f"Subnets #{first.id} and #{other.id} on zcu102")
    table = browser.run(
        "[...document.querySelectorAll('#compare-table tbody tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.innerText))"
    )
    shown_here = {name: (here, there) for name, here, there in table}
    assert shown_here["embed, depth"] == tuple(
        f"{point.architecture.embed}, {point.architecture.depth}" for point in (first, other)
    )
    assert shown_here["proxy score (not an accuracy)"] == (f"{first.score:.4f}", f"{other.score:.4f}")
    assert browser.run("document.querySelectorAll('#blocks svg').length") == 2
    assert browser.run("document.querySelector('#chart .point.compared').dataset.subnet") == str(other.id)
    browser.choose("#compare", "")
    assert browser.run("document.querySelector('#compare-table').hidden")
    assert browser.run("document.querySelectorAll('#blocks svg').length") == 1


def test_the_chart_zooms_by_buttons_and_by_dragging_a_box(browser, page, found):
    browser.open(page.as_uri())
    points = "document.querySelectorAll('#chart .point').length"
    assert browser.run(points) == len(found.front)
    assert browser.run("document.querySelector('#zoom-all').disabled")
    browser.click("#zoom-in")
    some = browser.run(points)
    assert 0 < some < len(found.front)
    assert "zoom" in shown(browser)
    browser.click("#zoom-all")
    assert browser.run(points) == len(found.front)
    browser.run(
        """(() => {
          const svg = document.querySelector('#chart svg'), box = svg.getBoundingClientRect();
          const send = (target, type, x, y) => target.dispatchEvent(new PointerEvent(type, {
            bubbles: true, button: 0, pointerType: 'mouse',
            clientX: box.left + x * box.width, clientY: box.top + y * box.height}));
          send(svg, 'pointerdown', 0.3, 0.12);
          send(window, 'pointermove', 0.5, 0.5);
          send(window, 'pointerup', 0.5, 0.5);
        })()"""
    )
    low, high, *_ = map(float, shown(browser)["zoom"].split("_"))
    inside = [p for p in found.front if low <= p.modelled["zcu102"].fps_with_host <= high]
    assert browser.run(points) <= len(inside) < len(found.front)


def test_the_exact_front_is_drawn_on_the_searched_board_alone(browser, page, found):
    browser.open(page.as_uri())
    assert browser.run("document.querySelectorAll('#chart .yardstick').length") == 1
    browser.choose("#board", list(found.document["boards"])[-1])
    assert browser.run("document.querySelectorAll('#chart .yardstick').length") == 0


@pytest.mark.parametrize(("width", "dark"), [(360, False), (360, True), (1200, True)])
def test_it_fits_phones_and_dark_screens(browser, page, width, dark):
    browser.open(page.as_uri())
    assert browser.look(width, 900, dark).startswith(b"\x89PNG")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    cut = """[...document.querySelectorAll('#chart text')].filter((text) => {
        const [inner, outer] = [text, text.ownerSVGElement].map((one) => one.getBoundingClientRect());
        return inner.left < outer.left || inner.right > outer.right;
    }).map((text) => text.textContent)"""
    assert browser.run(cut) == []
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 150) == dark
    browser.look(1200, 1600)


def test_names_never_become_markup(browser, found, tmp_path):
    document = copy.deepcopy(dict(found.document))
    evil = "</script><img src=x onerror=alert(1)>&amp;\u2028\"'"
    document["space"]["name"] = evil
    document["boards"]["zcu102"]["label"] = evil
    layers = copy.deepcopy(dict(found.layers))
    layers["parts"][0]["layers"][0]["name"] = evil
    path = tmp_path / "evil.html"
    path.write_text(report.page(document, found.cloud, layers, [evil]), encoding="utf-8")
    browser.open(path.as_uri())
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert evil.replace("\u2028", "") in browser.run("document.title").replace("\u2028", "")
    assert evil in browser.run("document.querySelector('#how').textContent")


def test_pages_of_supernets_show_both_scores(browser, found, tmp_path):
    document = copy.deepcopy(dict(found.document))
    document["score"] |= {
        "accuracy": True,
        "label": "top-1 on 200 images, supernet",
        "short": "supernet top-1",
    }
    integer = {"top1": 0.5, "images": 300, "split": "held-out validation images", "standard_error": 0.029}
    document["front"][0]["integer"] = integer
    document["front"][0]["standard_error"] = 0.035
    path = tmp_path / "index.html"
    path.write_text(report.page(document, found.cloud, found.layers, []), encoding="utf-8")
    browser.open(f"{path.as_uri()}#subnet=0")
    assert browser.run("document.querySelector('#banner').hidden")
    assert browser.run("document.querySelectorAll('#chart .integer').length") == 1
    # An interval of the score, and one of the integer engine's.
    assert browser.run("document.querySelectorAll('#chart .error').length") == 2
    assert browser.run("document.querySelectorAll('#chart .error.of-integer').length") == 1
    assert "50.00\u202f% ± 2.90\u202f%" in text(browser, "#facts")
    assert f"{100 * found.front[0].score:.2f}\u202f%" in text(browser, "#front tbody")


def test_the_page_is_one_file_without_addresses(page: Path):
    source = page.read_text(encoding="utf-8")
    assert "https://" not in source
    assert source.count("http://") == source.count("http://www.w3.org/2000/svg")
    assert " src=" not in source
