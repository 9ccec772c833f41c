"""A stereo rig against closed forms, OpenCV and exact synthetic truth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from endomatch_ros.errors import CalibrationError
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.epipolar import epipolar_distance
from endomatch_ros.geometry.stereo import LEAST_PARALLAX_PX, StereoRig

K0 = np.array([[677.0, 0.0, 640.0], [0.0, 690.0, 512.0], [0.0, 0.0, 1.0]])
K1 = np.array([[480.0, 0.0, 410.0], [0.0, 470.0, 300.0], [0.0, 0.0, 1.0]])
SIZE = (1280, 1024)
LENSES = {
    "pinhole": ("plumb_bob", []),
    "plumb_bob": ("plumb_bob", [-0.3, 0.1, 0.001, -0.002, 0.01]),
    "rational": ("rational_polynomial", [0.1, 0.02, 0.001, 0.002, 0.01, 0.2, 0.03, 0.01]),
    "fisheye": ("equidistant", [-0.03, 0.01, 0.001, -0.002]),
}
BASELINE = 0.0052
POSE = np.eye(4)
POSE[:3, :3] = cv2.Rodrigues(np.array([0.01, 0.06, -0.02]))[0]
POSE[:3, 3] = (-BASELINE, 0.0003, -0.0004)
RECTIFIED_POSE = np.eye(4)
RECTIFIED_POSE[0, 3] = -BASELINE


def make_camera(matrix: np.ndarray, lens: str = "pinhole") -> Camera:
    model, coefficients = LENSES[lens]
    return Camera(matrix, np.array(coefficients), model, SIZE)


RIG = StereoRig(make_camera(K0), make_camera(K1), POSE)
RECTIFIED = StereoRig(make_camera(K0), make_camera(K0), RECTIFIED_POSE)


def scene(count: int = 300) -> np.ndarray:
    """Tissue 3 to 15 cm before the first camera, metres."""
    return np.random.default_rng(0).uniform([-0.025, -0.02, 0.03], [0.025, 0.02, 0.15], (count, 3))


def project(rig: StereoRig, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rig.camera0.project(points), rig.camera1.project(points @ rig.pose[:3, :3].T + rig.pose[:3, 3])


def noisy(rig: StereoRig, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    pixels0, pixels1 = project(rig, scene())
    return pixels0 + rng.normal(0, sigma, pixels0.shape), pixels1 + rng.normal(0, sigma, pixels1.shape)


@pytest.mark.parametrize("lens0", LENSES)
@pytest.mark.parametrize("lens1", LENSES)
def test_true_matches_have_no_error_and_give_the_point_back(lens0: str, lens1: str) -> None:
    rig = StereoRig(make_camera(K0, lens0), make_camera(K1, lens1), POSE)
    pixels = project(rig, scene())
    estimate = rig.estimate(*pixels)
    assert estimate.error.max() < 1e-4
    assert estimate.inliers.all()
    np.testing.assert_allclose(rig.triangulate(*pixels), scene(), rtol=1e-4, atol=1e-6)


def test_fundamental_is_that_of_the_two_projections() -> None:
    # Hartley and Zisserman (17.3): up to scale, F_ji is (-1)^(i+j) times the determinant of both projections' rows
    # without row i of the first and row j of the second.
    first, second = K0 @ np.eye(3, 4), K1 @ POSE[:3]
    expected = np.zeros((3, 3))
    for j, i in np.ndindex(3, 3):
        rows = np.vstack([np.delete(first, i, axis=0), np.delete(second, j, axis=0)])
        expected[j, i] = (-1) ** (i + j) * np.linalg.det(rows)
    expected /= np.linalg.norm(expected) * np.sign(expected[2, 2] * RIG.fundamental[2, 2])
    np.testing.assert_allclose(RIG.fundamental, expected, atol=1e-12)


def test_error_of_a_rectified_pair_is_the_difference_of_rows() -> None:
    pixels0, pixels1 = noisy(RECTIFIED, 3.0)
    estimate = RECTIFIED.estimate(pixels0, pixels1, threshold=2.0)
    rows = np.abs(pixels0[:, 1] - pixels1[:, 1])
    np.testing.assert_allclose(estimate.error, rows, atol=1e-9)
    np.testing.assert_array_equal(estimate.inliers, rows <= 2.0)
    assert 0 < estimate.inliers.sum() < len(rows)


def test_error_is_the_epipolar_distance_of_undistorted_points() -> None:
    rig = StereoRig(make_camera(K0, "plumb_bob"), make_camera(K1, "fisheye"), POSE)
    pixels0, pixels1 = noisy(rig, 2.0)
    undistorted = rig.camera0.undistort(pixels0), rig.camera1.undistort(pixels1)
    estimate = rig.estimate(pixels0, pixels1, threshold=1.5)
    np.testing.assert_allclose(estimate.error, epipolar_distance(rig.fundamental, *undistorted))
    np.testing.assert_array_equal(estimate.inliers, estimate.error <= 1.5)
    assert estimate.model == "E"
    np.testing.assert_allclose(estimate.matrix, rig.fundamental)
    np.testing.assert_allclose(np.linalg.svd(estimate.essential)[1], (1, 1, 0), atol=1e-12)
    assert estimate.message == f"calibrated geometry: {estimate.inliers.sum()} of 300 matches within 1.5 px"


def test_depth_of_a_rectified_pair_is_focal_length_times_baseline_over_disparity() -> None:
    pixels0, pixels1 = noisy(RECTIFIED, 0.5)
    points = RECTIFIED.triangulate(pixels0, pixels1)
    depth = K0[0, 0] * BASELINE / (pixels0[:, 0] - pixels1[:, 0])
    row = (pixels0[:, 1] + pixels1[:, 1]) / 2  # the two rows are as likely, so the best is halfway
    np.testing.assert_allclose(points[:, 2], depth, rtol=1e-12)
    np.testing.assert_allclose(points[:, 0], (pixels0[:, 0] - K0[0, 2]) / K0[0, 0] * depth, rtol=1e-9)
    np.testing.assert_allclose(points[:, 1], (row - K0[1, 2]) / K0[1, 1] * depth, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.3, 3.0])
def test_triangulation_agrees_with_opencv(sigma: float) -> None:
    pixels0, pixels1 = noisy(RIG, sigma)
    best0, best1 = cv2.correctMatches(RIG.fundamental, pixels0[None], pixels1[None])  # Hartley and Sturm's optimum
    homogeneous = cv2.triangulatePoints(K0 @ np.eye(3, 4), K1 @ POSE[:3], best0[0].T, best1[0].T)
    expected = (homogeneous[:3] / homogeneous[3]).T
    assert homogeneous.dtype == np.float64
    points = RIG.triangulate(pixels0, pixels1)
    known = np.isfinite(points[:, 0])
    assert known.mean() > 0.95
    np.testing.assert_allclose(points[known], expected[known], rtol=1e-6, atol=1e-9)


def test_no_near_point_has_a_smaller_reprojection_error() -> None:
    pixels = noisy(RIG, 1.0)
    points = RIG.triangulate(*pixels)

    def squares(candidates: np.ndarray) -> np.ndarray:
        return sum(((a - b) ** 2).sum(1) for a, b in zip(project(RIG, candidates), pixels, strict=True))

    for step in np.vstack([np.eye(3), -np.eye(3)]) * 1e-5:
        assert (squares(points + step) > squares(points)).all()


def test_points_behind_either_camera_are_unknown() -> None:
    pixels0, pixels1 = project(RECTIFIED, scene(20))
    assert np.isnan(RECTIFIED.triangulate(pixels1, pixels0)).all()  # a disparity below zero: rays part
    # Before one camera, behind the other: only a rig whose cameras stand one before the other can have that.
    pose = np.eye(4)
    pose[:3, 3] = (-0.01, 0, -0.1)
    ahead = StereoRig(make_camera(K0), make_camera(K0), pose)
    behind = StereoRig(make_camera(K0), make_camera(K0), np.linalg.inv(pose))
    point = np.array([[0.005, 0.003, 0.05]])
    hidden = point @ pose[:3, :3].T + pose[:3, 3]
    seen, mirrored = ((p @ K0.T / p[:, 2:])[:, :2] for p in (point, hidden))
    assert np.isnan(ahead.triangulate(seen, mirrored)).all()
    assert np.isnan(behind.triangulate(mirrored, seen)).all()


@pytest.mark.parametrize("swapped", [False, True])
def test_least_parallax_is_a_pixel_of_the_coarser_image(swapped: bool) -> None:
    coarse = make_camera(np.array([[400.0, 0.0, 320.0], [0.0, 350.0, 240.0], [0.0, 0.0, 1.0]]))
    cameras = (coarse, make_camera(K0)) if swapped else (make_camera(K0), coarse)
    rig = StereoRig(*cameras, RECTIFIED_POSE)
    # On the first camera's axis, the angle between the rays is atan(baseline / depth).
    depth = BASELINE * 350 / LEAST_PARALLAX_PX
    points = np.array([[0, 0, 0.99 * depth], [0, 0, 1.01 * depth]])
    found = rig.triangulate(*project(rig, points))
    np.testing.assert_allclose(found[0], points[0], atol=1e-6)
    assert np.isnan(found[1]).all()


def test_too_little_parallax_is_unknown() -> None:
    # At the image's centre the parallax in px is the disparity.
    point0 = np.array([[640.0, 512.0]] * 4)
    point1 = point0 - np.array([[0.0, 0.0], [0.98, 0.0], [1.02, 0.0], [20.0, 0.0]]) * LEAST_PARALLAX_PX
    points = RECTIFIED.triangulate(point0, point1)
    assert np.isnan(points[:2]).all()
    np.testing.assert_allclose(points[2:, 2], 677 * BASELINE / np.array([1.02, 20.0]), rtol=1e-9)


def test_rays_along_the_baseline_are_unknown() -> None:
    pose = np.eye(4)
    pose[2, 3] = -0.01  # forward motion: the epipole is the principal point
    rig = StereoRig(make_camera(K0), make_camera(K0), pose)
    on_it = np.array([[640.0, 512.0]])
    assert np.isnan(rig.triangulate(on_it, on_it)).all()
    assert np.isnan(rig.estimate(on_it, on_it).error).all()
    assert not rig.estimate(on_it, on_it).inliers.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_points_without_an_undistorted_one_are_unknown(bad: float) -> None:
    rig = StereoRig(make_camera(K0, "fisheye"), make_camera(K1, "fisheye"), POSE)
    pixels0, pixels1 = project(rig, scene(6))
    pixels0[1, 0] = pixels1[4, 1] = bad
    estimate, points = rig.estimate(pixels0, pixels1), rig.triangulate(pixels0, pixels1)
    unknown = np.array([False, True, False, False, True, False])
    np.testing.assert_array_equal(np.isnan(estimate.error), unknown)
    np.testing.assert_array_equal(estimate.inliers, ~unknown)
    np.testing.assert_array_equal(np.isnan(points), np.repeat(unknown[:, None], 3, axis=1))


def test_no_points() -> None:
    none = np.zeros((0, 2), np.float32)
    estimate = RIG.estimate(none, none)
    assert estimate.error.shape == estimate.inliers.shape == (0,)
    assert estimate.message == "calibrated geometry: 0 of 0 matches within 1 px"
    assert RIG.triangulate(none, none).shape == (0, 3)


def test_points_scale_with_the_baseline_and_errors_do_not() -> None:
    pose = POSE.copy()
    pose[:3, 3] *= 1e-9
    short = StereoRig(RIG.camera0, RIG.camera1, pose)
    pixels = noisy(RIG, 0.5)
    np.testing.assert_allclose(short.triangulate(*pixels), RIG.triangulate(*pixels) * 1e-9, rtol=1e-9)
    np.testing.assert_allclose(short.estimate(*pixels).error, RIG.estimate(*pixels).error, rtol=1e-9)


def changed(row: int, column: int, value: float) -> np.ndarray:
    pose = POSE.copy()
    pose[row, column] = value
    return pose


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        (np.eye(4), "has no epipolar geometry"),
        (changed(0, 0, 2.0), "rigid"),
        (np.diag([-1.0, -1.0, -1.0, 1.0]) @ POSE, "rigid"),
        (changed(1, 3, np.nan), "rigid"),
        (changed(3, 0, 1.0), "rigid"),
        (POSE[:3], "rigid"),
    ],
)
def test_nonsense_is_refused(pose: np.ndarray, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        StereoRig(RIG.camera0, RIG.camera1, pose)


def test_a_rig_cannot_be_changed_from_outside() -> None:
    pose = POSE.copy()
    rig = StereoRig(RIG.camera0, RIG.camera1, pose)
    pose[0, 3] = 1.0
    assert rig.pose[0, 3] == -BASELINE
    with pytest.raises(ValueError, match="read-only"):
        rig.fundamental[0, 0] = 1.0
