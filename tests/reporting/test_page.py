# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import dataclasses
import json
import re
from html.parser import HTMLParser
from importlib.metadata import version

import pytest
import torch
from conftest import WINDOWED, random_pixels
from transformers import AutoModelForImageClassification, SwinConfig

from optimum_mixq import BitPlan, MixQConfig, MixQQuantizer
from optimum_mixq.architectures.rebuilding import require_same_shape
from optimum_mixq.reporting.page import Contender, Report, float_parts, frontier_points, frontier_table, name_machine
from optimum_mixq.stages.evaluation import Evaluation


SMALL = MixQConfig(bits=4, calibration_samples=8, sensitivity_samples=8, batch_size=4)


def plans():
    return [
        BitPlan(
            {"blocks.0.fc1": bits},
            {
                "achieved": {"average_bits": float(bits), "bytes": 100_000 * bits, "bops": 10**9 * bits},
                "objective": 1 / bits,
                "proven_optimal": bits != 3,
            },
        )
        for bits in (2, 3, 4)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a quantizer, the folder of its model, and its report."""
    from conftest import make_model

    model, folder = make_model("swin"), tmp_path_factory.mktemp("report") / "out"
    quantizer = MixQQuantizer.from_pretrained(model)
    pixels = random_pixels(model, 40)
    quantizer.quantize(SMALL, pixels, folder)
    return quantizer, folder, quantizer.report(pixels, folder)


class Page(HTMLParser):
    """Collects text, and fails on a tag that is not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_table_has_a_row_per_plan_and_says_what_is_proven():
    rows = frontier_table(plans()).splitlines()[2:]
    assert rows[0] == "| 2.00 | 0.20 | 2.00 | 0.5 | yes |"
    assert "not proven" in rows[1] and len(rows) == 3
    assert frontier_points(plans())[0] == (0.2, 0.5, "2.00 bits")


def test_the_page_is_well_formed_and_needs_no_other_file(made):
    _, folder, _ = made
    page = Page()
    page.feed((folder / "report.html").read_text())
    assert page.open == []
    assert len(page.links) == 4 and all(link.startswith("data:image/png;base64,") for link in page.links)
    titles = ("Bits of every unit", "Relevance", "Sensitivity", "Frontier", "What the model looks at")
    assert all(title in page.text for title in (*titles, "Float, uniform, mixed", "What stays float"))


def test_the_json_tells_what_was_measured(made):
    quantizer, folder, report = made
    content = json.loads((folder / "report.json").read_text())
    names = [contender["name"] for contender in content["contenders"]]
    assert names[0] == "float" and names[-1] in ("this model", "uniform 4")
    expected = {unit: bits[0] if bits[0] == bits[1] else list(bits) for unit, bits in quantizer.plan.bits.items()}
    assert content["bits"] == expected
    assert content["relevance"] == quantizer.relevance.scores
    scores = [point["objective"] for point in content["frontier"]]
    assert scores == sorted(scores, reverse=True) and len(scores) > 3
    # No plan of this budget lies below the frontier, whatever it was chosen for.
    (least,) = [point["objective"] for point in content["frontier"] if 3.9 < point["average_bits"] <= 4]
    assert content["score"] >= least * (1 - 1e-9)
    assert content["contenders"][-1]["evaluation"]["images"] == 32 == report.contenders[-1].evaluation.images


def test_damage_of_weights_and_of_activations_is_drawn_apart(made):
    _, folder, _ = made
    page = (folder / "report.html").read_text()
    weights, activations = page.split("<p>At 3/8 bits (weights/activations):</p>")[1].split("<p>At 8/3 bits (")
    # A matmul has no weight.
    assert ".qk:" not in weights and ".fc1:" in weights and ".qk:" in activations


def test_tied_bits_are_drawn_once_and_have_a_frontier(vit, tmp_path):
    quantizer, pixels = MixQQuantizer.from_pretrained(vit), random_pixels(vit, 24)
    quantizer.quantize(dataclasses.replace(SMALL, tie_bits=True), pixels)
    assert len(quantizer.report(pixels, tmp_path).frontier) > 3
    page = (tmp_path / "report.html").read_text()
    assert page.count("<p>At ") == 1 and "<p>At 3 bits:</p>" in page


def test_the_report_the_card_and_the_file_tell_the_same_size(made):
    quantizer, folder, report = made
    size = (folder / "model.safetensors").stat().st_size / 1e6
    assert report.contenders[-1].megabytes == size <= quantizer.plan.provenance["achieved"]["bytes"] / 1e6
    told = f"{size:.2f} MB instead of {report.contenders[0].megabytes:.2f} MB"
    assert told in (folder / "README.md").read_text()


def test_what_stays_float_is_counted_and_nothing_else(made):
    quantizer, _, _ = made
    parts = float_parts(quantizer.quantized)
    state = quantizer.quantized.state_dict()
    assert sum(parts.values()) == sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())
    assert all("norm" in name or "bias" in name for name in parts)


def test_the_card_beside_the_model_tells_what_the_report_measured(made):
    _, folder, report = made
    card = (folder / "README.md").read_text()
    assert f"{report.contenders[-1].milliseconds:.2f} ms" in card and name_machine() in card


def test_a_reopened_model_gives_the_same_report(made):
    quantizer, folder, report = made
    pixels = random_pixels(quantizer.model, 40)
    reopened = MixQQuantizer(quantizer.model, None)
    reopened.quantized = AutoModelForImageClassification.from_pretrained(folder)
    reopened.plan = BitPlan.load(folder / "mixq_plan.json")
    reopened.load_measurements(folder)
    again = reopened.report(pixels, folder.parent / "again")
    assert again.contenders[-1].evaluation == report.contenders[-1].evaluation
    assert again.frontier == report.frontier
    assert torch.equal(again.heat_maps[0].relevance, report.heat_maps[0].relevance)


def test_another_float_model_is_refused_before_images_are_read(made):
    from conftest import make_model

    _, folder, _ = made
    vit = make_model("vit")
    with pytest.raises(
        ValueError, match="The float model does not match the packed one in .*: its type is vit, and not"
    ):
        require_same_shape(vit, AutoModelForImageClassification.from_pretrained(folder), str(folder))
    with pytest.raises(ValueError, match="its layers' size is .*, and not .*. Name the model that it was made"):
        swin = type(make_model("swin"))(SwinConfig(**WINDOWED | {"num_labels": 3}))
        require_same_shape(swin, AutoModelForImageClassification.from_pretrained(folder), str(folder))


def test_the_page_tells_when_and_how_it_was_made_and_what_the_colours_mean(made):
    quantizer, folder, report = made
    page = (folder / "report.html").read_text()
    assert f"optimum-mixq {version('optimum-mixq')}" in report.origin[0] and report.origin[1].startswith(
        "Budget: 4 bits"
    )
    assert report.origin[2].startswith("Made by: optimum-cli mixq quantize --model swin --dataset DATASET")
    assert all(line in page for line in report.origin)
    unit, bits = next((unit, bits) for unit, bits in quantizer.plan.bits.items() if bits[0] != bits[1])
    assert f"<title>{unit}: {bits[0]}/{bits[1]} bits</title>" in page
    assert "prefers-color-scheme:dark" in page and "@media print" in page


def told(*milliseconds, kl=(None, 0.02, 0.01), accuracy=(0.9, 0.88, 0.87)):
    """Return the words under the table of a report on a float, a uniform and a mixed model."""
    contenders = [
        Contender(name, 1.0, time, Evaluation(100, right, None, distance))
        for name, time, distance, right in zip(
            ("float", "uniform 4", "this model"), milliseconds, kl, accuracy, strict=True
        )
    ]
    report = Report(
        "a", (), "100 images", "a machine", tuple(contenders), BitPlan({"blocks.0.fc1": 4}), (4, 4), None, None, (),
        None, {}, (),
    )  # fmt: skip
    return report.as_html()


def test_mixed_against_uniform_is_said_in_words():
    page = told(2.0, 1.0, 1.0)
    assert "distance to float is 0.50 times that of uniform 4." in page and "intervals of their top-1 overlap" in page
    assert "overlap" not in told(2.0, 1.0, 1.0, accuracy=(0.9, 0.9, 0.1))


def test_a_model_that_is_not_faster_is_not_praised_for_it():
    faster, slower = told(2.0, 1.0, 1.0), told(1.0, 1.0, 2.0)
    assert "2.0 x</b><span>as fast" in faster and "not faster than float here" not in faster
    assert "as fast" not in slower and "not faster than float here" in slower
    assert "-3.00</b><span>points of top-1: 90.00 % to 87.00 % on 100 images" in slower


def test_a_hand_written_plan_is_reported_without_measurements(vit, tmp_path):
    quantizer = MixQQuantizer.from_pretrained(vit)
    bits = BitPlan.uniform(vit, 4).bits | {"blocks.0.fc2": (8, 6)}
    pixels = random_pixels(vit, 24)
    quantizer.quantize(SMALL, pixels, plan=BitPlan(bits))
    quantizer.report(pixels, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert ">8/6<" in page and "Frontier" not in page
    assert not re.search("<h2>(Relevance|Sensitivity)", page)
