"""The bare matcher on a stream, by stage, beside other methods on the same pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.bench.figures import WARM_UP, Quantiles, Took, clock, percentiles
from endomatch_ros.evaluation.methods.interface import NamedMethod
from endomatch_ros.matching import Matcher, Matches
from endomatch_ros.processes import usage

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class PeerFigures:
    """Another method on the same pairs.

    Attributes:
        milliseconds: per pair.
        matches: mean per pair.
        ratio: endomatch's time by this one's, the median of the pairs' ratios.
    """

    milliseconds: Quantiles | None
    matches: float
    ratio: float


@dataclass(frozen=True)
class BareFigures:
    """What a push costs; milliseconds as p50, p95 and p99.

    Attributes:
        pairs: how many were measured, behind the warm-up.
        milliseconds: of a whole push.
        stages: of its stages, as ``Matches.timings`` names them, in their order.
        matches: mean per pair.
        cpu_percent: processor time per wall-clock time of the pushes; 100 is one core.
        rss_mib: memory of this process; None where the machine does not tell.
        device_mib: the most that a push held on the GPU; None on a CPU.
        peers: the other methods by name.
    """

    pairs: int
    milliseconds: Quantiles | None
    stages: dict[str, Quantiles | None]
    matches: float
    cpu_percent: float
    rss_mib: float | None
    device_mib: float | None
    peers: dict[str, PeerFigures]


def push_all(matcher: Matcher, images: Sequence[Image]) -> list[tuple[Matches, Took]]:
    """What a stream answers to each image behind the warm-up, and how long the push took."""
    return [answer for answer, _ in _interleaved(matcher, images, [])]


def measure_matcher(matcher: Matcher, images: Sequence[Image], peers: Sequence[NamedMethod]) -> BareFigures:
    """Push a stream and, pair by pair in turn, ask the peers, so that a slow moment of the machine hits all alike.

    Args:
        matcher: on its device; every time ends when that is done.
        images: RGB uint8 ``(H, W, 3)`` of one size, in memory.
        peers: other methods, which get each pair as two images.
    """
    rounds = _interleaved(matcher, images, peers)
    pushes = [took for (_, took), _ in rounds]
    total = np.array([took.ms for took in pushes])
    timings = [matches.timings for (matches, _), _ in rounds]
    stages = dict.fromkeys(stage for each in timings for stage in each)
    own, held = usage(), max(took.device_mib for took in pushes)
    found: dict[str, PeerFigures] = {}
    for index, peer in enumerate(peers):
        times = np.array([others[index][1].ms for _, others in rounds])
        count = float(np.mean([len(others[index][0]) for _, others in rounds]))
        found[peer.name] = PeerFigures(percentiles(times), round(count, 1), round(float(np.median(total / times)), 3))
    return BareFigures(
        pairs=len(rounds),
        milliseconds=percentiles(total),
        stages={stage: percentiles([each[stage] for each in timings if stage in each]) for stage in stages},
        matches=round(float(np.mean([len(matches) for (matches, _), _ in rounds])), 1),
        cpu_percent=round(100 * sum(took.cpu_ms for took in pushes) / float(total.sum()), 1),
        rss_mib=None if own is None else round(own.rss_mib, 1),
        device_mib=round(held, 1) if held else None,
        peers=found,
    )


Answer = tuple[Matches, Took]


def _interleaved(
    matcher: Matcher, images: Sequence[Image], peers: Sequence[NamedMethod]
) -> list[tuple[Answer, list[Answer]]]:
    """For each pair behind the warm-up what the stream answered and what each peer did."""
    stream, rounds = matcher.stream(), []
    for position, image in enumerate(images):
        matches, took = clock(partial(stream.push, image), matcher.device)
        if matches is None:
            continue
        before = images[position - 1]
        others = [clock(partial(peer.call, before, image, None, None), matcher.device) for peer in peers]
        if position > WARM_UP:
            rounds.append(((matches, took), others))
    return rounds
