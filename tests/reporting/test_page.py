# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import dataclasses
import re
from html.parser import HTMLParser

import pytest
from sample_report import COSTS, contenders, evaluation, make_report, plan

from optimum_mixq.reporting import page as page_module
from optimum_mixq.reporting.comparison import Comparison, Contender
from optimum_mixq.reporting.gallery import Disagreement
from optimum_mixq.reporting.markup import section
from optimum_mixq.reporting.page import render_page, save_report
from optimum_mixq.stages.evaluation import Evaluation


VOID = {"meta", "img", "br", "input"}


class Page(HTMLParser):
    """Collects text, and fails on a tag that is not closed in order."""

    def __init__(self, content):
        super().__init__()
        self.open, self.text, self.links, self.ids, self.labels, self.attributes = [], [], [], [], [], []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href", "action", "srcset", "poster")]
        self.ids += [value for name, value in attributes if name == "id"]
        self.labels += [value for name, value in attributes if name in ("for", "aria-labelledby")]
        self.attributes.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page():
    return render_page(make_report())


def timed(*milliseconds, **changes):
    return Comparison(contenders(milliseconds, **changes), "pictures", None, "a machine", 0)


def test_the_page_is_well_formed_and_names_no_other_file(page):
    read = Page(page)
    assert len(read.links) == 2 and all(link.startswith("data:image/png;base64,") for link in read.links)
    assert re.findall(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page) == []
    assert "default-src 'none'" in page


def test_the_page_tells_the_models_name_the_date_and_every_part(page):
    text = Page(page).text
    titles = [
        "vit-tiny", "Float, uniform, mixed", "Bits of every layer", "Size against accuracy", "Legend",
        "Layer by layer", "Where float and packed disagree", "What the model looks at", "Relevance", "Sensitivity",
        "What stays float", "How to make it again",
    ]  # fmt: skip
    assert [line for line in text if line in titles] == titles
    assert "2026-01-31, optimum-mixq 1.0" in page and "optimum-cli mixq quantize --bits 4" in text


def test_what_a_person_cannot_see_is_labelled(page):
    read = Page(page)
    assert set(read.labels) <= set(read.ids) and len(read.ids) == len(set(read.ids))
    for tag, attributes in read.attributes:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes.get("aria-hidden") or attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("col", "row")


def test_a_cell_says_the_bits_of_weights_and_of_activations(page):
    cell = re.search(r'<g data-unit="blocks\.0\.qkv">.*?</g>', page)[0]
    assert "<title>blocks.0.qkv: weights 5 bits, activations 4 bits; 1,200 weights in 750 bytes</title>" in cell
    assert re.sub("<[^>]*>", "", cell.partition("</title>")[2]) == "5 / 4"
    product = re.search(r'<g data-unit="blocks\.0\.qk">.*?</g>', page)[0]
    assert "<title>blocks.0.qk: both operands 4 bits</title>" in product
    assert re.sub("<[^>]*>", "", product.partition("</title>")[2]) == "4"


def test_the_table_of_layers_has_what_each_has_and_costs(page):
    row = re.search(r'<tr><th scope="row" data-value="0">blocks\.0\.qkv</th>(.*?)</tr>', page)[1]
    cells = re.findall(r"<td(?: data-value=\"(.*?)\")?>(.*?)</td>", row)
    texts = [text for _, text in cells]
    assert texts == ["5", "4", "1,200", "30,000", "2.22", "4.50e-04", "750"]
    assert [float(value) for value, _ in cells] == pytest.approx(
        [5, 4, 1200, 30_000, 1 / 45, 0.001 / 5 + 0.001 / 4, 750]
    )
    assert f"<td>{sum(COSTS.macs.values()):,}</td>" in page


def test_every_size_that_was_measured_is_in_a_table_too(page):
    rows = re.findall(r'<tr><th scope="row">([\d.]+ bits|this model, [\d.]+ bits)</th><td>([\d.]+)</td>', page)
    assert len(rows) == 4 and [float(size) for _, size in rows] == sorted(float(size) for _, size in rows)


def test_without_measured_sizes_the_frontier_is_the_predicted_score():
    page = render_page(make_report(measured=(), score_name="sensitivity"))
    assert '<h2 id="frontier">Frontier</h2>' in page and "score: sensitivity" in page
    assert "Size against accuracy" not in page and 'id="stops"' not in page


def test_a_size_whose_logits_were_no_numbers_is_in_the_table_and_not_in_the_chart():
    point = make_report().measured[0]
    broken = dataclasses.replace(point, evaluation=evaluation(0.1, float("nan")))
    page = render_page(make_report(measured=(broken, *make_report().measured[1:])))
    assert "<td>nan</td>" in page and page.count('class="path"') == 1 + 3 + 2  # the key, top-1, KL
    hopeless = contenders(kl=(None, float("inf"), float("nan")))
    compared = Comparison(hopeless, "pictures", None, "a machine", 0)
    page = render_page(make_report(measured=(broken,), comparison=compared))
    assert page.count('class="chart"') == 1 and "inf" in page


def test_without_measurements_there_is_no_frontier_and_no_empty_section():
    page = render_page(make_report(measured=(), predicted=(), relevance=None, sensitivity=None, heat_maps=()))
    assert not re.search("<h2[^>]*>(Frontier|Relevance|Sensitivity|What the model looks at)", page)
    assert "What was not measured is left empty." in page


def test_the_page_says_how_sure_the_choice_of_bits_is(page):
    assert "would have other bits" not in page
    halves = {"images": 64, "excess": 0.012, "other_units": [2, 3]}
    plan = make_report().plan
    told = dataclasses.replace(plan, provenance={**plan.provenance, "halves": halves})
    assert (
        "Shades are logarithmic. With half of the 64 images, 2 to 3 of 9 layers would have other bits, and the plan "
        "would be 1.2 % worse."
    ) in render_page(make_report(plan=told))


def test_names_cannot_end_a_script_or_a_tag():
    wicked = "</script><script>alert(1)</script>"
    found = make_report()
    shown = Disagreement(found.disagreements[0].pixels, wicked, (wicked,), (wicked,), 1.0)
    page = render_page(make_report(model=wicked, title=wicked, disagreements=(shown,)))
    assert wicked not in page and "alert(1)" in page
    Page(page)


def test_images_on_which_the_models_disagree_show_both_answers(page):
    assert "different answers on 3 of 100 images. These are the ones" in page
    assert "labelled cat" in page and "<dd>cat 51.0&nbsp;%</dd>" in page and "<dd>dog 62.0&nbsp;%</dd>" in page
    agreeing = render_page(make_report(disagreements=(), disagreeing=0))
    assert "give the same answer on all 100 images" in agreeing
    numbers = Evaluation(100, None, None, 0.3)
    regression = (contenders()[0], Contender("this model", 1.0, 1.0, numbers))
    told = render_page(make_report(comparison=Comparison(regression, "pictures", None, "a machine", 0)))
    assert "on which the outputs of the two models are furthest apart" in told


def test_a_model_that_is_slower_is_called_so_only_with_the_reason():
    faster = render_page(make_report(comparison=timed(2.0, 1.0, 1.0)))
    assert "<b>2.0 x</b><span>as fast: 1.00 instead of 2.00 ms per image" in faster and "not faster" not in faster
    slower = render_page(make_report(comparison=timed(1.0, 1.0, 2.0)))
    assert "<b>2.0 x</b><span>slower: a model this small is all overhead" in slower
    large = dataclasses.replace(COSTS, macs=dict.fromkeys(COSTS.macs, 10**9))
    slow_and_large = render_page(make_report(comparison=timed(1.0, 1.0, 2.0), costs=large))
    assert "<span>slower" not in slow_and_large and "processor with instructions for them" in slow_and_large
    as_fast = render_page(make_report(comparison=timed(1.0, 1.0, 1.0)))
    assert "<span>slower" not in as_fast and "<span>as fast" not in as_fast and "not faster than float here" in as_fast


def test_mixed_against_uniform_is_said_in_words():
    page = render_page(make_report(comparison=timed(2.0, 1.0, 1.0)))
    assert "distance to float is 0.50 times that of uniform 4." in page and "intervals of their top-1 overlap" in page
    apart = render_page(make_report(comparison=timed(2.0, 1.0, 1.0, accuracy=(0.9, 0.9, 0.1))))
    assert "overlap" not in apart


def test_a_new_section_is_one_function(monkeypatch):
    def weather(report):
        return section("Weather", f"Fine for {report.model}", "")

    monkeypatch.setattr(page_module, "SECTIONS", [*page_module.SECTIONS, weather, lambda report: ""])
    page = render_page(make_report())
    assert '<h2 id="weather">Weather</h2><p>Fine for vit-tiny</p>' in page
    Page(page)


def test_the_page_and_the_json_are_saved_side_by_side(tmp_path):
    path = save_report(make_report(plan=plan(4, 4)), tmp_path / "new")
    assert path.read_text().startswith("<!doctype html>") and (tmp_path / "new" / "report.json").exists()
