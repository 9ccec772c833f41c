"""Relative depth from the light on the scope: what is near is bright."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame
from endomatch_ros.data.view import view_of
from endomatch_ros.errors import ConfigError, check_ranges
from endomatch_ros.matching.view import highlight_mask

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_LEAST_COSINE = 0.2  # tissue seen more obliquely is lit by scattered light, which the cosine does not describe


@dataclass(frozen=True)
class PhotometricConfig:
    """What is assumed of the light and the camera, and how much is smoothed.

    Attributes:
        gamma: exponent of the display's tone curve, undone before anything else.
        falloff: power of the cosine of the viewing angle by which the image darkens towards its rim: 4 is that of a
            simple lens, 0 none.
        smoothing: radius of the edge-aware filter as a share of the longer image side.
        edge: contrast in log brightness that the filter keeps as an edge.
        slant_steps: rounds of correction for tissue that the light meets obliquely.
        damping: share of the correction that each round applies.
        field_of_view: full angle across the longer image side, degrees, for frames without a camera.
        percentiles: of the relative depth; what lies beyond is set to them.
        work_side: longer side in pixels of the copy of the image that is worked on.

    Raises:
        ConfigError: a value outside its range.
    """

    gamma: float = 2.2
    falloff: float = 4.0
    smoothing: float = 0.05
    edge: float = 0.7
    slant_steps: int = 2
    damping: float = 0.3
    field_of_view: float = 85.0
    percentiles: tuple[float, float] = (0.5, 99.5)
    work_side: int = 320

    def __post_init__(self) -> None:
        ranges = {
            "gamma": (0.5, 4.0),
            "falloff": (0.0, 8.0),
            "smoothing": (0.001, 0.5),
            "edge": (1e-3, 10.0),
            "slant_steps": (0, 20),
            "damping": (0.0, 1.0),
            "field_of_view": (10.0, 150.0),
            "work_side": (32, 8192),
        }
        check_ranges(self, ranges, what="photometric depth: ")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ConfigError(f"photometric depth: percentiles={self.percentiles} do not rise within [0, 100]")


class PhotometricDepth:
    """Depth ∝ 1 / √brightness, with median 1, from a light beside the lens. Needs nothing but the image.

    The red channel serves, which blood and vessels change least. A camera in the frame turns distances from the lens
    into depths along the axis exactly; without one an angle of view is assumed.
    """

    name = "photometric"
    metric = False

    def __init__(self, config: PhotometricConfig | None = None) -> None:
        self.config = config or PhotometricConfig()

    def __call__(self, frame: Frame) -> NDArray[np.float32]:
        """Relative depth ``(H, W)``; NaN outside the view, everywhere if nothing in it is lit."""
        c = self.config
        view = view_of(frame)
        width, height = frame.size
        out = np.full((height, width), np.nan, np.float32)
        scale = min(1.0, c.work_side / max(width, height))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        light = self._light(frame.image, size)
        inside = cv2.resize(view.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
        shiny = cv2.resize(highlight_mask(frame.image).astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
        # The rim of the view is blurred with the black around it.
        core = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) > 0
        usable = core & ~shiny
        if not usable.any():
            return out
        radius = max(1, round(c.smoothing * max(size)))
        smooth = _guided(_filled(light, usable), inside, radius, c.edge**2)
        depth = self._depth(smooth, _plane(frame, size, c.field_of_view), inside, radius)
        depth -= np.median(depth[inside])
        depth = np.clip(depth, *np.percentile(depth[inside], c.percentiles))
        full = cv2.resize(np.exp(_filled(depth, inside)), (width, height), interpolation=cv2.INTER_LINEAR)
        out[view] = full[view] / np.median(full[view])
        return out

    def _light(self, image: NDArray[np.uint8], size: tuple[int, int]) -> Array:
        """Log of the linear brightness in red, ``(h, w)``; averaged while linear, as light adds."""
        levels = ((np.arange(256) + 0.5) / 256) ** self.config.gamma  # half a level: black has a logarithm too
        linear = levels[image[:, :, 0]]
        return np.asarray(np.log(cv2.resize(linear, size, interpolation=cv2.INTER_AREA)), np.float64)

    def _depth(self, light: Array, plane: Array, inside: Mask, radius: int) -> Array:
        """Log depth ``(h, w)`` of log brightness over rays ``(h, w, 3)`` with z = 1."""
        stretch = np.log((plane**2).sum(axis=2))  # log of 1/cos² of the viewing angle
        # distance = √(cos slant · cos^falloff / brightness), depth = distance · cos.
        facing = -0.5 * light - (0.25 * self.config.falloff + 0.5) * stretch
        depth = facing
        for _ in range(self.config.slant_steps):
            slant = _blur(np.log(_cosine(_blur(depth, inside, radius / 2), plane)), inside, radius)
            depth = (1 - self.config.damping) * depth + self.config.damping * (facing + 0.5 * slant)
        return depth


def _plane(frame: Frame, size: tuple[int, int], field_of_view: float) -> Array:
    """Rays ``(h, w, 3)`` with z = 1 through the pixels of a copy of the frame of ``size``."""
    width, height = frame.size
    xs = (np.arange(size[0]) + 0.5) * width / size[0] - 0.5
    ys = (np.arange(size[1]) + 0.5) * height / size[1] - 0.5
    grid = np.stack(np.meshgrid(xs, ys), axis=2)
    if frame.camera is not None:
        rays = frame.camera.rays(grid.reshape(-1, 2)).reshape(*grid.shape[:2], 3)
        # Beyond what the lens's model can undo there is no tissue worth having; straight ahead keeps it harmless.
        return np.where(np.isfinite(rays), rays, [0.0, 0.0, 1.0])
    focal = max(width, height) / 2 / np.tan(np.radians(field_of_view) / 2)
    flat = (grid - [(width - 1) / 2, (height - 1) / 2]) / focal
    return np.dstack([flat, np.ones(grid.shape[:2])])


def _cosine(depth: Array, plane: Array) -> Array:
    """Cosine ``(h, w)`` between the surface's normal and the direction to the lens, of log depth ``(h, w)``."""
    points = plane * np.exp(depth)[:, :, None]
    normal = np.cross(np.gradient(points, axis=1), np.gradient(points, axis=0))
    length = np.linalg.norm(normal, axis=2) * np.linalg.norm(points, axis=2)
    cosine = np.abs((normal * points).sum(axis=2)) / np.maximum(length, 1e-300)
    return np.maximum(cosine, _LEAST_COSINE)


def _blur(values: Array, where: Mask, sigma: float) -> Array:
    """Gaussian mean of the values at ``where`` alone; 0 far from all of them."""
    weight = cv2.GaussianBlur(where.astype(np.float64), (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    total = cv2.GaussianBlur(np.where(where, values, 0.0), (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(total / np.maximum(weight, 1e-12), np.float64)


def _filled(values: Array, known: Mask) -> Array:
    """The values where ``known``, elsewhere the mean of known ones around, over as small a circle as reaches any."""
    out, known = np.where(known, values, 0.0), known.copy()
    sigma = 2.0
    while not known.all():
        reached = cv2.GaussianBlur(known.astype(np.float64), (0, 0), sigma) > 0.01
        out = np.where(known, out, _blur(out, known, sigma))
        known |= reached
        sigma *= 2
    return out


def _guided(values: Array, where: Mask, radius: int, variance: float) -> Array:
    """Self-guided filter (He et al. 2013) over the pixels at ``where``: flattens below ``variance``, keeps edges."""
    side = (2 * radius + 1, 2 * radius + 1)

    def total(x: Array) -> Array:
        return np.asarray(cv2.boxFilter(x, -1, side, normalize=False, borderType=cv2.BORDER_CONSTANT), np.float64)

    count = np.maximum(total(where.astype(np.float64)), 1.0)
    mean = total(np.where(where, values, 0.0)) / count
    spread = np.maximum(total(np.where(where, values**2, 0.0)) / count - mean**2, 0.0)
    slope = spread / (spread + variance)
    offset = (1.0 - slope) * mean
    return (total(np.where(where, slope, 0.0)) * values + total(np.where(where, offset, 0.0))) / count
