"""Stand-ins for the matcher and its streams, where a test is about the ROS side; checked by mypy as the package is."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from endomatch_ros.errors import ConfigError
from endomatch_ros.matching.config import MatcherConfig
from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.interface import FrameMatcher, FrameStream, Reference
from endomatch_ros.matching.preparation import Prepared, Roi, prepare
from endomatch_ros.matching.types import Matches, Stamp
from endomatch_ros.models import ModelInfo
from endomatch_ros.settings import Scalar

PATIENCE = 20.0  # seconds until a condition that should hold has failed
TRUE_POSE = np.array([[1, 0, 0, 0.3], [0, 1, 0, 0.1], [0, 0, 1, -0.2], [0, 0, 0, 1.0]])  # camera1_from_camera0


def pinhole(width: int, height: int) -> NDArray[np.float64]:
    """``(3, 3)`` intrinsics of an image of this size."""
    return np.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1.0]])


def two_views(count: int, width: int, height: int) -> list[NDArray[np.float32]]:
    """A fixed rigid scene's ``(count, 2)`` pixels from the origin and from :data:`TRUE_POSE`."""
    rng = np.random.default_rng(3)
    world = rng.uniform((-1, -0.7, 3), (1, 0.7, 6), (count, 3))
    points = []
    for pose in (np.eye(4), TRUE_POSE):
        seen = (world @ pose[:3, :3].T + pose[:3, 3]) @ pinhole(width, height).T
        points.append((seen[:, :2] / seen[:, 2:]).astype(np.float32))
    return points


class Clock:
    """How long each stage takes."""

    def __init__(self) -> None:
        self.slow: dict[str, float] = {}  # seconds by stage

    def spend(self, stage: str) -> float:
        """Take as long as the stage should; in milliseconds."""
        start = time.perf_counter()
        time.sleep(self.slow.get(stage, 0.0))
        return 1e3 * (time.perf_counter() - start)


class FakeStream:
    """Matches a fixed rigid scene seen from two fixed poses; may be held up, may be made to fail."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.reference: Reference = "previous"
        self.track_lengths: NDArray[np.int64] = np.array([2, 2, 3, 9])
        self.next_id = 0
        self.gate = threading.Event()  # cleared: the next push waits
        self.gate.set()
        self.entered = self.done = 0
        self.fail_with: Exception | None = None
        self.previous: Stamp = None
        self.newest: Stamp = None
        self.count, self.coverage = 60, 0.5
        self.dropped: dict[str, int] = {}
        self.views: Sequence[NDArray[np.float32]] | None = None  # two arrays of points; None: those of the two poses
        self.stages = ["matching", "refinement"]  # that are reported

    def reset(self) -> None:
        self.previous = self.newest = None

    def set_keyframe(self) -> bool:
        self.previous = self.newest
        return self.newest is not None

    def push_features(self, features: FrameFeatures, stamp: Stamp = None) -> Matches | None:
        self.entered += 1
        assert self.gate.wait(PATIENCE)
        try:
            return self._match(features, stamp)
        finally:
            self.done += 1

    def match_newest(self, features: FrameFeatures, stamp: Stamp = None) -> Matches:
        return self._answer(features, self.newest, stamp)

    def _match(self, features: FrameFeatures, stamp: Stamp) -> Matches | None:
        if self.fail_with is not None:
            error, self.fail_with = self.fail_with, None
            raise error
        before, self.newest = self.previous, stamp
        if before is None or self.reference == "previous":
            self.previous = stamp
        return None if before is None else self._answer(features, before, stamp)

    def _answer(self, features: FrameFeatures, before: Stamp, stamp: Stamp) -> Matches:
        points0, points1 = self.views or two_views(self.count, *features.size)
        count = len(points0)
        return Matches(
            points0, points1, np.full(count, 0.9, np.float32), np.arange(count, dtype=np.uint32),
            features.size, features.size, before, stamp, self.coverage,
            {stage: self.clock.spend(stage) for stage in self.stages}, self.dropped,
        )  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What a matcher was asked to prepare, and with which settings.

    Attributes:
        level: the image's first value, to tell whose it is.
    """

    level: int
    roi: Roi | None
    auto: bool | None
    config: MatcherConfig


class FakeMatcher:
    """Stands in for the matcher; it and those that :meth:`with_config` makes of it keep common records.

    Attributes:
        batches: sizes of the batches that were described.
        asked: for :meth:`prepare`, in order.
        streams: in the order in which they were made. One that takes over from another is the same, so that what a test
            has set on it stays.
    """

    def __init__(self) -> None:
        self.config, self.info = MatcherConfig(), ModelInfo("fake", "test", "0" * 64, 0, "cpu")
        self.batches: list[int] = []
        self.asked: list[Asked] = []
        self.streams: list[FakeStream] = []
        self.clock = Clock()

    def with_config(self, **changes: Scalar) -> FakeMatcher:
        config = self.config.changed(**changes)
        if config.refinement == "dense" or config.dense_consistency_cells > 0:
            raise ConfigError("this model has no head for dense fields")
        other = copy(self)
        other.config = config
        return other

    def warmup(self, size: tuple[int, int]) -> None:
        pass

    def prepare(
        self,
        image: NDArray[np.uint8],
        mask: NDArray[Any] | None = None,
        roi: Roi | None = None,
        auto: bool | None = None,
    ) -> Prepared:
        self.asked.append(Asked(int(image[0, 0, 0]), roi, auto, self.config))
        self.clock.spend("prepare")
        return prepare(image, mask, roi, bool(auto), self.config.resolution, 14)

    def describe(self, frames: Sequence[Prepared]) -> list[FrameFeatures]:
        self.batches.append(len(frames))
        self.clock.spend("network")
        nothing = torch.zeros(1, 1, 1)
        return [FrameFeatures(f.image, f.usable, f.view, f.window, nothing, 1.0, 1.0, nothing) for f in frames]

    def stream(self, reference: Reference = "previous", after: FrameStream | None = None) -> FakeStream:
        if isinstance(after, FakeStream):
            found = after
        else:
            found = FakeStream(self.clock)
            self.streams.append(found)
        found.reference = reference
        return found


def _fits(matcher: FakeMatcher) -> FrameMatcher:
    """mypy says here if the stand-in is none any more."""
    return matcher
