"""A stream of images in, correspondences between consecutive frames out."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.matcher import Matcher
from endomatch_ros.matching.types import Matches, Stamp


class StreamMatcher:
    """Matches each frame of a stream with the one before it; the network runs once a frame.

    Points found again keep their ``track_id``: the refined target of one pair is, bit for bit, the source point of the
    next. Not thread-safe: one stream belongs to one thread.

    Args:
        matcher: shared by any number of streams.
    """

    def __init__(self, matcher: Matcher) -> None:
        self.matcher = matcher
        self._reference: FrameFeatures | None = None
        self._stamp: Stamp = None
        self._points = np.zeros((0, 2), np.float32)
        self._ids = np.zeros(0, np.uint32)
        self._next_id = 0

    def reset(self) -> None:
        """Forget the reference and all tracks; the next frame starts anew. Track ids are not used again."""
        self._reference, self._stamp = None, None
        self._points, self._ids = np.zeros((0, 2), np.float32), np.zeros(0, np.uint32)

    def push(self, image: NDArray[np.uint8], stamp: Stamp = None, mask: NDArray[Any] | None = None) -> Matches | None:
        """The next frame of the stream.

        Args:
            image: RGB uint8 ``(H, W, 3)``. A change of size resets the stream.
            stamp: any number; returned as ``stamp0`` and ``stamp1`` of the matches.
            mask: as in :meth:`Matcher.match`.

        Returns:
            Matches from the previous frame (0) to this one (1); ``None`` for the first frame.

        Raises:
            ImageError: the image cannot be used; the stream goes on as if it had not come.
        """
        start = time.perf_counter()
        features = self.matcher.extract(image, mask)
        extracted = time.perf_counter()
        if self._reference is not None and self._reference.size != features.size:
            self.reset()
        reference, reference_stamp = self._reference, self._stamp
        self._reference, self._stamp = features, stamp
        if reference is None:
            return None
        matches = self.matcher.match_features(reference, features, self._points)
        matches = self._track(matches)
        timings = {"backbone": 1e3 * (extracted - start), **matches.timings}
        return replace(matches, stamp0=reference_stamp, stamp1=stamp, timings=timings)

    def _track(self, matches: Matches) -> Matches:
        position = matches.track_ids.astype(np.int64)
        old = position < len(self._ids)
        ids = np.empty(len(position), np.uint32)
        ids[old] = self._ids[position[old]]
        fresh = int((~old).sum())
        # Ids wrap after 2^32 points: days of streaming.
        ids[~old] = (np.arange(self._next_id, self._next_id + fresh) & 0xFFFFFFFF).astype(np.uint32)
        self._next_id += fresh
        self._points, self._ids = matches.keypoints1, ids
        return replace(matches, track_ids=ids)
