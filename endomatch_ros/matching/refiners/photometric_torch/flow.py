"""Dense optical flow on any device: dense inverse search (Kroeger et al., ECCV 2016) in fixed shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from endomatch_ros.matching.refiners.dense_flow import fixed_points
from endomatch_ros.matching.refiners.photometric_torch.inverse_search import densify, search
from endomatch_ros.matching.refiners.photometric_torch.pyramid import levels
from endomatch_ros.matching.refiners.photometric_torch.variational import Effort, refined

_SWEEPS = 5  # OpenCV's, at all levels
_COARSE = Effort(fixed_points=2, sweeps=3)  # what is left over the next level finds: more gave no other matches


def flow_both_ways(image0: Tensor, image1: Tensor, finest: int, count: int | None = None) -> Tensor:
    """Flow between two grey images, both ways at once.

    Args:
        image0: ``(h, w)`` float32, levels 0 to 255, at least 8 px high and wide.
        image1: of the same shape.
        finest: finest level used, in halvings of the image; the images' size bounds it.
        count: levels used, at most; None: as many as the images' size allows. A patch is found again from some 4 px of
            the coarsest level away, so that two do where the images have been aligned before.

    Returns:
        ``(2, 2, h, w)`` float32 pixels: from 0 to 1 and from 1 to 0, each x and y.
    """
    height, width = image0.shape
    plan = levels(height, width, finest, image0.device)[-count if count else None :]
    picture = torch.stack([image0, image1])
    pictures = [picture := level.shrunk(picture) for level in reversed(plan)][::-1]
    start = picture.new_zeros(2, 2, *plan[0].patches)
    for level, finer, picture in zip(plan, plan[1:], pictures, strict=False):
        start = level.at_patches(_level_flow(picture, start, _COARSE), finer)
    flow = _level_flow(pictures[-1], start, Effort(fixed_points(finest), _SWEEPS))
    return plan[-1].enlarged(flow, height, width, plan[-1].halvings)


def _level_flow(pictures: Tensor, start: Tensor, effort: Effort) -> Tensor:
    """Flow ``(2, 2, h, w)`` px between a level's two pictures ``(2, h, w)``, from that of its patches on."""
    others = pictures.flip(0)
    flow = densify(search(pictures, others, start), pictures, others)
    return refined(pictures, others, flow, effort)
