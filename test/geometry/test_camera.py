"""Camera against OpenCV and closed forms."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from endomatch_ros.errors import CalibrationError
from endomatch_ros.geometry.camera import Camera

K = np.array([[677.0, 0.0, 640.0], [0.0, 690.0, 512.0], [0.0, 0.0, 1.0]])
SIZE = (1280, 1024)
MODELS = {
    "pinhole": ("plumb_bob", []),
    "plumb_bob": ("plumb_bob", [-0.3, 0.1, 0.001, -0.002, 0.01]),
    "four": ("plumb_bob", [-0.2, 0.05, 0.001, -0.002]),
    "rational": ("rational_polynomial", [0.1, 0.02, 0.001, 0.002, 0.01, 0.2, 0.03, 0.01]),
    "fisheye": ("equidistant", [-0.03, 0.01, 0.001, -0.002]),
}


@pytest.fixture(params=MODELS)
def camera(request: pytest.FixtureRequest) -> Camera:
    model, coefficients = MODELS[request.param]
    return Camera(K, np.array(coefficients), model, SIZE)


@pytest.fixture
def points3d() -> np.ndarray:
    return np.random.default_rng(0).uniform([-2, -2, 4], [2, 2, 9], (200, 3))


def opencv_project(camera: Camera, points: np.ndarray) -> np.ndarray:
    zero = np.zeros(3)
    if camera.distortion_model == "equidistant":
        pixels, _ = cv2.fisheye.projectPoints(points[:, None], zero, zero, camera.matrix, camera.distortion)
    else:
        distortion = camera.distortion if len(camera.distortion) else None
        pixels, _ = cv2.projectPoints(points[:, None], zero, zero, camera.matrix, distortion)
    return pixels.reshape(-1, 2)


def test_project_agrees_with_opencv(camera: Camera, points3d: np.ndarray) -> None:
    np.testing.assert_allclose(camera.project(points3d), opencv_project(camera, points3d), atol=1e-8)


def test_undistort_agrees_with_opencv(camera: Camera) -> None:
    pixels = np.random.default_rng(1).uniform([300, 250], [950, 750], (100, 2))  # its few iterations suffice here
    if camera.distortion_model == "equidistant":
        expected = cv2.fisheye.undistortPoints(pixels[:, None], K, camera.distortion, P=K)
    else:
        distortion = camera.distortion if len(camera.distortion) else None
        expected = cv2.undistortPoints(pixels[:, None], K, distortion, P=K)
    np.testing.assert_allclose(camera.undistort(pixels), expected.reshape(-1, 2), atol=0.01)


def test_rays_invert_project(camera: Camera, points3d: np.ndarray) -> None:
    rays = camera.rays(camera.project(points3d))
    np.testing.assert_allclose(rays, points3d / points3d[:, 2:], atol=1e-5)


def test_undistorted_pixels_are_those_of_the_pinhole(camera: Camera, points3d: np.ndarray) -> None:
    pinhole = points3d @ K.T
    undistorted = camera.undistort(camera.project(points3d))
    np.testing.assert_allclose(undistorted, pinhole[:, :2] / pinhole[:, 2:], atol=0.01)


def test_skew_is_part_of_the_matrix() -> None:
    matrix = K.copy()
    matrix[0, 1] = 30.0
    camera = Camera(matrix, np.array(MODELS["plumb_bob"][1]), "plumb_bob", SIZE)
    ray = np.array([[0.3, 0.2, 1.0]])
    straight = Camera(matrix, np.zeros(5), "plumb_bob", SIZE)
    np.testing.assert_allclose(straight.project(ray)[0], (matrix @ ray[0])[:2])
    np.testing.assert_allclose(camera.rays(camera.project(ray)), ray, atol=1e-8)


def test_points_behind_and_bad_points_are_nan(camera: Camera) -> None:
    assert np.isnan(camera.project([[0, 0, -1.0], [0, 0, 0.0], [np.nan, 0, 1.0]])).all()
    rays = camera.rays([[np.nan, 10.0], [np.inf, 10.0], [640.0, 512.0]])
    assert np.isnan(rays[:2]).all()
    np.testing.assert_allclose(rays[2], (0, 0, 1), atol=1e-9)


def test_pixels_beyond_the_models_reach_are_nan() -> None:
    # r (1 + k r²) with k = -0.3 is never above 0.703: a distorted radius of 1 has no undistorted one.
    camera = Camera(K, np.array([-0.3, 0, 0, 0]), "plumb_bob", SIZE)
    assert np.isnan(camera.rays([[640 + 677.0, 512.0]])).all()
    fisheye = Camera(K, np.array([-0.03, 0, 0, 0]), "equidistant", SIZE)
    assert np.isnan(fisheye.rays([[1e4, 1e4]])).all()


def test_no_points(camera: Camera) -> None:
    assert camera.rays(np.zeros((0, 2))).shape == (0, 3)
    assert camera.undistort(np.zeros((0, 2))).shape == (0, 2)
    assert camera.project(np.zeros((0, 3))).shape == (0, 2)


@pytest.mark.parametrize(
    ("matrix", "distortion", "model", "size"),
    [
        (np.zeros((3, 3)), [], "plumb_bob", SIZE),
        (np.eye(2), [], "plumb_bob", SIZE),
        (np.full((3, 3), np.nan), [], "plumb_bob", SIZE),
        (np.diag([700.0, -700.0, 1.0]), [], "plumb_bob", SIZE),
        (np.diag([700.0, 700.0, 2.0]), [], "plumb_bob", SIZE),
        (K, [0.1, 0.2], "plumb_bob", SIZE),
        (K, [np.nan] * 5, "plumb_bob", SIZE),
        (K, [0.1] * 5, "equidistant", SIZE),
        (K, [0.1] * 5, "rational_polynomial", SIZE),
        (K, [], "kannala", SIZE),
        (K, [], "plumb_bob", (0, 10)),
    ],
)
def test_nonsense_is_refused(matrix: np.ndarray, distortion: list[float], model: str, size: tuple[int, int]) -> None:
    with pytest.raises(CalibrationError):
        Camera(matrix, np.array(distortion), model, size)


def test_a_camera_cannot_be_changed_from_outside() -> None:
    matrix = K.copy()
    camera = Camera(matrix, np.zeros(5), "plumb_bob", SIZE)
    matrix[0, 0] = 1.0
    assert camera.matrix[0, 0] == 677.0
    with pytest.raises(ValueError, match="read-only"):
        camera.matrix[0, 0] = 2.0
