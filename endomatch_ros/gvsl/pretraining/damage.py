"""Damage that the network learns to mend: in-painting, local shuffling of pixels, intensity curves.

The three are those of Models Genesis (Zhou et al., Medical Image Analysis 67, 2021), whose rates are the defaults; the
fourth, out-painting, is not part of the method. Everything here is a pure function of an image, a mask and a NumPy
random generator. Images are float arrays ``(C, *spatial)`` with intensities in [0, 1], and stay in that range; a mask
is boolean ``(*spatial)``, and nothing changes where it is false.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import ConfigError, ImageError, check_ranges

Image = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Block = tuple[slice, ...]


@dataclass(frozen=True)
class DamageConfig:
    """How often and how strongly images are damaged.

    Attributes:
        curve: probability of an intensity curve.
        inversion: probability that a curve falls from 1 to 0 instead of rising.
        shuffling: probability of local shuffling.
        shuffle_coverage: volume of all shuffled blocks over the image's; they may overlap.
        shuffle_size: largest side of a shuffled block as a fraction of the image's.
        painting: probability of in-painting.
        paint_blocks: most blocks painted.
        paint_size: smallest and largest side of a painted block as fractions of the image's.
        fill: ``noise`` (uniform, for each voxel) or ``constant`` (one value for each block).
    """

    curve: float = 0.9
    inversion: float = 0.5
    shuffling: float = 0.5
    shuffle_coverage: float = 0.5
    shuffle_size: float = 0.1
    painting: float = 0.9
    paint_blocks: int = 5
    paint_size: tuple[float, float] = (1 / 6, 1 / 3)
    fill: str = "noise"

    def __post_init__(self) -> None:
        ranges = dict.fromkeys(("curve", "inversion", "shuffling", "painting", "shuffle_size"), (0.0, 1.0))
        ranges |= {"shuffle_coverage": (0.0, 10.0), "paint_blocks": (1, 100)}
        check_ranges(self, ranges, whole=("paint_blocks",), what="damage.")
        if len(self.paint_size) != 2 or not 0 < self.paint_size[0] <= self.paint_size[1] <= 1:
            raise ConfigError(f"damage.paint_size={self.paint_size!r}: give two fractions, 0 < smallest ≤ largest ≤ 1")
        if self.fill not in ("noise", "constant"):
            raise ConfigError(f"damage.fill={self.fill!r}: use noise or constant")


def damage(
    image: Image, rng: np.random.Generator, config: DamageConfig | None = None, mask: Mask | None = None
) -> Image:
    """A damaged copy of ``image``, the same for the same generator state.

    Args:
        image: ``(C, *spatial)``, float, in [0, 1].
        rng: source of all chance.
        config: rates and sizes.
        mask: ``(*spatial)``; voxels outside stay as they are.

    Raises:
        ImageError: not floating point, intensities outside [0, 1], or a mask of another size.
    """
    config = config or DamageConfig()
    _check(image, mask)
    spatial = image.shape[1:]
    if rng.random() < config.curve:
        controls = rng.random((2, 2))
        image = bend_intensities(image, controls, falling=rng.random() < config.inversion, mask=mask)
    if rng.random() < config.shuffling:
        sides = (0.0, config.shuffle_size)
        blocks = sample_blocks(spatial, _count(spatial, sides[1], config.shuffle_coverage), sides, rng)
        image = shuffle_blocks(image, blocks, rng, mask)
    if rng.random() < config.painting:
        count = int(rng.integers(1, config.paint_blocks + 1))
        image = paint_blocks(image, sample_blocks(spatial, count, config.paint_size, rng), rng, config.fill, mask)
    return image.copy()


def _check(image: Image, mask: Mask | None) -> None:
    if not np.issubdtype(image.dtype, np.floating) or image.ndim not in (3, 4):
        raise ImageError(f"image {image.dtype} {image.shape}: give floats (C, H, W) or (C, D, H, W)")
    # Written so that not-a-number fails, too.
    if not (image.min() >= 0 and image.max() <= 1):
        raise ImageError(f"intensities run from {image.min():g} to {image.max():g}: scale the image to [0, 1] first")
    if mask is not None and (mask.shape != image.shape[1:] or mask.dtype != np.bool_):
        raise ImageError(f"mask {mask.dtype} {mask.shape}: an image {image.shape} needs a bool mask {image.shape[1:]}")


def sample_blocks(
    spatial: Sequence[int], count: int, sides: tuple[float, float], rng: np.random.Generator
) -> list[Block]:
    """Boxes of random size and place inside the image.

    Args:
        spatial: the image's size.
        count: how many.
        sides: least and largest side as fractions of the image's along the same axis; at least 1 voxel.
        rng: source of chance.
    """
    low = [max(1, int(size * sides[0])) for size in spatial]
    high = [max(least, int(size * sides[1])) for size, least in zip(spatial, low, strict=True)]
    size = rng.integers(low, np.add(high, 1), (count, len(low)))
    start = rng.integers(0, np.asarray(spatial) - size + 1)
    return [
        tuple(slice(int(a), int(a + n)) for a, n in zip(*row, strict=True)) for row in zip(start, size, strict=True)
    ]


def _count(spatial: Sequence[int], largest: float, coverage: float) -> int:
    """Blocks with sides from 1 voxel to ``largest`` times the image's that together have ``coverage`` of its volume."""
    means = [(1 + max(1, int(size * largest))) / 2 for size in spatial]
    return math.ceil(coverage * math.prod(spatial) / math.prod(means))


def paint_blocks(
    image: Image, blocks: Sequence[Block], rng: np.random.Generator, fill: str = "noise", mask: Mask | None = None
) -> Image:
    """A copy whose ``blocks`` hold uniform noise, or one random value each (``fill="constant"``)."""
    result = image.copy()
    for block in blocks:
        part = result[(slice(None), *block)]
        shape = part.shape if fill == "noise" else (len(part), *[1] * len(block))
        new = rng.random(shape).astype(image.dtype)
        part[...] = new if mask is None else np.where(mask[block], new, part)
    return result


def shuffle_blocks(image: Image, blocks: Sequence[Block], rng: np.random.Generator, mask: Mask | None = None) -> Image:
    """A copy in which the voxels inside each block have changed places, all channels of a voxel together."""
    result = image.copy()
    for block in blocks:
        part = result[(slice(None), *block)]
        inside = np.ones(part.shape[1:], bool) if mask is None else mask[block]
        values = part[:, inside]
        part[:, inside] = values[:, rng.permutation(values.shape[1])]
    return result


def bend_intensities(
    image: Image, controls: NDArray[np.floating[Any]], falling: bool = False, mask: Mask | None = None
) -> Image:
    """Intensities through a cubic Bézier curve from (0, 0) to (1, 1), or, ``falling``, from (0, 1) to (1, 0).

    Both inner control points lie in the unit square, which makes the curve monotone.

    Args:
        image: ``(C, *spatial)`` in [0, 1].
        controls: ``(2, 2)``: the inner control points' (input, output), in [0, 1].
        falling: turn the intensities round.
        mask: ``(*spatial)``; voxels outside stay as they are.
    """
    t = np.linspace(0.0, 1.0, 1025)
    first, second = 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2
    inputs = first * controls[0, 0] + second * controls[1, 0] + t**3
    outputs = first * controls[0, 1] + second * controls[1, 1] + t**3
    bent = np.interp(image, inputs, 1.0 - outputs if falling else outputs).astype(image.dtype)
    return bent if mask is None else np.where(mask, bent, image)
