"""What a frame is good for: how sharp it is, and how much it differs from another one."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame
from endomatch_ros.matching.view import highlight_mask

_SIDE = 320  # long side of the copy that is judged: blur and motion that vanish here do no harm
_DARK = 16  # 8-bit level below which nothing is told apart
_RADIUS = 8.0  # of the local normalisation, pixels of the small copy
_FLOOR = 8.0  # 8-bit levels added to the local contrast, so that flat tissue's noise is not blown up
_FINEST, _FINE, _COARSE = (0.0, 0.7), (0.7, 1.4), (2.0, 4.0)  # bands between two Gaussians, pixels of the small copy


@dataclass(frozen=True, eq=False)
class Look:
    """A small copy of a frame, as :func:`look_at` makes it.

    Attributes:
        texture: ``(h, w)`` float32, grey levels without the lighting, about -1 to 1.
        inner: ``(h, w)`` bool, where tissue is seen, away from the edges of what is seen.
        share: of the image that shows tissue: inside the view, neither dark nor saturated.
    """

    texture: NDArray[np.float32]
    inner: NDArray[np.bool_]
    share: float


def look_at(frame: Frame) -> Look:
    """Grey levels normalised by their surroundings, so that exposure, lamp and vignette do not count.

    A frame without a mask is view throughout.
    """
    scale = min(1.0, _SIDE / max(frame.size))
    width, height = (max(1, round(side * scale)) for side in frame.size)
    image = np.asarray(cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    seen = (image.max(axis=2) > _DARK) & ~highlight_mask(image)
    if frame.mask is not None:
        seen &= cv2.resize(frame.mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    grey, weight = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), seen.astype(np.float32)
    mean = _local_mean(grey, weight)
    contrast = np.sqrt(_local_mean((grey - mean) ** 2, weight).clip(0))
    # What is not seen continues what is: a step there would be fine detail, however blurred the frame.
    near = cv2.GaussianBlur(weight, (0, 0), 2.0)
    smooth = np.where(near > 0.01, cv2.GaussianBlur(grey * weight, (0, 0), 2.0) / near.clip(0.01), mean)
    texture = (np.where(seen, grey, smooth) - mean) / (contrast + _FLOOR)
    # The rim of the view stands still and is always sharp.
    inner = cv2.erode(seen.astype(np.uint8), np.ones((5, 5), np.uint8))
    return Look(np.asarray(texture, np.float32), inner > 0, float(seen.mean()))


def _local_mean(values: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weighted mean over a Gaussian of ``_RADIUS`` pixels, ``(h, w)``."""
    # As smooth as it is, a quarter of the size will do.
    parts = [cv2.resize(p, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA) for p in (values * weight, weight)]
    total, share = (cv2.GaussianBlur(part, (0, 0), _RADIUS / 4) for part in parts)
    mean = cv2.resize(total / np.maximum(share, 1e-6), weight.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(mean, np.float32)


def sharpness(look: Look) -> float:
    """Energy of fine against coarse detail in the direction where it is least; 0 or more, no unit.

    The variance of the Laplacian, the usual measure, tells rough tissue from smooth and strong light from weak rather
    than sharp from blurred. The ratio of two bands is free of contrast; motion blur shows in the direction of the
    motion only, hence the least direction; what white noise adds to the fine band is told by the finest and taken off,
    since a noisy blurred frame would pass for a sharp one.
    """
    noise = max(0.0, float(np.linalg.eigvalsh(_moments(look, _FINEST))[0])) / _noise_gain(_FINEST)
    fine = _moments(look, _FINE) - noise * _noise_gain(_FINE) * np.eye(2)
    coarse = _moments(look, _COARSE)
    if np.linalg.eigvalsh(coarse)[0] < 1e-8:
        return 0.0
    whiten = np.linalg.inv(np.linalg.cholesky(coarse))
    return max(0.0, float(np.linalg.eigvalsh(whiten @ fine @ whiten.T)[0]))


def mean_motion(earlier: Look, later: Look) -> float:
    """Mean motion between two frames as a share of the long side; larger ones (above about 0.02) are underrated.

    What changes from frame to frame over the slope of the texture, which is the motion along the slope; the mean over
    all directions of the slope makes it 2/π of the motion. Needs no correspondence. Noise and compression count as
    some hundredths to tenths of a pixel.
    """
    both = earlier.inner & later.inner if earlier.inner.shape == later.inner.shape else np.zeros(1, bool)
    if not both.any():
        return float("inf")
    first, second = (cv2.GaussianBlur(look.texture, (0, 0), 1.0) for look in (earlier, later))
    slope = float(np.hypot(*_gradient(first + second))[both].sum()) / 2
    change = float(np.abs(second - first)[both].sum())
    if change == 0:
        return 0.0
    return np.pi / 2 * change / slope / max(both.shape) if slope > 0 else float("inf")


def _gradient(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """Slopes along x and y per pixel, ``(2, h, w)``."""
    return np.stack([cv2.Sobel(image, cv2.CV_32F, dx, 1 - dx, scale=1 / 8) for dx in (1, 0)]).astype(np.float32)


def _moments(look: Look, band: tuple[float, float]) -> NDArray[np.float64]:
    """Mean ``(2, 2)`` second moments of the gradient of the texture between two Gaussians."""
    narrow, wide = (cv2.GaussianBlur(look.texture, (0, 0), s) if s > 0 else look.texture for s in band)
    slopes = _gradient(narrow - wide)[:, look.inner].astype(np.float64)
    return slopes @ slopes.T / max(1, slopes.shape[1])


@functools.cache
def _noise_gain(band: tuple[float, float]) -> float:
    """What :func:`_moments` makes of white noise of unit variance, each direction: the energy of its own filter."""
    impulse = np.zeros((65, 65), np.float32)
    impulse[32, 32] = 1.0
    return float(np.trace(_moments(Look(impulse, np.ones(impulse.shape, bool), 1.0), band))) / 2 * impulse.size
