"""Where the depth of a frame comes from, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.matching.view import view_mask

NAMES = ("given", "stereo", "mono", "photometric")


class DepthProvider(Protocol):
    """Gives depth along the optical axis, ``(H, W)`` float32, NaN where unknown; relative depth has any scale."""

    @property
    def name(self) -> str:
        """As :func:`make_provider` takes it."""
        ...

    @property
    def metric(self) -> bool:
        """Whether the depth has the unit of the frame's poses."""
        ...

    def __call__(self, frame: Frame) -> NDArray[np.float32]:
        """Depth ``(H, W)`` of a frame; raises :class:`DataError` if the frame lacks what it takes."""
        ...


class GivenDepth:
    """The depth that came with the frame."""

    name = "given"
    metric = True

    def __call__(self, frame: Frame) -> NDArray[np.float32]:
        """The frame's depth; NaN where it is not positive and finite. Raises :class:`DataError` without one."""
        if frame.depth is None:
            raise DataError(
                f"frame {frame.index} carries no depth: choose the depth provider stereo (for frames with a partner), "
                "mono or photometric"
            )
        depth = frame.depth.astype(np.float32)
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))


def view_of(frame: Frame) -> NDArray[np.bool_]:
    """The scope's view in a frame, ``(H, W)`` bool: its mask, or found in its image."""
    return view_mask(frame.image) if frame.mask is None else frame.mask


def make_provider(name: str, weights: str | Path | None = None, device: str = "cpu") -> DepthProvider:
    """The depth provider of that name, with its defaults.

    Args:
        name: ``given``, ``stereo``, ``mono`` or ``photometric``.
        weights: for ``mono``: a model's folder or its name on the Hugging Face hub; None for the default one.
        device: where the network of ``mono`` runs: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigError: an unknown name, or weights for a provider that has none.
        CheckpointError: the network or what it needs is missing.
    """
    if name not in NAMES:
        raise ConfigError(f"depth provider {name!r} is unknown: use one of {', '.join(NAMES)}")
    if weights is not None and name != "mono":
        raise ConfigError(f"depth provider {name} takes no weights ({weights}): leave them out, or choose mono")
    # Imported where needed: a network's libraries take seconds to load.
    if name == "mono":
        from endomatch_ros.data.depth.mono import MonoDepth

        return MonoDepth(weights, device)
    if name == "stereo":
        from endomatch_ros.data.depth.stereo import StereoDepth

        return StereoDepth()
    if name == "photometric":
        from endomatch_ros.data.depth.photometric import PhotometricDepth

        return PhotometricDepth()
    return GivenDepth()
