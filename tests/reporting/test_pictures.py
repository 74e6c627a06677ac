# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import base64
import io
import xml.etree.ElementTree as ElementTree

import numpy
import pytest
import torch
from PIL import Image

from optimum_mixq import BitPlan
from optimum_mixq.reporting.palette import DARK, LIGHT, contrast, ink_class, opacity
from optimum_mixq.reporting.photos import draw_heat, draw_photo
from optimum_mixq.reporting.pictures import draw_bits, draw_units


SVG = "{http://www.w3.org/2000/svg}"


def cells_of(svg):
    tree = ElementTree.fromstring(svg)
    return tree, {cell.find(f"{SVG}title").text: cell for cell in tree.findall(f"{SVG}g")}


def read_image(address):
    kind, _, content = address.partition(",")
    return kind, numpy.asarray(Image.open(io.BytesIO(base64.b64decode(content)))).astype(int)


def test_a_cell_is_the_stronger_the_greater_its_value_and_says_so():
    values = {"stages.0.blocks.0.fc2": 5.0, "stages.0.reduction": 3.0}
    tree, cells = cells_of(draw_units(values, {"stages.0.blocks.0.fc2": "5", "stages.0.reduction": "3"}, "bits"))
    strong, pale = cells["stages.0.blocks.0.fc2: 5 bits"], cells["stages.0.reduction: 3 bits"]
    assert [float(cell.find(f"{SVG}rect").get("fill-opacity")) for cell in (strong, pale)] == [1, opacity(0)]
    assert pale.find(f"{SVG}text").text == "3"
    # Below the grid: the least, five shades, and the greatest.
    assert [text.text for text in tree.findall(f"{SVG}text")][-2:] == ["3", "5 bits"]
    assert len(tree.findall(f"{SVG}rect")) == 5 and tree.get("aria-label") == "bits of every layer"


def test_one_value_needs_no_legend():
    tree, _ = cells_of(draw_units({"blocks.0.fc1": 4.5}, {"blocks.0.fc1": "4.5"}))
    assert tree.findall(f"{SVG}rect") == []


@pytest.mark.parametrize(("blocks", "width"), [(12, 1000), (24, 988), (3, 466), (40, 1596)])
def test_a_grid_is_as_wide_as_the_page_unless_its_cells_would_be_too_wide_or_too_narrow(blocks, width):
    units = {f"blocks.{block}.fc1": float(block) for block in range(blocks)}
    tree, _ = cells_of(draw_units(units, dict.fromkeys(units, "x")))
    assert tree.get("viewBox").split()[2] == str(width)
    assert "width" not in tree.attrib  # the page's style makes it as wide as the page


def test_bits_of_weights_and_activations_have_a_half_each():
    plan = BitPlan({"blocks.0.fc1": (5, 3), "blocks.0.qk": (4, 4)})
    titles = {unit: unit for unit in plan.bits}
    shares = {3: 0.0, 4: 0.5, 5: 1.0}
    tree, cells = cells_of(draw_bits(plan, shares, titles, ["blocks.0.qk"]))
    halves = cells["blocks.0.fc1"].findall(f"{SVG}rect")
    assert [float(half.get("fill-opacity")) for half in halves] == [opacity(1), opacity(0)]
    assert "".join(cells["blocks.0.fc1"].find(f"{SVG}text").itertext()) == "5 / 3"
    (whole,) = cells["blocks.0.qk"].findall(f"{SVG}rect")
    assert float(whole.get("width")) == 2 * float(halves[0].get("width"))
    assert "".join(cells["blocks.0.qk"].find(f"{SVG}text").itertext()) == "4"
    assert [text.text for text in tree.findall(f"{SVG}text")][-4:-1] == ["3", "4", "5"]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_of_every_colour_can_be_read(theme):
    for ink in ("ink", "muted", "deep"):
        assert contrast(theme[ink], theme["card"]) >= 4.5 and contrast(theme[ink], theme["page"]) >= 4.5
    for mark in ("deep", "warm", "other"):
        assert contrast(theme[mark], theme["card"]) >= 3


@pytest.mark.parametrize("colour", ["deep", "warm"])
@pytest.mark.parametrize("share", [number / 20 for number in range(21)])
def test_text_on_every_shade_can_be_read(share, colour):
    inks = {"k": "#000000", "w": "#ffffff"}
    for ink, theme in zip(ink_class(share, colour).removeprefix("ink-"), (LIGHT, DARK), strict=True):
        full, under = ([int(theme[name][place : place + 2], 16) for place in (1, 3, 5)] for name in (colour, "card"))
        part = opacity(share)
        mixed = "#" + "".join(f"{round(part * a + (1 - part) * b):02x}" for a, b in zip(full, under, strict=True))
        assert contrast(inks[ink], mixed) >= 4.5


def test_a_heat_map_is_red_where_relevance_is_positive():
    relevance = torch.zeros(12, 12)
    relevance[:6], relevance[6:] = 1.0, -1.0
    kind, image = read_image(draw_heat(torch.rand(1, 12, 12), relevance))
    heat = image[:, 12:]  # beside the picture
    assert (heat[1:4, :, 0] > heat[1:4, :, 2]).all() and (heat[8:11, :, 2] > heat[8:11, :, 0]).all()
    assert kind == "data:image/png;base64" and image.shape == (12, 24, 3)


def test_a_photo_keeps_its_pixels_where_it_is_small_and_is_shrunk_where_it_is_large():
    ramp = torch.linspace(-2, 2, 16).expand(3, 16, 16)
    kind, image = read_image(draw_photo(ramp))
    assert kind == "data:image/png;base64" and image[0, :, 0].tolist() == [round(17 * step) for step in range(16)]
    kind, image = read_image(draw_photo(torch.rand(3, 400, 400)))
    assert kind == "data:image/jpeg;base64" and image.shape == (256, 256, 3)
    assert len(draw_photo(torch.rand(3, 400, 400))) < 100_000
