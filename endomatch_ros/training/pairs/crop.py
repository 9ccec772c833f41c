"""What of a frame the network sees in training: a rotated, magnified part of it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import ConfigError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CropConfig:
    """Ranges of the cut-outs; both images of a pair show a common point near their middle.

    Attributes:
        size: width and height of the cut-outs in pixels.
        zoom: magnification common to both images, against the scale at which the network sees frames at run time.
        rotation: deviation of each image's in-plane rotation, radians.
        log_scale: deviation of the log of each image's own zoom.
        shift: deviation of the common point from the middle, share of the size.
    """

    size: tuple[int, int] = (256, 192)
    zoom: tuple[float, float] = (0.47, 1.375)
    rotation: float = 0.22
    log_scale: float = 0.12
    shift: float = 0.08

    def __post_init__(self) -> None:
        if min(self.size) < 64:
            raise ConfigError(f"crop.size is {list(self.size)}: at least 64 pixels per side are needed")
        if not 0 < self.zoom[0] <= self.zoom[1] <= 8:
            raise ConfigError(f"crop.zoom is {list(self.zoom)}: give 0 < least <= largest <= 8")
        for name, most in (("rotation", np.pi), ("log_scale", 1.0), ("shift", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"crop.{name} is {getattr(self, name)}: it must lie between 0 and {most:.4g}")


def random_zoom(config: CropConfig, rng: np.random.Generator) -> float:
    """A magnification, log-uniform in its range."""
    return float(np.exp(rng.uniform(*np.log(config.zoom))))


def random_similarity(centre: NDArray[np.floating], zoom: float, config: CropConfig, rng: np.random.Generator) -> Array:
    """2×3 similarity from pixels of a frame to those of a cut-out, with ``centre`` ``(2,)`` near its middle."""
    size = np.array(config.size)
    angle, scale = rng.normal(0, config.rotation), zoom * np.exp(rng.normal(0, config.log_scale))
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = (size - 1) / 2 + rng.normal(0, config.shift, 2) * size
    return np.column_stack([linear, middle - linear @ centre])


def antialiased(image: NDArray[np.uint8], zoom: float) -> NDArray[np.uint8]:
    """The image, blurred as far as sampling it with a magnification below 1 needs."""
    if zoom > 0.8:
        return image
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.4 / zoom), np.uint8)


def warp(image: NDArray[np.uint8], matrix: Array, size: tuple[int, int], nearest: bool = False) -> NDArray[np.uint8]:
    """``image`` under a 2×3 similarity, black outside."""
    flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return np.asarray(cv2.warpAffine(image, matrix, size, flags=flags), np.uint8)


def move(points: NDArray[np.floating], matrix: Array) -> Array:
    """Points ``(N, 2)`` under a 2×3 affine map."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])
