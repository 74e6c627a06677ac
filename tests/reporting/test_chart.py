# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import itertools
import xml.etree.ElementTree as ElementTree

import pytest

from optimum_mixq import BitPlan
from optimum_mixq.reporting.chart import Mark, draw_chart, draw_frontier, round_ticks
from optimum_mixq.reporting.tables import frontier_points, frontier_table


SVG = "{http://www.w3.org/2000/svg}"
POINTS = [(0.2, 0.5, "2 bits"), (0.4, 0.25, "4 bits"), (0.3, 0.33, "3 bits")]


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


def test_the_table_has_a_row_per_plan_and_says_what_is_proven():
    rows = frontier_table(plans()).splitlines()[2:]
    assert rows[0] == "| 2.00 | 0.20 | 2.00 | 0.5 | yes |"
    assert "not proven" in rows[1] and len(rows) == 3
    assert frontier_points(plans())[0] == (0.2, 0.5, "2.00 bits")


def test_the_frontier_is_well_formed_and_falls_to_the_right():
    tree = ElementTree.fromstring(draw_frontier(POINTS, "score"))
    circles = tree.findall(f"{SVG}g/{SVG}circle")
    places = sorted((float(circle.get("cx")), float(circle.get("cy"))) for circle in circles)
    assert len(places) == 3 and places[0][1] < places[1][1] < places[2][1]  # down is larger
    line = tree.find(f"{SVG}polyline").get("points").split()
    assert [float(point.split(",")[0]) for point in line] == [x for x, _ in places]


def test_the_axis_says_what_was_measured():
    tree = ElementTree.fromstring(draw_frontier(POINTS, "relevance^0.5 x sensitivity"))
    texts = [text.text for text in tree.iter(f"{SVG}text")]
    assert "relevance^0.5 x sensitivity" in texts and "size of the file, MB" in texts
    assert "relevance x sensitivity" not in texts


def test_a_picture_of_its_own_brings_its_style_and_a_pages_has_none():
    assert ElementTree.fromstring(draw_frontier(POINTS, "score")).find(f"{SVG}style") is not None
    assert ElementTree.fromstring(draw_chart([Mark(1, 1, "a", "a")], "MB", "score")).find(f"{SVG}style") is None


def test_marked_points_stand_out_and_the_level_is_drawn():
    marks = [Mark(1, 90, "a", "a", stop=0), Mark(2, 91, "b", "b", "own", stop=1), Mark(3, 92, "c", "c", "other")]
    tree = ElementTree.fromstring(draw_chart(marks, "MB", "top-1", level=(93, "float")))
    shapes = [mark.find(f"{SVG}*[@class]").get("class") for mark in tree.findall(f"{SVG}g")]
    assert shapes == ["path", "own", "other"]
    assert [mark.get("data-stop") for mark in tree.findall(f"{SVG}g")] == ["0", "1", None]
    (level,) = (path for path in tree.findall(f"{SVG}path") if path.get("class") == "level")
    assert float(level.get("d").split("H")[0].split()[1]) < 60  # above all marks


@pytest.mark.parametrize(("log", "values"), [(False, (0.1, 0.1)), (True, (0.0, 0.0)), (True, (1e-6, 10.0))])
def test_values_that_are_alike_or_far_apart_are_drawn(log, values):
    marks = [Mark(x, y, str(y), str(y)) for x, y in enumerate(values)]
    tree = ElementTree.fromstring(draw_chart(marks, "MB", "KL", log=log))
    places = [float(circle.get("cy")) for circle in tree.iter(f"{SVG}circle")]
    assert all(0 < y < 330 for y in places) and (places[0] > places[1]) == (values[0] < values[1])


def test_labels_of_points_that_lie_close_do_not_cover_each_other():
    marks = [Mark(1.0, 1.0, "uniform 4", "", "other"), Mark(1.01, 1.01, "this model", "", "own"), Mark(3, 4, "c", "")]
    tree = ElementTree.fromstring(draw_chart(marks, "MB", "KL"))
    labels = [mark.find(f"{SVG}text") for mark in tree.findall(f"{SVG}g")]
    boxes = []
    for label in labels:
        length, x, y = 6 * len(label.text), float(label.get("x")), float(label.get("y"))
        left = x - {"start": 0, "middle": length / 2, "end": length}[label.get("class").split()[1]]
        boxes.append((left, y - 10, left + length, y))
    for (left, top, right, bottom), other in itertools.combinations(boxes, 2):
        assert left >= other[2] or other[0] >= right or top >= other[3] or other[1] >= bottom


def test_ticks_are_round_and_few():
    assert round_ticks(0.0123, 0.0191) == [0.014, 0.016, 0.018]
    assert round_ticks(0, 100) == [0, 20, 40, 60, 80, 100]
