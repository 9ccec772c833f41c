"""What methods find between frames that show different scenes, where every match is wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from endomatch_ros.data.frames import FrameSequence, scene_of
from endomatch_ros.errors import ConfigError, DataError, ImageError
from endomatch_ros.evaluation.methods.interface import NamedMethod
from endomatch_ros.evaluation.predictions import Predictor, View
from endomatch_ros.geometry.robust import estimate_epipolar

MIN_INLIERS = 15
"""Inliers from which on a pair is taken for matched: COLMAP's default (Schönberger and Frahm, CVPR 2016)."""

_log = logging.getLogger(__name__)
Place = tuple[int, int]
"""Number of a recording and position of a frame in it."""


@dataclass(frozen=True)
class UnrelatedRow:
    """What a method found in unrelated pairs.

    Attributes:
        method: its name.
        pairs: how many were measured.
        matches_mean: matches per pair, all of them wrong; ``matches_max`` of the worst pair.
        inliers_mean: of those, how many agree with one epipolar geometry (MAGSAC, 1 px, as in the node);
            ``inliers_max`` of the worst pair.
        accepted: share (0 to 1) of the pairs with at least :data:`MIN_INLIERS` inliers.
    """

    method: str
    pairs: int
    matches_mean: float
    matches_max: int
    inliers_mean: float
    inliers_max: int
    accepted: float


def plan_unrelated(sequences: Sequence[FrameSequence], count: int) -> list[tuple[Place, Place]]:
    """Pairs of frames of different scenes, as :func:`unrelated_pairs`.

    Each recording counts as a scene of its own, but the keyframes of one SCARED data set show the same one.
    """
    return unrelated_pairs([scene_of(sequence) for sequence in sequences], [len(s) for s in sequences], count)


def measure_unrelated(
    sequences: Sequence[FrameSequence],
    pairs: Sequence[tuple[Place, Place]],
    methods: Sequence[NamedMethod],
    predictor: Predictor,
) -> list[UnrelatedRow]:
    """Run methods over pairs of frames of different scenes.

    It is what a node meets when the scope is moved to another place between two frames: the second image is stretched
    to the size of the first, and the geometry is estimated with the calibration of the first (with none: uncalibrated).
    A pair with a frame that cannot be read is left out with a warning.

    Args:
        sequences: recordings.
        pairs: frames of them.
        methods: what is measured.
        predictor: makes or finds the predictions.

    Returns:
        One row per method.

    Raises:
        DataError: no pair can be read.
    """
    found: dict[str, list[tuple[int, int]]] = {method.name: [] for method in methods}
    for places in pairs:
        try:
            frame0, frame1 = (sequences[number][position] for number, position in places)
        except (DataError, ImageError) as error:
            _log.warning("the unrelated pair %s is left out: %s", places, error)
            continue
        view0 = View.of(frame0)
        view1 = View.of(frame1).resized(view0.size)
        for method in methods:
            matches, _ = predictor(method, view0, view1)
            estimate = estimate_epipolar(matches.keypoints0, matches.keypoints1, frame0.camera)
            found[method.name].append((len(matches), int(estimate.inliers.sum())))
    if not any(found.values()):
        raise DataError(f"none of the {len(pairs)} unrelated pairs of frames can be read; see the warnings")
    return [_row(name, counts) for name, counts in found.items()]


def unrelated_pairs(scenes: Sequence[Any], lengths: Sequence[int], count: int) -> list[tuple[Place, Place]]:
    """Pairs of frames of different scenes, spread over the pairs of recordings and over each recording's time.

    Args:
        scenes: of each recording, what is equal for the same scene only.
        lengths: their numbers of frames.
        count: wanted number of pairs; short recordings may give fewer.

    Raises:
        ConfigError: less than two scenes, or a count that is not positive.
    """
    if count < 1:
        raise ConfigError(f"{count} unrelated pairs: at least 1 is needed")
    couples = [(a, b) for a, b in combinations(range(len(scenes)), 2) if scenes[a] != scenes[b]]
    if not couples:
        raise ConfigError(
            f"unrelated pairs need recordings of at least two scenes, and {len(scenes)} of one scene are given: name "
            "others with --data; the keyframes of one SCARED data set count as one scene"
        )
    # By the distance in the list first, so that few pairs already touch every recording.
    couples.sort(key=lambda couple: (couple[1] - couple[0], couple[0]))
    shares = [count // len(couples) + (k < count % len(couples)) for k in range(len(couples))]
    out = []
    for (a, b), share in zip(couples, shares, strict=True):
        for k in range(share):
            at = (k + 0.5) / share
            out.append(((a, int(at * lengths[a])), (b, int(at * lengths[b]))))
    return list(dict.fromkeys(out))


def _row(method: str, counts: Sequence[tuple[int, int]]) -> UnrelatedRow:
    matches, inliers = np.array(counts).T
    return UnrelatedRow(
        method=method,
        pairs=len(counts),
        matches_mean=float(matches.mean()),
        matches_max=int(matches.max()),
        inliers_mean=float(inliers.mean()),
        inliers_max=int(inliers.max()),
        accepted=float((inliers >= MIN_INLIERS).mean()),
    )
