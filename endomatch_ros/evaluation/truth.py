"""What is known to be true about a pair of frames of a recording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame, FrameSequence, landmarks_of, partners_of
from endomatch_ros.errors import CalibrationError
from endomatch_ros.geometry.epipolar import fundamental_from_pose, relative_pose
from endomatch_ros.matching.view import lookup

Array = NDArray[np.float64]
Correspondence = Callable[[Array], tuple[Array, NDArray[np.bool_]]]

DEPTH_TOLERANCE = 0.05
"""Share by which depths may differ and be one surface: of neighbouring pixels, and of a point in both frames."""


@dataclass(frozen=True, eq=False)
class PairTruth:
    """What is known about frames 0 and 1 of a pair; None where nothing is.

    Attributes:
        pose: ``(4, 4)`` camera1_from_camera0.
        fundamental: ``(3, 3)`` in the pixels of the ideal pinholes; None too without translation between the frames.
        landmarks: ``(P, 2)`` pixels of image 0 whose partners are known.
        targets: ``(P, 2)`` their partners in image 1.
        correspondence: partners ``(N, 2)`` and visibility ``(N,)`` of any pixels ``(N, 2)`` of image 0: exact for
            synthetic scenes, else as good as the recording's depth and poses.
    """

    pose: Array | None = None
    fundamental: Array | None = None
    landmarks: Array | None = None
    targets: Array | None = None
    correspondence: Correspondence | None = None

    @property
    def flow(self) -> float:
        """Mean length of the true motion in px; NaN if unknown."""
        if self.landmarks is None or self.targets is None or len(self.landmarks) == 0:
            return float("nan")
        return float(np.linalg.norm(self.targets - self.landmarks, axis=1).mean())


def pair_truth(sequence: FrameSequence, position0: int, position1: int, frame0: Frame, frame1: Frame) -> PairTruth:
    """The truth about two frames of a sequence; what it holds depends on what the sequence knows."""
    pose = fundamental = landmarks = targets = None
    correspondence: Correspondence | None = None
    if frame0.pose is not None and frame1.pose is not None:
        pose = relative_pose(frame0.pose, frame1.pose)
        if frame0.camera is not None and frame1.camera is not None:
            try:
                fundamental = fundamental_from_pose(frame0.camera.matrix, frame1.camera.matrix, pose)
            except CalibrationError:
                fundamental = None  # the camera stood still
    partners, projected = partners_of(sequence), landmarks_of(sequence)
    if projected is not None:
        landmarks, targets = projected(position0, position1)
        inside = _inside(landmarks, frame0) & _inside(targets, frame1)
        landmarks, targets = landmarks[inside], targets[inside]
    elif partners is not None:
        correspondence = partial(partners, position0, position1)
    elif pose is not None:
        correspondence = depth_correspondence(frame0, frame1, pose)
    if correspondence is not None:
        grid = _grid(frame0)
        found, visible = correspondence(grid)
        landmarks, targets = grid[visible], found[visible]
    return PairTruth(pose, fundamental, landmarks, targets, correspondence)


def depth_correspondence(frame0: Frame, frame1: Frame, pose: Array) -> Correspondence | None:
    """Partners by way of the tissue's position in space: a rigid scene with known depth (SCARED).

    A pixel of image 0 is visible in image 1 if its depth is known and the point, moved by the camera's motion, projects
    into the view of image 1 where that frame's depth is the same, to :data:`DEPTH_TOLERANCE`.

    Args:
        frame0: with camera and depth, as ``frame1``.
        frame1: the other one.
        pose: ``(4, 4)`` camera1_from_camera0 in the unit of the depths.

    Returns:
        The function; None if a frame lacks camera or depth.
    """
    camera0, camera1, depth0, depth1 = frame0.camera, frame1.camera, frame0.depth, frame1.depth
    if camera0 is None or camera1 is None or depth0 is None or depth1 is None:
        return None

    def correspondence(points: Array) -> tuple[Array, NDArray[np.bool_]]:
        local = camera0.rays(points) * _depth_at(depth0, points)[:, None]
        moved = local @ pose[:3, :3].T + pose[:3, 3]
        targets = camera1.project(moved)
        seen = _depth_at(depth1, targets)
        with np.errstate(invalid="ignore"):
            same = np.abs(seen - moved[:, 2]) <= DEPTH_TOLERANCE * moved[:, 2]
        return targets, same & _inside(targets, frame1)

    return correspondence


def _depth_at(depth: NDArray[np.float32], points: Array) -> Array:
    """Depth ``(N,)`` at pixels ``(N, 2)``, bilinear; NaN outside, near unknown depth, and across a surface's edge."""
    height, width = depth.shape
    with np.errstate(invalid="ignore"):
        inside = ((points >= 0) & (points <= (width - 1, height - 1))).all(axis=1)
    x, y = points[inside].T
    column, row = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    corners = np.stack([depth[row + i, column + j] for i in (0, 1) for j in (0, 1)], axis=1).astype(np.float64)
    known = (np.isfinite(corners) & (corners > 0)).all(axis=1)
    corners[~known] = np.nan
    # Between a near and a far pixel lies neither's depth.
    corners[corners.max(axis=1) > (1 + DEPTH_TOLERANCE) * corners.min(axis=1)] = np.nan
    u, v = x - column, y - row
    weights = np.stack([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u], axis=1)
    out = np.full(len(points), np.nan)
    out[inside] = (corners * weights).sum(axis=1)
    return out


def _inside(points: Array, frame: Frame) -> NDArray[np.bool_]:
    width, height = frame.size
    return lookup(np.ones((height, width), bool) if frame.mask is None else frame.mask, points)


def _grid(frame: Frame) -> Array:
    """Every 24th pixel ``(N, 2)`` inside the view."""
    width, height = frame.size
    grid = np.stack(np.meshgrid(np.arange(12.0, width, 24), np.arange(12.0, height, 24)), axis=-1).reshape(-1, 2)
    return grid[_inside(grid, frame)]
