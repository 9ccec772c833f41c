"""Corners tracked by pyramidal Lucas-Kanade, on plain and on locally normalised intensities; OpenCV alone.

Both methods share one protocol and differ in the intensities only: up to 4000 corners of goodFeaturesToTrack, a window
of 1.6 % of the image's long side (31 px at 1920), as many pyramid levels as the image has room for, forward-backward
error at most 1 px (Bouguet, Pyramidal implementation of the Lucas Kanade feature tracker, 2000; Kalal et al.,
Forward-backward error, ICPR 2010).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.evaluation.methods.interface import Image, Mask, check_same_size, grey, matches_of, opencv_mask
from endomatch_ros.matching.types import Matches

MAX_CORNERS = 4000
FORWARD_BACKWARD_PX = 1.0

_REFERENCE_SIDE = 1920  # long side for which the lengths below are given
_WINDOW = 31
_BOX = 49
_BLUR = 1.0
# On images of 640 px, proportional lengths were too short to hold any structure: shorter than at 1280 they never are.
_SMALLEST_WINDOW = 21
_SMALLEST_BOX = 33
_DEEPEST = 10  # OpenCV stops before, at the level that is no larger than the window
_FLOOR = 4.0  # 8-bit levels added to the deviation, so that noise on flat tissue is not blown up
_GAIN = 40.0  # 8-bit levels per local deviation: OpenCV's tracker takes 8-bit images only


def klt(image0: Image, image1: Image, mask0: Mask = None, mask1: Mask = None) -> Matches:
    """Lucas-Kanade on grey values; raises :class:`ImageError` if the sizes differ."""
    check_same_size(image0, image1)
    return _follow(grey(image0), grey(image1), image0, image1, mask0, mask1)


def klt_normalised(image0: Image, image1: Image, mask0: Mask = None, mask1: Mask = None) -> Matches:
    """Lucas-Kanade, corners too, on :func:`normalise`-d images; raises :class:`ImageError` if the sizes differ."""
    check_same_size(image0, image1)
    return _follow(normalise(image0, mask0), normalise(image1, mask1), image0, image1, mask0, mask1)


def normalise(image: Image, mask: Mask = None) -> Image:
    """An image without its local mean and contrast, which a light that moves with the camera changes.

    ``(I - mean) / (deviation + 4)`` over a box of 2.5 % of the long side (49 px at 1920), times 40, plus 128. Mean and
    deviation are those of the view's pixels, and pixels outside become 128: else the dark surround, which does not
    move with the tissue, would be part of them. The grey values are smoothed a little first (sigma 1 px at 1920).

    Args:
        image: RGB uint8 ``(H, W, 3)``.
        mask: the view, ``(H, W)`` bool; None: everything.

    Returns:
        uint8 ``(H, W)``.
    """
    long_side = max(image.shape[:2])
    sigma = _BLUR * long_side / _REFERENCE_SIDE
    levels = np.asarray(cv2.GaussianBlur(grey(image).astype(np.float32), (0, 0), sigma))
    view = np.ones(levels.shape, np.float32) if mask is None else mask.astype(np.float32)
    box = (_odd(_BOX, long_side, _SMALLEST_BOX),) * 2
    share = np.maximum(cv2.boxFilter(view, -1, box), 1e-6)
    mean = cv2.boxFilter(levels * view, -1, box) / share
    # About the mean of all, which costs no digits to take squares of.
    centre = float(levels.mean())
    squares = cv2.sqrBoxFilter((levels - centre) * view, -1, box) / share
    deviation = np.sqrt(np.maximum(squares - (mean - centre) ** 2, 0.0))
    scaled = view * (levels - mean) / (deviation + _FLOOR) * _GAIN + 128.0
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def corners(grey_image: Image, mask: Mask) -> NDArray[np.float32]:
    """Up to 4000 corners ``(N, 2)`` of a grey image ``(H, W)`` inside the view, at least 7 px apart."""
    found = cv2.goodFeaturesToTrack(grey_image, MAX_CORNERS, 0.005, 7, mask=opencv_mask(mask))
    return np.zeros((0, 2), np.float32) if found is None else np.asarray(found, np.float32).reshape(-1, 2)


def _follow(tracked0: Image, tracked1: Image, image0: Image, image1: Image, mask0: Mask, mask1: Mask) -> Matches:
    """Corners of the first tracked image ``(H, W)`` that are found in the second and found back."""
    start = corners(tracked0, mask0)
    there, found = _track(tracked0, tracked1, start)
    back, returned = _track(tracked1, tracked0, there)
    kept = found & returned & (np.linalg.norm(back - start, axis=1) <= FORWARD_BACKWARD_PX)
    ones = np.ones(int(kept.sum()), np.float32)
    return matches_of(start[kept], there[kept], ones, image0, image1, mask0, mask1)


def _track(
    from_image: Image, to_image: Image, points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Where ``(N, 2)`` pixels went, and ``(N,)`` whether they were found."""
    if len(points) == 0:  # OpenCV refuses these
        return points, np.zeros(0, bool)
    side = _odd(_WINDOW, max(from_image.shape), _SMALLEST_WINDOW)
    there, found, _ = cv2.calcOpticalFlowPyrLK(
        from_image, to_image, points, points.copy(), winSize=(side, side), maxLevel=_DEEPEST
    )
    return np.asarray(there, np.float32), np.asarray(found).ravel() == 1


def _odd(length: int, long_side: int, smallest: int) -> int:
    """An odd number of pixels: ``length`` in proportion to the image, at least ``smallest``."""
    return max(smallest, 2 * round(length * long_side / _REFERENCE_SIDE / 2 - 0.5) + 1)
