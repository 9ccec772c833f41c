"""What is known to be true about a pair of frames of a recording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame, FrameSequence
from endomatch_ros.data.sfm import SfmSequence
from endomatch_ros.data.sources import origin
from endomatch_ros.data.synthetic import SyntheticSequence
from endomatch_ros.errors import CalibrationError
from endomatch_ros.geometry.epipolar import fundamental_from_pose, relative_pose

Array = NDArray[np.float64]
Correspondence = Callable[[Array], tuple[Array, NDArray[np.bool_]]]


@dataclass(frozen=True, eq=False)
class PairTruth:
    """What is known about frames 0 and 1 of a pair; None where nothing is.

    Attributes:
        pose: ``(4, 4)`` camera1_from_camera0.
        fundamental: ``(3, 3)`` in the pixels of the ideal pinholes; None too without translation between the frames.
        landmarks: ``(P, 2)`` pixels of image 0 whose partners are known.
        targets: ``(P, 2)`` their partners in image 1.
        correspondence: gives exact partners and visibility of any pixels of image 0.
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
    pose = fundamental = landmarks = targets = correspondence = None
    if frame0.pose is not None and frame1.pose is not None:
        pose = relative_pose(frame0.pose, frame1.pose)
        if frame0.camera is not None and frame1.camera is not None:
            try:
                fundamental = fundamental_from_pose(frame0.camera.matrix, frame1.camera.matrix, pose)
            except CalibrationError:
                fundamental = None  # the camera stood still
    source, source0 = origin(sequence, position0)
    source1 = origin(sequence, position1)[1]
    if isinstance(source, SfmSequence):
        landmarks, targets = _landmarks(source, source0, source1, frame0, frame1)
    elif isinstance(source, SyntheticSequence):

        def correspondence(points: Array) -> tuple[Array, NDArray[np.bool_]]:
            return source.correspondence(source0, source1, points)

        grid = _grid(frame0)
        partners, visible = correspondence(grid)
        landmarks, targets = grid[visible], partners[visible]
    return PairTruth(pose, fundamental, landmarks, targets, correspondence)


def _landmarks(
    sequence: SfmSequence, position0: int, position1: int, frame0: Frame, frame1: Frame
) -> tuple[Array, Array]:
    """Projections of the points that both frames see, inside both views."""
    both = np.intersect1d(sequence.visible(position0), sequence.visible(position1))
    points0, points1 = sequence.project(position0, both), sequence.project(position1, both)
    inside = _inside(points0, frame0) & _inside(points1, frame1)
    return points0[inside], points1[inside]


def _inside(points: Array, frame: Frame) -> NDArray[np.bool_]:
    width, height = frame.size
    out: NDArray[np.bool_] = np.asarray(np.isfinite(points).all(axis=1))
    columns, rows = np.rint(np.where(out[:, None], points, -1)).astype(int).T
    out &= (columns >= 0) & (rows >= 0) & (columns < width) & (rows < height)
    if frame.mask is not None:
        out[out] = frame.mask[rows[out], columns[out]]
    return out


def _grid(frame: Frame) -> Array:
    """Every 24th pixel ``(N, 2)`` inside the view."""
    width, height = frame.size
    grid = np.stack(np.meshgrid(np.arange(12.0, width, 24), np.arange(12.0, height, 24)), axis=-1).reshape(-1, 2)
    return grid[_inside(grid, frame)]
