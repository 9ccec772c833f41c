"""Photometric refinement: where in the image, to a fraction of a pixel, a point has gone.

The coarse matches, or the model's head, give a smooth flow field; the current image is warped by it towards the
reference; dense optical flow on locally normalised intensities finds the small rest. What proves consistent forward and
backward corrects the field, and the search is repeated on a finer level: so regions whose coarse matches were wrong are
reached from their neighbours. A forward–backward check, the size of the last correction and the agreement of neighbours
decide. Source points stay where they are: only targets move.

Here is what does not depend on how flow is found: fields, limits and checks, on tensors whose shapes depend on sizes
alone. An engine works on the images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from endomatch_ros.matching.coarse import CoarseMatches
from endomatch_ros.matching.features import FrameFeatures, Window
from endomatch_ros.matching.refiners.engine import Engine
from endomatch_ros.matching.refiners.field import Field, bilinear, fit_field
from endomatch_ros.matching.refiners.interface import Pair, Refined, Refiner
from endomatch_ros.matching.refiners.masks import at_nearest, usable_at

# Chosen on validation frames. In descriptor cells: the coarse flow is right to a fraction of one, the corrected flow to
# a smaller one; a larger correction is a jump to similar texture.
_LARGEST_FIRST = 0.75
_LARGEST_LAST = 0.5
_FIRST_FORWARD_BACKWARD_PX = 1.0
_WORKING_FORWARD_BACKWARD = 0.5  # px of the working copy: in small images a pixel of the image is worth less
_TRACK_WEIGHT = 4.0  # of a point found in the first pass, against a coarse match
_TRACK_SIGMA = 1.5  # nodes; found points allow a field that bends more than coarse matches do
_FIRST_LEVEL, _LAST_LEVEL = 2, 1  # halvings of the working copy at which the flow is found
MIN_COARSE = 8  # fewer coarse matches than this say nothing about the motion


class Photometric(Refiner):
    """Sub-pixel targets of the pair's points, from the flow of the coarse matches on."""

    def refine(self, pair: Pair) -> Refined:
        """Targets of the pair's points."""
        return refined(pair)


def refined(pair: Pair, prior: Field | None = None) -> Refined:
    """Targets of the pair's points by :func:`refine`, from the field ``prior`` on."""
    with torch.inference_mode():
        frames, limit = (pair.features0, pair.features1), pair.config.forward_backward_px
        return Refined(pair.start, *refine(*frames, pair.start, pair.coarse, limit, pair.engine, prior))


def coarse_field(coarse: CoarseMatches, features: FrameFeatures) -> Field:
    """Smooth flow over the reference's window from its coarse matches, nodes two descriptor cells apart."""
    return fit_field(
        _local(coarse.points0, features.window),
        coarse.points1 - coarse.points0,
        (features.window.width, features.window.height),
        2 * features.cell_px,
        tolerance=features.cell_px,
        weights=coarse.weight,
    )[0]


def refine(
    features0: FrameFeatures,
    features1: FrameFeatures,
    points: Tensor,
    coarse: CoarseMatches,
    forward_backward_px: float,
    engine: Engine,
    prior: Field | None = None,
) -> tuple[Tensor, Tensor]:
    """Targets of ``points`` in the current frame.

    Args:
        features0: the reference frame, in which ``points`` lie.
        features1: the current frame.
        points: ``(N, 2)`` float32 source pixels of the reference.
        coarse: the coarse matches; with fewer than ``MIN_COARSE`` no target is good.
        forward_backward_px: largest distance of the way there and back, source pixels.
        engine: how flow is found.
        prior: the field to start from; None: that of the coarse matches.

    Returns:
        ``(N, 2)`` float32 targets in source pixels and ``(N,)`` bool, which of them passed all checks.
    """
    if len(points) == 0 or len(coarse.points0) < MIN_COARSE:
        return points.clone(), torch.zeros(len(points), dtype=torch.bool, device=points.device)
    search = _Search(features0, features1, points, engine)
    first = search.follow(prior or coarse_field(coarse, features0), _FIRST_LEVEL)
    good = first.within(_FIRST_FORWARD_BACKWARD_PX, _LARGEST_FIRST * features0.cell_px)
    good = _agree(points, first.targets, good, features0)
    last = search.follow(_corrected(coarse, points, first.targets, good, features0), _LAST_LEVEL)
    limit = min(forward_backward_px, _WORKING_FORWARD_BACKWARD / float(features0.working.scale.min()))
    good = last.within(limit, _LARGEST_LAST * features0.cell_px)
    good &= usable_at(features1, last.targets)
    return last.targets, _agree(points, last.targets, good, features0) & coarse.enough(MIN_COARSE)


@dataclass(frozen=True, eq=False)
class _Followed:
    """Points followed through one warp: ``targets`` ``(N, 2)`` source pixels, and how far each can be believed.

    Attributes:
        targets: where the points went.
        there_and_back: ``(N,)`` px between a point and its way there and back.
        correction: ``(N,)`` px that the flow field was wrong by.
        inside: ``(N,)`` bool, the current frame's window has pixels there.
    """

    targets: Tensor
    there_and_back: Tensor
    correction: Tensor
    inside: Tensor

    def within(self, there_and_back: float, correction: float) -> Tensor:
        """``(N,)`` bool, points that keep both limits."""
        return self.inside & (self.there_and_back < there_and_back) & (self.correction < correction)


@dataclass(frozen=True, eq=False)
class _Search:
    """Points of a reference that are looked for in a current frame."""

    features0: FrameFeatures
    features1: FrameFeatures
    points: Tensor
    engine: Engine

    def follow(self, field: Field, level: int) -> _Followed:
        """Warp the current frame by ``field`` and find what is left."""
        window, copy = self.features0.window, self.features0.working
        there, back, inside = self.engine(self.features0, self.features1, field, level)
        local = _local(self.points, window)
        step = self._sampled(there, local)
        found = local + step
        returned = step + self._sampled(back, found)
        x, y = ((found[:, k] + 0.5) * float(copy.scale[k]) - 0.5 for k in (0, 1))
        return _Followed(
            targets=torch.stack([found[:, 0] + window.x, found[:, 1] + window.y], 1) + field.at(found),
            there_and_back=returned.square().sum(1).sqrt(),
            correction=step.square().sum(1).sqrt(),
            inside=at_nearest(inside, x, y),
        )

    def _sampled(self, flow: Tensor, places: Tensor) -> Tensor:
        """A flow of the working copy ``(2, h, w)`` at places ``(N, 2)`` of the window, in source pixels."""
        copy = self.features0.working
        found = bilinear(flow, places + 0.5, (copy.width, copy.height))
        return torch.stack([found[:, k] / float(copy.scale[k]) for k in (0, 1)], 1)


def _corrected(coarse: CoarseMatches, points: Tensor, targets: Tensor, good: Tensor, features: FrameFeatures) -> Field:
    """The flow field of coarse matches and of the points that have been found already."""
    window = features.window
    return fit_field(
        torch.cat([_local(points, window), _local(coarse.points0, window)]),
        torch.cat([targets - points, coarse.points1 - coarse.points0]),
        (window.width, window.height),
        2 * features.cell_px,
        sigma=_TRACK_SIGMA,
        tolerance=0.5 * features.cell_px,
        weights=torch.cat([_TRACK_WEIGHT * good, coarse.weights]),
    )[0]


def _agree(points: Tensor, targets: Tensor, good: Tensor, features: FrameFeatures) -> Tensor:
    """``(N,)`` bool, the ``good`` matches that do not contradict the smooth motion of their good neighbours."""
    window = features.window
    size, flow = (window.width, window.height), targets - points
    spacing = max(size) / 24.0
    residual = fit_field(_local(points, window), flow, size, spacing, sigma=1.5, tolerance=2.0, weights=good)[1]
    # Neighbours differ more where the motion is larger: parallax and deformation grow with it.
    typical = _median(residual, good)
    limit = (3.0 * typical).clamp_min(3.0) + 0.1 * flow.square().sum(1).sqrt()
    return good & (residual < limit) & (good.sum() >= MIN_COARSE)


def _median(values: Tensor, chosen: Tensor) -> Tensor:
    """The lower median of the ``chosen`` values ``(N,)``; NaN for none. ``nanmedian`` makes the host wait for a GPU."""
    ordered = values.masked_fill(~chosen, torch.nan).sort().values  # NaN to the end
    middle = ((chosen.sum() - 1) // 2).clamp_min(0)
    return ordered.gather(0, middle[None])[0]


def _local(points: Tensor, window: Window) -> Tensor:
    """Source pixels ``(N, 2)`` counted from the centre of the window's top-left pixel."""
    return torch.stack([points[:, 0] - window.x, points[:, 1] - window.y], 1)


STAGE: Refiner = Photometric()
