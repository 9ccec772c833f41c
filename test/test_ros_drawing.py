"""The overlay: what is drawn where, as seen in the pixels."""

import numpy as np
import pytest

from endomatch_ros.evaluation.drawing import MAX_LINES, draw_flow
from endomatch_ros.matching.types import Matches


def some_matches(points0, points1):
    count = len(points0)
    return Matches(
        np.asarray(points0, np.float32).reshape(-1, 2),
        np.asarray(points1, np.float32).reshape(-1, 2),
        np.ones(count, np.float32),
        np.arange(count, dtype=np.uint32),
        (320, 240),
        (320, 240),
    )


@pytest.fixture
def picture():
    return np.full((240, 320, 3), 90, np.uint8)


def test_each_kind_of_match_has_its_colour(picture):
    matches = some_matches([(100, 100), (200, 100), (100, 150)], [(120, 100), (220, 100), (120, 150)])
    drawn = draw_flow(picture, matches, np.array([0.0, 9.0, np.nan]), np.array([True, False, True]))
    red, green, blue = (int(v) for v in drawn[100, 120])
    assert blue > 200 > red  # no error: cyan
    red, green, blue = (int(v) for v in drawn[100, 210])
    assert red > 150 > green  # outlier: magenta
    assert np.ptp(drawn[150, 120].astype(int)) < 10  # unknown: grey


def test_input_stays_as_it_was_and_scale_sets_the_size(picture):
    before = picture.copy()
    drawn = draw_flow(picture, some_matches([(10, 10)], [(20, 20)]), lines=["1 match"], scale=0.5)
    assert drawn.shape == (120, 160, 3)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(picture, before)


def test_a_scaled_overlay_keeps_the_points_in_place(picture):
    drawn = draw_flow(picture, some_matches([(161, 121)], [(161, 121)]), np.zeros(1), scale=0.5)
    assert drawn[60, 80, 2] > 150


def test_no_matches_no_panel_is_the_darkened_picture(picture):
    drawn = draw_flow(picture, some_matches([], []))
    assert len(np.unique(drawn)) == 1


def test_thousands_of_matches_stay_legible():
    rng = np.random.default_rng(0)
    image = np.full((1080, 1920, 3), 90, np.uint8)
    left = rng.uniform((0, 0), (100, 1080), (20000, 2))  # crowded
    right = rng.uniform((900, 0), (1900, 1080), (500, 2))  # sparse
    points = np.vstack([left, right])
    drawn = draw_flow(image, some_matches(points, points), np.zeros(len(points)))
    shown = [bool(drawn[int(y + 0.5) % 1080, int(x + 0.5) % 1920, 2] > 150) for x, y in right]
    assert np.mean(shown) > 0.9  # the thinning takes from the crowd, not from the sparse part
    assert len(points) > MAX_LINES


def test_a_tiny_picture_works():
    tiny = np.zeros((12, 16, 3), np.uint8)
    drawn = draw_flow(tiny, some_matches([(1, 1)], [(30, -5)]), np.array([0.1]), lines=["matches"])
    assert drawn.shape == tiny.shape
