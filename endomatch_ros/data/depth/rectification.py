"""A calibrated pair turned into one whose rows correspond, and depth brought back from it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import CalibrationError
from endomatch_ros.geometry.camera import Camera

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_WIDEST = np.tan(np.radians(70.0))  # half the angle that a rectified plane shows; beyond it pixels stretch endlessly
_LARGEST = 1.5  # of the rectified image, in sides of the original


class Rectification:
    """Both cameras turned in thought until their rows lie along the baseline; for one calibration, any lens model.

    Unlike OpenCV's, whose rotations it shares but for the choice of the roll, it takes the two lens models apart (they
    may differ, as may the sizes), and a partner on any side: the rectified x axis points from camera to partner, so
    that a vertical rig is simply seen with the head on the side.

    Args:
        camera: of the left image.
        partner: of the other image.
        pose: ``partner_from_frame`` ``(4, 4)``.

    Attributes:
        matrix: ``(3, 3)`` intrinsics of both rectified images.
        size: ``(width, height)`` of both.
        rotation: ``(3, 3)``, from the left camera's axes to the rectified ones.
        focal: focal length of the rectified pair in pixels; times the baseline over the depth it is the disparity.

    Raises:
        CalibrationError: a partner at the same place, before or behind, or one that looks elsewhere.
    """

    def __init__(self, camera: Camera, partner: Camera, pose: Array) -> None:
        self._key = _key(camera, partner, pose)
        self._camera = camera
        rotation = pose[:3, :3]
        centre = -rotation.T @ pose[:3, 3]
        self._baseline = float(np.linalg.norm(centre))
        self.rotation = _rectified_from_left(rotation, centre)
        if _is_rectified(camera, partner, self.rotation, rotation):
            self.matrix, self.size = camera.matrix, camera.size
        else:
            self.matrix, self.size = _plane(camera, self.rotation)
        self.focal = float(self.matrix[0, 0])
        xs, ys = np.meshgrid(np.arange(self.size[0]), np.arange(self.size[1]))
        pixels = np.column_stack([xs.ravel(), ys.ravel(), np.ones(xs.size)])
        rays = np.asarray(pixels @ np.linalg.inv(self.matrix).T @ self.rotation)
        self._maps = [self._map(camera, rays), self._map(partner, rays @ rotation.T)]
        self._back, self._deepening = self._way_back()

    def serves(self, camera: Camera, partner: Camera, pose: Array) -> bool:
        """Whether this was made for a calibration of these values."""
        return self._key == _key(camera, partner, pose)

    def warp(self, left: Image, right: Image) -> tuple[Image, Image]:
        """Both images rectified, ``(h, w, 3)``."""
        a, b = (
            cv2.remap(image, *grid, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            for image, grid in zip((left, right), self._maps, strict=True)
        )
        return np.asarray(a, np.uint8), np.asarray(b, np.uint8)

    def warp_mask(self, right: Mask) -> Mask:
        """The right image's mask rectified, ``(h, w)``; False where a rectified pixel lies outside that image."""
        levels = right.astype(np.uint8)
        return np.asarray(cv2.remap(levels, *self._maps[1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)) > 0

    def depth(self, disparity: Array, where: Mask) -> NDArray[np.float32]:
        """Depth ``(H, W)`` along the left camera's own axis, in its own pixels.

        Args:
            disparity: of the rectified pair in its pixels, NaN where unknown; may lie on a coarser grid.
            where: ``(H, W)`` bool, the left image's pixels that are wanted.
        """
        share = np.array(disparity.shape[::-1]) / self.size
        sampled = _sample(disparity, (self._back + 0.5) * share - 0.5, 1.0 / share[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = self.focal * self._baseline / sampled * self._deepening
        return np.where(where & np.isfinite(depth) & (depth > 0), depth, np.nan).astype(np.float32)

    def _map(self, camera: Camera, rays: Array) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where in a camera's image its rays ``(h·w, 3)`` are, for remapping; outside where they are not."""
        pixels = camera.project(rays)
        if camera.distortion.any():
            # Polynomials fold: rays from far outside the view would land in the image again.
            with np.errstate(invalid="ignore"):
                miss = np.abs(camera.rays(pixels) - rays / rays[:, 2:]).max(axis=1)
            pixels[~(miss < 1e-3)] = np.nan
        pixels = np.nan_to_num(pixels, nan=-1e4).clip(-1e4, 1e4).astype(np.float32)
        x, y = pixels.reshape(self.size[1], self.size[0], 2).transpose(2, 0, 1)
        return np.ascontiguousarray(x), np.ascontiguousarray(y)

    def _way_back(self) -> tuple[Array, Array]:
        """For each left pixel its rectified one ``(H, W, 2)`` and its depth over the rectified depth ``(H, W)``."""
        width, height = self._camera.size
        xs, ys = np.meshgrid(np.arange(width), np.arange(height))
        rays = self._camera.rays(np.column_stack([xs.ravel(), ys.ravel()])) @ self.rotation.T
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = (rays / rays[:, 2:]) @ self.matrix[:2].T
            # A ray with z = 1 in the left camera has z = rays[:, 2] in the rectified one.
            deepening = np.where(rays[:, 2] > 0, 1.0 / rays[:, 2], np.nan)
        return pixels.reshape(height, width, 2), deepening.reshape(height, width)


def _key(camera: Camera, partner: Camera, pose: Array) -> tuple[object, ...]:
    parts = [(c.matrix.tobytes(), c.distortion.tobytes(), c.distortion_model, c.size) for c in (camera, partner)]
    return (*parts, pose.tobytes())


def _rectified_from_left(rotation: Array, centre: Array) -> Array:
    """Rotation ``(3, 3)`` to axes whose x points to the partner's ``centre`` and whose z lies between both cameras'."""
    forward = np.array([0.0, 0.0, 1.0]) + rotation[2]
    length = float(np.linalg.norm(centre))
    if length == 0 or not np.isfinite(length):
        raise CalibrationError("the stereo partner is at the frame's own place: depth needs a baseline")
    if rotation[2, 2] < 0.5:
        raise CalibrationError("the stereo partner looks elsewhere: its axis is more than 60 degrees from the frame's")
    right = centre / length
    forward = forward / np.linalg.norm(forward)
    if abs(right @ forward) > 0.7:
        raise CalibrationError(
            f"the stereo partner is before or behind the frame's camera (at {centre.tolist()}), not beside it: such a "
            "pair cannot be rectified; choose the depth provider mono or photometric"
        )
    forward = forward - (forward @ right) * right
    forward /= np.linalg.norm(forward)
    return np.stack([right, np.cross(forward, right), forward])


def _is_rectified(camera: Camera, partner: Camera, turn: Array, rotation: Array) -> bool:
    """Whether nothing need be resampled: equal ideal cameras, parallel, the partner exactly to the right."""
    ideal = not (camera.distortion.any() or partner.distortion.any())
    models = "equidistant" not in (camera.distortion_model, partner.distortion_model)
    same = camera.size == partner.size and np.allclose(camera.matrix, partner.matrix, rtol=0, atol=1e-6)
    square = abs(camera.matrix[0, 1]) < 1e-9
    parallel = np.allclose(turn, np.eye(3), atol=1e-7) and np.allclose(rotation, np.eye(3), atol=1e-7)
    return bool(ideal and models and same and square and parallel)


def _plane(camera: Camera, turn: Array) -> tuple[Array, tuple[int, int]]:
    """Intrinsics and size of the rectified image that shows what the left camera sees."""
    width, height = camera.size
    grid = np.stack(np.meshgrid(np.linspace(0, width - 1, 41), np.linspace(0, height - 1, 41)), axis=2).reshape(-1, 2)
    rays = camera.rays(grid) @ turn.T
    with np.errstate(divide="ignore", invalid="ignore"):
        flat = rays[:, :2] / np.where(rays[:, 2:] > 0, rays[:, 2:], np.nan)
    flat = flat[np.isfinite(flat).all(axis=1)].clip(-_WIDEST, _WIDEST)
    if len(flat) == 0:
        raise CalibrationError("the rectified view shows nothing of the frame: check the stereo calibration")
    low, high = flat.min(axis=0), flat.max(axis=0)
    focal = float(np.sqrt(camera.matrix[0, 0] * camera.matrix[1, 1]))
    # Rims of wide lenses would take most of the plane: rather lose resolution than memory.
    focal *= min(1.0, _LARGEST * max(width, height) / (focal * (high - low).max()))
    size = np.ceil((high - low) * focal).astype(int) + 1
    matrix = np.array([[focal, 0, -low[0] * focal], [0, focal, -low[1] * focal], [0, 0, 1]])
    return matrix, (int(size[0]), int(size[1]))


def _sample(disparity: Array, pixels: Array, step: float) -> Array:
    """Disparities at ``pixels`` ``(H, W, 2)``: linear between four that differ by less than ``step``, else nearest."""
    height, width = disparity.shape
    x, y = np.nan_to_num(pixels, nan=-1e4).clip(-1e4, 1e6).transpose(2, 0, 1)
    inside = (x > -0.5) & (y > -0.5) & (x < width - 0.5) & (y < height - 0.5)
    x, y = x.clip(0, width - 1), y.clip(0, height - 1)
    x0, y0 = np.minimum(x.astype(np.intp), max(width - 2, 0)), np.minimum(y.astype(np.intp), max(height - 2, 0))
    corners = np.stack([disparity[y0 + j, x0 + i] for j in (0, 1) for i in (0, 1)])
    u, v = x - x0, y - y0
    linear = (corners * np.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v])).sum(axis=0)
    nearest = disparity[np.round(y).astype(np.intp), np.round(x).astype(np.intp)]
    with np.errstate(invalid="ignore"):
        together = corners.max(axis=0) - corners.min(axis=0) < step
    return np.where(inside, np.where(together, linear, nearest), np.nan)
