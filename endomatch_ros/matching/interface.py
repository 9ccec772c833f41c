"""What the node and the evaluation know of a matcher: all that another one has to do to take this one's place.

Light to import: PyTorch is loaded only by those who make a matcher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.matching.config import MatcherConfig
from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.preparation import Prepared, Roi
from endomatch_ros.matching.types import Matches, Stamp
from endomatch_ros.models.info import ModelInfo
from endomatch_ros.settings import Scalar

Reference = Literal["previous", "keyframe"]


class PairMatcher(Protocol):
    """Matches two images."""

    def match(
        self,
        image0: NDArray[np.uint8],
        image1: NDArray[np.uint8],
        mask0: NDArray[Any] | None = None,
        mask1: NDArray[Any] | None = None,
    ) -> Matches:
        """Correspondences between two RGB uint8 images ``(H, W, 3)``, whose sizes may differ.

        Args:
            image0: the reference.
            image1: the current image.
            mask0: ``(H, W)`` bool or uint8, non-zero inside the view; None: the view is found, as the settings say.
            mask1: the same for the current image.

        Raises:
            ImageError: an image or mask that cannot be used.
        """


class FrameStream(Protocol):
    """Matches each frame of a camera with the one before it, or with a keyframe; belongs to one thread."""

    @property
    def track_lengths(self) -> NDArray[np.int64]:
        """``(N,)`` in how many frames each track of the newest frame was seen so far, at least 2."""

    @property
    def next_id(self) -> int:
        """The track id of the next new point; no id from it on has been used."""

    def push_features(self, features: FrameFeatures, stamp: Stamp = None) -> Matches | None:
        """Matches from the reference (0) to this frame (1), the stream's newest; None for the first frame."""

    def match_newest(self, features: FrameFeatures, stamp: Stamp = None) -> Matches:
        """Matches from the newest frame (0) to a frame of another camera (1), under the ids of the stream's tracks.

        Raises:
            ConfigError: nothing was pushed yet.
        """

    def reset(self) -> None:
        """Forget the reference and all tracks; the next frame starts anew. Track ids are not used again."""

    def set_keyframe(self) -> bool:
        """Make the newest frame the reference of the next pair; False before the first frame."""


class FrameMatcher(Protocol):
    """Prepares and describes frames, and makes the streams that match them. Its settings never change."""

    @property
    def info(self) -> ModelInfo:
        """Model and device."""

    @property
    def config(self) -> MatcherConfig:
        """Settings; of a matcher just loaded the model's own."""

    def with_config(self, **changes: Scalar) -> FrameMatcher:
        """A matcher with other settings that shares the model with this one, which stays as it is.

        Raises:
            ConfigError: an unknown setting, a value out of range or one that the model cannot serve.
        """

    def warmup(self, size: tuple[int, int]) -> None:
        """Run once on an image of ``size`` = ``(width, height)``, so that the first real frame is not the slow one."""

    def prepare(
        self,
        image: NDArray[np.uint8],
        mask: NDArray[Any] | None = None,
        roi: Roi | None = None,
        auto: bool | None = None,
    ) -> Prepared:
        """Check an image and find its view, without the network.

        Args:
            image: RGB uint8 ``(H, W, 3)``.
            mask: as in :meth:`PairMatcher.match`.
            roi: ``(x, y, width, height)`` in pixels, match only there; None: in the whole view.
            auto: find the view where no mask is given, and leave highlights out; None: as the setting ``mask`` says.

        Raises:
            ImageError: an image, mask or region that cannot be used.
        """

    def describe(self, frames: Sequence[Prepared]) -> list[FrameFeatures]:
        """Features of several frames, by one pass of the network for those of one image size.

        They serve every matcher of the model, whatever its settings.
        """

    def stream(self, reference: Reference = "previous", after: FrameStream | None = None) -> FrameStream:
        """A new stream that is matched with these settings.

        Args:
            reference: ``previous`` (the frame before) or ``keyframe`` (the first frame, until it is set anew).
            after: the stream that this one takes over from, whose track ids are not used again.
        """
