# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import json

import pytest
import torch

from optimum_mixq.artifacts import BitPlan, SensitivityTable
from optimum_mixq.stages.sensitivity.moments import make_table, sum_images
from optimum_mixq.stages.sensitivity.progress import Progress
from optimum_mixq.stages.sensitivity.registry import SensitivityInputs


UNITS = ("fc1", "fc2")
INPUTS = SensitivityInputs(None, (), (8, 8), ((3, 8), (8, 3)), None)


def damages_of(images, seed=0):
    """Return damages (units, widths, images), which differ much between images."""
    return torch.randn(2, 2, images, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).exp()


def add_groups(progress, damages, sizes):
    first = 0
    for number, size in enumerate(sizes):
        part = damages[..., first : first + size]
        found = {
            unit: {text: sum_images(row, first) for text, row in zip(("3/8", "8/3"), rows, strict=True)}
            for unit, rows in zip(UNITS, part, strict=True)
        }
        progress.add(found, number)
        first += size
    return progress.sums


def table_of(damages, sizes):
    return make_table(INPUTS, {}, add_groups(Progress(None, {}), damages, sizes), UNITS, damages.shape[-1])


@pytest.mark.parametrize("sizes", [(7,), (3, 4), (1, 1, 5), (2, 2, 2, 1)])
def test_means_standard_errors_and_halves_are_those_of_the_images_however_they_are_grouped(sizes):
    damages = damages_of(7)
    table = table_of(damages, sizes)
    for unit, rows in zip(UNITS, damages, strict=True):
        for bits, row in zip(INPUTS.candidates, rows, strict=True):
            values = row.tolist()
            mean = sum(values) / 7
            variance = sum((value - mean) ** 2 for value in values) / 6
            assert table.table[unit][bits] == pytest.approx(mean)
            assert table.errors[unit][bits] == pytest.approx((variance / 7) ** 0.5)
            assert table.halves[0][unit][bits] == pytest.approx(sum(values[::2]) / 4)
            assert table.halves[1][unit][bits] == pytest.approx(sum(values[1::2]) / 3)
        assert table.table[unit][(8, 8)] == table.errors[unit][(8, 8)] == table.halves[0][unit][(8, 8)] == 0


def test_equal_damages_have_no_standard_error():
    assert table_of(torch.full((2, 2, 5), 0.1, dtype=torch.float64), (2, 3)).errors["fc1"][(3, 8)] == pytest.approx(
        0, abs=1e-9
    )


def test_a_plan_has_the_damage_of_its_units_and_at_most_the_sum_of_their_errors():
    damages = damages_of(400)
    table = table_of(damages, (400,))
    plan = BitPlan({"fc1": (3, 3), "fc2": (3, 8)}).bits
    damage, error = table.plan_damage(plan)
    together = damages[0, 0] + damages[0, 1] + damages[1, 0]
    assert damage == pytest.approx(float(together.mean()))
    assert float(together.std() / 400**0.5) < error
    assert error == pytest.approx(sum(float(row.std() / 400**0.5) for row in (*damages[0], damages[1, 0])))
    # Where all suffer on the same images, that is what it is.
    alike = table_of(damages[:1, :1].expand(2, 2, -1), (400,)).plan_damage(plan)
    assert alike[1] == pytest.approx(float(3 * damages[0, 0].std() / 400**0.5))


def test_tables_survive_saving_and_old_ones_are_read_without_statistics(tmp_path):
    table, path = table_of(damages_of(5), (5,)), tmp_path / "table.json"
    table.save(path)
    assert SensitivityTable.load(path) == table
    content = json.loads(path.read_text())
    del content["errors"], content["halves"]
    path.write_text(json.dumps(content))
    old = SensitivityTable.load(path)
    assert old.table == table.table and old.errors is None and old.half_tables() is None
    assert old.plan_damage({"fc1": (3, 8)}) == (table.table["fc1"][(3, 8)], None)
    path.write_text(json.dumps({**content, "halves": [{}]}))
    with pytest.raises(ValueError, match="holds no sensitivity that this release reads"):
        SensitivityTable.load(path)


def test_sums_of_another_kind_are_not_gone_on_from(tmp_path):
    path = tmp_path / "progress.json"
    path.write_text(json.dumps({"fingerprint": {}, "done": [[0]], "sums": {"fc1": {"3/8": 1.0}}}))
    with pytest.raises(ValueError, match=r"measured with other statistics\. Delete it"):
        Progress(path, {})
