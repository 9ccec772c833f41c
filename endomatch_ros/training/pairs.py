"""Training pairs: two frames of a rendered scene, augmented, with sub-pixel correspondences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from endomatch_ros.errors import DataError


@dataclass(frozen=True)
class AugmentConfig:
    """Strength of the augmentation; every image of a pair is drawn on its own.

    Attributes:
        size: ``(width, height)`` of the images that the network sees, cut out around a common point of the pair.
        zoom: range of the magnification common to both images, so that tissue is seen at many scales.
        rotation: deviation of the in-plane rotation, radians.
        log_scale: deviation of the log of each image's own zoom.
        shift: deviation of the translation, share of the image's size.
        gamma: range of the tone curve's exponent.
        log_gain: deviation of the log of the exposure.
        white_balance: deviation of the log of each channel's gain.
        blur: largest deviation of the Gaussian blur, pixels.
        noise: largest deviation of the added noise, 8-bit levels.
    """

    size: tuple[int, int] = (256, 192)
    zoom: tuple[float, float] = (0.75, 2.2)
    rotation: float = 0.22
    log_scale: float = 0.12
    shift: float = 0.08
    gamma: tuple[float, float] = (0.7, 1.45)
    log_gain: float = 0.28
    white_balance: float = 0.06
    blur: float = 1.2
    noise: float = 5.0


class ScenePairs(Dataset[dict[str, Tensor]]):
    """Random pairs from rendered scenes (:func:`endomatch_ros.training.render.render_scene`).

    Item ``k`` depends only on ``seed`` and ``k``, so that runs with any number of workers see the same data.

    Args:
        files: scene archives.
        length: number of pairs in an epoch.
        points: correspondences a pair.
        seed: fixes the draw.
        augment: augmentation, or ``None`` for the frames as rendered (validation).
    """

    def __init__(
        self, files: list[Path], length: int, points: int = 512, seed: int = 0, augment: AugmentConfig | None = None
    ) -> None:
        if not files:
            raise DataError("no training scenes: the list of scene files is empty")
        self._files, self._length, self._points, self._seed, self._augment = files, length, points, seed, augment
        self._cache: dict[Path, dict[str, NDArray]] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``image0/1`` ``(3, H, W)`` 0…1, ``view0/1`` ``(1, H, W)``, ``points0/1`` ``(K, 2)`` pixels."""
        rng = np.random.default_rng([self._seed, index])
        while True:
            scene = self._load(self._files[rng.integers(len(self._files))])
            i, j = rng.choice(len(scene["images"]), 2, replace=False)
            p0, p1 = scene["points"].astype(np.float64), scene["targets"][i, j].astype(np.float64)
            known = np.isfinite(p1[:, 0])
            if not known.any():
                continue
            centre = rng.choice(np.flatnonzero(known))
            zoom = np.exp(rng.uniform(*np.log(self._augment.zoom))) if self._augment else 1.0
            a = self._view(scene, i, p0[known], p0[centre], zoom, rng)
            b = self._view(scene, j, p1[known], p1[centre], zoom, rng)
            good = np.flatnonzero(a["inside"] & b["inside"])
            if len(good) >= self._points // 8:
                break  # else: hardly any overlap, draw another pair
        pick = rng.choice(good, self._points, replace=len(good) < self._points)
        out: dict[str, Tensor] = {}
        for k, side in enumerate((a, b)):
            out[f"image{k}"] = torch.from_numpy(side["image"]).permute(2, 0, 1).float() / 255.0
            out[f"view{k}"] = torch.from_numpy(side["view"])[None].float()
            out[f"points{k}"] = torch.from_numpy(side["points"][pick].astype(np.float32))
        return out

    def _load(self, path: Path) -> dict[str, NDArray]:
        if path not in self._cache:
            with np.load(path) as archive:
                self._cache[path] = {k: archive[k] for k in ("images", "view", "points", "targets")}
        return self._cache[path]

    def _view(
        self,
        scene: dict[str, NDArray],
        index: int,
        points: NDArray[np.float64],
        centre: NDArray[np.float64],
        zoom: float,
        rng: np.random.Generator,
    ) -> dict[str, NDArray]:
        image, view = scene["images"][index], scene["view"].astype(np.uint8)
        if self._augment is not None:
            matrix, size = _similarity(centre, zoom, self._augment, rng), self._augment.size
            moved = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR)
            view = np.asarray(cv2.warpAffine(view, matrix, size, flags=cv2.INTER_NEAREST), np.uint8)
            points = points @ matrix[:, :2].T + matrix[:, 2]
            image = _photometric(np.asarray(moved, np.uint8), self._augment, rng)
        x, y = np.round(points).astype(int).T
        inside = (x >= 2) & (y >= 2) & (x < image.shape[1] - 2) & (y < image.shape[0] - 2)
        inside[inside] = view[y[inside], x[inside]] > 0
        return {"image": image, "view": view, "points": points, "inside": inside}


def _similarity(
    centre: NDArray[np.float64], zoom: float, config: AugmentConfig, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Random 2×3 similarity that brings ``centre`` near the middle of the output (pixel-centre coordinates)."""
    size = np.array(config.size)
    angle, scale = rng.normal(0, config.rotation), zoom * np.exp(rng.normal(0, config.log_scale))
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = (size - 1) / 2 + rng.normal(0, config.shift, 2) * size
    return np.column_stack([linear, middle - linear @ centre])


def _photometric(image: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Exposure, white balance, tone curve, blur and noise, in this order as in a camera."""
    levels = np.arange(256) / 255.0
    gains = np.exp(rng.normal(0, config.log_gain) + rng.normal(0, config.white_balance, 3))
    gamma = rng.uniform(*config.gamma)
    table = np.clip(levels[:, None] ** gamma * gains, 0, 1) * 255.0
    out = cv2.LUT(image, table.round().astype(np.uint8)[None])
    sigma = rng.uniform(0, config.blur)
    if sigma > 0.3:
        out = cv2.GaussianBlur(out, (0, 0), sigma)
    noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0, config.noise)
    return np.clip(out + noise, 0, 255).astype(np.uint8)
