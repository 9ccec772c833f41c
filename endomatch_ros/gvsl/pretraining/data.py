"""Pairs to pre-train on: image A, damaged and clean, and image B, of other subjects or other moments."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from endomatch_ros.data.frames import Frame, FrameSequence
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.gvsl.pretraining.damage import DamageConfig, damage
from endomatch_ros.gvsl.subjects import Subject, neighbour_pairs
from endomatch_ros.gvsl.volumes import VolumeConfig, prepare, read_labels, read_volume, sample

Item = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""An image ``(C, *spatial)`` in [0, 1] and where it is valid, ``(*spatial)``."""

_CACHED_BYTES = 4e9
Key = TypeVar("Key", bound=Hashable)


class _Cache(Generic[Key]):
    """Keeps images once they are made, up to a limit; what comes later is made each time."""

    def __init__(self, make: Callable[[Key], Item], limit: float = _CACHED_BYTES) -> None:
        self._make, self._left = make, limit
        self._kept: dict[Key, Item] = {}

    def __call__(self, key: Key) -> Item:
        if key in self._kept:
            return self._kept[key]
        item = self._make(key)
        self._left -= item[0].nbytes + item[1].nbytes
        if self._left > 0:
            self._kept[key] = item
        return item


class DamagedPairs(Dataset[dict[str, Tensor]]):
    """Random pairs without end; item ``k`` depends only on ``seed`` and ``k``, so a resumed run sees the same data.

    An item holds ``moving`` (A, damaged), ``clean`` (A) and ``fixed`` (B), ``(C, *spatial)``, and ``clean_mask`` and
    ``fixed_mask``, ``(1, *spatial)``, 1 where the image is valid; all float32.

    Args:
        draw: images A and B of a pair.
        seed: fixes the draw and the damage.
        config: of the damage.
    """

    def __init__(
        self, draw: Callable[[np.random.Generator], tuple[Item, Item]], seed: int, config: DamageConfig
    ) -> None:
        self._draw, self._seed, self._config = draw, seed, config

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self._seed, index])
        (clean, clean_mask), (fixed, fixed_mask) = self._draw(rng)
        arrays = {
            "moving": damage(clean, rng, self._config, clean_mask),
            "clean": clean,
            "fixed": fixed,
            "clean_mask": clean_mask[None],
            "fixed_mask": fixed_mask[None],
        }
        return {name: torch.from_numpy(np.ascontiguousarray(array, np.float32)) for name, array in arrays.items()}


class VolumeDraw:
    """Two different subjects, each as likely as any other.

    Args:
        subjects: at least two.
        config: how volumes are prepared; all are cut or extended to its size.

    Raises:
        DataError: fewer than two subjects.
    """

    def __init__(self, subjects: Sequence[Subject], config: VolumeConfig) -> None:
        if len(subjects) < 2:
            raise DataError(f"{len(subjects)} volume(s) to train on: pairs need at least two subjects")
        self._subjects, self._config = subjects, config
        self._items = _Cache(self._make)

    def __call__(self, rng: np.random.Generator) -> tuple[Item, Item]:
        """Images A and B."""
        first, second = rng.choice(len(self._subjects), 2, replace=False)
        return self._items(int(first)), self._items(int(second))

    def _make(self, index: int) -> Item:
        prepared = prepare(read_volume(self._subjects[index].image), self._config, self._config.size)
        return prepared.image[0].numpy(), prepared.mask[0, 0].numpy()


class VolumeValidation(Dataset[dict[str, Tensor]]):
    """Neighbour pairs of held-out subjects, undamaged; with ``moving_labels`` and ``fixed_labels`` if all have them.

    Args:
        subjects: at least two.
        config: how volumes are prepared.
        most: pairs; where there are more, evenly spread ones are taken.
    """

    def __init__(self, subjects: Sequence[Subject], config: VolumeConfig, most: int = 20) -> None:
        every = neighbour_pairs(subjects)
        chosen = np.unique(np.linspace(0, len(every) - 1, min(most, len(every))).round().astype(int))
        self._pairs = [every[k] for k in chosen]
        self._config = config
        self._labelled = all(subject.labels is not None for subject in subjects)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item: dict[str, Tensor] = {}
        for name, subject in zip(("moving", "fixed"), self._pairs[index], strict=True):
            volume = read_volume(subject.image)
            prepared = prepare(volume, self._config, self._config.size)
            item |= {name: prepared.image[0], f"{name}_mask": prepared.mask[0].float()}
            if self._labelled and subject.labels is not None:
                labels = sample(read_labels(subject.labels, volume), prepared.grid, "nearest")
                # Border values go on beyond the volume, but structures must not.
                item[f"{name}_labels"] = torch.where(prepared.mask, labels, 0)[0]
        return item


@dataclass(frozen=True)
class FrameConfig:
    """How frames are prepared and paired.

    Attributes:
        size: height and width that frames are fitted into, pixels; what is left over is not valid.
        gap: most frames between A and B of a pair.
    """

    size: tuple[int, int] = (192, 256)
    gap: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.size))
        if len(self.size) != 2 or not all(isinstance(n, int) and 32 <= n <= 2048 for n in self.size):
            raise ConfigError(f"size={self.size!r}: give height and width, whole numbers of 32 to 2048 pixels")
        if self.gap < 1:
            raise ConfigError(f"gap={self.gap}: A and B of a pair must be at least 1 frame apart")


class FrameDraw:
    """Two frames of one recording, at most ``config.gap`` apart, in either order.

    Args:
        sequences: recordings, each drawn from as often as it has frames.
        config: size and gap.

    Raises:
        DataError: no recording has two frames.
    """

    def __init__(self, sequences: Sequence[FrameSequence], config: FrameConfig) -> None:
        self._sequences = [sequence for sequence in sequences if len(sequence) > 1]
        if not self._sequences:
            raise DataError(f"none of {len(sequences)} recordings has two frames: there is no pair to train on")
        self._config = config
        self._ends = np.cumsum([len(sequence) for sequence in self._sequences])
        self._items = _Cache(self._make)

    def __call__(self, rng: np.random.Generator) -> tuple[Item, Item]:
        """Images A and B."""
        frame = int(rng.integers(self._ends[-1]))
        number = int(np.searchsorted(self._ends, frame, side="right"))
        length = len(self._sequences[number])
        first = frame - int(self._ends[number]) + length
        near = range(max(0, first - self._config.gap), min(length, first + self._config.gap + 1))
        second = int(rng.choice([k for k in near if k != first]))
        return self._items((number, first)), self._items((number, second))

    def _make(self, key: tuple[int, int]) -> Item:
        return prepare_frame(self._sequences[key[0]][key[1]], self._config.size)


class FrameValidation(Dataset[dict[str, Tensor]]):
    """Undamaged pairs of frames drawn with a fixed seed."""

    def __init__(self, draw: FrameDraw, length: int) -> None:
        self._draw, self._length = draw, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item: dict[str, Any] = {}
        for name, (image, mask) in zip(("moving", "fixed"), self._draw(np.random.default_rng([1, index])), strict=True):
            item |= {name: torch.from_numpy(image), f"{name}_mask": torch.from_numpy(mask[None].astype(np.float32))}
        return item


def prepare_frame(frame: Frame, size: tuple[int, int]) -> Item:
    """A frame fitted into ``size`` (height, width) with its proportions kept, centred.

    Returns:
        ``(3, *size)`` float32 RGB in [0, 1], 0 beyond the frame, and the mask ``(*size)``: in the picture and, where
        the frame has a mask, inside the scope's view.
    """
    height, width = frame.image.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    image = cv2.resize(frame.image, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    seen = np.ones((height, width), np.uint8) if frame.mask is None else frame.mask.astype(np.uint8)
    top, left = (size[0] - inner[1]) // 2, (size[1] - inner[0]) // 2
    place = slice(top, top + inner[1]), slice(left, left + inner[0])
    result = np.zeros((3, *size), np.float32)
    mask = np.zeros(size, bool)
    result[(slice(None), *place)] = image.transpose(2, 0, 1) / np.float32(255)
    mask[place] = cv2.resize(seen, inner, interpolation=cv2.INTER_NEAREST) > 0
    return result, mask
