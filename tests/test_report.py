# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import xml.etree.ElementTree as ElementTree

from optimum_mixq.artifacts import BitPlan
from optimum_mixq.report import draw_frontier, frontier_table


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


def test_the_picture_is_well_formed_and_falls_to_the_right():
    tree = ElementTree.fromstring(draw_frontier(plans()))
    circles = tree.findall("{http://www.w3.org/2000/svg}circle")
    places = [(float(circle.get("cx")), float(circle.get("cy"))) for circle in circles]
    # y grows downwards: less damage is lower on the page
    assert places == sorted(places) and [y for _, y in places] == sorted(y for _, y in places)


def test_a_single_plan_is_drawn_in_the_middle():
    assert "<circle" in draw_frontier(plans()[:1])
