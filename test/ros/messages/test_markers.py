"""~/markers: what is drawn where in which colour, and what viewers demand of a marker."""

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from support.matches import some_matches
from visualization_msgs.msg import Marker, MarkerArray

from endomatch_ros.drawing import OUTLIER_COLOUR, UNKNOWN_COLOUR, draw_flow
from endomatch_ros.errors import DataError
from endomatch_ros.ros.messages.clouds import CLOUD_DTYPE
from endomatch_ros.ros.messages.markers import NAMESPACES, make_markers

STAMP = Time(sec=12, nanosec=345)


def some_points(error, inlier=None, rays=None):
    """Structured points on a grid of 10 px, one a ray, and the reference rays a little to the left of them."""
    count = len(error)
    points = np.zeros(count, CLOUD_DTYPE)
    columns = max(1, int(np.ceil(np.sqrt(count))))
    points["u"], points["v"] = 10.0 * (np.arange(count) % columns), 10.0 * (np.arange(count) // columns)
    ends = np.c_[points["u"] / 500, points["v"] / 500, np.ones(count)] if rays is None else rays
    points["x"], points["y"], points["z"] = ends.T
    points["epipolar_error"] = error
    points["inlier"] = np.ones(count) if inlier is None else inlier
    return points, ends - [0.01, 0.0, 0.0]


def make(points, reference_rays, **changes):
    values = {"stamp": STAMP, "frame_id": "optical", "full_scale_px": 1.0, "limit": 1000, **changes}
    return make_markers(points, reference_rays, **values)


def by_name(message):
    return {(marker.ns, marker.id): marker for marker in message.markers}


def rays_of(marker):
    return np.array([(point.x, point.y, point.z) for point in marker.points]).reshape(-1, 3)


def colours_of(marker):
    return np.array([(colour.r, colour.g, colour.b, colour.a) for colour in marker.colors]).reshape(-1, 4)


def test_lines_run_from_the_reference_ray_to_the_current_one_and_dots_lie_at_their_ends():
    points, reference = some_points(np.linspace(0, 1, 30))
    markers = by_name(make(points, reference))
    lines, dots = markers["matches", 0], markers["matches", 1]
    ends = np.stack([points["x"], points["y"], points["z"]], axis=1)
    np.testing.assert_allclose(rays_of(lines)[0::2], reference, atol=1e-7)
    np.testing.assert_allclose(rays_of(lines)[1::2], ends, atol=1e-7)
    np.testing.assert_allclose(rays_of(dots), ends, atol=1e-7)
    assert (lines.type, dots.type) == (Marker.LINE_LIST, Marker.POINTS)


def test_outliers_have_their_own_namespace_and_colour():
    points, reference = some_points(np.array([0.1, 9.0, 0.2, 5.0]), inlier=np.array([1, 0, 1, 0]))
    markers = by_name(make(points, reference))
    assert len(markers["matches", 1].points) == len(markers["outliers", 1].points) == 2
    np.testing.assert_allclose(rays_of(markers["outliers", 1])[:, 0], points["x"][[1, 3]], atol=1e-7)
    expected = [*(value / 255 for value in OUTLIER_COLOUR), 1.0]
    np.testing.assert_allclose(colours_of(markers["outliers", 0]), np.tile(expected, (4, 1)), atol=1e-6)


def test_colours_are_the_overlay_s():
    errors = np.array([0.0, 0.25, 0.5, 1.0, 7.0])
    points, reference = some_points(errors)
    shades = colours_of(by_name(make(points, reference))["matches", 1])[:, :3] * 255
    for error, shade in zip(errors, shades, strict=True):
        matches = some_matches([(60, 60)], [(60, 60)])
        drawn = draw_flow(np.full((240, 320, 3), 90, np.uint8), matches, np.array([error]), full_scale_px=1.0)
        np.testing.assert_allclose(drawn[60, 60], shade, atol=6)  # the overlay has 24 steps
    assert shades[0][0] < 10  # cyan
    assert shades[0][2] > 250
    assert shades[3][0] > 250  # orange
    assert shades[3][2] < 30


def test_without_a_geometry_matches_are_of_unknown_colour_not_outliers():
    points, reference = some_points(np.full(3, np.nan), inlier=np.zeros(3))
    markers = by_name(make(points, reference))
    expected = [*(value / 255 for value in UNKNOWN_COLOUR), 1.0]
    np.testing.assert_allclose(colours_of(markers["matches", 1]), np.tile(expected, (3, 1)), atol=1e-6)
    assert markers["outliers", 0].action == Marker.DELETE
    assert "no geometry" in markers["figures", 0].text


@pytest.mark.parametrize("reference", ["none", "nan"])
def test_uncalibrated_deletes_what_was_there(reference):
    points, rays = some_points(np.zeros(3), rays=np.full((3, 3), np.nan))
    message = make(points, None if reference == "none" else rays)
    assert [marker.action for marker in message.markers] == [Marker.DELETEALL]
    assert message.markers[0].ns == ""  # all namespaces


def test_calibrated_points_without_reference_rays_are_not_drawn():
    points, _ = some_points(np.zeros(3))
    assert [m.action for m in make(points, None).markers] == [Marker.DELETEALL]


def test_no_matches_and_no_lines_wanted_delete_too():
    empty, rays = some_points(np.zeros(0))
    assert make(empty, rays).markers[0].action == Marker.DELETEALL
    some, rays = some_points(np.zeros(5))
    assert make(some, rays, limit=0).markers[0].action == Marker.DELETEALL


def test_single_rays_that_are_not_finite_are_left_out():
    points, reference = some_points(np.zeros(6))
    points["x"][1], reference[4, 2] = np.nan, np.inf  # beyond what the lens model covers
    dots = by_name(make(points, reference))["matches", 1]
    np.testing.assert_allclose(rays_of(dots)[:, 0], points["x"][[0, 2, 3, 5]], atol=1e-7)


def test_the_limit_is_kept_evenly_over_the_image():
    points, reference = some_points(np.zeros(2500))  # 50 x 50
    markers = by_name(make(points, reference, limit=250))
    ends = rays_of(markers["matches", 1])
    assert len(ends) == 250
    quarters = (ends[:, 0] > 0.49).astype(int) + 2 * (ends[:, 1] > 0.49)
    assert np.bincount(quarters, minlength=4).min() >= 45


def test_every_marker_is_what_viewers_accept():
    points, reference = some_points(np.linspace(0, 2, 40), inlier=np.arange(40) % 3 > 0)
    message = make(points, reference, lifetime_s=1.25)
    assert len({(m.ns, m.id) for m in message.markers}) == len(message.markers) == 5
    assert {m.ns for m in message.markers} == set(NAMESPACES)
    for marker in message.markers:
        assert (marker.header.stamp, marker.header.frame_id) == (STAMP, "optical")
        assert (marker.lifetime.sec, marker.lifetime.nanosec) == (1, 250_000_000)
        assert not marker.frame_locked
        assert marker.pose.orientation.w == 1.0
        assert marker.color.a > 0
        assert len(marker.colors) == len(marker.points)
        assert np.isfinite(rays_of(marker)).all()
    markers = by_name(message)
    assert markers["matches", 0].scale.x > 0
    assert markers["outliers", 1].scale.x == markers["outliers", 1].scale.y > 0
    assert markers["figures", 0].scale.z > 0
    back = by_name(deserialize_message(serialize_message(message), MarkerArray))
    for name, marker in markers.items():
        np.testing.assert_array_equal(rays_of(back[name]), rays_of(marker))
        np.testing.assert_allclose(colours_of(back[name]), colours_of(marker), atol=1e-6)


def test_the_figures_are_those_of_all_matches_and_stand_above_the_lines():
    points, reference = some_points(np.array([0.1, 0.2, 0.3, 4.0] * 25), inlier=np.array([1, 1, 1, 0] * 25))
    text = by_name(make(points, reference, limit=10))["figures", 0]
    assert text.text == "100 matches, 75% inliers, median error 0.25 px"
    assert text.type == Marker.TEXT_VIEW_FACING
    assert text.pose.position.y < points["y"].min()
    assert text.pose.position.z == 1.0


def test_rays_of_another_number_are_refused():
    points, reference = some_points(np.zeros(4))
    with pytest.raises(DataError, match=r"reference_rays of 4 matches must be \(4, 3\), not \(3, 3\)"):
        make(points, reference[:3])
