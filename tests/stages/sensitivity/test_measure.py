# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import functools
import json
import subprocess
import sys

import pytest
import torch
from conftest import BUILDERS, make_model, random_pixels

from optimum_mixq.architectures.describe import describe
from optimum_mixq.artifacts import BitPlan, SensitivityTable
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch
from optimum_mixq.stages.calibration.blocks import calibrate_variants
from optimum_mixq.stages.evaluation import score
from optimum_mixq.stages.packing import pack
from optimum_mixq.stages.sensitivity import swapping
from optimum_mixq.stages.sensitivity.measure import measure_sensitivity
from optimum_mixq.stages.sensitivity.registry import SensitivityInputs
from optimum_mixq.stages.sensitivity.swapping import _Measurement, replaced_modules
from optimum_mixq.tasks import run_model, task_of
from optimum_mixq.utils import progress


CANDIDATES = ((2, 2), (4, 4))
FAMILIES = pytest.mark.parametrize("name", sorted(BUILDERS))


def prepared(model, candidates=CANDIDATES, baseline=8, **options):
    config = MixQConfig(**options)
    return calibrate_variants(model, BitPlan.uniform(model, baseline), [random_pixels(model, 8)], config, candidates)


@functools.cache
def prepared_once(name):
    """Return the same baseline and variants to all tests, which measure them and leave them as they are."""
    return prepared(make_model(name))


def batches_of(model, images=8, labels=False):
    pixels = random_pixels(model, images, seed=5)
    given = torch.arange(images) % 5 if labels else None
    return [Batch(pixels[i : i + 4], None if given is None else given[i : i + 4], ()) for i in range(0, images, 4)]


def table_of(model, baseline, variants, batches, metric="shift", **options):
    candidates = tuple(sorted({bits for row in variants.values() for bits in row}))
    inputs = SensitivityInputs(model, batches, (8, 8), candidates, lambda _: (baseline, variants), metric, **options)
    return measure_sensitivity(inputs)


def measured(name="vit", metric="shift", labels=False, **options):
    model, (baseline, variants) = make_model(name), prepared_once(name)
    return table_of(model, baseline, variants, batches_of(model, labels=labels), metric, **options)


@FAMILIES
@torch.no_grad()
def test_damage_is_what_the_whole_model_shows(name):
    model, (baseline, variants) = make_model(name), prepared_once(name)
    table = table_of(model, baseline, variants, batches_of(model), "kl")
    pixels = torch.cat([batch.pixel_values for batch in batches_of(model)])
    reference = run_model(model, pixels)

    def diverge():
        return float(task_of(model).divergence(run_model(baseline, pixels).double(), reference.double()).mean())

    before = diverge()
    assert table.baseline_damage == pytest.approx(before, rel=1e-4)
    for unit in describe(model).units[::3]:
        with replaced_modules(baseline, variants[unit.name][(2, 2)]):
            after = diverge()
        assert table.table[unit.name][(2, 2)] == pytest.approx(after - before, rel=1e-3, abs=1e-7)
        assert table.table[unit.name][(8, 8)] == 0.0


@torch.no_grad()
def test_a_temperature_divides_the_logits_and_its_square_multiplies_the_divergence(vit):
    baseline, variants = prepared_once("vit")
    table = table_of(vit, baseline, variants, batches_of(vit), temperature=3.0)
    pixels = torch.cat([batch.pixel_values for batch in batches_of(vit)])
    reference = run_model(baseline, pixels)
    unit = describe(vit).units[0].name
    with replaced_modules(baseline, variants[unit][(2, 2)]):
        after = run_model(baseline, pixels)
    assert table.table[unit][(2, 2)] == pytest.approx(9 * score(after / 3, None, reference / 3).kl, rel=1e-4)


@FAMILIES
def test_the_shift_from_the_baseline_is_never_negative_and_fewer_bits_shift_more(name):
    table = measured(name)
    assert table.baseline_damage == pytest.approx(0, abs=1e-9)
    assert all(damage >= -1e-9 for row in table.table.values() for damage in row.values())
    assert sum(row[(2, 2)] for row in table.table.values()) > sum(row[(4, 4)] for row in table.table.values()) > 0


def test_models_are_left_as_they_are(vit):
    baseline, variants = prepared_once("vit")
    before = dict(baseline.named_modules())
    table_of(vit, baseline, variants, batches_of(vit))
    assert dict(baseline.named_modules()) == before
    assert not any("forward" in vars(module) for module in baseline.modules())


@pytest.mark.parametrize("metric", ["shift", "accuracy"])  # without labels, and with them
def test_the_halves_are_the_tables_of_every_second_image(vit, metric):
    baseline, variants = prepared_once("vit")
    drawn = batches_of(vit, 7, labels=True)
    pixels, labels = torch.cat([batch.pixel_values for batch in drawn]), torch.cat([batch.labels for batch in drawn])

    def table(rows, size):
        batches = [Batch(*both, ()) for both in zip(pixels[rows].split(size), labels[rows].split(size), strict=True)]
        return table_of(vit, baseline, variants, batches, metric)

    whole, even, odd = table(slice(None), 3), table(slice(0, None, 2), 4), table(slice(1, None, 2), 3)
    singles = [table(slice(row, row + 1), 1) for row in range(7)]
    assert [half.images for half in whole.half_tables()] == [4, 3]
    for unit in ("blocks.0.qkv", "blocks.1.qk", "blocks.2.fc2"):
        for half, expected in zip(whole.half_tables(), (even, odd), strict=True):
            assert half.table[unit] == pytest.approx(expected.table[unit], rel=1e-4, abs=1e-7)
        for bits, error in whole.errors[unit].items():
            rises = torch.tensor([single.table[unit][bits] for single in singles], dtype=torch.float64)
            assert error == pytest.approx(float(rises.std() / 7**0.5), rel=1e-3, abs=1e-6)
    assert singles[0].errors is None and singles[0].half_tables() is None


def test_packed_and_fake_quantized_models_give_the_same_table(vit):
    from optimum_mixq.stages.packing import pack_layer

    baseline, variants = prepared_once("vit")
    packed = {
        unit: {bits: {name: pack_layer(module) for name, module in row.items()} for bits, row in rows.items()}
        for unit, rows in variants.items()
    }
    slow = table_of(vit, baseline, variants, batches_of(vit))
    fast = table_of(vit, pack(baseline), packed, batches_of(vit))
    for unit, row in slow.table.items():
        assert fast.table[unit] == pytest.approx(row, abs=1e-7)


def test_weights_and_activations_are_measured_apart(vit):
    baseline, variants = prepared(vit, candidates=((3, 8), (8, 3)))
    table = table_of(vit, baseline, variants, batches_of(vit))
    row = table.table["blocks.0.fc1"]
    assert table.damage("blocks.0.fc1", (3, 3)) == row[(3, 8)] + row[(8, 3)]
    assert table.table["blocks.0.qk"][(3, 8)] == 0.0 < table.table["blocks.0.qk"][(8, 3)]


@pytest.mark.parametrize("metric", ["cross_entropy", "accuracy"])
def test_metrics_that_need_labels_say_so(metric):
    assert measured(metric=metric, labels=True).metric == metric
    with pytest.raises(ValueError, match=f"The metric '{metric}' needs labels, and these images have none"):
        measured(metric=metric)


def test_a_run_killed_in_the_middle_goes_on_and_gives_the_same_table(tmp_path, monkeypatch):
    whole = measured()
    path = tmp_path / "sensitivity.json"
    calls, original = [], _Measurement._measure_block

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(_Measurement, "_measure_block", dies)
    with pytest.raises(KeyboardInterrupt):
        measured(progress_file=path)
    assert len(json.loads(path.read_text())["done"]) == 2
    monkeypatch.setattr(_Measurement, "_measure_block", original)
    resumed = measured(progress_file=path)
    assert resumed == whole
    done = len(calls)
    assert measured(progress_file=path) == whole and len(calls) == done


def test_the_bar_counts_the_blocks_that_are_run_and_a_resumed_one_starts_where_it_was(tmp_path, monkeypatch):
    bars, runs, original = [], [], swapping.run_block

    def keep(*arguments):
        bars.append(progress.progress_bar(*arguments))
        return bars[-1]

    monkeypatch.setattr(swapping, "progress_bar", keep)
    monkeypatch.setattr(swapping, "run_block", lambda *arguments: runs.append(1) or original(*arguments))
    path = tmp_path / "sensitivity.json"
    measured(progress_file=path)
    # What is run beside the variants is one pass per batch that hands on the baseline's hidden states.
    assert bars[0].n == bars[0].total == len(runs) - 2 * 3
    monkeypatch.setattr(swapping, "run_block", original)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "done": [entry for entry in content["done"] if entry[0] == 0]}))
    measured(progress_file=path)
    assert bars[1].initial == bars[1].total / 2 and bars[1].n == bars[1].total


def test_a_table_of_something_else_is_refused_and_says_what_differs(vit, tmp_path):
    path = tmp_path / "sensitivity.json"
    baseline, variants = prepared_once("vit")
    table_of(vit, baseline, variants, batches_of(vit), progress_file=path)
    with pytest.raises(ValueError, match=r"measured with other images and batches\. Delete it"):
        table_of(vit, baseline, variants, batches_of(vit, 4), progress_file=path)
    with pytest.raises(ValueError, match=r"measured with other settings\. Delete it"):
        table_of(vit, baseline, variants, batches_of(vit), "kl", progress_file=path)
    vit.classifier.bias.data += 1
    with pytest.raises(ValueError, match=r"measured with other weights\. Delete it"):
        table_of(vit, baseline, variants, batches_of(vit), progress_file=path)


def test_a_table_survives_saving(tmp_path):
    table = measured()
    table.save(tmp_path / "table.json")
    assert SensitivityTable.load(tmp_path / "table.json") == table


def test_no_images_and_unknown_metrics_raise(vit):
    baseline, variants = prepared_once("vit")
    with pytest.raises(ValueError, match="There are no images to measure sensitivity on"):
        table_of(vit, baseline, variants, [])
    with pytest.raises(ValueError, match=r"shift, kl, cross_entropy, accuracy with .*='measured', found 'x'"):
        table_of(vit, baseline, variants, batches_of(vit), "x")


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from stages.sensitivity.test_measure import measured
table = measured()
from accelerate import PartialState
assert PartialState().num_processes == 2
if PartialState().is_main_process:
    table.save({output!r})
"""


def test_two_processes_give_the_table_of_one(tmp_path):
    from pathlib import Path

    output, script = tmp_path / "table.json", tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[2]), output=str(output)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    alone = measured()
    together = SensitivityTable.load(output)
    for unit, row in alone.table.items():
        assert together.table[unit] == pytest.approx(row, abs=1e-9)
        assert together.errors[unit] == pytest.approx(alone.errors[unit], abs=1e-9)
        for half, other in zip(together.halves, alone.halves, strict=True):
            assert half[unit] == pytest.approx(other[unit], abs=1e-9)
