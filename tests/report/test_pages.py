"""The pages in a real browser: what is drawn, what is asked of the network, filters, themes, a live page."""

import json
import threading
from pathlib import Path

import pytest
from chromium import Chromium
from report_samples import HOSTILE, comparison_folder, record, run_folder

from gainrl_ray.report import serving
from gainrl_ray.report.serving import ReportServer
from gainrl_ray.report.writing import RunReport, open_report

DRAWN = """[...document.querySelectorAll("[data-plot]")].map((place) => [place.dataset.plot,
  place.querySelectorAll(".scatterlayer .trace, .heatmaplayer .hm, .barlayer .trace").length])"""
COUNT = "document.getElementById('count').textContent"
SCROLLS_SIDEWAYS = "document.documentElement.scrollWidth > innerWidth"


def check(browser: Chromium) -> None:
    """Nothing was complained of, nothing was asked of the network, every plot has traces, no page scrolls sideways."""
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    drawn = browser.run(DRAWN)
    assert drawn and all(traces for _, traces in drawn), drawn
    assert not browser.run(SCROLLS_SIDEWAYS)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of a run of four steps of three groups of two rollouts."""
    return "file://" + RunReport(run_folder(tmp_path_factory.mktemp("runs") / "made")).write()


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (375, True)])
def test_a_run_s_page_is_drawn_whole(browser: Chromium, page: str, width: int, dark: bool) -> None:
    browser.show(width, dark=dark)
    browser.open(page)
    check(browser)
    assert browser.run("document.title") == "Run made", "a completion's script ran"
    assert browser.run(f"document.body.textContent.includes({json.dumps(HOSTILE)})")
    expected = {"accuracy", "by_source", "reward", "window", "mastery", "seconds", "lengths", "outcomes"}
    assert expected | {"informative", "grad_norm", "entropy", "mismatch"} == {name for name, _ in browser.run(DRAWN)}
    shade = browser.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert shade < 60 if dark else shade > 200


def test_filters_are_kept_in_the_address(browser: Chromium, page: str) -> None:
    browser.show()
    browser.open(page + "#step=2&outcome=unparsable")
    assert browser.run(COUNT) == "1 of 24 rollouts"
    assert browser.run("document.querySelector('.group .about').textContent").startswith("step 2 · rank 2 · p9 ")
    choose = (
        "const at = document.querySelector('#browser select'); at.value = '%s'; at.dispatchEvent(new Event('input'))"
    )
    browser.run(f"{{{choose % 'correct'}}}")
    assert browser.run(COUNT) == "3 of 24 rollouts" and browser.run("location.hash") == "#step=2&outcome=correct"
    browser.run("location.hash = '#from=5&to=9'")
    browser.wait(f"{COUNT} === '2 of 24 rollouts'")  # only slot 2 of step 4 is at rank 5
    browser.run("location.hash = '#text=what is 3 %2B'")
    browser.wait(f"{COUNT} === '0 of 24 rollouts'")
    assert "No rollout" in browser.run("document.getElementById('list').textContent")
    assert browser.problems == []


def test_the_theme_is_the_system_s_until_one_is_chosen(browser: Chromium, page: str) -> None:
    browser.show(dark=True)
    browser.open(page)
    text = "document.querySelector('.xtick text').style.fill"
    background = "getComputedStyle(document.body).backgroundColor"
    dark = browser.run(f"[{background}, {text}]")
    browser.run("document.getElementById('theme').click()")
    light = browser.run(f"[{background}, {text}]")
    assert light[0] != dark[0] and light[1] != dark[1]
    browser.open(page)
    assert browser.run(background) == light[0], "the choice lasts"
    browser.run("localStorage.clear()")


@pytest.mark.parametrize(("steps", "gain"), [(1, True), (1, False)])
def test_one_step_is_enough_for_a_good_page_with_a_window_or_without(
    browser: Chromium, tmp_path: Path, steps: int, gain: bool
) -> None:
    browser.show(375)
    browser.open("file://" + RunReport(run_folder(tmp_path / "run", steps, gain=gain)).write())
    check(browser)
    assert ("mu" in browser.run("document.querySelector('[data-plot=window]').textContent")) == gain


def test_a_comparison_s_page_shows_what_is_chosen(browser: Chromium, tmp_path: Path) -> None:
    browser.show()
    page = "file://" + open_report(comparison_folder(tmp_path / "made")).write()
    browser.open(page)
    check(browser)
    assert browser.run("document.querySelector('[data-plot=curve]').dataset.shown") == "eval_accuracy/steps"
    lines = "document.querySelectorAll('[data-plot=curve] .scatterlayer .trace').length"
    assert browser.run(lines) == 6, "three means and three bands"
    browser.open(page + "#metric=grad_norm&axis=tokens&measure=steps_to_target&baseline=length&hide=gain")
    shown = "[...document.querySelectorAll('[data-shown]')].map((place) => place.dataset.shown)"
    assert browser.run(shown) == ["grad_norm/tokens", "mean/steps_to_target", "length/steps_to_target"]
    assert browser.run(lines) == 4
    rows = "[...document.querySelectorAll('#measures tr[data-strategy]')].filter((row) => !row.hidden).length"
    assert browser.run(rows) == 2
    browser.run("document.querySelector('.chip').click()")
    assert browser.run(rows) == 3 and browser.run(lines) == 6 and "hide" not in browser.run("location.hash")
    assert "not reached" in browser.run("document.getElementById('measures').textContent")
    assert browser.run(f"document.getElementById('failed').textContent.includes({json.dumps(HOSTILE)})")
    browser.show(375)
    check(browser)


def test_a_served_page_follows_its_run_and_stays_where_it_is(
    browser: Chromium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "POLL_S", 0.1)
    run = run_folder(tmp_path / "run", 2)
    server = ReportServer(RunReport(run), 0)
    thread = threading.Thread(target=server.run, args=(print,))
    thread.start()
    try:
        browser.show()
        browser.open(server.url + "#outcome=wrong")
        assert browser.run(COUNT) == "4 of 12 rollouts"
        browser.run("scrollTo(0, 700)")
        run.write_text("metrics.jsonl", run.read_text("metrics.jsonl") + json.dumps(record(3)) + "\n")
        browser.wait("document.querySelector('.tiles').textContent.includes('steps3')")
        browser.wait("document.readyState === 'complete' && scrollY === 700")
        assert browser.run("location.hash") == "#outcome=wrong" and browser.run(COUNT) == "4 of 12 rollouts"
        assert browser.problems == []
        assert {url for url in browser.requests if not url.startswith("data:")} <= {server.url, server.url + "version"}
    finally:
        server.stop()
        thread.join(10)
