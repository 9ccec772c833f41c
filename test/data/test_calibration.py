"""Calibrations without ROS: YAML files of ROS's tools, and a stereo pair's pose against OpenCV's own projection."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml

from endomatch_ros.data.calibration import read_calibration, stereo_pose, to_camera, write_calibration
from endomatch_ros.errors import CalibrationError, DataError
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.epipolar import is_rigid

SIZE = (640, 480)
# A stereo endoscope: unlike lenses, 5 mm apart, turned a little against each other.
K_LEFT = np.array([[510.0, 0, 322.0], [0, 512.0, 238.0], [0, 0, 1]])
K_RIGHT = np.array([[505.0, 0, 315.0], [0, 507.0, 243.0], [0, 0, 1]])
D_LEFT = np.array([-0.12, 0.05, 0.001, -0.0005, 0.01])
D_RIGHT = np.array([-0.10, 0.04, -0.0008, 0.0004, 0.0])
ROTATION = cv2.Rodrigues(np.array([0.01, 0.03, -0.02]))[0]  # right from left
TRANSLATION = np.array([-0.005, 0.0003, 0.0002])
POINTS = np.random.default_rng(0).uniform((-0.015, -0.012, 0.05), (0.015, 0.012, 0.09), (50, 3))  # left camera, metres


def info_of(k, d, r, p, **changes):
    values = {"width": SIZE[0], "height": SIZE[1], "distortion_model": "plumb_bob", "binning_x": 0, "binning_y": 0}
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    return SimpleNamespace(**{**values, "k": k.ravel(), "d": d, "r": r.ravel(), "p": p.ravel(), "roi": roi, **changes})


def rig(flags=cv2.CALIB_ZERO_DISPARITY):
    """camera_info of both cameras as a ROS stereo calibration has them, and OpenCV's rectification."""
    r1, r2, p1, p2, *_ = cv2.stereoRectify(
        K_LEFT, D_LEFT, K_RIGHT, D_RIGHT, SIZE, ROTATION, TRANSLATION[:, None], flags=flags, alpha=0
    )
    return info_of(K_LEFT, D_LEFT, r1, p1), info_of(K_RIGHT, D_RIGHT, r2, p2), (r1, r2, p1, p2)


def seen_by(points, pose, camera):
    """Pixels of a camera of points ``(N, 3)`` in the frame's coordinates."""
    return camera.project(points @ pose[:3, :3].T + pose[:3, 3])


def reference_raw():
    return cv2.projectPoints(POINTS, cv2.Rodrigues(ROTATION)[0], TRANSLATION, K_RIGHT, D_RIGHT)[0][:, 0]


def reference_rectified(r2, p2):
    """What rectifying the raw right image's pixels by OpenCV gives."""
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
    raw = reference_raw()[:, None]
    return cv2.undistortPoints(raw, K_RIGHT, D_RIGHT, R=r2, P=p2, criteria=criteria)[:, 0]


def test_the_pose_of_raw_images_is_the_rig_itself():
    left, right, _ = rig()
    pose = stereo_pose(left, right, False, False)
    np.testing.assert_allclose(pose[:3, :3], ROTATION, atol=1e-9)
    np.testing.assert_allclose(pose[:3, 3], TRANSLATION, atol=1e-9)
    np.testing.assert_allclose(seen_by(POINTS, pose, to_camera(right, SIZE)), reference_raw(), atol=1e-6)


@pytest.mark.parametrize("flags", [cv2.CALIB_ZERO_DISPARITY, 0])
def test_the_pose_of_rectified_images_is_the_baseline_alone(flags):
    left, right, (r1, r2, p1, p2) = rig(flags)
    pose = stereo_pose(left, right, True, True)
    np.testing.assert_array_equal(pose[:3, :3], np.eye(3))
    baseline = np.linalg.norm(TRANSLATION)
    assert p2[0, 3] == pytest.approx(-p2[0, 0] * baseline)  # ROS: P[0, 3] = -fx Tx, the right camera on the right
    np.testing.assert_allclose(pose[:3, 3], (-baseline, 0, 0), atol=1e-12)
    camera, partner = to_camera(left, SIZE, True), to_camera(right, SIZE, True)
    rectified = POINTS @ r1.T
    flat = rectified @ p1[:, :3].T
    np.testing.assert_allclose(camera.project(rectified), flat[:, :2] / flat[:, 2:], atol=1e-9)
    np.testing.assert_allclose(seen_by(rectified, pose, partner), reference_rectified(r2, p2), atol=1e-5)
    # What rectification is for: rows agree, and disparity times depth is focal length times baseline.
    disparity = camera.project(rectified) - seen_by(rectified, pose, partner)
    np.testing.assert_allclose(disparity[:, 1], 0, atol=1e-9)
    shift = p1[0, 2] - p2[0, 2]
    np.testing.assert_allclose((disparity[:, 0] - shift) * rectified[:, 2], p1[0, 0] * baseline, rtol=1e-9)


def test_one_rectified_image_and_one_raw():
    left, right, (r1, r2, _, p2) = rig()
    pose = stereo_pose(left, right, True, False)
    np.testing.assert_allclose(seen_by(POINTS @ r1.T, pose, to_camera(right, SIZE)), reference_raw(), atol=1e-6)
    pose = stereo_pose(left, right, False, True)
    expected = reference_rectified(r2, p2)
    np.testing.assert_allclose(seen_by(POINTS, pose, to_camera(right, SIZE, True)), expected, atol=1e-5)


@pytest.mark.parametrize("rectified", [False, True])
def test_the_right_camera_may_come_first(rectified):
    left, right, _ = rig()
    there, back = stereo_pose(left, right, rectified, rectified), stereo_pose(right, left, rectified, rectified)
    assert is_rigid(back)
    np.testing.assert_allclose(back, np.linalg.inv(there), atol=1e-12)


def test_cameras_that_are_no_stereo_pair():
    left, _, (_, r2, p1, p2) = rig()
    with pytest.raises(CalibrationError, match="without a baseline"):
        stereo_pose(left, info_of(K_RIGHT, D_RIGHT, np.eye(3), p1), True, True)
    with pytest.raises(CalibrationError, match="not a projection"):
        stereo_pose(left, info_of(K_RIGHT, D_RIGHT, r2, np.zeros((3, 4))), False, False)
    flat = info_of(K_RIGHT, D_RIGHT, np.zeros((3, 3)), p2)
    with pytest.raises(CalibrationError, match="not a rotation"):
        stereo_pose(left, flat, False, False)
    assert stereo_pose(left, flat, True, True)[0, 3] < 0  # R does not count where images are rectified


def content(**changes):
    """What camera_calibration writes; a value of None leaves the entry out."""
    values = {
        "image_width": 640,
        "image_height": 480,
        "camera_name": "left",
        "camera_matrix": {"rows": 3, "cols": 3, "data": K_LEFT.ravel().tolist()},
        "distortion_model": "plumb_bob",
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": D_LEFT.tolist()},
        "rectification_matrix": {"rows": 3, "cols": 3, "data": np.eye(3).ravel().tolist()},
        "projection_matrix": {"rows": 3, "cols": 4, "data": [0.0] * 12},
        **changes,
    }
    return {name: value for name, value in values.items() if value is not None}


def written(folder: Path, **changes) -> Path:
    (folder / "left.yaml").write_text(yaml.safe_dump(content(**changes)))
    return folder / "left.yaml"


CAMERA_INFO_MANAGER = """image_width: 640
image_height: 480
camera_name: left
camera_matrix:
  rows: 3
  cols: 3
  data: [510, 0, 322, 0, 512.0, 238.0, 0, 0, 1]
distortion_model: rational_polynomial
distortion_coefficients:
  rows: 1
  cols: 8
  data: [0.1, -0.2, 1e-05, 0.0002, 0.03, 0.1, -0.1, 0.02]
"""


def test_a_file_as_the_tools_write_it(tmp_path):
    camera = read_calibration(written(tmp_path))
    np.testing.assert_array_equal(camera.matrix, K_LEFT)
    np.testing.assert_array_equal(camera.distortion, D_LEFT)
    assert (camera.distortion_model, camera.size) == ("plumb_bob", SIZE)
    (tmp_path / "hand.yaml").write_text(CAMERA_INFO_MANAGER)
    camera = read_calibration(str(tmp_path / "hand.yaml"))
    np.testing.assert_array_equal(camera.matrix, K_LEFT)
    np.testing.assert_array_equal(camera.distortion, [0.1, -0.2, 1e-5, 0.0002, 0.03, 0.1, -0.1, 0.02])
    assert camera.distortion_model == "rational_polynomial"


def test_a_camera_that_is_written_is_read_again(tmp_path):
    lens = [0.1, -0.2, 1e-5, 0.0002, 0.03, 0.1, -0.1, 0.02]
    for distortion, model in ((D_LEFT, "plumb_bob"), (lens, "rational_polynomial")):
        camera = Camera(K_LEFT, np.array(distortion), model, SIZE)
        write_calibration(tmp_path / "camera.yaml", camera)
        found = read_calibration(tmp_path / "camera.yaml")
        np.testing.assert_array_equal(found.matrix, camera.matrix)
        np.testing.assert_array_equal(found.distortion, camera.distortion)
        assert (found.distortion_model, found.size) == (model, SIZE)
    assert yaml.safe_load((tmp_path / "camera.yaml").read_text()).keys() >= {
        "rectification_matrix",
        "projection_matrix",
    }


def test_what_old_files_leave_out(tmp_path):
    assert read_calibration(written(tmp_path, distortion_model=None)).distortion_model == "plumb_bob"
    assert not read_calibration(written(tmp_path, distortion_coefficients={"data": []})).distortion.any()


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"camera_matrix": None}, DataError, "camera_matrix"),
        ({"image_width": None}, DataError, "image_width"),
        ({"image_height": "tall"}, DataError, "tall"),
        ({"distortion_coefficients": [0.1]}, DataError, "camera_calibration"),
        ({"camera_matrix": {"data": [1.0] * 8}}, DataError, "8 numbers, not 9"),
        ({"camera_matrix": {"data": ["wide"] * 9}}, DataError, "wide"),
        ({"camera_matrix": {"data": [0.0] * 9}}, CalibrationError, "uncalibrated"),
        ({"camera_matrix": {"data": [-1.0, 0, 0, 0, 1, 0, 0, 0, 1]}}, CalibrationError, "positive focal lengths"),
        ({"camera_matrix": {"data": [float("nan")] * 9}}, CalibrationError, "finite"),
        ({"distortion_model": "thin_prism"}, CalibrationError, "thin_prism"),
        ({"distortion_coefficients": {"data": [0.1, 0.2]}}, CalibrationError, r"\[0.1, 0.2\]"),
        ({"image_width": 0}, CalibrationError, "size"),
    ],
)
def test_damaged_files_are_named_with_what_is_wrong(tmp_path, changes, error, text):
    path = written(tmp_path, **changes)
    with pytest.raises(error, match=text) as caught:
        read_calibration(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "just words", "image_width: [", "%YAML:1.0\n---\nK: !!opencv-matrix\n   rows: 3\n", "- 1\n- 2\n"]
)
def test_files_that_are_something_else(tmp_path, text):
    (tmp_path / "other.yaml").write_text(text)
    with pytest.raises(DataError, match="not a calibration as ROS's"):
        read_calibration(tmp_path / "other.yaml")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match="not a calibration as ROS's"):
        read_calibration(tmp_path / "binary.yaml")
    with pytest.raises(DataError, match="no calibration file"):
        read_calibration(tmp_path / "missing.yaml")
