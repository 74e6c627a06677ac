# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import dataclasses
import json
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import BUILDERS, PLAIN, make_model, random_pixels
from small_changes import all_signs, change_of, wave
from transformers import ViTConfig, ViTForImageClassification

from optimum_mixq import MixQConfig, MixQQuantizer
from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.watching import observed
from optimum_mixq.artifacts import BitPlan, SensitivityTable
from optimum_mixq.images.batches import Batch
from optimum_mixq.quant import bfloat16
from optimum_mixq.stages.calibration.blocks import calibrate_variants
from optimum_mixq.stages.packing import pack, pack_layer
from optimum_mixq.stages.sensitivity import gradients, traced
from optimum_mixq.stages.sensitivity.changes import VariantChanges
from optimum_mixq.stages.sensitivity.gradients import find_effects, join_effects
from optimum_mixq.stages.sensitivity.measure import measure_sensitivity
from optimum_mixq.stages.sensitivity.registry import SensitivityInputs
from optimum_mixq.stages.sensitivity.traced import draw_signs
from optimum_mixq.stages.sensitivity.traces import trace_units
from optimum_mixq.tasks import run_model, task_of
from optimum_mixq.utils import progress
from optimum_mixq.utils.bits import Bits


# One for each pixel: too many to take one after the other.
OUTPUTS_OF_PIXELS = {"segmenting_segformer", "upernet", "dpt", "depth_anything"}
APART = ((2, 8), (8, 2), (8, 4))
TIED = ((2, 2), (4, 4))


@contextmanager
def changed_layers(model, unit, change, sign):
    """Add a change of weights and of the input to a unit's layers, each alone: their product is of second order."""
    handles = []
    for name, (weight, bias) in zip(unit.modules, change.layers(), strict=True):

        def add(layer, arguments, output, weight=weight, bias=bias):
            (x,) = arguments
            return output + sign * (F.linear(x, weight, bias) + F.linear(wave(x), layer.weight))

        handles.append(model.get_submodule(name).register_forward_hook(add))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def changed_product(model, unit, sign):
    """Run attention with the operands of one product changed."""
    entered = []

    def attend(query, key, value, mask, scaling, watch):
        watch("qk", query, key)
        if entered[-1] == unit.name:
            query, key = query + sign * wave(query), key + sign * wave(key)
        scores = query @ key.mT * scaling
        weights = (scores if mask is None else scores + mask).softmax(-1)
        watch("av", weights, value)
        if entered[-1] == unit.name:
            weights, value = weights + sign * wave(weights), value + sign * wave(value)
        return weights @ value

    with observed(model, lambda name, _: entered.append(name), attend):
        yield


def signs_of(images, outputs, probes, seed):
    return next(draw_signs([images], (outputs,), probes, seed))


def check_against_divergence(model, signs, temperature, tolerance=5e-3):
    """Compare the damage of every unit with the divergence of the whole model, changed by as little."""
    effects, changed, reference = effects_and_changes(model, signs, temperature)
    task = task_of(model)
    for unit, found in effects.items():
        divergences = [task.divergence(logits, reference, temperature) for logits in changed[unit]]
        expected = sum(divergences).cpu() / 2  # what is of third order cancels
        found = found.square().mean(0) / 2
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.max()))


def effects_and_changes(model, signs, temperature):
    """Return each unit's effects (probes, images), its logits changed up and down, and the logits as they are."""
    model, architecture = model.double(), describe(model)
    pixels, task = random_pixels(model, signs.shape[1]).double(), task_of(model)
    reference = run_model(model, pixels).detach()
    found, changed = {}, {}
    signs = signs.to(pixels.device)
    for traces in trace_units(
        model, architecture, pixels, lambda logits: [task.probe(logits, row, temperature) for row in signs]
    ):
        for unit in architecture.units:
            if unit.name in traces:
                change = change_of(model, unit)
                effects = find_effects(traces[unit.name], {(2, 2): change}, len(pixels))
                found[unit.name] = effects[(2, 2)].cpu()
    for unit in architecture.units:
        change, changed[unit.name] = change_of(model, unit), []
        for sign in (1, -1):
            context = changed_layers(model, unit, change, sign) if unit.modules else changed_product(model, unit, sign)
            with context, torch.no_grad():
                changed[unit.name].append(run_model(model, pixels))
    return found, changed, reference


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name", sorted(BUILDERS.keys() - OUTPUTS_OF_PIXELS))
def test_the_damage_is_the_divergence_of_a_small_change(name, temperature):
    model = make_model(name)
    shape = run_model(model, random_pixels(model, 1)).shape[1:]
    signs = all_signs(5, 3) if shape == (5,) else next(draw_signs([3], shape, shape.numel(), 0)).double()
    # The head of a YOLOS has ReLUs, which bend where a gradient does not see it.
    check_against_divergence(model, signs, temperature, 2e-2 if name == "yolos" else 5e-3)


@pytest.mark.parametrize("name", ["segmenting_segformer", "upernet", "dpt", "depth_anything"])
def test_effects_are_what_a_small_change_does_to_what_is_probed(name):
    model = make_model(name)
    shape = run_model(model, random_pixels(model, 1)).shape[1:]
    signs = next(draw_signs([2], shape, 3, 0)).double().to(model.device)
    effects, changed, reference = effects_and_changes(model, signs, 4.0)
    probes = torch.stack([task_of(model).probe(reference, row, 4.0) for row in signs])
    for unit, found in effects.items():
        up, down = changed[unit]
        expected = (probes * (up - down) / 2).flatten(2).sum(2).cpu()  # what is of second order cancels
        # Behind the blocks are ReLUs, which bend where a gradient does not see it.
        torch.testing.assert_close(found, expected, rtol=5e-2, atol=5e-2 * float(expected.abs().max()))


def build(problem_type, outputs):
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**PLAIN | {"num_labels": outputs, "problem_type": problem_type}))
    model.classifier.weight.data.mul_(10)
    return model.eval()


HEADS = [(None, 1), ("regression", 1), ("regression", 3), ("multi_label_classification", 1),
         ("multi_label_classification", 4), ("single_label_classification", 3)]  # fmt: skip


@pytest.mark.parametrize(("problem_type", "outputs"), HEADS)
def test_heads_of_one_logit_many_labels_and_numbers_have_their_own_divergence(problem_type, outputs):
    signs = signs_of(2, outputs, 4, seed=0).double()
    assert len(signs) == outputs  # no more outputs than probes: exact without random signs
    check_against_divergence(build(problem_type, outputs), signs, 2.0)


def test_embeddings_have_the_cosine_distance():
    model = make_model("vit").base_model
    check_against_divergence(model, signs_of(2, 24, 24, seed=0).double(), 4.0)  # one output after the other: exact


def test_random_signs_are_those_of_an_image_however_many_come_after_it():
    few, many = signs_of(2, 10, 4, seed=3), signs_of(5, 10, 4, seed=3)
    assert few.shape == (4, 2, 10) and torch.equal(few, many[:, :2])
    assert set(many.unique().tolist()) == {-1, 1} and not torch.equal(many, signs_of(5, 10, 4, seed=4))
    mean = torch.einsum("pij,pik->jk", *2 * [signs_of(500, 6, 4, seed=0).double()]) / 2000
    torch.testing.assert_close(mean, torch.eye(6, dtype=torch.float64), atol=0.1, rtol=0)


def inputs_of(model, candidates=TIED, batch=4, images=8, **options):
    config = MixQConfig(arithmetic=options.pop("arithmetic", "column"))

    def calibrate(bits):
        pixels = [random_pixels(model, 8)]
        baseline, variants = calibrate_variants(model, BitPlan.uniform(model, 8), pixels, config, bits, pack_layer)
        return pack(baseline), variants

    batches = [Batch(part, None, ()) for part in random_pixels(model, images, seed=5).split(batch)]
    return SensitivityInputs(model, batches, (8, 8), candidates, calibrate, temperature=4.0, **options)


def table_of(model, candidates=TIED, **options):
    return measure_sensitivity(inputs_of(model, candidates, **options), "gradient")


@torch.no_grad()
@pytest.mark.parametrize("arithmetic", ["column", "folded"])
def test_a_change_is_what_the_variant_does_to_its_output(model, arithmetic):
    # One width is enough for each family: rounding knows none of families, and other tests go through the widths.
    baseline, variants = (inputs := inputs_of(model, ((2, 4),), arithmetic=arithmetic)).calibrate(((2, 4),))
    changes = VariantChanges(baseline, (8, 8), variants)
    for unit in [unit for unit in describe(model).units if unit.modules]:
        for bits in inputs.candidates:
            modules, change = variants[unit.name][bits], changes.of(unit)[bits]
            layers = [changes.model.get_submodule(name) for name in unit.modules]
            norm = next((name for name in modules if name not in unit.modules), None)
            hidden = torch.randn(64, layers[0].in_features, generator=torch.Generator().manual_seed(0))
            hidden = hidden.to(layers[0].weight.device)
            read, entering = hidden, hidden
            if norm is not None:
                read, entering = changes.model.get_submodule(norm)(hidden), modules[norm](hidden)
            rounded = read + change.operands[0](read)
            for name, layer, (weight, bias) in zip(unit.modules, layers, change.layers(), strict=True):
                found = F.linear(rounded, layer.weight + weight, bias + (0 if layer.bias is None else layer.bias)
                                 if bias is not None else layer.bias)  # fmt: skip
                expected = modules[name](entering)
                # Folded another way round, a number may fall on the other side of a rounding boundary.
                close = torch.isclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
                assert close.float().mean() > 0.98, (unit.name, bits)


@torch.no_grad()
def test_the_rounding_of_attention_weights_is_that_of_their_scores(vit):
    from optimum_mixq.quant.softmax_grids import softmax_grid_names, softmax_grid_of
    from optimum_mixq.stages.sensitivity.changes import _round_softmax

    scores = 4 * torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    scores[..., -2:] = -torch.inf  # masked
    weights = scores.softmax(-1)
    for kind in map(softmax_grid_of, softmax_grid_names()):
        grid = kind(3, (kind.settings(3) or (0,))[0])
        torch.testing.assert_close(weights + _round_softmax(grid, weights), grid.softmax(scores))


def test_a_table_holds_every_unit_at_every_width_and_fewer_bits_cost_more(model):
    table = table_of(model, APART)
    assert set(table.table) == {unit.name for unit in describe(model).units}
    assert table.covers(APART) and table.baseline_damage == 0 and table.images == 8
    for unit in describe(model).units:
        row = table.table[unit.name]
        assert row[(8, 2)] > 0 and row[(8, 4)] > 0 and row[(8, 8)] == 0
        assert (row[(2, 8)] == 0) == unit.is_matmul
    assert statistics.median(row[(8, 2)] / row[(8, 4)] for row in table.table.values()) > 4


def test_what_weights_and_activations_do_to_the_logits_is_summed_before_squaring(vit):
    table = table_of(vit, ((2, 8), (3, 8), (8, 2)), images=4)
    row = table.table["blocks.1.fc2"]
    assert set(row) == {(2, 8), (3, 8), (8, 2), (2, 2), (3, 2), (8, 8)}
    assert table.damage("blocks.1.fc2", Bits(2, 2)) == row[(2, 2)] != row[(2, 8)] + row[(8, 2)]
    assert row[(2, 2)] <= (row[(2, 8)] ** 0.5 + row[(8, 2)] ** 0.5) ** 2 * (1 + 1e-6)
    assert set(table.table["blocks.1.qk"]) == {(2, 8), (3, 8), (8, 2), (8, 8)}  # the operands' bits alone
    effects = {(2, 8): torch.tensor([[1.0]]), (8, 3): torch.tensor([[-3.0]]), (4, 4): torch.tensor([[5.0]])}
    joined = join_effects(effects, Bits(8, 8))
    assert {bits: float(effect) for bits, effect in joined.items()} == {(2, 3): -2, (2, 8): 1, (8, 3): -3, (4, 4): 5}


def test_products_cost_nothing_where_only_weights_have_other_bits(vit):
    for unit, row in table_of(vit, ((3, 8),), images=2).table.items():
        assert set(row) == {(3, 8), (8, 8)} and (row[(3, 8)] == 0) == unit.endswith(("qk", "av"))


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_groups_and_batches_of_other_sizes_give_the_same_table(name, monkeypatch):
    whole = table_of(make_model(name))
    numbers = 3 * 17 * 24 if name == "vit" else 3 * 256 * 8
    monkeypatch.setattr(traced, "TRACED_NUMBERS", numbers)  # three images at once
    monkeypatch.setattr(gradients, "CACHED_NUMBERS", 1)
    parts = table_of(make_model(name), batch=7)
    assert parts.fingerprint == whole.fingerprint
    for unit, row in whole.table.items():
        # In another last digit a number may fall on the other side of a rounding boundary.
        assert parts.table[unit] == pytest.approx(row, rel=0.05)
        assert parts.errors[unit] == pytest.approx(whole.errors[unit], rel=0.05, abs=1e-9)
        for half, other in zip(parts.halves, whole.halves, strict=True):
            assert half[unit] == pytest.approx(other[unit], rel=0.05)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_in_bfloat16_damages_are_the_same_within_their_standard_errors(name, monkeypatch):
    tables = []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(gradients, "dtype_of_products", lambda _, dtype=dtype: dtype)
        monkeypatch.setattr(bfloat16, "dtype_of_products", lambda _, dtype=dtype: dtype)
        tables.append(table_of(make_model(name)))
    assert tables[0].table != tables[1].table
    ratios, deviations = [], []
    for unit, row in tables[0].table.items():
        for bits, damage in row.items():
            if damage:
                found = tables[1].table[unit][bits]
                ratios.append(found / damage)
                deviations.append(abs(found - damage) / tables[0].errors[unit][bits])
    assert statistics.median(ratios) == pytest.approx(1, abs=0.05)
    # A standard error of eight images may be small by chance.
    assert statistics.quantiles(deviations, n=10)[-1] < 2 and statistics.median(deviations) < 0.5


def test_the_model_is_left_as_it_is(vit):
    before = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    attention, wanted = vit.config._attn_implementation, [p.requires_grad for p in vit.parameters()]
    table_of(vit)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vit.state_dict().items())
    assert vit.config._attn_implementation == attention and wanted == [p.requires_grad for p in vit.parameters()]


def test_a_killed_run_goes_on_and_gives_the_same_table(vit, tmp_path, monkeypatch):
    monkeypatch.setattr(traced, "TRACED_NUMBERS", 2 * 17 * 24)  # two images at once
    whole, path = table_of(vit), tmp_path / "sensitivity.json"
    calls, original = [], traced._Measurement._measure_group

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(traced._Measurement, "_measure_group", dies)
    with pytest.raises(KeyboardInterrupt):
        table_of(vit, progress_file=path)
    assert json.loads(path.read_text())["done"] == [[0], [1]]
    assert table_of(vit, progress_file=path) == whole
    assert len(calls) == 3 + 2  # four groups, the third of them tried twice
    assert table_of(vit, progress_file=path) == whole and len(calls) == 5
    with pytest.raises(ValueError, match=r"holds a sensitivity measured with other settings\. Delete it"):
        table_of(vit, progress_file=path, seed=1)


def test_images_are_taken_until_the_table_is_enough_however_they_are_batched(vit, monkeypatch):
    monkeypatch.setattr(traced, "FIRST_CHECK", 2)
    asked = []

    def enough(table):
        asked.append(table)
        return table.images >= 4

    found = table_of(vit, batch=3, enough=enough)
    assert [table.images for table in asked] == [2, 4] and found.images == 4
    assert found == dataclasses.replace(asked[-1], image_size=(16, 16))
    other = table_of(vit, batch=8, enough=lambda table: table.images >= 4)
    first = table_of(vit, batch=2, images=16, enough=lambda table: table.images >= 4)
    for unit, row in found.table.items():
        assert other.table[unit] == pytest.approx(row, rel=0.05) and first.table[unit] == pytest.approx(row, rel=0.05)
    asked.clear()
    never = table_of(vit, enough=lambda table: asked.append(table))  # all images, and nothing is asked about all
    assert [table.images for table in asked] == [2, 4] and never == table_of(vit)


def test_a_stopped_table_goes_on_where_it_is_not_enough(vit, tmp_path, monkeypatch):
    monkeypatch.setattr(traced, "FIRST_CHECK", 2)
    path, asked, groups, original = tmp_path / "sensitivity.json", [], [], traced._Measurement._measure_group

    def counted(*arguments):
        groups.append(1)
        return original(*arguments)

    monkeypatch.setattr(traced._Measurement, "_measure_group", counted)
    whole = table_of(vit)
    groups.clear()
    few = table_of(vit, progress_file=path, enough=lambda table: True)
    assert few.images == 2 and len(groups) == 1
    assert table_of(vit, progress_file=path, enough=lambda table: True) == few and len(groups) == 1
    assert table_of(vit, progress_file=path, enough=lambda table: asked.append(table.images)) == whole
    assert asked == [2, 4] and len(groups) == 4
    # All that is done counts, also where less would have been enough.
    assert table_of(vit, progress_file=path, enough=lambda table: True) == whole and len(groups) == 4


def test_a_run_that_was_killed_stops_at_the_same_image(vit, tmp_path, monkeypatch):
    monkeypatch.setattr(traced, "FIRST_CHECK", 2)
    path, calls, original = tmp_path / "sensitivity.json", [], traced._Measurement._measure_group

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    def enough(table):
        return table.images == 8

    whole = table_of(vit, images=12, enough=enough)
    monkeypatch.setattr(traced._Measurement, "_measure_group", dies)
    with pytest.raises(KeyboardInterrupt):
        table_of(vit, images=12, enough=enough, progress_file=path)
    assert table_of(vit, images=12, enough=enough, progress_file=path) == whole
    assert whole.images == 8 and len(calls) == 3 + 2


def test_the_bar_is_full_where_images_were_enough(vit, monkeypatch):
    bars = []

    def keep(*arguments):
        bars.append(progress.progress_bar(*arguments))
        return bars[-1]

    monkeypatch.setattr(traced, "FIRST_CHECK", 2)
    monkeypatch.setattr(traced, "progress_bar", keep)
    table_of(vit, enough=lambda table: table.images == 4)
    assert bars[0].n == bars[0].total == 4


def test_what_gradients_cannot_tell_is_refused(vit):
    with pytest.raises(ValueError, match="be one of shift with sensitivity='gradient', found 'kl'"):
        table_of(vit, metric="kl")
    with pytest.raises(ValueError, match="found 'accuracy'. Set sensitivity to 'measured', or leave out metric"):
        MixQConfig(sensitivity="gradient", metric="accuracy")
    with pytest.raises(ValueError, match="Expected metric to be 'shift', found 'x'"):
        MixQConfig(sensitivity="gradient", metric="x")
    vit.classifier.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="Expected finite numbers in "):
        table_of(vit)


@pytest.mark.parametrize(("problem_type", "outputs"), [(None, 1), ("multi_label_classification", 4), (None, 5)])
def test_a_mixed_plan_is_chosen_from_gradients(problem_type, outputs):
    model = build(problem_type, outputs)
    config = MixQConfig(
        bits=4, calibration_samples=8, sensitivity_samples=8, batch_size=4, sensitivity="gradient", compare=False
    )
    quantizer = MixQQuantizer.from_pretrained(model)
    quantizer.quantize(config, random_pixels(model, 12))
    assert quantizer.plan.provenance["achieved"]["average_bits"] <= 4
    assert all(row[(3, 8)] > 0 for unit, row in quantizer.sensitivity.table.items() if unit.endswith("fc2"))
    again = dataclasses.replace(config, bits=4, alpha=0)
    assert quantizer.measure_sensitivity(random_pixels(model, 12), again) is quantizer.sensitivity


IN_FLOAT64 = [
    *(("vit", "column", method) for method in ("gradient", "fisher", "hawq", "first-order", "measured")),
    ("swin", "column", "gradient"), ("swin", "column", "measured"), ("vit", "folded", "gradient"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arithmetic", "method"), IN_FLOAT64)
def test_a_model_in_float64_gets_its_bits_by_every_method(name, arithmetic, method):
    model = make_model(name).double()
    config = MixQConfig(
        bits=4, arithmetic=arithmetic, candidate_bits=(3, 5), calibration_samples=8, sensitivity_samples=4,
        batch_size=4, sensitivity=method, compare=False,
    )  # fmt: skip
    quantizer = MixQQuantizer.from_pretrained(model)
    quantizer.quantize(config, random_pixels(model, 12))
    damages = [row[bits] for row in quantizer.sensitivity.table.values() for bits in row]
    assert all(damage == damage and abs(damage) < float("inf") for damage in damages) and any(damages)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from conftest import make_model
from optimum_mixq.stages.sensitivity import traced
from stages.sensitivity.test_gradients import table_of
traced.TRACED_NUMBERS = 2 * 17 * 24
traced.FIRST_CHECK = 2
table = table_of(make_model("vit"), images=6, enough=lambda table: True)  # asked in one process only
from accelerate import PartialState
assert PartialState().num_processes == 2
if PartialState().is_main_process:
    table.save({output!r})
"""


def test_two_processes_give_the_table_of_one(vit, tmp_path):
    output, script = tmp_path / "table.json", tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[2]), output=str(output)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    together = SensitivityTable.load(output)
    alone = table_of(vit, images=6)
    for unit, row in alone.table.items():
        assert together.table[unit] == pytest.approx(row, rel=0.05)
        assert together.errors[unit] == pytest.approx(alone.errors[unit], rel=0.05, abs=1e-9)
        for half, other in zip(together.halves, alone.halves, strict=True):
            assert half[unit] == pytest.approx(other[unit], rel=0.05)
