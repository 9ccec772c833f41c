"""From an image to what the network sees of it: the view, its window, the resized crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.matching.features import Window
from endomatch_ros.matching.view import bounding_box, check_image, check_mask, check_roi, highlight_mask, view_mask

Roi = tuple[int, int, int, int]
_THINNEST_PX = 32  # a view narrower than this is none: the whole image goes to the network, and nothing will match


@dataclass(frozen=True)
class Prepared:
    """An image that was checked, with its view found; the network has not seen it yet.

    Attributes:
        image: RGB uint8 ``(H, W, 3)``.
        view: ``(H, W)`` bool, pixels inside the scope's view.
        usable: ``(H, W)`` bool, pixels that may be matched.
        window: what the network is to see.
    """

    image: NDArray[np.uint8]
    view: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    window: Window

    @property
    def network_input(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The window's image ``(h, w, 3)`` and view ``(h, w)``, uint8, in the network's size."""
        window, size = self.window, (self.window.net_width, self.window.net_height)
        shrinks = window.net_width < window.width
        image = cv2.resize(self.image[window.area], size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        view = cv2.resize(self.view[window.area].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        return np.asarray(image, np.uint8), np.asarray(view, np.uint8)


def prepare(
    image: NDArray[np.uint8], mask: NDArray[Any] | None, roi: Roi | None, auto: bool, resolution: int, patch: int
) -> Prepared:
    """Check an image, find its view and the window for the network.

    Args:
        image: RGB uint8 ``(H, W, 3)``.
        mask: ``(H, W)`` bool or uint8, non-zero inside the view; None: found, or everything without ``auto``.
        roi: ``(x, y, width, height)`` in pixels: only there; None: everywhere.
        auto: find the view where no mask is given, and leave saturated highlights out.
        resolution: long side of the window for the network, pixels.
        patch: the network's patch size; the window's size for the network is a multiple of it.

    Raises:
        ImageError: an image, mask or region that cannot be used.
    """
    image = check_image(image)
    view = _everywhere(image, auto) if mask is None else check_mask(mask, image)
    if roi is not None:
        x, y, width, height = check_roi(roi, image)
        inside = np.zeros_like(view)
        inside[y : y + height, x : x + width] = view[y : y + height, x : x + width]
        view = inside
    usable = view & ~highlight_mask(image) if auto else view
    return Prepared(image, view, usable, _window(view, resolution, patch))


def _everywhere(image: NDArray[np.uint8], auto: bool) -> NDArray[np.bool_]:
    return view_mask(image) if auto else np.ones(image.shape[:2], bool)


def share_size(frames: Sequence[Prepared]) -> list[Prepared]:
    """Give images of one size one window size, so that the network can take them as a batch.

    The views of two cameras differ by some pixels; the smaller windows grow to the largest, inside the image.
    """
    sizes = {frame.image.shape for frame in frames}
    largest = {
        size: [max(side) for side in zip(*(_sides(f) for f in frames if f.image.shape == size), strict=True)]
        for size in sizes
    }
    return [_grown(frame, *largest[frame.image.shape]) for frame in frames]


def _sides(frame: Prepared) -> tuple[int, int, int, int]:
    window = frame.window
    return window.width, window.height, window.net_width, window.net_height


def _grown(frame: Prepared, width: int, height: int, net_width: int, net_height: int) -> Prepared:
    window, (rows, columns) = frame.window, frame.image.shape[:2]
    x = min(max(0, window.x - (width - window.width) // 2), columns - width)
    y = min(max(0, window.y - (height - window.height) // 2), rows - height)
    return replace(frame, window=Window(x, y, width, height, net_width, net_height))


def _window(view: NDArray[np.bool_], resolution: int, patch: int) -> Window:
    """The view's bounding box, and its size for the network: a multiple of the patch, long side ``resolution``."""
    x, y, width, height = bounding_box(view)
    if min(width, height) < _THINNEST_PX:
        x, y, height, width = 0, 0, *view.shape
    scale = resolution / max(width, height)
    net = [max(4, round(side * scale / patch)) * patch for side in (width, height)]
    return Window(x, y, width, height, *net)
