"""A textured picture and the same after a smooth motion that is known exactly."""

from __future__ import annotations

import cv2
import numpy as np

WIDTH, HEIGHT = 320, 256


def tissue():
    """Texture, RGB uint8 ``(HEIGHT, WIDTH, 3)``."""
    rng = np.random.default_rng(5)
    noise = sum(cv2.GaussianBlur(rng.normal(0, 1, (HEIGHT, WIDTH)), (0, 0), s) * s for s in (1.5, 4.0, 12.0))
    grey = np.clip(128 + 40 * noise / noise.std(), 1, 254).astype(np.uint8)
    return np.stack([grey, grey // 2 + 40, grey // 3 + 30], 2)


def deformation(points):
    """A smooth, one-to-one flow of tissue, up to 12 px: ``(N, 2)`` at ``(N, 2)`` source pixels."""
    x, y = np.asarray(points, np.float64).T
    return np.stack([9 + 3 * np.sin(y / 40.0), 4 * np.cos(x / 50.0) - 4], 1)


def deformed(image):
    """The image after the flow: pixel p + deformation(p) shows what p showed."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float64)
    grid = np.stack([x.ravel(), y.ravel()], 1)
    source = grid.copy()
    for _ in range(30):  # a contraction: the slopes are below 0.1
        source = grid - deformation(source)
    maps = source.reshape(*image.shape[:2], 2).astype(np.float32)
    return cv2.remap(image, maps[..., 0], maps[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
