"""The overlay: what is drawn where, as seen in the pixels."""

import numpy as np
import pytest
from support.matches import some_matches

from endomatch_ros.drawing import MAX_LINES, OUTLIER_COLOUR, UNKNOWN_COLOUR, draw_flow, error_colours, spread


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


def test_the_colour_scale_runs_from_cyan_to_orange_and_stays_there():
    colours = error_colours(np.array([0.0, 1.0, 2.0, 3.0, 99.0, np.nan]), 3.0).tolist()
    anchors = [[0, 225, 255], [60, 255, 130], [255, 235, 40], [255, 150, 20]]
    assert colours == [*anchors, anchors[-1], list(UNKNOWN_COLOUR)]


def test_without_a_geometry_nothing_is_an_outlier(picture):
    matches = some_matches([(100, 100)], [(120, 100)])
    drawn = draw_flow(picture, matches, np.array([np.nan]), np.array([False]))  # a scope at rest
    assert np.ptp(drawn[100, 120].astype(int)) < 10
    assert drawn[100, 120, 0] > 150


def test_an_outlier_that_hardly_moves_is_still_seen(picture):
    drawn = draw_flow(picture, some_matches([(100, 100)], [(100, 100)]), np.array([9.0]), np.array([False]))
    np.testing.assert_allclose(drawn[100, 100], OUTLIER_COLOUR, atol=60)


def grid(step, shift, size=(640, 480)):
    points = np.stack(np.meshgrid(np.arange(60, size[0] - 60, step), np.arange(60, size[1] - 60, step)), -1)
    points = points.reshape(-1, 2).astype(np.float32)
    return some_matches(points, points + np.float32(shift))


@pytest.mark.parametrize("shift", [(0, 0), (6, 3), (50, 20), (-58, 0)])  # the last as of a stereo pair
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_thousands_of_matches_leave_the_picture_visible(shift, scale):
    matches = grid(6, shift)
    assert len(matches) > 4000
    image = np.full((480, 640, 3), 90, np.uint8)
    drawn = draw_flow(image, matches, np.zeros(len(matches)), scale=scale)
    region = drawn[int(70 * scale) : int(400 * scale), int(70 * scale) : int(560 * scale)]
    covered = np.abs(region.astype(int) - round(90 * 0.85)).max(axis=-1) > 5
    assert 0.03 < covered.mean() < 0.45
    quarters = [part.mean() for half in np.array_split(covered, 2) for part in np.array_split(half, 2, axis=1)]
    assert min(quarters) > 0.5 * max(quarters)


def test_spread_takes_from_everywhere_and_is_repeatable():
    points = grid(4, (0, 0)).keypoints1
    chosen = spread(points, 100)
    assert len(chosen) == len(set(chosen.tolist())) == 100
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, spread(points, 100))
    nearest = np.linalg.norm(points[:, None] - points[chosen][None], axis=2).min(axis=1)
    assert nearest.max() < 3 * np.sqrt(520 * 360 / 100)  # no hole wider than three mean distances
    np.testing.assert_array_equal(spread(points, len(points)), np.arange(len(points)))
    assert len(spread(points, 0)) == 0


def test_spread_over_a_line_of_points_does_not_stop_half_way():
    points = np.stack([np.full(400, 300.0), np.linspace(0, 600, 400)], axis=1)
    rows = points[spread(points, 12), 1]
    assert len(rows) == 12
    assert min((rows < 300).sum(), (rows > 300).sum()) >= 3


@pytest.mark.parametrize(
    ("size", "most"), [((40, 50), 0.0), ((128, 160), 0.4), ((256, 320), 0.2), ((1080, 1920), 0.06)]
)
def test_the_panel_leaves_most_of_the_picture_alone(size, most):
    image, none = np.full((*size, 3), 90, np.uint8), some_matches([], [])
    text = ["5433 matches", "91% inliers", "median error 0.24 px", "374 ms"]
    panel = (draw_flow(image, none, lines=text) != draw_flow(image, none)).any(axis=-1)
    assert panel.mean() <= most
    assert panel.any() or most == 0.0
    assert not panel[:, -1].any()  # nothing is cut off
