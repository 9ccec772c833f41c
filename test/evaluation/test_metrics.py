"""Metrics against closed forms, scipy, OpenCV and extended precision; scale invariance."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import cv2
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from endomatch_ros.evaluation.metrics import (
    end_point_errors,
    epipolar_errors,
    pose_auc,
    predict_at,
    relative_pose_errors,
    share_within,
)
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.epipolar import fundamental_from_pose
from endomatch_ros.geometry.warping import resize_matrix, resize_points

K = np.array([[677.0, 0.0, 640.0], [0.0, 690.0, 512.0], [0.0, 0.0, 1.0]])


def pose_of(rotation: Rotation, translation: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation.as_matrix(), translation
    return pose


def test_share_within_counts_the_border_and_leaves_nan_out() -> None:
    shares = share_within([0.5, 1.0, 2.0, np.nan, 4.0], [1, 3, 5])
    assert shares == {1: 0.5, 3: 0.75, 5: 1.0}
    assert np.isnan(share_within([np.nan], [1])[1])
    assert np.isnan(share_within([], [1])[1])


def test_end_point_errors_know_visibility() -> None:
    errors = end_point_errors([[0, 0], [3, 4]], [[3, 4], [3, 4]], [True, False])
    assert errors[0] == 5
    assert np.isnan(errors[1])
    np.testing.assert_array_equal(end_point_errors([[1, 1]], [[1, 2]]), [1])


def test_prediction_takes_the_nearest_match_within_the_radius() -> None:
    rng = np.random.default_rng(0)
    keypoints0 = rng.uniform(0, 500, (300, 2))
    keypoints1 = keypoints0 + rng.normal(0, 10, (300, 2))
    points = rng.uniform(0, 500, (700, 2))
    distance, nearest = cKDTree(keypoints0).query(points)
    expected = np.where((distance <= 8)[:, None], points + (keypoints1 - keypoints0)[nearest], np.nan)
    np.testing.assert_allclose(predict_at(points, keypoints0, keypoints1, 8.0), expected)


def test_prediction_without_matches_or_points() -> None:
    assert np.isnan(predict_at([[1.0, 2.0]], np.zeros((0, 2)), np.zeros((0, 2)))).all()
    assert predict_at(np.zeros((0, 2)), [[1.0, 2.0]], [[1.0, 2.0]]).shape == (0, 2)


@pytest.mark.parametrize("degrees", [0.0, 1e-6, 0.5, 45.0, 179.0, 180.0])
def test_relative_pose_errors_are_the_angles(degrees: float) -> None:
    rng = np.random.default_rng(0)
    base, axis = Rotation.random(random_state=1), np.array([0.6, 0.0, 0.8])
    translation = rng.normal(size=3)
    across = np.cross(translation, rng.normal(size=3))
    turned = Rotation.from_rotvec(across / np.linalg.norm(across) * np.radians(degrees)).apply(translation) * 17
    true = pose_of(base, translation)
    estimated = pose_of(base * Rotation.from_rotvec(axis * np.radians(degrees)), turned)
    rotation, direction = relative_pose_errors(estimated, true)
    assert rotation == pytest.approx(degrees, abs=1e-9)
    assert direction == pytest.approx(degrees, abs=1e-9)


def test_relative_pose_error_without_translation_is_nan() -> None:
    rotation, direction = relative_pose_errors(np.eye(4), pose_of(Rotation.identity(), np.ones(3)))
    assert rotation == 0
    assert np.isnan(direction)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_epipolar_errors_do_not_depend_on_the_unit_and_undistort(scale: float) -> None:
    camera = Camera(K, np.array([-0.3, 0.1, 0.001, -0.002, 0.01]), "plumb_bob", (1280, 1024))
    rng = np.random.default_rng(0)
    points = rng.uniform([-2, -2, 4], [2, 2, 9], (50, 3))
    pose = pose_of(Rotation.from_rotvec([0.03, -0.05, 0.02]), np.array([0.5, 0.1, 0.2]))
    pixels0, pixels1 = camera.project(points), camera.project(points @ pose[:3, :3].T + pose[:3, 3])
    pose[:3, 3] *= scale
    F = fundamental_from_pose(K, K, pose)
    assert epipolar_errors(F, pixels0, pixels1, camera, camera).max() < 0.01
    raw = epipolar_errors(F, pixels0, pixels1)
    lines1 = cv2.computeCorrespondEpilines(pixels0[:, None], 1, F).reshape(-1, 3)
    lines0 = cv2.computeCorrespondEpilines(pixels1[:, None], 2, F).reshape(-1, 3)
    expected = np.abs((lines1[:, :2] * pixels1).sum(1) + lines1[:, 2]) + np.abs(
        (lines0[:, :2] * pixels0).sum(1) + lines0[:, 2]
    )
    np.testing.assert_allclose(raw, expected / 2, rtol=1e-4, atol=1e-6)


def noisy_matches(pose: np.ndarray, sigma: float = 3.0, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of points in front of both cameras with matrix K, those of image 1 disturbed."""
    rng = np.random.default_rng(4)
    points = rng.uniform([-2, -2, 4], [2, 2, 9], (count, 3))
    ahead = points @ pose[:3, :3].T + pose[:3, 3]
    pixels0, pixels1 = ((p / p[:, 2:]) @ K[:2].T for p in (points, ahead))
    return pixels0, pixels1 + rng.normal(0, sigma, (count, 2))


def distance_by_projection(point: np.ndarray, other: np.ndarray, pose: np.ndarray) -> float:
    """From a pixel to the epipolar line of the other image's pixel, in extended precision and without any F.

    The line is the image of two points on the other pixel's ray. ``pose`` is this camera from the other one.
    """
    long = np.longdouble
    x, y = (long(other) - long(K[:2, 2])) / long([K[0, 0], K[1, 1]])
    ends = []
    for depth in (long(3), long(11)):
        a, b, c = long(pose[:3, :3]) @ (depth * np.array([x, y, long(1)])) + long(pose[:3, 3])
        ends.append(np.array([long(K[0, 0]) * a / c + long(K[0, 2]), long(K[1, 1]) * b / c + long(K[1, 2])]))
    along, to = ends[1] - ends[0], long(point) - ends[0]
    return float(abs(along[0] * to[1] - along[1] * to[0]) / np.hypot(*along))


MOTION = pose_of(Rotation.from_rotvec([0.03, -0.05, 0.02]), np.array([0.5, 0.1, 0.2]))


def test_epipolar_errors_are_distances_to_projected_rays() -> None:
    pixels0, pixels1 = noisy_matches(MOTION)
    errors = epipolar_errors(fundamental_from_pose(K, K, MOTION), pixels0, pixels1)
    pairs = list(zip(pixels0, pixels1, strict=True))
    there = [distance_by_projection(b, a, MOTION) for a, b in pairs]
    back = [distance_by_projection(a, b, np.linalg.inv(MOTION)) for a, b in pairs]
    np.testing.assert_allclose(errors, (np.array(there) + back) / 2, rtol=1e-9)
    assert errors.mean() > 1


@pytest.mark.parametrize("scale", [0.25, 2.0, 3.7])
def test_larger_images_have_errors_larger_by_as_much(scale: float) -> None:
    pixels0, pixels1 = noisy_matches(MOTION)
    size = (1000, 800)
    larger = (round(size[0] * scale), round(size[1] * scale))
    matrix = resize_matrix(size, larger) @ K
    scaled = [resize_points(p, size, larger) for p in (pixels0, pixels1)]
    errors = epipolar_errors(fundamental_from_pose(K, K, MOTION), pixels0, pixels1)
    again = epipolar_errors(fundamental_from_pose(matrix, matrix, MOTION), *scaled)
    np.testing.assert_allclose(again, errors * scale, rtol=1e-9)
    np.testing.assert_allclose(end_point_errors(*scaled), end_point_errors(pixels0, pixels1) * scale, rtol=1e-9)


@pytest.mark.parametrize("unit", [1e-12, 1e-200, 1e12])
def test_the_unit_of_length_changes_no_error(unit: float) -> None:
    pixels0, pixels1 = noisy_matches(MOTION)
    short, other = MOTION.copy(), pose_of(Rotation.from_rotvec([0.02, -0.05, 0.03]), np.array([0.4, 0.2, 0.2]))
    short[:3, 3] *= unit
    errors = [epipolar_errors(fundamental_from_pose(K, K, pose), pixels0, pixels1) for pose in (MOTION, short)]
    np.testing.assert_allclose(errors[1], errors[0], rtol=1e-9)
    expected = relative_pose_errors(other, MOTION)
    assert relative_pose_errors(other, short) == pytest.approx(expected, rel=1e-9)
    other[:3, 3] *= unit
    assert relative_pose_errors(other, short) == pytest.approx(expected, rel=1e-9)


def test_pose_errors_of_what_opencv_recovers() -> None:
    pixels0, pixels1 = noisy_matches(MOTION, sigma=0.0)
    essential, _ = cv2.findEssentialMat(pixels0, pixels1, K, cv2.RANSAC, 0.999, 0.1)
    _, rotation, translation, _ = cv2.recoverPose(essential, pixels0, pixels1, K)
    recovered = np.eye(4)
    recovered[:3, :3], recovered[:3, 3] = rotation, translation.ravel()
    assert max(relative_pose_errors(recovered, MOTION)) < 1e-3
    # Then turned away: rotation errors are lengths of rotation vectors.
    turn = np.radians(7.0) * np.array([0.0, 0.6, 0.8])
    recovered[:3, :3] = recovered[:3, :3] @ cv2.Rodrigues(turn)[0]
    recovered[:3, 3] = cv2.Rodrigues(turn)[0] @ recovered[:3, 3]
    difference = cv2.Rodrigues(recovered[:3, :3].T @ MOTION[:3, :3])[0]
    assert relative_pose_errors(recovered, MOTION)[0] == pytest.approx(np.degrees(np.linalg.norm(difference)), abs=1e-9)
    cosine = recovered[:3, 3] @ MOTION[:3, 3] / np.linalg.norm(recovered[:3, 3]) / np.linalg.norm(MOTION[:3, 3])
    assert relative_pose_errors(recovered, MOTION)[1] == pytest.approx(np.degrees(np.arccos(cosine)), rel=1e-6)


def area_by_hand(errors: list[float], limit: float) -> Fraction:
    """The same area by adding up trapezia in exact arithmetic."""
    area, x, y = Fraction(0), Fraction(0), Fraction(0)
    for k, error in enumerate(sorted(errors), 1):
        if error >= limit:
            break
        next_x, next_y = Fraction(error), Fraction(k, len(errors))
        area += (next_x - x) * (y + next_y) / 2
        x, y = next_x, next_y
    return (area + (Fraction(limit) - x) * y) / Fraction(limit)


@pytest.mark.parametrize("count", [1, 2, 7, 200])
def test_pose_auc_is_the_area_under_the_recall_curve(count: int) -> None:
    rng = np.random.default_rng(count)
    errors = [*(rng.exponential(6, count)).round(1).tolist(), *[180.0] * (count // 3)]  # rounded: there are ties
    areas = pose_auc(rng.permutation(errors), (5, 10, 20))
    x = np.array([0.0, *sorted(errors)])
    y = np.arange(len(x)) / len(errors)
    for limit, area in areas.items():
        assert area == pytest.approx(float(area_by_hand(errors, limit)), rel=1e-12)
        level = y[x < limit][-1]
        inner = np.array([*x[x < limit], limit])
        curve = (inner, np.append(y[x < limit], level))
        pieces = [quad(np.interp, a, b, args=curve)[0] for a, b in pairwise(inner) if b > a]
        assert area == pytest.approx(sum(pieces) / limit, rel=1e-6)


def test_pose_auc_in_closed_form() -> None:
    assert pose_auc([2.0], (10,))[10] == pytest.approx((10 - 2 / 2) / 10)
    assert pose_auc([2.0, 180.0], (10,))[10] == pytest.approx((10 - 2 / 2) / 10 / 2)
    assert pose_auc([0.0, 0.0], (5, 20)) == {5: 1.0, 20: 1.0}
    assert pose_auc([180.0, np.inf], (5, 20)) == {5: 0.0, 20: 0.0}
    assert pose_auc([5.0], (5,)) == {5: 0.0}  # at the limit is outside, as in SuperGlue's
    assert pose_auc([2.0, np.nan], (10,)) == pose_auc([2.0], (10,))  # unknown is not failed
    assert np.isnan(pose_auc([np.nan], (5,))[5])
    assert np.isnan(pose_auc([], (5,))[5])


def test_pose_auc_knows_no_unit() -> None:
    errors = np.random.default_rng(0).exponential(6, 50)
    assert pose_auc(errors * 3, (30,))[30] == pytest.approx(pose_auc(errors, (10,))[10], rel=1e-12)
