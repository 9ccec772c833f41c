"""Local normalisation: a picture without the brightness and contrast that the light gives it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from endomatch_ros.matching.features import CONTRAST_FLOOR, GAIN, NORMALISATION_SHARE, SMOOTHING
from endomatch_ros.matching.refiners.constants import constant, remembered
from endomatch_ros.matching.refiners.photometric_torch.gradients import mirrored
from endomatch_ros.matching.refiners.photometric_torch.resampling import weigh


def normalise(grey: Tensor, usable: Tensor) -> Tensor:
    """A picture with local mean and contrast removed; only usable pixels count, the others become grey.

    Args:
        grey: ``(h, w)`` float32, levels 0 to 255.
        usable: ``(h, w)`` bool.

    Returns:
        ``(h, w)`` float32, whole levels 0 to 255, around 128.
    """
    height, width = grey.shape
    weight = usable.float()
    levels = weigh(grey, *_blur(height, width, grey.device)) * weight
    side = 2 * round(NORMALISATION_SHARE * max(height, width) / 2) + 1
    total, mean, square = _box(torch.stack([weight, levels, levels * levels]), side).unbind(0)
    total = total.clamp(min=1e-3)
    mean = mean / total
    deviation = (square / total - mean * mean).clamp_(min=0.0).sqrt_()
    contrast = weight * (levels - mean) / (deviation + CONTRAST_FLOOR)
    return (contrast * GAIN + 128.5).clamp_(0.0, 255.0).floor_()


def _box(images: Tensor, side: int) -> Tensor:
    """Means of ``(C, h, w)`` over squares, mirrored at the border; not by products, which TF32 would round."""
    around = mirrored(images[None], side // 2)
    return functional.avg_pool2d(functional.avg_pool2d(around, (side, 1), stride=1), (1, side), stride=1)[0]


@remembered
def _blur(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Matrices of a Gaussian blur, mirrored at the border."""
    reach = round(4 * SMOOTHING)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SMOOTHING) ** 2)
    taps /= taps.sum()
    matrices = []
    for size in (height, width):
        source = np.pad(np.arange(size), reach, mode="reflect")
        matrix = np.zeros((size, size))
        for k, tap in enumerate(taps):
            np.add.at(matrix, (np.arange(size), source[k : k + size]), tap)
        matrices.append(constant(matrix, device))
    return matrices[0], matrices[1]
