"""A stream of images in, correspondences with the previous frame or with a keyframe out."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import ConfigError
from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.interface import Reference
from endomatch_ros.matching.keypoints import sample
from endomatch_ros.matching.preparation import Roi
from endomatch_ros.matching.types import Matches, Stamp

if TYPE_CHECKING:
    from endomatch_ros.matching.matcher import Matcher

_UNNAMED = -1


@dataclass
class _Anchor:
    """A frame that others are matched with.

    Attributes:
        features, stamp: of the frame.
        points: ``(N, 2)`` its points, at first the targets of tracks, once ``sampled`` new ones, too.
        ids: ``(N,)`` int64, :data:`_UNNAMED` for a point that was never matched.
        lengths: ``(N,)`` int64, the number of frames in which the point was seen.
        sampled: new points were added where there were no tracks.
    """

    features: FrameFeatures
    stamp: Stamp
    points: NDArray[np.float32]
    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    sampled: bool = False

    def sample(self, matcher: Matcher) -> None:
        """Choose the points, once: the same ones serve every frame that is matched with this one."""
        if self.sampled:
            return
        self.points, kept = sample(self.features, matcher.config.max_keypoints, self.points)
        fresh = len(self.points) - len(kept)
        self.ids = np.append(self.ids[kept], np.full(fresh, _UNNAMED))
        self.lengths = np.append(self.lengths[kept], np.ones(fresh, np.int64))
        self.sampled = True


class StreamMatcher:
    """Matches each frame of a stream with the one before it, or with a keyframe; the network runs once per frame.

    Points found again keep their ``track_id``: the refined target of one pair is, bit for bit, the source point of the
    next. With a keyframe the source points stay in the keyframe, and move on when the keyframe changes. Not
    thread-safe: one stream belongs to one thread.

    Args:
        matcher: shared by any number of streams.
        reference: ``previous`` (the frame before) or ``keyframe`` (the first frame, until :meth:`set_keyframe`).
        first_id: the first track id.

    Attributes:
        matcher: as above; may be exchanged at any time for one of other settings (:meth:`Matcher.with_config`): the
            reference and the tracks stay.
        reference: as above; may be changed at any time.
        next_id: the track id of the next new point.

    Raises:
        ConfigError: ``reference`` is neither.
    """

    def __init__(self, matcher: Matcher, reference: Reference = "previous", first_id: int = 0) -> None:
        if reference not in ("previous", "keyframe"):
            raise ConfigError(f"reference is {reference!r}; it must be previous or keyframe")
        self.matcher = matcher
        self.reference: Reference = reference
        self._anchor: _Anchor | None = None
        self._newest: _Anchor | None = None
        self.next_id = first_id

    @property
    def track_lengths(self) -> NDArray[np.int64]:
        """``(N,)`` in how many frames each track of the newest frame was seen so far, at least 2."""
        lengths = np.zeros(0, np.int64) if self._newest is None else self._newest.lengths
        return lengths[lengths > 1]

    def reset(self) -> None:
        """Forget the reference and all tracks; the next frame starts anew. Track ids are not used again."""
        self._anchor = self._newest = None

    def set_keyframe(self) -> bool:
        """Make the newest frame the reference of the next pair; False before the first frame."""
        self._anchor = self._newest
        return self._newest is not None

    def push(
        self,
        image: NDArray[np.uint8],
        stamp: Stamp = None,
        mask: NDArray[Any] | None = None,
        roi: Roi | None = None,
    ) -> Matches | None:
        """The next frame of the stream.

        Args:
            image: RGB uint8 ``(H, W, 3)``. A change of size resets the stream.
            stamp: any number; returned as ``stamp0`` and ``stamp1`` of the matches.
            mask: as in :meth:`Matcher.prepare`.
            roi: as in :meth:`Matcher.prepare`.

        Returns:
            Matches from the reference (0) to this frame (1); ``None`` for the first frame.

        Raises:
            ImageError: the image cannot be used; the stream goes on as if it had not come.
        """
        start = time.perf_counter()
        features = self.matcher.extract(image, mask, roi)
        extracted = 1e3 * (time.perf_counter() - start)
        matches = self.push_features(features, stamp)
        return None if matches is None else replace(matches, timings={"backbone": extracted, **matches.timings})

    def push_features(self, features: FrameFeatures, stamp: Stamp = None) -> Matches | None:
        """As :meth:`push`, for a frame that was extracted already, perhaps together with those of other streams."""
        anchor = self._anchor
        if anchor is None or anchor.features.size != features.size:
            none = np.zeros(0, np.int64)
            self._anchor = self._newest = _Anchor(features, stamp, np.zeros((0, 2), np.float32), none, none)
            return None
        matches, tracked = self._match(anchor, features)
        anchor.lengths[tracked] += 1
        lengths = anchor.lengths[tracked] if len(tracked) else np.full(len(matches), 2)
        self._newest = _Anchor(features, stamp, matches.keypoints1, matches.track_ids.astype(np.int64), lengths)
        if self.reference == "previous":
            self._anchor = self._newest
        return replace(matches, stamp0=anchor.stamp, stamp1=stamp)

    def match_newest(self, features: FrameFeatures, stamp: Stamp = None) -> Matches:
        """Correspondences from the newest frame (0) to a frame of another camera (1).

        Points that the stream tracks keep their ``track_ids``, so that both kinds of matches can be joined.

        Raises:
            ConfigError: nothing was pushed yet.
        """
        newest = self._newest
        if newest is None:
            raise ConfigError("the stream is empty: push a frame before matching another camera's frame with it")
        matches, _ = self._match(newest, features)
        return replace(matches, stamp0=newest.stamp, stamp1=stamp)

    def _match(self, anchor: _Anchor, features: FrameFeatures) -> tuple[Matches, NDArray[np.int64]]:
        """Matches with their track ids, and their positions among the anchor's points (none if these are not kept)."""
        if not self.matcher.keeps_points:
            matches = self.matcher.match_features(anchor.features, features)
            return replace(matches, track_ids=self._new_ids(len(matches)).astype(np.uint32)), np.zeros(0, np.int64)
        start = time.perf_counter()
        anchor.sample(self.matcher)
        sampled = 1e3 * (time.perf_counter() - start)
        matches = self.matcher.match_features(anchor.features, features, anchor.points)
        tracked = matches.track_ids.astype(np.int64)
        ids = anchor.ids[tracked]
        ids[ids == _UNNAMED] = self._new_ids(int((ids == _UNNAMED).sum()))
        anchor.ids[tracked] = ids
        timings = {**matches.timings, "refinement": matches.timings["refinement"] + sampled}
        return replace(matches, track_ids=ids.astype(np.uint32), timings=timings), tracked

    def _new_ids(self, count: int) -> NDArray[np.int64]:
        ids = (self.next_id + np.arange(count)) & 0xFFFFFFFF  # wraps after 2^32 points: days of streaming
        self.next_id += count
        return ids
