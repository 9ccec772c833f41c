"""A frame and what may be known about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import DataError
from endomatch_ros.geometry.camera import Camera


@dataclass(frozen=True)
class Frame:
    """One image of a recording or a synthetic scene.

    Attributes:
        image: RGB uint8 ``(H, W, 3)``.
        stamp: seconds.
        index: number of the frame in its source.
        mask: ``(H, W)`` bool, True inside the scope's view.
        camera: intrinsics.
        pose: ``camera_from_world`` ``(4, 4)``.
        depth: ``(H, W)`` float32 along the optical axis, in the unit of the pose's translation.

    Raises:
        DataError: parts whose sizes contradict each other.
    """

    image: NDArray[np.uint8]
    stamp: float
    index: int
    mask: NDArray[np.bool_] | None = None
    camera: Camera | None = None
    pose: NDArray[np.float64] | None = None
    depth: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise DataError(
                f"frame {self.index}: the image is {self.image.shape} {self.image.dtype}, not RGB uint8 (H, W, 3)"
            )
        for name in ("mask", "depth"):
            part = getattr(self, name)
            if part is not None and part.shape != self.image.shape[:2]:
                raise DataError(f"frame {self.index}: {name} is {part.shape}, the image {self.image.shape[:2]}")
        if self.camera is not None and self.camera.size != (self.image.shape[1], self.image.shape[0]):
            raise DataError(
                f"frame {self.index}: calibrated for {self.camera.size}, the image is {self.image.shape[1::-1]}"
            )
        if self.pose is not None and self.pose.shape != (4, 4):
            raise DataError(f"frame {self.index}: the pose is {self.pose.shape}, not (4, 4)")


class FrameSequence(Protocol):
    """Frames by position, 0 to ``len − 1``."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Frame: ...

    def __iter__(self) -> Iterator[Frame]: ...
