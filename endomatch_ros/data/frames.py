"""A frame and what may be known about it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import DataError
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.epipolar import is_rigid

Array = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class StereoPartner:
    """The other camera's image of a stereo pair, taken at the same time.

    Attributes:
        image: RGB uint8 ``(H, W, 3)``; its size may differ from the frame's.
        camera: its intrinsics.
        pose: ``partner_from_frame`` ``(4, 4)``, rigid, in the unit that the depth shall have.

    Raises:
        DataError: parts of the wrong type, of contradicting sizes, or a pose that is not rigid.
    """

    image: NDArray[np.uint8]
    camera: Camera
    pose: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise DataError(f"the partner's image is {self.image.shape} {self.image.dtype}, not RGB uint8 (H, W, 3)")
        if self.camera.size != (self.image.shape[1], self.image.shape[0]):
            raise DataError(f"the partner is calibrated for {self.camera.size}, its image is {self.image.shape[1::-1]}")
        if not is_rigid(self.pose):
            raise DataError(f"the pose of the partner is not a rigid (4, 4) motion: {self.pose.tolist()}")


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a recording or a synthetic scene.

    Attributes:
        image: RGB uint8 ``(H, W, 3)``.
        stamp: seconds.
        index: number of the frame in its source.
        mask: ``(H, W)`` bool, True inside the scope's view.
        camera: intrinsics.
        pose: ``camera_from_world`` ``(4, 4)``, a rotation and a translation.
        depth: ``(H, W)`` float32 along the optical axis, in the unit of the pose's translation; 0 or not
            finite where unknown.
        partner: the stereo partner, for sources that have one and whose frames have a camera.

    Raises:
        DataError: parts of the wrong type or of sizes that contradict each other; a pose that is not rigid.
    """

    image: NDArray[np.uint8]
    stamp: float
    index: int
    mask: NDArray[np.bool_] | None = None
    camera: Camera | None = None
    pose: NDArray[np.float64] | None = None
    depth: NDArray[np.float32] | None = None
    partner: StereoPartner | None = None

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
        if self.mask is not None and self.mask.dtype != np.bool_:
            raise DataError(f"frame {self.index}: the mask is {self.mask.dtype}, not bool")
        if self.pose is not None and not is_rigid(self.pose):
            raise DataError(f"frame {self.index}: the pose is not a rigid (4, 4) motion: {self.pose.tolist()}")

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)`` in pixels."""
        return self.image.shape[1], self.image.shape[0]


class FrameSequence(Protocol):
    """Frames by position, 0 to ``len − 1``.

    A sequence may know more than its frames tell; these are optional, asked for by the functions below:

    - ``correspondence(position0, position1, points)``: the true partners ``(N, 2)`` of pixels ``(N, 2)`` of the first
      frame in the second, and ``(N,)`` bool, which of them are visible there
    - ``landmarks(position0, position1)``: pixels ``(N, 2)`` in both frames of points that both see
    - ``scene_id``: equal for recordings that show the same scene
    """

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Frame: ...

    def __iter__(self) -> Iterator[Frame]: ...


Partners = Callable[[int, int, Array], tuple[Array, NDArray[np.bool_]]]
"""The optional ``correspondence`` of a sequence."""
Landmarks = Callable[[int, int], tuple[Array, Array]]
"""The optional ``landmarks`` of a sequence."""


def partners_of(sequence: FrameSequence) -> Partners | None:
    """The sequence's ``correspondence``; None where it has none."""
    return getattr(sequence, "correspondence", None)


def landmarks_of(sequence: FrameSequence) -> Landmarks | None:
    """The sequence's ``landmarks``; None where it has none."""
    return getattr(sequence, "landmarks", None)


def scene_of(sequence: FrameSequence) -> Hashable:
    """The sequence's ``scene_id``; where it has none, it shows a scene of its own."""
    return getattr(sequence, "scene_id", id(sequence))


def to_and_fro(frames: Sequence[T], count: int) -> Iterator[T]:
    """``count`` of the frames: forward, backward, forward, … without showing the ends twice in a row."""
    there_and_back = [*frames, *frames[-2:0:-1]]
    return itertools.islice(itertools.cycle(there_and_back), count)
