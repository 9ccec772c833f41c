"""What is computed once for a frame and reused by every pair that the frame is part of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.device import upload

if TYPE_CHECKING:
    from torch import Tensor

_T = TypeVar("_T")

WORKING_SIDE = 512
"""Long side of the working copy in px: finer octaves of an endoscope's frames hold noise, blur and compression."""

_LEAST_WORKING_SIDE = 16
NORMALISATION_SHARE = 0.045
"""Side of the local normalisation's window, as a share of the view's long side."""
CONTRAST_FLOOR = 4.0
"""8-bit levels added to the deviation, so that noise on flat tissue is not blown up."""
GAIN = 40.0
"""8-bit levels per local deviation, in the image whose flow the refinement follows."""
SMOOTHING = 0.5
"""Sigma of the blur before, px of the working copy: finer noise would be blown up with tissue texture."""


@dataclass(frozen=True)
class Window:
    """The part of a source image that the network sees, and the scaling between both.

    Convention: pixel centres are integers; network pixel ``n = (s − origin + ½)·scale − ½`` of source pixel ``s``.

    Attributes:
        x, y, width, height: the crop in source pixels.
        net_width, net_height: its size as network input.
    """

    x: int
    y: int
    width: int
    height: int
    net_width: int
    net_height: int

    @property
    def area(self) -> tuple[slice, slice]:
        """Rows and columns of the crop, to index an image with."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    @property
    def scale(self) -> NDArray[np.float64]:
        """Network pixels per source pixel, ``(x, y)``."""
        return np.array([self.net_width / self.width, self.net_height / self.height])

    def to_cells(self, points: NDArray[np.floating], cell: float) -> NDArray[np.float64]:
        """Source pixels ``(N, 2)`` to coordinates on a map with cells of ``cell`` network pixels."""
        return np.asarray((points - np.array([self.x, self.y]) + 0.5) * self.scale / cell - 0.5)

    def to_source(self, cells: NDArray[np.floating], cell: float | NDArray[np.floating]) -> NDArray[np.float64]:
        """The inverse of :meth:`to_cells`; ``cell`` may differ between the axes, ``(x, y)``."""
        return np.asarray((cells + 0.5) * cell / self.scale - 0.5 + np.array([self.x, self.y]))


@dataclass(frozen=True)
class FrameFeatures:
    """One frame, ready to be matched.

    Attributes:
        image: RGB uint8 ``(H, W, 3)``.
        usable: ``(H, W)`` bool, pixels that may be matched.
        view: ``(H, W)`` bool, pixels inside the scope's view (highlights included).
        window: what the network saw.
        descriptors: ``(C, h, w)`` float32, L2-normalised, on the model's device.
        cell: network pixels per descriptor cell, along a side.
        temperature: the softmax temperature that the descriptors were trained with.
        tokens: ``(D, h', w')`` float32, L2-normalised, one per patch; without fine branch the descriptors themselves.
    """

    image: NDArray[np.uint8]
    usable: NDArray[np.bool_]
    view: NDArray[np.bool_]
    window: Window
    descriptors: Tensor
    cell: float
    temperature: float
    tokens: Tensor
    _made: dict[str, object] = field(default_factory=dict, init=False, repr=False)

    def once(self, name: str, make: Callable[[], _T]) -> _T:
        """What ``make`` gives, made once per frame for all pairs that it is part of."""
        if name not in self._made:
            self._made[name] = make()
        return cast(_T, self._made[name])

    @property
    def usable_tensor(self) -> Tensor:
        """``usable`` on the model's device."""
        return self.once("usable", lambda: upload(self.usable, self.descriptors.device))

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)`` in source pixels."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def cell_px(self) -> float:
        """Side of a descriptor cell in source pixels."""
        return float(self.cell / self.window.scale.min())

    @property
    def working(self) -> Window:
        """The window with the size of its working copy, whose pixels are cells of 1: where texture is compared."""
        return self.working_copy.window

    @property
    def normalised(self) -> NDArray[np.uint8]:
        """The working copy in grey with local mean and contrast removed, uint8 ``(net_height, net_width)`` of it."""
        return self.working_copy.normalised

    @property
    def usable_copy(self) -> NDArray[np.bool_]:
        """``usable`` on the working copy."""
        return self.working_copy.usable

    @property
    def working_copy(self) -> WorkingCopy:
        """The frame at the size at which texture is compared."""
        return self.once("working copy", lambda: WorkingCopy.of(self.image, self.usable, self.window))


@dataclass(frozen=True)
class WorkingCopy:
    """A frame at the size at which texture is compared.

    Attributes:
        window: of the frame; its network size is the copy's.
        usable: ``(net_height, net_width)`` bool.
        normalised: ``(net_height, net_width)`` uint8, grey with local mean and contrast removed.
    """

    window: Window
    usable: NDArray[np.bool_]
    normalised: NDArray[np.uint8]

    @classmethod
    def of(cls, image: NDArray[np.uint8], usable: NDArray[np.bool_], window: Window) -> WorkingCopy:
        """Made from an RGB uint8 image ``(H, W, 3)`` and what of it is usable ``(H, W)``.

        A light that moves with the camera changes brightness and contrast everywhere; structure stays. Only usable
        pixels count: the rim of the view and highlights do not move with the tissue, and would hold points back.
        """
        scale = WORKING_SIDE / max(window.width, window.height)
        width, height = (max(_LEAST_WORKING_SIDE, round(side * scale)) for side in (window.width, window.height))
        size = width, height
        grey = cv2.cvtColor(np.ascontiguousarray(image[window.area]), cv2.COLOR_RGB2GRAY)
        smaller = cv2.INTER_AREA if width < window.width else cv2.INTER_LINEAR
        levels = np.asarray(cv2.resize(grey, size, interpolation=smaller), np.float32)
        smooth = np.asarray(cv2.GaussianBlur(levels, (0, 0), SMOOTHING), np.float32)
        part = cv2.resize(usable[window.area].view(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        kept = replace(window, net_width=width, net_height=height)
        return cls(kept, part.view(bool), normalise(smooth, part.astype(np.float32)))


def normalise(levels: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A grey image ``(h, w)`` of 8-bit levels without local mean and contrast; both of what has ``weight`` 1, not 0."""
    side = 2 * round(NORMALISATION_SHARE * max(levels.shape) / 2) + 1
    box = (side, side)
    grey = weight * levels
    total = 1.0 / np.maximum(cv2.boxFilter(weight, -1, box), 1e-3)
    mean = cv2.boxFilter(grey, -1, box) * total
    variance = cv2.sqrBoxFilter(grey, cv2.CV_32F, box) * total - mean * mean
    deviation = cv2.sqrt(np.maximum(variance, 0.0))
    contrast = (grey - mean) * (GAIN * weight / (deviation + CONTRAST_FLOOR))
    return np.asarray(cv2.convertScaleAbs(np.maximum(contrast + 128.0, 0.0)), np.uint8)
