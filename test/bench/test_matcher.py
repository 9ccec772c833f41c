"""The bare matcher beside others: which pairs are measured, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest

from endomatch_ros.bench import matcher as bare
from endomatch_ros.bench.figures import WARM_UP, Took
from endomatch_ros.bench.matcher import measure_matcher
from endomatch_ros.evaluation.methods.interface import NamedMethod
from endomatch_ros.evaluation.methods.registry import named_methods
from endomatch_ros.matching import Matcher


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    return Matcher.from_pretrained(device="cpu", resolution=96)


def textures(count: int) -> list[np.ndarray]:
    """A picture that moves by two pixels from frame to frame."""
    wide = np.random.default_rng(0).integers(0, 255, (96, 128 + 2 * count, 3), dtype=np.uint8)
    return [wide[:, 2 * k : 128 + 2 * k] for k in range(count)]


def test_every_pair_behind_the_warm_up_goes_to_all_methods_in_turn(matcher):
    images, seen = textures(8), []

    def peer(image0, image1, mask0, mask1):
        seen.append((image0, image1))
        return named_methods(["klt"])[0].call(image0, image1, mask0, mask1)

    figures = measure_matcher(matcher, images, [NamedMethod("mine", peer)])
    assert [(first is images[k], second is images[k + 1]) for k, (first, second) in enumerate(seen)] == [
        (True, True)
    ] * 7
    assert figures.pairs == 7 - WARM_UP
    assert list(figures.stages)[:3] == ["backbone", "matching", "refinement"]
    assert sum(stage["p50"] for stage in figures.stages.values()) <= 1.2 * figures.milliseconds["p95"]
    assert figures.matches > 50
    assert figures.rss_mib > 100
    assert figures.device_mib is None


def test_times_are_percentiles_and_ratios_the_median_of_the_pairs(matcher, monkeypatch):
    ours, theirs = [5.0, 5.0, 10.0, 20.0, 90.0, 40.0], [1.0, 1.0, 10.0, 10.0, 10.0, 10.0]
    # The first frame makes no pair; then each round asks the stream, then the peer.
    times = iter([1.0, *(value for pair in zip(ours, theirs, strict=True) for value in pair)])
    monkeypatch.setattr(bare, "clock", lambda work, device: (work(), (Took(t := next(times), 2 * t))))
    figures = measure_matcher(matcher, textures(7), named_methods(["klt"]))
    counted = ours[WARM_UP:]
    assert figures.milliseconds == {f"p{q}": round(float(np.percentile(counted, q)), 2) for q in (50, 95, 99)}
    assert figures.peers["klt"].ratio == pytest.approx(3.0)  # of 1, 2, 9, 4; not 30 by 10, nor 40 by 10
    assert figures.peers["klt"].milliseconds["p50"] == 10.0
    assert figures.cpu_percent == pytest.approx(200.0)
