# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The page in a real browser: what it does when a person clicks, and that nothing goes wrong while it does."""

import re

import pytest
from browser import CHROMIUM, run_in_page
from sample_report import COSTS, UNITS, make_report, plan

from optimum_mixq.reporting.page import render_page
from optimum_mixq.reporting.slider import list_stops


pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the PATH, found none")

TRY = """
const rows = () => [...document.querySelectorAll(".sortable tbody th")].map((cell) => cell.textContent);
const heads = [...document.querySelectorAll(".sortable thead th")];
const sorted = {};
const click = (column) => { heads[column].querySelector("button").click(); return rows(); };
const state = () => heads.map((head) => head.getAttribute("aria-sort"));
const before = rows();
const first = click(4), sortedState = state(), second = click(4), back = click(0);
const empty = click(1);
const slider = document.getElementById("stop");
const look = () => ({
  name: document.getElementById("stop-name").textContent,
  cells: [...document.querySelectorAll(".grid [data-unit] text")].map((text) => text.textContent),
  titles: [...document.querySelectorAll(".grid [data-unit] title")].map((text) => text.textContent),
  shade: document.querySelector('.grid [data-unit] rect').getAttribute("fill-opacity"),
  facts: [...document.querySelectorAll("#facts dd")].map((text) => text.textContent),
  chosen: [...document.querySelectorAll("[data-stop].chosen")].map((mark) => mark.dataset.stop),
});
const own = look();
const stops = [...Array(Number(slider.max) + 1).keys()].map((number) => {
  slider.value = number;
  slider.dispatchEvent(new Event("input"));
  return look();
});
document.getElementById("stop-own").click();
const again = look();
document.querySelector('[data-stop="0"]').dispatchEvent(new MouseEvent("click", { bubbles: true }));
return {
  before, first, second, back, empty, sortedState, own, stops, again, clicked: look().name,
  loaded: performance.getEntriesByType("resource").map((entry) => entry.name.slice(0, 40)),
  images: [...document.images].map((image) => image.complete && image.naturalWidth > 0),
  background: getComputedStyle(document.body).backgroundColor,
  shown: getComputedStyle(document.querySelector(".slider")).display,
};
"""


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """Return what a person who clicks through the page sees."""
    return run_in_page(render_page(make_report()), TRY, tmp_path_factory.mktemp("browser"))


def test_no_script_fails_and_nothing_is_loaded(tried):
    assert tried["wrong"] == [] and [name for name in tried["told"]["loaded"] if not name.startswith("data:")] == []
    assert tried["told"]["images"] == [True, True]


def test_a_click_on_a_heading_sorts_the_layers_by_it(tried):
    told, by_macs = tried["told"], sorted(UNITS, key=lambda unit: COSTS.macs[unit])
    assert told["before"] == UNITS == told["back"]
    assert told["first"] == by_macs[::-1] and told["second"] == by_macs
    assert told["sortedState"][4] == "descending" and set(told["sortedState"]) == {"descending", "none"}


def test_layers_without_a_value_come_last_however_the_table_is_sorted(tried):
    assert [unit for unit in tried["told"]["empty"] if unit.endswith(".qk")] == tried["told"]["empty"][-3:]


def test_the_slider_shows_the_bits_of_every_layer_at_each_size(tried):
    report = make_report()
    for seen, stop in zip(tried["told"]["stops"], list_stops(report), strict=True):
        expected = [
            f"{bits[0]} / {bits[1]}" if COSTS.weights[unit] else str(bits[1]) for unit, bits in stop.plan.bits.items()
        ]
        assert seen["cells"] == expected and seen["name"] == stop.name
        assert f"{100 * stop.evaluation.accuracy:.2f} %" in seen["facts"]
        assert f"weights {stop.plan.bits['blocks.0.qkv'][0]} bits" in seen["titles"][0]
    shades = [seen["shade"] for seen in tried["told"]["stops"]]
    assert sorted(shades, key=float) == [shades[0], shades[1], shades[2], shades[3]] and len(set(shades)) == 4


def test_the_slider_starts_at_this_model_comes_back_to_it_and_marks_it_in_the_charts(tried):
    told = tried["told"]
    assert told["own"] == told["again"] and told["own"]["name"] == "this model" and told["shown"] == "flex"
    assert told["own"]["cells"][0] == "5 / 4" and told["own"]["chosen"] == ["2", "2"]
    assert told["clicked"] == told["stops"][0]["name"] == f"{COSTS.average_bits(plan(2, 2).bits):.2f} bits"


def test_the_page_is_dark_where_that_is_preferred(tried, tmp_path):
    script = "return getComputedStyle(document.body).backgroundColor;"
    dark = run_in_page(render_page(make_report()), script, tmp_path, dark=True)
    assert (tried["told"]["background"], dark["told"]) == ("rgb(246, 247, 249)", "rgb(15, 20, 32)")


def test_a_narrow_page_does_not_scroll_sideways(tmp_path):
    script = "return [document.documentElement.scrollWidth, innerWidth];"
    width, seen = run_in_page(render_page(make_report()), script, tmp_path, width=500)["told"]
    assert width <= seen <= 520


def test_without_its_script_the_page_shows_all_but_the_slider(tmp_path):
    page, removed = re.subn(r"<script>\s.*?</script>", "", render_page(make_report()), flags=re.S)
    script = """
      const seen = (name) => document.querySelector(name).getBoundingClientRect().height > 0;
      return [".slider", ".grid", ".chart", ".sortable", "#facts", "figure"].map(seen);
    """
    assert removed == 1 and "<noscript><p>Without JavaScript the slider" in page
    assert run_in_page(page, script, tmp_path)["told"] == [False, True, True, True, True, True]
