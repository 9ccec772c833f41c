"""Metrics against closed forms and scipy; scale invariance."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from endomatch_ros.evaluation.metrics import (
    end_point_errors,
    epipolar_errors,
    predict_at,
    relative_pose_errors,
    share_within,
)
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.epipolar import fundamental_from_pose

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
