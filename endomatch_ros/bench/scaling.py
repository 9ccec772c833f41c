"""What a matcher costs and is worth as its settings and the number of cameras grow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.bench.figures import WARM_UP, clock, percentiles
from endomatch_ros.bench.stream import Stream
from endomatch_ros.data.frames import to_and_fro
from endomatch_ros.evaluation.score import PairScore, Prediction, score, summarise
from endomatch_ros.matching import Matcher, StreamMatcher
from endomatch_ros.matching.features import FrameFeatures

RESOLUTIONS = (256, 320, 384, 512)
MAX_KEYPOINTS = (1000, 2000, 4000, 6000)
CAMERAS = (1, 2, 4)
Image = NDArray[np.uint8]


def measure_points(
    matcher: Matcher,
    stream: Stream,
    resolutions: Sequence[int] = RESOLUTIONS,
    max_keypoints: Sequence[int] = MAX_KEYPOINTS,
) -> list[dict[str, object]]:
    """Time and accuracy of every operating point, each with a stream of its own, frame by frame in turn.

    Returns:
        For each point ``resolution``, ``max_keypoints``, ``milliseconds``, ``matches`` (mean per pair), and where the
        truth is known ``p1`` (share of matches within 1 px of their epipolar line, mean over the pairs), ``pck1`` and
        ``pck3`` (of their true partner), else None.
    """
    points = [(resolution, most) for resolution in resolutions for most in max_keypoints]
    streams = [matcher.with_config(resolution=r, max_keypoints=m).stream() for r, m in points]
    times: list[list[float]] = [[] for _ in points]
    scores: list[list[PairScore]] = [[] for _ in points]
    for position, image in enumerate(stream.images):
        truth = stream.truth(position - 1) if position > WARM_UP else None
        for index, each in enumerate(streams):
            matches, took = clock(partial(each.push, image), matcher.device)
            if matches is None or truth is None:
                continue
            times[index].append(took.ms)
            said = Prediction(str(index), 1, (position - 1, position), matches, took.ms)
            scores[index].append(score(said, truth, *stream.frames[position - 1 : position + 1]))
    return [
        {"resolution": r, "max_keypoints": m, "milliseconds": percentiles(own), **_accuracy(judged)}
        for (r, m), own, judged in zip(points, times, scores, strict=True)
    ]


def _accuracy(scores: Sequence[PairScore]) -> dict[str, float | None]:
    (row,) = summarise(scores)
    figures = {"p1": row.precision[1.0], "pck1": row.pck[1.0], "pck3": row.pck[3.0]}
    known = {name: None if np.isnan(value) else round(value, 4) for name, value in figures.items()}
    return {"matches": round(row.matches, 1), **known}


def measure_cameras(
    matcher: Matcher, images: Sequence[Image], cameras: Sequence[int] = CAMERAS
) -> list[dict[str, object]]:
    """What several cameras cost, as the node matches them: one pass of the network for all frames of a moment.

    Each sees the same stream, at another moment of it.

    Returns:
        For each number ``cameras``, ``milliseconds`` of a whole moment, and of its ``network`` pass, and ``ratio``: the
        median of that pass by as many passes of one frame.
    """
    return [_moments(matcher, images, count) for count in cameras]


def _moments(matcher: Matcher, images: Sequence[Image], cameras: int) -> dict[str, object]:
    streams = [matcher.stream() for _ in range(cameras)]
    # Half the stream between the first and the last; to and fro, so that no camera jumps.
    offsets = [len(images) // 2 * camera // cameras for camera in range(cameras)]
    shown = list(to_and_fro(images, 2 * len(images)))
    moments = [_moment(matcher, streams, [shown[k + offset] for offset in offsets]) for k in range(len(images))]
    whole, together, apart = np.array(moments[WARM_UP + 1 :]).T
    return {
        "cameras": cameras,
        "milliseconds": percentiles(whole),
        "network": percentiles(together),
        "ratio": round(float(np.median(together / apart)), 3),
    }


def _moment(matcher: Matcher, streams: Sequence[StreamMatcher], images: Sequence[Image]) -> tuple[float, float, float]:
    """Milliseconds of one frame of each camera: all of it, its pass of the network, and a pass for each frame."""

    def push(features: Sequence[FrameFeatures]) -> None:
        for stream, own in zip(streams, features, strict=True):
            stream.push_features(own)

    device = matcher.device
    prepared, first = clock(lambda: [matcher.prepare(image) for image in images], device)
    features, network = clock(lambda: matcher.describe(prepared), device)
    _, rest = clock(lambda: push(features), device)
    _, apart = clock(lambda: [matcher.describe([frame]) for frame in prepared], device)
    return first.ms + network.ms + rest.ms, network.ms, apart.ms
