"""Calibrations to :class:`~endomatch_ros.geometry.camera.Camera`, without ROS: camera_info messages and YAML files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import yaml
from numpy.typing import NDArray

from endomatch_ros.errors import CalibrationError, DataError
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.epipolar import is_rigid

Array = NDArray[np.float64]


class CameraInfo(Protocol):
    """The fields of ``sensor_msgs/CameraInfo`` (ROS 2) that are read; matrices are row-major sequences of numbers."""

    width: int
    height: int
    distortion_model: str
    d: Any
    k: Any
    r: Any
    p: Any
    binning_x: int
    binning_y: int
    roi: Any


def to_camera(info: CameraInfo, size: tuple[int, int], rectified: bool = False) -> Camera | None:
    """The camera that took images of ``size``.

    ``K`` and ``P`` of a CameraInfo hold for the full sensor; its region of interest and binning are applied here, with
    pixel centres at whole numbers (x' = (x - offset + ½) / binning - ½).

    Args:
        info: the message.
        size: ``(width, height)`` of the images that arrive.
        rectified: the images are rectified already: use ``P`` without distortion instead of ``K`` and ``D``.

    Returns:
        The camera, or None when the message says uncalibrated (all zero ``K``, or ``P`` if ``rectified``).

    Raises:
        CalibrationError: the message contradicts itself or the images' size.
    """
    matrix = _projection(info)[:, :3] if rectified else np.array(info.k, np.float64).reshape(3, 3)
    if not matrix.any():
        return None
    expected, matrix = _cropped_and_binned(info, matrix)
    if expected != size:
        raise CalibrationError(
            f"camera_info describes images of {expected[0]} x {expected[1]} pixels (region of interest and binning "
            f"applied), but the images are {size[0]} x {size[1]}; publish the calibration of this resolution"
        )
    if rectified:
        return Camera(matrix, np.zeros(5), "plumb_bob", size)
    distortion = np.array(info.d, np.float64)
    if not distortion.any():  # drivers leave model and coefficients empty for an ideal pinhole
        return Camera(matrix, np.zeros(5), "plumb_bob", size)
    if info.distortion_model not in ("plumb_bob", "rational_polynomial", "equidistant"):
        raise CalibrationError(
            f"distortion_model {info.distortion_model!r} is not supported; "
            "use plumb_bob, rational_polynomial or equidistant, or publish rectified images"
        )
    return Camera(matrix, distortion, info.distortion_model, size)


def stereo_pose(frame: CameraInfo, partner: CameraInfo, frame_rectified: bool, partner_rectified: bool) -> Array:
    """``partner_from_frame`` ``(4, 4)`` of a stereo pair from the camera_info of its two cameras.

    ``P = K' [I | t]`` projects from the one rectified frame that both cameras share (the left camera's), so
    ``t = K'⁻¹ P[:, 3]``: zero for the left camera, ``(-baseline, 0, 0)`` for the right one, since ``P[0, 3] = -fx Tx``.
    ``R`` turns a camera's own axes into the rectified ones. With ``A = I`` for rectified images and ``A = R`` for raw
    ones, the rotation is ``A_partnerᵀ A_frame``, the translation ``A_partnerᵀ (t_partner - t_frame)``. Either camera
    may be the left one.

    Args:
        frame: calibration of the frame's camera.
        partner: calibration of the partner's camera.
        frame_rectified: the frame's images are rectified.
        partner_rectified: the partner's images are rectified.

    Returns:
        A rigid motion, in the unit of ``P``'s last column over the focal length: metres in ROS.

    Raises:
        CalibrationError: the two do not describe a stereo pair.
    """
    turns = [
        np.eye(3) if rectified else np.array(info.r, np.float64).reshape(3, 3)
        for info, rectified in ((frame, frame_rectified), (partner, partner_rectified))
    ]
    shift = _rectified_translation(partner) - _rectified_translation(frame)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turns[1].T @ turns[0], turns[1].T @ shift
    if not is_rigid(pose):
        raise CalibrationError(f"R of camera_info is not a rotation: {turns[0].tolist()}, {turns[1].tolist()}")
    if not shift.any():
        raise CalibrationError(
            "P of the two camera_info is without a baseline (P[0, 3] = -fx * Tx of the right camera); "
            "calibrate the cameras as a stereo pair"
        )
    return pose


def read_calibration(path: str | Path) -> Camera:
    """The camera of a YAML file as ROS's camera_calibration and camera_info_manager write it.

    Read are ``image_width``, ``image_height``, ``camera_matrix``, ``distortion_model`` (``plumb_bob`` where it is
    missing, as in ROS) and ``distortion_coefficients``: what holds for the images as they come from the camera.

    Raises:
        DataError: there is no such file, or it is not in this layout.
        CalibrationError: its values are no camera.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"there is no calibration file {path}; check the path")
    try:
        content = yaml.safe_load(file.read_text())
        size = int(content["image_width"]), int(content["image_height"])
        info = SimpleNamespace(
            width=size[0],
            height=size[1],
            k=_numbers(content, "camera_matrix", 9),
            d=_numbers(content, "distortion_coefficients"),
            distortion_model=content.get("distortion_model", "plumb_bob"),
            binning_x=0,
            binning_y=0,
            roi=SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is not a calibration as ROS's camera_calibration writes it (YAML with image_width, image_height, "
            f"camera_matrix, distortion_model, distortion_coefficients): {error!r}"
        ) from error
    try:
        camera = to_camera(info, size)
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from error
    if camera is None:
        raise CalibrationError(f"{path}: the camera_matrix is zero, which means uncalibrated; calibrate the camera")
    return camera


def write_calibration(path: Path, camera: Camera) -> None:
    """Write a YAML file that :func:`read_calibration`, and ROS's camera_info_manager, read as this camera."""
    matrix = np.asarray(camera.matrix, np.float64)
    parts = {
        "camera_matrix": matrix,
        "distortion_coefficients": np.atleast_2d(camera.distortion),
        "rectification_matrix": np.eye(3),
        "projection_matrix": np.hstack([matrix, np.zeros((3, 1))]),
    }
    content = {"image_width": camera.size[0], "image_height": camera.size[1], "camera_name": path.stem}
    content |= {"distortion_model": camera.distortion_model}
    for name, values in parts.items():
        content[name] = {"rows": values.shape[0], "cols": values.shape[1], "data": values.ravel().tolist()}
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def _numbers(content: dict[str, Any], name: str, count: int | None = None) -> list[float]:
    values = [float(value) for value in content[name]["data"]]
    if count is not None and len(values) != count:
        raise ValueError(f"{name} holds {len(values)} numbers, not {count}")
    return values


def _projection(info: CameraInfo) -> Array:
    return np.array(info.p, np.float64).reshape(3, 4)


def _rectified_translation(info: CameraInfo) -> Array:
    """``(3,)`` from the pair's common rectified frame to this camera's."""
    projection = _projection(info)
    try:
        translation = np.linalg.solve(projection[:, :3], projection[:, 3])
    except np.linalg.LinAlgError:
        raise CalibrationError(
            f"P of camera_info is not a projection: {projection.tolist()}; calibrate the cameras as a stereo pair"
        ) from None
    return np.asarray(translation, np.float64)


def _cropped_and_binned(info: CameraInfo, matrix: Array) -> tuple[tuple[int, int], Array]:
    roi = info.roi
    whole = roi.width == 0 and roi.height == 0  # all zero means the full sensor
    width, height = (info.width, info.height) if whole else (roi.width, roi.height)
    binning = np.array([info.binning_x or 1, info.binning_y or 1], np.float64)
    offset = np.array([roi.x_offset, roi.y_offset], np.float64)
    adjusted = matrix.copy()
    adjusted[:2, :2] /= binning[:, None]
    adjusted[:2, 2] = (matrix[:2, 2] - offset + 0.5) / binning - 0.5
    return (int(width // binning[0]), int(height // binning[1])), adjusted
