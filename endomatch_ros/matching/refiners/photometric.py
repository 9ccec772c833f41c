"""Photometric refinement: where in the source image, to a fraction of a pixel, a point has gone.

The coarse matches, or the model's head, give a smooth flow field; the current image is warped by it towards the
reference; dense optical flow on locally normalised intensities finds the small rest. What proves consistent forward and
backward corrects the field, and the search is repeated on a finer level: so regions whose coarse matches were wrong are
reached from their neighbours. A forward–backward check, the size of the last correction and the agreement of neighbours
decide. Source points stay where they are: only targets move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.matching.coarse import CoarseMatches
from endomatch_ros.matching.features import FrameFeatures, Window
from endomatch_ros.matching.refiners.dense_flow import dense_flow, finest_level
from endomatch_ros.matching.refiners.flow_field import FlowField, bilinear
from endomatch_ros.matching.refiners.interface import Pair, Refined, Refiner
from endomatch_ros.matching.view import lookup

# Chosen on validation frames. In descriptor cells: the coarse flow is right to a fraction of one, the corrected flow to
# a smaller one; a larger correction is a jump to similar texture.
_LARGEST_FIRST = 0.75
_LARGEST_LAST = 0.5
_FIRST_FORWARD_BACKWARD_PX = 1.0
_TRACK_WEIGHT = 4.0  # of a point found in the first pass, against a coarse match
_TRACK_SIGMA = 1.5  # nodes; found points allow a field that bends more than coarse matches do
MIN_COARSE = 8  # fewer coarse matches than this say nothing about the motion


class Flow(Protocol):
    """A smooth flow over the reference's window: positions and flows ``(x, y)`` in source pixels.

    Positions count from the centre of the window's top-left pixel.
    """

    def __call__(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Flow ``(N, 2)`` at ``points`` ``(N, 2)``."""

    def dense(self, width: int, height: int) -> NDArray[np.float32]:
        """Flow ``(height, width, 2)`` float32 at the window's pixels."""


class Photometric(Refiner):
    """Sub-pixel targets of the pair's points, from the flow of the coarse matches on."""

    def refine(self, pair: Pair) -> Refined:
        """Targets of the pair's points."""
        return refined(pair)


def refined(pair: Pair, prior: Flow | None = None) -> Refined:
    """Targets of the pair's points by :func:`refine`, from the flow ``prior`` on."""
    limit = pair.config.forward_backward_px
    targets, good = refine(pair.features0, pair.features1, pair.points, pair.coarse, limit, prior)
    return Refined(pair.points, targets, good)


def coarse_field(coarse: CoarseMatches, features: FrameFeatures) -> FlowField:
    """Smooth flow over the reference's window from its coarse matches, nodes two descriptor cells apart."""
    w = features.window
    return FlowField(
        coarse.points0 - _origin(w),
        coarse.points1 - coarse.points0,
        (w.width, w.height),
        _spacing(features),
        tolerance=features.cell_px,
    )


def refine(
    features0: FrameFeatures,
    features1: FrameFeatures,
    points: NDArray[np.float32],
    coarse: CoarseMatches,
    forward_backward_px: float,
    prior: Flow | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Targets of ``points`` in the current frame.

    Args:
        features0: the reference frame, in which ``points`` lie.
        features1: the current frame.
        points: ``(N, 2)`` source pixels of the reference.
        coarse: the coarse matches, at least ``MIN_COARSE``.
        forward_backward_px: largest distance of the way there and back, source pixels.
        prior: the flow to start from; None: that of the coarse matches.

    Returns:
        ``(N, 2)`` float32 targets in source pixels and ``(N,)`` bool, which of them passed all checks.
    """
    if len(points) == 0 or len(coarse.points0) < MIN_COARSE:
        return points.copy(), np.zeros(len(points), bool)
    level = finest_level(max(features0.window.width, features0.window.height))
    first = _pass(features0, features1, points, prior or coarse_field(coarse, features0), level + 1)
    good = first.within(_FIRST_FORWARD_BACKWARD_PX, _LARGEST_FIRST * features0.cell_px)
    good = _agree(points, first.targets, good, features0)
    field = _corrected(coarse, points[good], first.targets[good], features0)
    last = _pass(features0, features1, points, field, level)
    good = last.within(forward_backward_px, _LARGEST_LAST * features0.cell_px)
    good &= lookup(features1.usable, last.targets)
    return last.targets, _agree(points, last.targets, good, features0)


@dataclass(frozen=True, eq=False)
class _Pass:
    """Points followed through one warp: ``targets`` ``(N, 2)`` source pixels, and how far each can be believed.

    Attributes:
        targets: where the points went.
        there_and_back: ``(N,)`` px between a point and its way there and back.
        correction: ``(N,)`` px that the flow field was wrong by.
        inside: ``(N,)`` bool, the current frame's window has pixels there.
    """

    targets: NDArray[np.float32]
    there_and_back: NDArray[np.float64]
    correction: NDArray[np.float64]
    inside: NDArray[np.bool_]

    def within(self, there_and_back: float, correction: float) -> NDArray[np.bool_]:
        """``(N,)`` bool, points that keep both limits."""
        return self.inside & (self.there_and_back < there_and_back) & (self.correction < correction)


def _pass(
    features0: FrameFeatures, features1: FrameFeatures, points: NDArray[np.float32], field: Flow, level: int
) -> _Pass:
    """Warp the current frame by ``field`` and find what is left."""
    w = features0.window
    origin = _origin(w)
    local = points - origin
    warped, inside = _warp(features1, features1.window, field.dense(w.width, w.height), origin)
    step = bilinear(dense_flow(features0.normalised, warped, level), local)
    found = local + step
    back = found + bilinear(dense_flow(warped, features0.normalised, level), found)
    return _Pass(
        targets=(found + field(found) + origin).astype(np.float32),
        there_and_back=np.linalg.norm(back - local, axis=1),
        correction=np.linalg.norm(step, axis=1),
        inside=lookup(inside, found),
    )


def _corrected(
    coarse: CoarseMatches, points: NDArray[np.float32], targets: NDArray[np.float32], features: FrameFeatures
) -> FlowField:
    """The flow field of coarse matches and of points that have been found already."""
    w = features.window
    return FlowField(
        np.concatenate([points, coarse.points0]) - _origin(w),
        np.concatenate([targets - points, coarse.points1 - coarse.points0]),
        (w.width, w.height),
        _spacing(features),
        sigma=_TRACK_SIGMA,
        tolerance=0.5 * features.cell_px,
        weights=np.concatenate([np.full(len(points), _TRACK_WEIGHT), np.ones(len(coarse.points0))]),
    )


def _origin(window: Window) -> NDArray[np.float32]:
    return np.array([window.x, window.y], np.float32)


def _spacing(features: FrameFeatures) -> int:
    return 2 * int(features.cell_px) + 1


def _warp(
    features: FrameFeatures, window: Window, flow: NDArray[np.float32], origin: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The current frame's normalised image seen from the reference, and where it has pixels at all."""
    height, width = flow.shape[:2]
    shift = origin - np.array([window.x, window.y], np.float32)
    map_x = flow[..., 0] + (np.arange(width, dtype=np.float32) + shift[0])
    map_y = flow[..., 1] + (np.arange(height, dtype=np.float32)[:, None] + shift[1])
    warped = cv2.remap(features.normalised, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = (map_x >= 0) & (map_y >= 0) & (map_x <= window.width - 1) & (map_y <= window.height - 1)
    return np.asarray(warped, np.uint8), np.asarray(inside)


def _agree(
    points: NDArray[np.float32], targets: NDArray[np.float32], good: NDArray[np.bool_], features: FrameFeatures
) -> NDArray[np.bool_]:
    """Drop matches that contradict the smooth motion of their neighbours."""
    if good.sum() < MIN_COARSE:
        return np.zeros_like(good)
    w = features.window
    spacing = max(w.width, w.height) / 24.0
    flow = targets[good] - points[good]
    field = FlowField(points[good] - _origin(w), flow, (w.width, w.height), spacing, sigma=1.5, tolerance=2.0)
    # Neighbours differ more where the motion is larger: parallax and deformation grow with it.
    limit = np.maximum(3.0, 3.0 * np.median(field.residual)) + 0.1 * np.linalg.norm(flow, axis=1)
    out = good.copy()
    out[good] = field.residual < limit
    return out


STAGE: Refiner = Photometric()
