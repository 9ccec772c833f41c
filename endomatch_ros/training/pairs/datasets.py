"""Training pairs: two images with sub-pixel correspondences, drawn from one or several sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from endomatch_ros.errors import DataError
from endomatch_ros.training.pairs.crop import CropConfig, move, random_similarity, random_zoom, warp
from endomatch_ros.training.pairs.photometric import PhotometricConfig, jitter

Array = NDArray[np.float64]

_MARGIN = 2  # px; labels keep this far from the border
_ATTEMPTS = 50  # draws until a pair overlaps enough


@dataclass(frozen=True)
class AugmentConfig:
    """How pairs are varied: geometry common to all sources, and what happens to the colours."""

    crop: CropConfig = field(default_factory=CropConfig)
    photometric: PhotometricConfig = field(default_factory=PhotometricConfig)


@dataclass(frozen=True, eq=False)
class Side:
    """One image of a pair before it becomes tensors.

    Attributes:
        image: ``(H, W, 3)`` RGB uint8.
        view: ``(H, W)`` bool, inside the scope's view.
        clean: ``(H, W)`` bool, where labels may be taken.
        points: ``(P, 2)`` pixels; row k shows the same tissue as row k of the other side.
    """

    image: NDArray[np.uint8]
    view: NDArray[np.bool_]
    clean: NDArray[np.bool_]
    points: Array

    def inside(self) -> NDArray[np.bool_]:
        """``(P,)`` bool, points on clean tissue and not at the border."""
        height, width = self.clean.shape
        x, y = np.round(np.nan_to_num(self.points, nan=-1.0)).astype(int).T
        out = (x >= _MARGIN) & (y >= _MARGIN) & (x < width - _MARGIN) & (y < height - _MARGIN)
        out[out] = self.clean[y[out], x[out]]
        return np.asarray(out)


class PairSource(Protocol):
    """Draws pairs at random; the same state of ``rng`` gives the same pair. ``None``: bad luck, draw again."""

    def draw(self, rng: np.random.Generator) -> tuple[Side, Side] | None:
        """Both images of a pair."""


class Pairs(Dataset[dict[str, Tensor]]):
    """Random pairs from several sources, each as likely as the others.

    Item ``k`` depends only on ``seed`` and ``k``, so that runs with any number of workers or processes, broken or not,
    see the same data.

    Args:
        sources: where pairs come from; one named twice is drawn from twice as often.
        length: number of pairs.
        points: correspondences per pair.
        seed: fixes the draw.
        patch: height and width of the images become multiples of it, by pixels out of view on the right and below.
    """

    def __init__(
        self, sources: Sequence[PairSource], length: int, points: int = 512, seed: int = 0, patch: int = 1
    ) -> None:
        self._sources, self._length, self._points, self._seed = list(sources), length, points, seed
        self._patch = patch

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``image0/1`` ``(3, H, W)`` uint8, ``view0/1`` ``(1, H, W)`` bool, ``points0/1`` ``(K, 2)`` pixels.

        Raises:
            DataError: the sources show hardly any tissue twice.
        """
        rng, number = self._draw(index)
        source = self._sources[number]
        for _ in range(_ATTEMPTS):
            sides = source.draw(rng)
            if sides is None:
                continue
            good = np.flatnonzero(sides[0].inside() & sides[1].inside())
            if len(good) >= self._points // 8:
                pick = rng.choice(good, self._points, replace=len(good) < self._points)
                named = zip(sides, "01", strict=True)
                return {k: v for side, name in named for k, v in _tensors(side, pick, name, self._patch)}
        raise DataError(
            f"{source}: {_ATTEMPTS} pairs in a row had fewer than {self._points // 8} correspondences; check the masks "
            "and the depth, or draw smaller motions (motion.translation, motion.rotation)"
        )

    def source(self, index: int) -> int:
        """Which source item ``index`` comes from: pairs of different sources may differ in size."""
        return self._draw(index)[1]

    def _draw(self, index: int) -> tuple[np.random.Generator, int]:
        rng = np.random.default_rng([self._seed, index])
        return rng, int(rng.integers(len(self._sources)))


class ScenePairs:
    """Pairs of true frames of rendered scenes (:func:`endomatch_ros.training.pairs.render.render_scene`).

    Args:
        files: scene archives.
        scale: network pixels at run time per pixel of the scene's frames; multiplies the augmentation's zoom.
        augment: augmentation, or ``None`` for the frames as rendered.
    """

    def __init__(self, files: list[Path], augment: AugmentConfig | None = None, scale: float = 1.6) -> None:
        if not files:
            raise DataError("no training scenes: the list of scene files is empty")
        self._files, self._augment, self._scale = files, augment, scale
        self._cache: dict[Path, dict[str, NDArray]] = {}

    def draw(self, rng: np.random.Generator) -> tuple[Side, Side] | None:
        """Two frames of a random scene."""
        scene = self._load(self._files[rng.integers(len(self._files))])
        i, j = rng.choice(len(scene["images"]), 2, replace=False)
        p0, p1 = scene["points"].astype(np.float64), scene["targets"][i, j].astype(np.float64)
        known = np.isfinite(p1[:, 0])
        if not known.any():
            return None
        centre = rng.choice(np.flatnonzero(known))
        zoom = self._scale * random_zoom(self._augment.crop, rng) if self._augment else 1.0
        a = self._side(scene, i, p0[known], p0[centre], zoom, rng)
        return a, self._side(scene, j, p1[known], p1[centre], zoom, rng)

    def _load(self, path: Path) -> dict[str, NDArray]:
        if path not in self._cache:
            with np.load(path) as archive:
                self._cache[path] = {k: archive[k] for k in ("images", "view", "points", "targets")}
        return self._cache[path]

    def _side(
        self, scene: dict[str, NDArray], index: int, points: Array, centre: Array, zoom: float, rng: np.random.Generator
    ) -> Side:
        image, view = scene["images"][index], scene["view"]
        if self._augment is None:
            return Side(image, view, view, points)
        crop = self._augment.crop
        matrix = random_similarity(centre, zoom, crop, rng)
        view = warp(view.astype(np.uint8), matrix, crop.size, nearest=True) > 0
        image, spoiled = jitter(warp(image, matrix, crop.size), self._augment.photometric, rng, view)
        return Side(image, view, view & ~spoiled, move(points, matrix))


def _tensors(side: Side, pick: NDArray[np.intp], name: str, patch: int) -> list[tuple[str, Tensor]]:
    height, width = side.view.shape
    room = ((0, -height % patch), (0, -width % patch))
    image, view = np.pad(side.image, (*room, (0, 0))), np.pad(side.view, room)
    return [
        # As bytes: a quarter of the memory between processes and on the way to the GPU.
        (f"image{name}", torch.from_numpy(image).permute(2, 0, 1).contiguous()),
        (f"view{name}", torch.from_numpy(view)[None]),
        (f"points{name}", torch.from_numpy(side.points[pick].astype(np.float32))),
    ]
