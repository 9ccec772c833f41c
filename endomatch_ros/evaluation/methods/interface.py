"""What a method of the evaluation is, and what those that are not ours have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import ImageError
from endomatch_ros.evaluation.provenance import code_digest
from endomatch_ros.geometry.coverage import coverage
from endomatch_ros.matching.types import Matches
from endomatch_ros.matching.view import lookup

OURS = "endomatch"
"""Name of this package's own method."""
_NOTHING = np.zeros((64, 64, 3), np.uint8)

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_] | None
Method = Callable[[Image, Image, Mask, Mask], Matches]
"""Two RGB uint8 images ``(H, W, 3)`` and their views ``(H, W)`` bool (None: everything) to their matches."""


@dataclass(frozen=True, eq=False)
class NamedMethod:
    """A method of an evaluation, ready to match.

    Attributes:
        name: in the tables.
        call: function of (image0, image1, mask0, mask1).
        identity: changes with whatever its answers depend on: code, versions of libraries, weights, settings, device;
            None if that is not known: its answers are then never kept.
        about: facts for the report.
    """

    name: str
    call: Method
    identity: str | None = None
    about: dict[str, Any] | None = None


@dataclass(frozen=True)
class Request:
    """What a user asks of a method.

    Attributes:
        name: as it was written: ``sift``, ``loftr:PATH``, ``endomatch:MODEL,SETTING=VALUE``.
        model: preset or checkpoint of ``endomatch``, where the name says none.
        device: of methods that run on one.
        backbone_weights: of ``endomatch``, for models that do not carry them.
    """

    name: str
    model: str = "embedded"
    device: str = "auto"
    backbone_weights: Path | None = None

    @property
    def arguments(self) -> str:
        """What the name says behind its colon; empty: nothing."""
        return self.name.partition(":")[2]


@dataclass(frozen=True)
class Entry:
    """A method in the registry.

    Attributes:
        name: what a user calls it.
        make: makes it ready; raises ConfigError or CheckpointError for what the user asks.
        check: raises ConfigError where it cannot run on this machine, whatever is asked.
        takes_arguments: a name may go on with ``:ARGUMENTS``.
        by_default: part of an evaluation that names no methods, where it can run.
        help: what one that is not by default needs, and what may follow its name.
    """

    name: str
    make: Callable[[Request], NamedMethod]
    check: Callable[[], None] = lambda: None
    takes_arguments: bool = False
    by_default: bool = True
    help: str = ""


def plain_entry(name: str, method: Method) -> Entry:
    """The entry of a method that is a function without weights or settings: its code and its libraries identify it."""

    def make(request: Request) -> NamedMethod:
        return NamedMethod(name, method, f"{name} {code_digest(method.__module__)}")

    def check() -> None:
        method(_NOTHING, _NOTHING, None, None)  # one that cannot run here says so now, not after hours

    return Entry(name, make, check)


def matches_of(
    points0: NDArray[np.floating],
    points1: NDArray[np.floating],
    similarity: NDArray[np.floating],
    image0: Image,
    image1: Image,
    mask0: Mask,
    mask1: Mask,
) -> Matches:
    """The matches that lie inside both views.

    Args:
        points0: ``(N, 2)`` source pixels of image 0.
        points1: ``(N, 2)`` their partners in image 1.
        similarity: ``(N,)``, clipped to [-1, 1].
        image0: for its size.
        image1: for its size.
        mask0: the view in image 0.
        mask1: the view in image 1.
    """
    view0, view1 = (np.ones(i.shape[:2], bool) if m is None else m for i, m in ((image0, mask0), (image1, mask1)))
    kept = lookup(view0, points0) & lookup(view1, points1)
    return Matches(
        keypoints0=points0[kept].astype(np.float32),
        keypoints1=points1[kept].astype(np.float32),
        similarity=np.clip(similarity[kept], -1, 1).astype(np.float32),
        track_ids=np.arange(kept.sum(), dtype=np.uint32),
        size0=(image0.shape[1], image0.shape[0]),
        size1=(image1.shape[1], image1.shape[0]),
        coverage=coverage(points0[kept], view0),
    )


def grey(image: Image) -> Image:
    """RGB ``(H, W, 3)`` to grey ``(H, W)``, both uint8."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def opencv_mask(mask: Mask) -> Image | None:
    """A view as OpenCV wants it: 255 inside."""
    return None if mask is None else mask.astype(np.uint8) * 255


def check_same_size(image0: Image, image1: Image) -> None:
    """Raise :class:`ImageError` for images of different sizes."""
    if image0.shape != image1.shape:
        raise ImageError(f"images of {image0.shape} and {image1.shape}: this method needs two of one size")
