"""Points worth following: how well a picture's pixels can be told from their neighbours, and the best of each cell."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from endomatch_ros.matching.refiners.photometric_torch.gradients import mirrored, sobel


def min_eigenvalue(image: Tensor, block: int) -> Tensor:
    """The smaller eigenvalue of the gradients' second moments around every pixel (Shi and Tomasi).

    Args:
        image: ``(h, w)`` float32, grey levels 0 to 255.
        block: side of the square over which the moments are taken, px, odd.

    Returns:
        ``(h, w)`` float32, at OpenCV's scale for 8-bit images.
    """
    x, y = (part[0, 0] / (4 * 255 * block) for part in sobel(image[None, None]))
    around = mirrored(torch.stack([x * x, x * y, y * y])[None], block // 2)
    xx, xy, yy = functional.avg_pool2d(around, block, stride=1, divisor_override=1)[0].unbind(0)
    return 0.5 * (xx + yy - torch.hypot(xx - yy, 2 * xy))


def cell_maxima(response: Tensor, usable: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """The strongest pixel of each square cell.

    Args:
        response: ``(h, w)`` float32, 0 and more.
        usable: ``(h, w)`` bool, pixels that may be chosen.
        cell: side of a cell, px; those at the right and lower border may be smaller.

    Returns:
        ``(K, 2)`` float32 pixels ``(x, y)``, one per cell, row by row, and their ``(K,)`` response; 0 in a cell without
        a usable pixel.
    """
    allowed = torch.where(usable, response, -torch.inf)
    best, index = functional.max_pool2d(allowed[None, None], cell, ceil_mode=True, return_indices=True)
    index, width = index.flatten(), response.shape[1]
    points = torch.stack([index % width, index.div(width, rounding_mode="floor")], dim=1)
    return points.float(), best.flatten().clamp(min=0.0)
