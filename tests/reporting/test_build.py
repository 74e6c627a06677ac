# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import dataclasses
import json
from importlib.metadata import version

import pytest
import torch
from conftest import WINDOWED, make_model, random_pixels
from transformers import AutoModelForImageClassification, SwinConfig

from optimum_mixq import BitPlan, MixQConfig, MixQQuantizer, open_images
from optimum_mixq.architectures.rebuilding import require_same_shape
from optimum_mixq.images.selection import Selection, ServedImages, UnseenBatches
from optimum_mixq.reporting.build import Subject, _other_plans
from optimum_mixq.reporting.compare import score_together
from optimum_mixq.reporting.comparison import name_machine
from optimum_mixq.reporting.frontier import Frontier
from optimum_mixq.reporting.report import count_float_parts
from optimum_mixq.stages.evaluation import measure_logits, score


SMALL = MixQConfig(bits=4, calibration_samples=8, sensitivity_samples=8, batch_size=4, compare=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a quantizer, the folder of its model, and its report."""
    model, folder = make_model("swin"), tmp_path_factory.mktemp("report") / "out"
    quantizer = MixQQuantizer.from_pretrained(model)
    pixels = random_pixels(model, 40)
    quantizer.quantize(SMALL, pixels, folder)
    return quantizer, folder, quantizer.report(pixels, folder, frontier=2)


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
    # No plan of this budget lies below the frontier.
    (least,) = [point["objective"] for point in content["frontier"] if 3.9 < point["average_bits"] <= 4]
    assert content["score"] >= least * (1 - 1e-9)
    assert content["contenders"][-1]["evaluation"]["images"] == 32 == report.contenders[-1].evaluation.images


def test_the_json_has_the_keys_that_programs_read(made):
    _, folder, _ = made
    content = json.loads((folder / "report.json").read_text())
    assert set(content) == {
        "title", "model", "date", "origin", "dataset", "left_out", "machine", "contenders", "bits", "plan", "layers",
        "relevance", "sensitivity", "score", "frontier", "measured_frontier", "disagreeing", "float_parts",
    }  # fmt: skip
    assert set(content["contenders"][0]) == {
        "name", "megabytes", "milliseconds", "evaluation", "accuracy_interval"
    }  # fmt: skip
    assert set(content["contenders"][0]["evaluation"]) == {"images", "accuracy", "agreement", "kl"}
    assert [row["unit"] for row in content["layers"]] == list(content["bits"])
    assert content["left_out"] == 8


def test_sizes_of_the_frontier_are_packed_and_measured_on_the_same_images(made):
    quantizer, _, report = made
    fewest, most = report.measured
    assert fewest.average_bits == 3 < 4 < most.average_bits and most.megabytes > fewest.megabytes
    assert most.evaluation.kl < fewest.evaluation.kl
    assert {point.evaluation.images for point in report.measured} == {32}
    again = MixQQuantizer.from_pretrained(quantizer.model)
    packed = again.quantize(dataclasses.replace(SMALL), random_pixels(quantizer.model, 40), plan=fewest.plan)
    images = open_images(random_pixels(quantizer.model, 40), quantizer.model, None)
    batches = UnseenBatches(images, range(40), 4, quantizer.selection.served)
    reference, expected = (measure_logits(model, batches)[0] for model in (quantizer.model, packed))
    assert fewest.evaluation.kl == pytest.approx(score(expected, None, reference).kl, rel=1e-6)


def test_no_size_is_packed_where_none_is_asked_for(made):
    quantizer, folder, report = made
    again = quantizer.report(random_pixels(quantizer.model, 40), folder.parent / "none", frontier=0)
    assert again.measured == () and again.predicted == report.predicted
    assert json.loads((folder.parent / "none" / "report.json").read_text())["measured_frontier"] == []


def test_a_number_of_sizes_that_is_none_is_refused(made):
    quantizer, folder, _ = made
    for wrong in (-1, 2.5, "many"):
        with pytest.raises(ValueError, match=f"Expected frontier to be a whole number from zero, found {wrong!r}"):
            quantizer.report(random_pixels(quantizer.model, 40), folder.parent / "wrong", frontier=wrong)
    assert not (folder.parent / "wrong").exists()


def test_a_plan_is_packed_once_and_that_of_the_model_itself_not_at_all(made):
    quantizer, _, report = made
    best = Frontier(report.costs, quantizer.relevance, quantizer.sensitivity, SMALL.budget)
    plans = best.spread_plans(9)
    assert len({tuple(plan.bits.items()) for plan in plans}) == len(plans) > 4
    subject = Subject(quantizer.model, quantizer.quantized, plans[2], SMALL)
    assert _other_plans(subject, plans) == (*plans[:2], *plans[3:])


def test_layers_that_keep_their_bits_leave_out_the_sizes_that_have_no_plan(vit, tmp_path):
    quantizer, pixels = MixQQuantizer.from_pretrained(vit), random_pixels(vit, 24)
    config = dataclasses.replace(SMALL, tie_bits=True, exclude=("*.fc2",), bits=5)
    quantizer.quantize(config, pixels)
    report = quantizer.report(pixels, tmp_path, frontier=2)
    assert len(report.measured) == 2 and report.measured[0].average_bits > 4
    assert all(bits[0] == 7 for unit, bits in report.measured[0].plan.bits.items() if unit.endswith("fc2"))


def test_damage_of_weights_and_of_activations_is_drawn_apart(made):
    _, folder, _ = made
    page = (folder / "report.html").read_text()
    weights, activations = page.split("<h3>At 3 / 8 bits (weights / activations)</h3>")[1].split("<h3>At 8 / 3 bits (")
    # A matmul has no weight.
    assert ".qk:" not in weights and ".fc1:" in weights and ".qk:" in activations


def test_tied_bits_are_drawn_once_and_have_a_frontier(vit, tmp_path):
    quantizer, pixels = MixQQuantizer.from_pretrained(vit), random_pixels(vit, 24)
    quantizer.quantize(dataclasses.replace(SMALL, tie_bits=True), pixels)
    assert len(quantizer.report(pixels, tmp_path, frontier=0).predicted) > 3
    page = (tmp_path / "report.html").read_text()
    assert page.count("<h3>At ") == 1 and "<h3>At 3 bits</h3>" in page


def test_the_report_the_card_and_the_file_tell_the_same_size(made):
    quantizer, folder, report = made
    size = (folder / "model.safetensors").stat().st_size / 1e6
    assert report.contenders[-1].megabytes == size <= quantizer.plan.provenance["achieved"]["bytes"] / 1e6
    told = f"{size:.2f} MB instead of {report.contenders[0].megabytes:.2f} MB"
    assert told in (folder / "README.md").read_text()


def test_what_stays_float_is_counted_and_nothing_else(made):
    quantizer, _, _ = made
    parts = count_float_parts(quantizer.quantized)
    state = quantizer.quantized.state_dict()
    assert sum(parts.values()) == sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())
    assert all("norm" in name or "bias" in name for name in parts)


def test_the_card_beside_the_model_tells_what_the_report_measured(made):
    _, folder, report = made
    card = (folder / "README.md").read_text()
    assert f"{report.contenders[-1].milliseconds:.2f} ms" in card and name_machine() in card


def test_an_evaluation_after_the_report_keeps_its_times(made):
    quantizer, _, _ = made
    times = quantizer.comparison.milliseconds
    scores = quantizer.evaluate(random_pixels(quantizer.model, 12, seed=5))
    assert quantizer.comparison.packed.evaluation == scores["quantized"] and scores["quantized"].images == 12
    assert list(quantizer.comparison.milliseconds.values()) == [times["float"], list(times.values())[-1]] != []


def test_a_reopened_model_gives_the_same_report(made):
    quantizer, folder, report = made
    pixels = random_pixels(quantizer.model, 40)
    reopened = MixQQuantizer.reopen(folder, quantizer.model)
    reopened.selection = Selection()  # so that the images that served are there again
    again = reopened.report(pixels, folder.parent / "again", frontier=0)
    assert again.contenders[-1].evaluation == report.contenders[-1].evaluation
    assert again.predicted == report.predicted
    assert torch.equal(again.heat_maps[0].relevance, report.heat_maps[0].relevance)


def test_another_float_model_is_refused_before_images_are_read(made):
    _, folder, _ = made
    vit = make_model("vit")
    with pytest.raises(
        ValueError, match="The float model does not match the packed one in .*: its type is vit, and not"
    ):
        require_same_shape(vit, AutoModelForImageClassification.from_pretrained(folder), str(folder))
    with pytest.raises(ValueError, match="its layers' size is .*, and not .*. Name the model that it was made"):
        swin = type(make_model("swin"))(SwinConfig(**WINDOWED | {"num_labels": 3}))
        require_same_shape(swin, AutoModelForImageClassification.from_pretrained(folder), str(folder))


def test_the_page_tells_when_and_how_it_was_made(made, vit, tmp_path):
    _, _, report = made
    assert f"{report.date}, optimum-mixq {version('optimum-mixq')}" == report.origin[0]
    assert report.origin[1].startswith("Budget: 4 bits") and len(report.origin) == 2  # no command switches `compare`
    quantizer, pixels = MixQQuantizer.from_pretrained(vit), random_pixels(vit, 24)
    quantizer.quantize(dataclasses.replace(SMALL, compare=True), pixels, plan="uniform")
    _, command = quantizer.report(pixels, tmp_path).origin
    assert command.startswith("Made by: optimum-cli mixq quantize --model vit --dataset DATASET")
    assert f"<code>{command.removeprefix('Made by: ')}</code>" in (tmp_path / "report.html").read_text()


def test_a_hand_written_plan_is_reported_without_measurements(vit, tmp_path):
    quantizer = MixQQuantizer.from_pretrained(vit)
    bits = BitPlan.uniform(vit, 4).bits | {"blocks.0.fc2": (8, 6)}
    pixels = random_pixels(vit, 24)
    quantizer.quantize(SMALL, pixels, plan=BitPlan(bits))
    report = quantizer.report(pixels, tmp_path)
    assert report.predicted == report.measured == ()
    assert "blocks.0.fc2: weights 8 bits, activations 6 bits" in (tmp_path / "report.html").read_text()


def test_scores_of_batches_are_those_of_all_images_together(vit):
    pixels, labels = random_pixels(vit, 10), [row % 5 for row in range(10)]
    rows = [{"pixel_values": image, "label": label} for image, label in zip(pixels, labels, strict=True)]
    images = open_images(rows, vit, None)
    batches = UnseenBatches(images, range(10), 4, ServedImages())  # 4, 4 and 2 images
    other = make_model("deit")
    found = score_together({"float": vit, "other": other}, batches)
    (reference, known), (logits, _) = (measure_logits(model, batches) for model in (vit, other))
    for name, expected in (("float", score(reference, known)), ("other", score(logits, known, reference))):
        for key in ("images", "accuracy", "agreement", "kl"):
            assert found[name][key] == pytest.approx(expected[key]), (name, key)
