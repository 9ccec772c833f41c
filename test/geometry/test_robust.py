"""Robust estimation: accuracy on known motion, outliers, degenerate input, determinism."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.epipolar import epipolar_distance, fundamental_from_pose
from endomatch_ros.geometry.robust import EpipolarEstimate, estimate_epipolar, recover_relative_pose

K = np.array([[677.0, 0.0, 640.0], [0.0, 690.0, 512.0], [0.0, 0.0, 1.0]])
ROTATION = cv2.Rodrigues(np.array([0.03, -0.05, 0.02]))[0]
CAMERAS = {
    "pinhole": Camera(K, np.zeros(5), "plumb_bob", (1280, 1024)),
    "plumb_bob": Camera(K, np.array([-0.3, 0.1, 0.001, -0.002, 0.01]), "plumb_bob", (1280, 1024)),
    "fisheye": Camera(K, np.array([-0.03, 0.01, 0.001, -0.002]), "equidistant", (1280, 1024)),
}


def two_views(
    camera: Camera,
    translation: tuple[float, float, float],
    outliers: float = 0.3,
    noise: float = 0.2,
    count: int = 1000,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels in both views and which of them are true."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-2, -2, 4], [2, 2, 9], (count, 3))
    pixels0, pixels1 = camera.project(points), camera.project(points @ ROTATION.T + translation)
    pixels1 += rng.normal(0, noise, pixels1.shape)
    bad = int(count * outliers)
    pixels1[:bad] = rng.uniform(0, 1024, (bad, 2))
    return pixels0, pixels1, np.arange(count) >= bad


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("translation", [(1.0, 0.2, 0.1), (-0.1, 0.1, 0.6)])
def test_calibrated_motion_is_recovered(name: str, translation: tuple[float, float, float]) -> None:
    camera = CAMERAS[name]
    points0, points1, true = two_views(camera, translation)
    estimate = estimate_epipolar(points0, points1, camera)
    assert estimate.model == "E"
    assert estimate.inliers[true].mean() > 0.9
    assert estimate.inliers[~true].mean() < 0.1
    np.testing.assert_allclose(np.linalg.svd(estimate.essential)[1], (1, 1, 0), atol=1e-9)
    # The matrix holds in the ideal pinhole's pixels, and the errors are measured there.
    undistorted = camera.undistort(points0), camera.undistort(points1)
    np.testing.assert_allclose(estimate.error, epipolar_distance(estimate.matrix, *undistorted))
    pose = recover_relative_pose(estimate, points0, points1, camera)
    assert np.degrees(np.linalg.norm(cv2.Rodrigues(pose[:3, :3] @ ROTATION.T)[0])) < 0.2
    assert angle(pose[:3, 3], np.array(translation)) < 1
    assert np.linalg.norm(pose[:3, 3]) == pytest.approx(1)


def test_threshold_is_in_pixels_of_a_camera_with_unequal_focal_lengths() -> None:
    camera = Camera(np.array([[600.0, 0, 640], [0, 1800.0, 512], [0, 0, 1]]), np.zeros(5), "plumb_bob", (1280, 1024))
    points0, points1, true = two_views(camera, (1.0, 0.2, 0.1))
    estimate = estimate_epipolar(points0, points1, camera)
    assert estimate.inliers[true].mean() > 0.9
    assert np.nanmax(estimate.error[estimate.inliers]) <= 1.0


def test_uncalibrated_motion_is_recovered() -> None:
    points0, points1, true = two_views(CAMERAS["pinhole"], (1.0, 0.2, 0.1))
    estimate = estimate_epipolar(points0, points1)
    assert estimate.model == "F"
    assert estimate.essential is None
    assert np.linalg.norm(estimate.matrix) == pytest.approx(1)
    assert abs(np.linalg.det(estimate.matrix)) < 1e-12
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = ROTATION, (1.0, 0.2, 0.1)
    truth = epipolar_distance(fundamental_from_pose(K, K, pose), points0, points1)
    assert abs(np.median(estimate.error[true]) - np.median(truth[true])) < 0.05
    assert recover_relative_pose(estimate, points0, points1, CAMERAS["pinhole"]) is None


@pytest.mark.parametrize("camera", [None, CAMERAS["plumb_bob"]])
def test_same_input_same_output(camera: Camera | None) -> None:
    points0, points1, _ = two_views(CAMERAS["plumb_bob"], (0.3, 0.2, 0.1), outliers=0.6)
    first = estimate_epipolar(points0, points1, camera)
    cv2.setRNGSeed(7)
    cv2.randu(np.zeros((50, 50)), 0, 1)
    second = estimate_epipolar(points0, points1, camera)
    np.testing.assert_array_equal(first.matrix, second.matrix)
    np.testing.assert_array_equal(first.error, second.error)


def test_the_callers_arrays_are_left_alone() -> None:
    points0, points1, _ = two_views(CAMERAS["plumb_bob"], (0.3, 0.2, 0.1))
    before = points0.copy(), points1.copy()
    estimate_epipolar(points0, points1, CAMERAS["plumb_bob"])
    np.testing.assert_array_equal(points0, before[0])
    np.testing.assert_array_equal(points1, before[1])


def test_non_finite_matches_are_left_out() -> None:
    points0, points1, _ = two_views(CAMERAS["pinhole"], (1.0, 0.2, 0.1))
    points0[0], points1[1, 0], points1[2] = np.nan, np.inf, 1e300
    for camera in (None, CAMERAS["pinhole"]):
        estimate = estimate_epipolar(points0, points1, camera)
        assert estimate.model != "none"
        assert np.isnan(estimate.error[:3]).all()
        assert not estimate.inliers[:3].any()


RNG = np.random.default_rng(3)
SCATTER = RNG.uniform(0, 1000, (60, 2))
LINE = np.column_stack([SCATTER[:, 0], 0.5 * SCATTER[:, 0] + 20])
NOTHING = {
    "empty": (np.zeros((0, 2)), np.zeros((0, 2)), "8 are needed"),
    "seven": (SCATTER[:7], SCATTER[:7] + 5, "8 are needed"),
    "all NaN": (np.full((60, 2), np.nan), SCATTER, "8 are needed"),
    "no motion": (SCATTER, SCATTER, "motion"),
    "barely any motion": (SCATTER, SCATTER + 0.01, "motion"),
    "one point": (np.tile([[3.0, 4.0]], (60, 1)), np.tile([[30.0, 40.0]], (60, 1)), ""),
    "one line": (LINE, LINE + 7, ""),
    "few distinct": (np.repeat(SCATTER[:6], 10, axis=0), np.repeat(SCATTER[6:12], 10, axis=0), ""),
}


@pytest.mark.parametrize("camera", [None, CAMERAS["pinhole"], CAMERAS["fisheye"]])
@pytest.mark.parametrize("case", NOTHING)
def test_degenerate_matches_say_why_there_is_no_model(case: str, camera: Camera | None) -> None:
    points0, points1, reason = NOTHING[case]
    estimate = estimate_epipolar(points0, points1, camera)
    assert estimate.model == "none"
    assert estimate.message
    assert reason in estimate.message
    assert estimate.matrix is None
    assert estimate.essential is None
    assert estimate.inliers.shape == estimate.error.shape == (len(points0),)
    assert not estimate.inliers.any()
    assert np.isnan(estimate.error).all()


def valid_or_none(estimate: EpipolarEstimate) -> bool:
    if estimate.model == "none":
        return estimate.matrix is None and bool(estimate.message)
    return bool(np.isfinite(estimate.matrix).all() and estimate.matrix.any() and estimate.inliers.sum() >= 8)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("camera", [None, CAMERAS["plumb_bob"]])
def test_nonsense_never_raises_and_never_gives_nan(camera: Camera | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(8, 120))
    points0, points1 = rng.uniform(-100, 2000, (2, count, 2))
    assert valid_or_none(estimate_epipolar(points0, points1, camera))
    assert valid_or_none(estimate_epipolar(points0, points0 + rng.normal(0, 3, 2), camera))  # pure shift
    assert valid_or_none(estimate_epipolar(points0, points0 * 1.1, camera))  # pure zoom
    rounded = points0.round(-2)
    assert valid_or_none(estimate_epipolar(rounded, rounded + 1, camera))


@pytest.mark.parametrize("camera", [None, CAMERAS["pinhole"]])
def test_a_plane_gives_a_model_that_its_matches_agree_with(camera: Camera | None) -> None:
    rng = np.random.default_rng(5)
    points = rng.uniform([-2, -2, 5], [2, 2, 5], (300, 3))
    points[:, 2] += 0.3 * points[:, 0]
    pinhole = CAMERAS["pinhole"]
    estimate = estimate_epipolar(
        pinhole.project(points), pinhole.project(points @ ROTATION.T + (0.5, 0.1, 0.2)), camera
    )
    assert valid_or_none(estimate)
    if estimate.model != "none":
        assert estimate.inliers.mean() > 0.9


def test_pure_rotation_gives_no_pose() -> None:
    camera = CAMERAS["pinhole"]
    points0, points1, _ = two_views(camera, (0.0, 0.0, 0.0), outliers=0.0, noise=0.1)
    estimate = estimate_epipolar(points0, points1, camera)
    assert valid_or_none(estimate)
    assert recover_relative_pose(estimate, points0, points1, camera) is None


def test_a_slow_motion_still_gives_a_pose() -> None:
    # The tissue is about 600 baselines away, beyond the depth at which OpenCV gives up by default.
    camera = CAMERAS["pinhole"]
    points0, points1, _ = two_views(camera, (0.01, 0.002, 0.0), outliers=0.0, noise=0.02, count=2000)
    estimate = estimate_epipolar(points0, points1, camera)
    pose = recover_relative_pose(estimate, points0, points1, camera)
    assert pose is not None
    assert angle(pose[:3, 3], np.array([1.0, 0.2, 0.0])) < 5
