"""Pairs of a recorded frame and a novel view of it (arXiv 2512.10379, section III)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import DataError
from endomatch_ros.training.novel_view.motion import MotionConfig, random_displacement, random_pose
from endomatch_ros.training.novel_view.relight import render
from endomatch_ros.training.novel_view.synthesis import NovelView, novel_view, surface_from_depth
from endomatch_ros.training.pairs.crop import antialiased, move, random_similarity, random_zoom, warp
from endomatch_ros.training.pairs.datasets import AugmentConfig, Side
from endomatch_ros.training.pairs.photometric import jitter
from endomatch_ros.training.pairs.prepare import PreparedFrame

Array = NDArray[np.float64]

_KEPT = 48  # frames in memory per process
_MARGIN = 0.35  # of the cut-out: tissue around it that the novel view may show
_SPACING = 1.5  # px of the novel view between the mesh's vertices


@dataclass(frozen=True)
class NovelViewConfig:
    """How novel views are made.

    Attributes:
        motion: ranges of the camera's and the tissue's motion.
        relight: the light moves with the camera.
    """

    motion: MotionConfig = field(default_factory=MotionConfig)
    relight: bool = True


class NovelViewPairs:
    """A random frame, cut out, and a novel view of it under random motion.

    The correspondences are those of the rendering (:mod:`~endomatch_ros.training.novel_view.synthesis`): taken at
    pixel centres of the novel view and between pixels of the frame, where tissue is visible in both; never where it
    was filled.

    Args:
        files: prepared frames (:mod:`~endomatch_ros.training.pairs.prepare`).
        augment: cut-outs and colours.
        config: motion and light.
    """

    def __init__(self, files: list[Path], augment: AugmentConfig, config: NovelViewConfig) -> None:
        if not files:
            raise DataError("no frames to make novel views of")
        self._files, self._augment, self._config = files, augment, config
        self._frames: OrderedDict[Path, PreparedFrame] = OrderedDict()

    def __repr__(self) -> str:
        return f"novel views of {len(self._files)} frames in {self._files[0].parent}"

    def draw(self, rng: np.random.Generator) -> tuple[Side, Side] | None:
        """A frame's cut-out and a novel view, both with their labels."""
        frame = self._load(self._files[rng.integers(len(self._files))])
        usable = np.flatnonzero(frame.usable & np.isfinite(frame.depth))
        if len(usable) == 0:
            return None
        y, x = np.unravel_index(rng.choice(usable), frame.usable.shape)
        centre, zoom = np.array([x, y], np.float64), random_zoom(self._augment.crop, rng)
        cut = random_similarity(centre, zoom, self._augment.crop, rng)
        view = self._novel(frame, centre, zoom, cut, rng)
        if view is None:
            return None
        return self._sides(frame, view, cut, antialiased(frame.image, zoom), rng)

    def _novel(
        self, frame: PreparedFrame, centre: Array, zoom: float, cut: Array, rng: np.random.Generator
    ) -> NovelView | None:
        """The view of a moved camera whose picture has ``centre`` near its middle, in pixels of the whole frame."""
        crop, motion = self._augment.crop, self._config.motion
        stride = int(np.clip(round(_SPACING / zoom), 1, 4))
        left, top, right, bottom = region = _region(cut, crop.size, frame.usable.shape)
        if min(right - left, bottom - top) < 4 * stride or not np.isfinite(frame.depth[top:bottom, left:right]).any():
            return None
        surface = surface_from_depth(frame.depth, frame.matrix, frame.usable, stride, region)
        scale = float(np.median(surface.points[:, 2]))
        pose = random_pose(motion, scale, rng)
        displacement = random_displacement(surface.points, motion, scale, rng)
        # The second cut-out follows the common point, so that the pair overlaps whatever the motion.
        index, weights = surface.weights_at(centre[None])
        corners = surface.triangles[index[0]]
        moved = surface.points[corners] + (0 if displacement is None else displacement[corners])
        point = frame.matrix @ (pose[:3, :3] @ (weights[0] @ moved) + pose[:3, 3])
        if point[2] <= 0:
            return None
        aim = random_similarity(point[:2] / point[2], zoom, crop, rng)
        matrix = np.vstack([aim, [0, 0, 1]]) @ frame.matrix
        return novel_view(surface, pose, crop.size, matrix, displacement)

    def _sides(
        self, frame: PreparedFrame, view: NovelView, cut: Array, image: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[Side, Side]:
        crop, photometric = self._augment.crop, self._augment.photometric
        shown0 = warp(frame.view.astype(np.uint8), cut, crop.size, nearest=True) > 0
        clean0 = warp(frame.usable.astype(np.uint8), cut, crop.size, nearest=True) > 0
        image0, spoiled0 = jitter(warp(image, cut, crop.size), photometric, rng, shown0)
        ys, xs = np.nonzero(view.visible)
        points1 = np.stack([xs, ys], 1).astype(np.float64)
        points0 = move(view.source[ys, xs].astype(np.float64), cut)
        x, y = view.source[..., 0], view.source[..., 1]
        shown1 = view.drawn & (cv2.remap(frame.view.astype(np.uint8), x, y, cv2.INTER_NEAREST) > 0)
        image1, spoiled1 = jitter(render(view, image, self._config.relight), photometric, rng, shown1)
        return Side(image0, shown0, clean0 & ~spoiled0, points0), Side(image1, shown1, ~spoiled1, points1)

    def _load(self, path: Path) -> PreparedFrame:
        frame = self._frames.pop(path, None) or PreparedFrame.load(path)
        self._frames[path] = frame
        if len(self._frames) > _KEPT:
            self._frames.popitem(last=False)
        return frame


def _region(cut: Array, size: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of a frame around a cut-out."""
    width, height = size
    outline = np.array([[0, 0], [width, 0], [0, height], [width, height]]) - cut[:, 2]
    corners = outline @ np.linalg.inv(cut[:, :2]).T
    low, high = corners.min(axis=0), corners.max(axis=0)
    margin = _MARGIN * (high - low)
    left, top = np.maximum(np.floor(low - margin), 0).astype(int)
    right, bottom = np.minimum(np.ceil(high + margin), shape[::-1]).astype(int)
    return int(left), int(top), int(right), int(bottom)
