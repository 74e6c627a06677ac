# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import base64
import io
import xml.etree.ElementTree as ElementTree

import numpy
import torch
from PIL import Image

from optimum_mixq.reporting.pictures import draw_frontier, draw_heat, draw_units


SVG = "{http://www.w3.org/2000/svg}"


def test_the_frontier_is_well_formed_and_falls_to_the_right():
    tree = ElementTree.fromstring(draw_frontier([(0.2, 0.5, "2 bits"), (0.4, 0.25, "4 bits"), (0.3, 0.33, "3 bits")]))
    circles = tree.findall(f"{SVG}circle")
    places = sorted((float(circle.get("cx")), float(circle.get("cy"))) for circle in circles)
    # y grows downwards: less damage is lower on the page
    assert [y for _, y in places] == sorted(y for _, y in places) and len(places) == 3


def test_a_single_point_is_drawn_and_a_marked_one_stands_out():
    tree = ElementTree.fromstring(draw_frontier([(0.2, 0.5, "a")], [(0.2, 0.5, "b")]))
    colours = [circle.get("fill") for circle in tree.findall(f"{SVG}circle")]
    assert len(set(colours)) == 2


def test_the_grid_of_units_has_a_cell_for_each_and_the_greatest_is_darkest():
    values = {"stages.0.blocks.0.fc1": 3.0, "stages.0.blocks.0.fc2": 5.0, "stages.0.reduction": 4.0}
    tree = ElementTree.fromstring(draw_units(values, {unit: f"{value:.0f}" for unit, value in values.items()}))
    cells = {group.find(f"{SVG}title").text: group for group in tree.findall(f"{SVG}g")}
    assert set(cells) == {f"{unit}: {value:g}" for unit, value in values.items()}
    # The legend: the least, five colours, and the greatest.
    assert [text.text for text in tree.findall(f"{SVG}text")][-2:] == ["3", "5 "]
    assert len(tree.findall(f"{SVG}rect")) == 5

    def brightness(unit):
        colour = cells[unit].find(f"{SVG}rect").get("fill")
        return sum(map(int, colour[4:-1].split(",")))

    assert brightness("stages.0.blocks.0.fc2: 5") < brightness("stages.0.reduction: 4")
    assert cells["stages.0.reduction: 4"].find(f"{SVG}text").text == "4"


def test_a_cells_title_may_say_more_than_its_number():
    tree = ElementTree.fromstring(
        draw_units({"blocks.0.fc1": 4.5}, {"blocks.0.fc1": "5/4"}, titles={"blocks.0.fc1": "5/4 bits"})
    )
    assert tree.find(f"{SVG}g/{SVG}title").text == "blocks.0.fc1: 5/4 bits"
    assert tree.findall(f"{SVG}rect") == []  # one value needs no legend


def test_a_heat_map_is_red_where_relevance_is_positive():
    relevance = torch.zeros(12, 12)
    relevance[:6], relevance[6:] = 1.0, -1.0
    address = draw_heat(torch.rand(1, 12, 12), relevance, side=12)
    image = numpy.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))).astype(int)
    heat = image[:, 12:]  # beside the picture
    assert (heat[1:4, :, 0] > heat[1:4, :, 2]).all() and (heat[8:11, :, 2] > heat[8:11, :, 0]).all()
