import cv2
import numpy as np
import pytest

from jaxcaffe.curves.curve import Curve
from jaxcaffe.curves.figure import COLOURS, DASHES, Panel, draw_panels


def decode(png):
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    return picture[:, :, ::-1]


def count(picture, colour):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(picture.astype(int) - wanted).max(axis=2) < 12).sum())


def line(*values):
    return Curve(np.arange(len(values)), np.array([values], float))


def test_draw_panels_each_label_has_its_colour_in_both_panels():
    curves = {"a": line(3, 2, 1), "b": line(1, 2, 3)}
    panels = [Panel("Iteration", "Loss", curves), Panel("Iteration", "Score", curves)]
    picture = decode(draw_panels(panels, "Title"))
    half = picture.shape[1] // 2
    for colour in COLOURS[:2]:
        assert count(picture[100:, :half], colour) > 100
        assert count(picture[100:, half:], colour) > 100
    assert count(picture, COLOURS[2]) < 20


def test_draw_panels_seeds_get_a_band_and_a_broken_end_a_cross():
    plain = Curve(np.arange(3), np.array([[2.0, 2, 2]]))
    bands = Curve(np.arange(3), np.array([[1.0, 1, 1], [3, 3, 3]]))
    alone, banded, broken = (
        decode(draw_panels([Panel("x", "y", {"a": curve}, bottom=0)]))
        for curve in (plain, bands, bands._replace(broke=True))
    )
    # A fifth of the colour on white.
    assert count(banded, "#CCE3F0") > 10 * count(alone, "#CCE3F0")
    assert count(broken, COLOURS[0]) > count(banded, COLOURS[0])


def test_draw_panels_more_labels_than_colours_are_all_drawn():
    labels = [f"run {i}" for i in range(2 * len(COLOURS))]
    curves = {label: line(i, i + 1) for i, label in enumerate(labels)}
    few = {label: curves[label] for label in labels[: len(COLOURS)]}
    many = count(decode(draw_panels([Panel("x", "y", curves)])), COLOURS[0])
    assert many > 1.3 * count(decode(draw_panels([Panel("x", "y", few)])), COLOURS[0])
    assert len(set(DASHES)) > 1


@pytest.mark.parametrize("curve", [Curve(np.array([]), np.zeros((1, 0))), line(0, 0)])
def test_draw_panels_nothing_or_zero_still_makes_a_picture(curve):
    panel = Panel("x", "y", {"a": curve}, may_be_log=True, ceiling=1)
    assert decode(draw_panels([panel])).shape[2] == 3
