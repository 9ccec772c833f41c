"""Epipolar distances against OpenCV and closed forms; scale invariance; degenerate lines."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from endomatch_ros.errors import CalibrationError
from endomatch_ros.geometry.epipolar import (
    epipolar_distance,
    essential_from_pose,
    fundamental_from_essential,
    fundamental_from_pose,
    relative_pose,
    sampson_distance,
    skew,
)

K0 = np.array([[677.0, 0.0, 640.0], [0.0, 690.0, 512.0], [0.0, 0.0, 1.0]])
K1 = np.array([[820.0, 0.0, 500.0], [0.0, 800.0, 410.0], [0.0, 0.0, 1.0]])


def make_pose(rotation: tuple[float, float, float], translation: tuple[float, float, float]) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(np.array(rotation, float))[0]
    pose[:3, 3] = translation
    return pose


POSE = make_pose((0.03, -0.05, 0.02), (1.0, 0.2, 0.1))


@pytest.fixture
def views() -> tuple[np.ndarray, np.ndarray]:
    """Exact projections of random points into both views."""
    points = np.random.default_rng(0).uniform([-2, -2, 3], [2, 2, 8], (100, 3))
    first, second = points @ K0.T, (points @ POSE[:3, :3].T + POSE[:3, 3]) @ K1.T
    return first[:, :2] / first[:, 2:], second[:, :2] / second[:, 2:]


def test_skew_is_the_cross_product() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 3))
    np.testing.assert_allclose(skew(a) @ b, np.cross(a, b))


def test_true_matches_have_no_error(views: tuple[np.ndarray, np.ndarray]) -> None:
    F = fundamental_from_pose(K0, K1, POSE)
    assert epipolar_distance(F, *views).max() < 1e-9
    assert sampson_distance(F, *views).max() < 1e-9


def test_direction_of_the_convention(views: tuple[np.ndarray, np.ndarray]) -> None:
    wrong_way = fundamental_from_pose(K1, K0, np.linalg.inv(POSE))
    assert np.median(epipolar_distance(wrong_way, *views)) > 1
    assert epipolar_distance(wrong_way, *views[::-1]).max() < 1e-9


def test_distance_agrees_with_opencv_lines(views: tuple[np.ndarray, np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    points0, points1 = (view + rng.normal(0, 5, view.shape) for view in views)
    F = fundamental_from_pose(K0, K1, POSE)
    # OpenCV normalises lines, so that a point's dot product with one is its distance.
    line1 = cv2.computeCorrespondEpilines(points0[:, None], 1, F).reshape(-1, 3)
    line0 = cv2.computeCorrespondEpilines(points1[:, None], 2, F).reshape(-1, 3)
    to1 = np.abs((np.column_stack([points1, np.ones(100)]) * line1).sum(1))
    to0 = np.abs((np.column_stack([points0, np.ones(100)]) * line0).sum(1))
    np.testing.assert_allclose(epipolar_distance(F, points0, points1), (to0 + to1) / 2, rtol=1e-5)


def test_sampson_agrees_with_opencv(views: tuple[np.ndarray, np.ndarray]) -> None:
    points0, points1 = views[0], views[1] + np.random.default_rng(1).normal(0, 5, views[1].shape)
    F = fundamental_from_pose(K0, K1, POSE)
    squared = [cv2.sampsonDistance(np.r_[a, 1.0], np.r_[b, 1.0], F) for a, b in zip(points0, points1, strict=True)]
    np.testing.assert_allclose(sampson_distance(F, points0, points1), np.sqrt(squared), rtol=1e-9)


def test_sideways_motion_has_horizontal_lines() -> None:
    # Closed form: the distance is the difference in y.
    F = fundamental_from_pose(K0, K0, make_pose((0, 0, 0), (1, 0, 0)))
    points0, points1 = np.array([[100.0, 200.0], [300.0, 50.0]]), np.array([[150.0, 203.0], [310.0, 45.5]])
    np.testing.assert_allclose(epipolar_distance(F, points0, points1), [3.0, 4.5])
    np.testing.assert_allclose(sampson_distance(F, points0, points1), np.array([3.0, 4.5]) / np.sqrt(2))


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1e-3, 1e6, 1e150])
def test_baseline_and_matrix_scale_do_not_matter(views: tuple[np.ndarray, np.ndarray], scale: float) -> None:
    points0, points1 = views[0], views[1] + np.random.default_rng(1).normal(0, 5, views[1].shape)
    F = fundamental_from_pose(K0, K1, POSE)
    scaled = POSE.copy()
    scaled[:3, 3] *= scale
    for other in (fundamental_from_pose(K0, K1, scaled), F * scale, -F):
        for distance in (epipolar_distance, sampson_distance):
            expected = distance(F, points0, points1)
            np.testing.assert_allclose(distance(other, points0, points1), expected, rtol=1e-9)


def test_a_point_on_the_epipole_is_nan_and_one_beside_it_is_not() -> None:
    F = fundamental_from_pose(K0, K0, make_pose((0, 0, 0), (0, 0, 1)))  # forwards: the epipole is (640, 512)
    points0 = np.array([[640.0, 512.0], [640.001, 512.0], [100.0, 512.0]])
    points1 = np.array([[600.0, 300.0], [600.0, 512.0], [50.0, 512.0]])
    for distance in (epipolar_distance, sampson_distance):
        result = distance(F, points0, points1)
        assert np.isnan(result[0])
        np.testing.assert_allclose(result[1:], 0, atol=1e-6)
        assert np.isnan(distance(F, points1[:1], points0[:1])).all()


def test_epipole_of_a_general_motion_is_nan() -> None:
    center = -POSE[:3, :3].T @ POSE[:3, 3]  # of camera 1, seen by camera 0
    F = fundamental_from_pose(K0, K1, POSE)
    epipole = (K0 @ center)[:2] / center[2]
    assert np.isnan(epipolar_distance(F, epipole[None], np.array([[10.0, 20.0]]))).all()


def test_zero_matrix_and_bad_points_are_nan() -> None:
    points = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert np.isnan(epipolar_distance(np.zeros((3, 3)), points, points)).all()
    F = fundamental_from_pose(K0, K1, POSE)
    assert np.isnan(epipolar_distance(F, [[np.nan, 1.0]], [[1.0, 2.0]])).all()
    assert epipolar_distance(F, np.zeros((0, 2)), np.zeros((0, 2))).shape == (0,)


def test_no_translation_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="translation"):
        essential_from_pose(np.eye(4))


def test_essential_decomposes_into_the_pose() -> None:
    rotation1, rotation2, translation = cv2.decomposeEssentialMat(essential_from_pose(POSE))
    assert min(np.abs(r - POSE[:3, :3]).max() for r in (rotation1, rotation2)) < 1e-9
    assert abs(translation.ravel() @ POSE[:3, 3]) == pytest.approx(np.linalg.norm(POSE[:3, 3]))


def test_fundamental_from_essential_is_the_definition(views: tuple[np.ndarray, np.ndarray]) -> None:
    F = fundamental_from_essential(essential_from_pose(POSE), K0, K1)
    expected = np.linalg.inv(K1).T @ skew(POSE[:3, 3]) @ POSE[:3, :3] @ np.linalg.inv(K0)
    np.testing.assert_allclose(F, expected / np.linalg.norm(expected), atol=1e-12)


def test_relative_pose_is_the_product() -> None:
    other = make_pose((0.5, 0.1, -0.3), (3, -2, 5))
    np.testing.assert_allclose(relative_pose(other, POSE), POSE @ np.linalg.inv(other), atol=1e-12)
