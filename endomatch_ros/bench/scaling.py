"""What a matcher costs and is worth as its settings and the number of cameras grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.bench.figures import WARM_UP, Quantiles, clock, percentiles
from endomatch_ros.bench.stream import Stream
from endomatch_ros.data.frames import to_and_fro
from endomatch_ros.evaluation.score import PairScore, Prediction, score, summarise
from endomatch_ros.matching import Matcher, StreamMatcher
from endomatch_ros.matching.features import FrameFeatures

RESOLUTIONS = (256, 320, 384, 512)
MAX_KEYPOINTS = (1000, 2000, 4000, 6000)
CAMERAS = (1, 2, 4)
FRAMES = 10
"""Frames of the stream that are used here: settings differ by more than frames do."""
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class PointFigures:
    """An operating point of the matcher.

    Attributes:
        resolution, max_keypoints: its settings.
        milliseconds: of a push.
        matches: mean per pair.
        p1: share of the matches within 1 px of their true epipolar line, mean over the pairs; None where unknown.
        pck1, pck3: share of them within 1 and 3 px of their true partner, likewise.
    """

    resolution: int
    max_keypoints: int
    milliseconds: Quantiles | None
    matches: float
    p1: float | None
    pck1: float | None
    pck3: float | None


@dataclass(frozen=True)
class CameraFigures:
    """Several cameras on one matcher.

    Attributes:
        cameras: how many.
        milliseconds: of a moment, one frame of each.
        network: of the one pass of the network in it.
        ratio: of that pass to a pass for each frame, the median of the moments' ratios.
    """

    cameras: int
    milliseconds: Quantiles | None
    network: Quantiles | None
    ratio: float


def measure_points(
    matcher: Matcher,
    stream: Stream,
    resolutions: Sequence[int] = RESOLUTIONS,
    max_keypoints: Sequence[int] = MAX_KEYPOINTS,
) -> list[PointFigures]:
    """Time and accuracy of every operating point, each with a stream of its own, frame by frame in turn."""
    points = [(resolution, most) for resolution in resolutions for most in max_keypoints]
    streams = [matcher.with_config(resolution=r, max_keypoints=m).stream() for r, m in points]
    times: list[list[float]] = [[] for _ in points]
    scores: list[list[PairScore]] = [[] for _ in points]
    for position, image in enumerate(stream.images[:FRAMES]):
        # Another one begins each round: who comes after other work finds its caches cold.
        order = np.roll(np.arange(len(points)), position).tolist()
        said = {index: clock(partial(streams[index].push, image), matcher.device) for index in order}
        truth = stream.truth(position - 1) if position > WARM_UP else None
        for index, (matches, took) in said.items():
            if matches is None or truth is None:
                continue
            times[index].append(took.ms)
            prediction = Prediction(str(index), 1, (position - 1, position), matches, took.ms)
            scores[index].append(score(prediction, truth, *stream.frames[position - 1 : position + 1]))
    return [_point(r, m, own, judged) for (r, m), own, judged in zip(points, times, scores, strict=True)]


def _point(resolution: int, max_keypoints: int, times: Sequence[float], scores: Sequence[PairScore]) -> PointFigures:
    (row,) = summarise(scores)
    shares = (row.precision[1.0], row.pck[1.0], row.pck[3.0])
    known = (None if np.isnan(share) else round(share, 4) for share in shares)
    return PointFigures(resolution, max_keypoints, percentiles(times), round(row.matches, 1), *known)


def measure_cameras(matcher: Matcher, images: Sequence[Image], cameras: Sequence[int] = CAMERAS) -> list[CameraFigures]:
    """What several cameras cost, as the node matches them: one pass of the network for all frames of a moment.

    Each sees the same stream, at another moment of it.
    """
    return [_moments(matcher, images[:FRAMES], count) for count in cameras]


def _moments(matcher: Matcher, images: Sequence[Image], cameras: int) -> CameraFigures:
    streams = [matcher.stream() for _ in range(cameras)]
    # Half the stream between the first and the last; to and fro, so that no camera jumps.
    offsets = [len(images) // 2 * camera // cameras for camera in range(cameras)]
    shown = list(to_and_fro(images, 2 * len(images)))
    moments = [_moment(matcher, streams, [shown[k + offset] for offset in offsets], k % 2) for k in range(len(images))]
    whole, together, apart = np.array(moments[WARM_UP + 1 :]).T
    ratio = round(float(np.median(together / apart)), 3)
    return CameraFigures(cameras, percentiles(whole), percentiles(together), ratio)


def _moment(
    matcher: Matcher, streams: Sequence[StreamMatcher], images: Sequence[Image], turn: int
) -> tuple[float, float, float]:
    """Milliseconds of one frame of each camera: all of it, its pass of the network, and a pass for each frame.

    The two ways go first in turn (``turn`` 0 and 1), since what was just used is still in the caches.
    """

    def push(features: Sequence[FrameFeatures]) -> None:
        for stream, own in zip(streams, features, strict=True):
            stream.push_features(own)

    def together() -> list[FrameFeatures]:
        return matcher.describe(prepared)

    def one_by_one() -> list[FrameFeatures]:
        return [matcher.describe([frame])[0] for frame in prepared]

    device = matcher.device
    prepared, first = clock(lambda: [matcher.prepare(image) for image in images], device)
    ways = (one_by_one, together) if turn else (together, one_by_one)
    took = {way: clock(way, device) for way in ways}
    features, network = took[together]
    _, rest = clock(lambda: push(features), device)
    return first.ms + network.ms + rest.ms, network.ms, took[one_by_one][1].ms
