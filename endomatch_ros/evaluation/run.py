"""Measure matchers on recordings with known camera motion: the work behind ``endomatch evaluate``.

All predictions are made first, then all are measured: no method can see the truth, and every one is measured alike.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros import __version__
from endomatch_ros.data.frames import Frame, FrameSequence
from endomatch_ros.data.sources import DEFAULTS, SourceOptions, open_sources
from endomatch_ros.errors import ConfigError
from endomatch_ros.evaluation.baselines import BASELINES, Method
from endomatch_ros.evaluation.metrics import (
    end_point_errors,
    epipolar_errors,
    predict_at,
    relative_pose_errors,
    share_within,
)
from endomatch_ros.evaluation.report import Row, print_table, write_report
from endomatch_ros.evaluation.truth import PairTruth, pair_truth
from endomatch_ros.geometry.robust import estimate_epipolar, recover_relative_pose
from endomatch_ros.matching.mask import without_rim
from endomatch_ros.matching.types import Matches

EPIPOLAR_PX = (1.0, 3.0, 5.0)
PCK_PX = (1.0, 3.0, 5.0, 10.0)
LANDMARK_RADIUS_PX = 8.0


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a method said about a pair of frames, and how long it took."""

    method: str
    gap: int
    positions: tuple[int, int]
    matches: Matches
    milliseconds: float


@dataclass(frozen=True, eq=False)
class PairScore:
    """A prediction held against the truth; NaN where the truth is unknown.

    Attributes:
        prediction: what is measured.
        epipolar: ``(N,)`` px, error of each match under the true motion.
        end_point: px; SfM: of each landmark with a match nearby; synthetic: of each match whose partner is visible.
        landmarks: how many positions with a known partner there were to get ``end_point`` from.
        flow: mean true motion, px.
        pose_error: larger one of rotation and translation direction error, degrees; 180 if no pose could be found.
    """

    prediction: Prediction
    epipolar: NDArray[np.float64]
    end_point: NDArray[np.float64]
    landmarks: int
    flow: float
    pose_error: float


def evaluate(
    sequence: FrameSequence, methods: Mapping[str, Method], gaps: Sequence[int], max_pairs: int = 10
) -> list[PairScore]:
    """Run methods over pairs of frames and measure what they say.

    Args:
        sequence: with camera poses, else nothing but counts and times can be measured.
        methods: functions of (image0, image1, mask0, mask1) by name.
        gaps: distances between the frames of a pair, in frames.
        max_pairs: pairs for each gap, spread evenly over the sequence.

    Returns:
        One score for each gap, pair and method.

    Raises:
        ConfigError: a gap that the sequence is too short for.
    """
    frames = lru_cache(maxsize=64)(sequence.__getitem__)
    pairs = [(gap, pair) for gap in gaps for pair in pairs_with_gap(len(sequence), gap, max_pairs)]
    predictions = [
        prediction for name, method in methods.items() for prediction in _predict(name, method, pairs, frames)
    ]
    truths = {(i, j): pair_truth(sequence, i, j, frames(i), frames(j)) for _, (i, j) in pairs}
    return [_score(p, truths[p.positions], *map(frames, p.positions)) for p in predictions]


def pairs_with_gap(length: int, gap: int, max_pairs: int) -> list[tuple[int, int]]:
    """Pairs of positions ``gap`` apart, at most ``max_pairs``, evenly spread; raises :class:`ConfigError` for none."""
    if not 1 <= gap < length:
        raise ConfigError(f"gap {gap}: a sequence of {length} frames has gaps 1 to {length - 1}")
    starts = np.linspace(0, length - 1 - gap, min(max_pairs, length - gap)).round().astype(int)
    return [(int(start), int(start) + gap) for start in starts]


def summarise(scores: Sequence[PairScore]) -> list[Row]:
    """One row for each gap and method, in the order of first appearance within ascending gaps.

    Precision is the mean over pairs (a pair without matches counts 0); errors, PCK and end-point errors are over all
    matches or landmarks of all pairs.
    """
    groups: dict[tuple[int, str], list[PairScore]] = {}
    for score in scores:
        groups.setdefault((score.prediction.gap, score.prediction.method), []).append(score)
    return [_row(gap, method, groups[gap, method]) for gap, method in sorted(groups, key=lambda key: key[0])]


def run_evaluation(
    data: str | Sequence[str],
    methods: Sequence[str],
    gaps: Sequence[int],
    output: Path | None = None,
    model: str = "embedded",
    device: str = "auto",
    max_pairs: int = 10,
    frames: str = "",
    backbone_weights: Path | None = None,
    options: SourceOptions = DEFAULTS,
) -> list[Row]:
    """Evaluate named methods on named recordings, print the table, and write it if there is an ``output`` folder.

    Args:
        data: as for :func:`~endomatch_ros.data.sources.open_sources`; several are measured as one.
        methods: ``endomatch`` or names of :data:`~endomatch_ros.evaluation.baselines.BASELINES`.
        gaps: in frames.
        output: folder for ``evaluation.md`` and ``evaluation.json``; made if need be.
        model: of the method ``endomatch``: preset or checkpoint.
        device: of the method ``endomatch``.
        max_pairs: for each gap and recording.
        frames: part of each recording, as ``0:20``; empty: all.
        backbone_weights: of the method ``endomatch``, for a DINOv2 preset.
        options: what the recordings do not tell of themselves.

    Raises:
        EndomatchError: what cannot be evaluated, and why.
    """
    names = [data] if isinstance(data, str) else list(data)
    if output is not None and output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file; name a folder for evaluation.md and evaluation.json")
    if max_pairs < 1:
        raise ConfigError(f"--max-pairs {max_pairs}: at least 1 is needed")
    sequences = [sequence for name in names for sequence in open_sources(name, options, frames)]
    for sequence in sequences:  # before hours of work
        for gap in gaps:
            pairs_with_gap(len(sequence), gap, max_pairs)
    chosen, about_model = _methods(methods, model, device, backbone_weights)
    rows = summarise([score for s in sequences for score in evaluate(s, chosen, gaps, max_pairs)])
    print_table(rows)
    if output is not None:
        about = {"data": names, "frames": frames or "all", "max_pairs": max_pairs, "model": about_model}
        write_report(output, rows, about | _versions())
    return rows


def _versions() -> dict[str, Any]:
    return {
        "endomatch_ros": __version__,
        "opencv": cv2.__version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
    }


def _methods(
    names: Sequence[str], model: str, device: str, backbone_weights: Path | None
) -> tuple[dict[str, Method], dict[str, Any] | None]:
    """Functions by name, and what is known of the model if it is among them."""
    known = ["endomatch", *BASELINES]
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no method {name!r}; choose from {', '.join(known)}")
    chosen: dict[str, Method] = {}
    about = None
    for name in names:
        if name == "endomatch":
            from endomatch_ros.matching import Matcher  # loads torch, which the baselines do without

            matcher = Matcher.from_pretrained(model, device, backbone_weights)
            chosen[name], about = matcher.match, asdict(matcher.info)
        else:
            chosen[name] = BASELINES[name]
    return chosen, about


def _predict(
    name: str, method: Method, pairs: Sequence[tuple[int, tuple[int, int]]], frames: Callable[[int], Frame]
) -> list[Prediction]:
    out: list[Prediction] = []
    for gap, pair in pairs:
        frame0, frame1 = map(frames, pair)
        arguments = frame0.image, frame1.image, _view(frame0), _view(frame1)
        if not out:
            method(*arguments)  # the first call also loads, allocates and compiles
        start = time.perf_counter()
        matches = method(*arguments)
        out.append(Prediction(name, gap, pair, matches, (time.perf_counter() - start) * 1000))
    return out


def _view(frame: Frame) -> NDArray[np.bool_] | None:
    return None if frame.mask is None else without_rim(frame.mask)


def _score(prediction: Prediction, truth: PairTruth, frame0: Frame, frame1: Frame) -> PairScore:
    matches = prediction.matches
    keypoints0, keypoints1 = matches.keypoints0.astype(np.float64), matches.keypoints1.astype(np.float64)
    epipolar = np.full(len(matches), np.nan)
    if truth.fundamental is not None:
        epipolar = epipolar_errors(truth.fundamental, keypoints0, keypoints1, frame0.camera, frame1.camera)
    end_point, landmarks = np.zeros(0), 0
    if truth.correspondence is not None:
        targets, visible = truth.correspondence(keypoints0)
        end_point, landmarks = end_point_errors(keypoints1, targets, visible), len(matches)
    elif truth.landmarks is not None and truth.targets is not None:
        predicted = predict_at(truth.landmarks, keypoints0, keypoints1, LANDMARK_RADIUS_PX)
        end_point, landmarks = end_point_errors(predicted, truth.targets), len(truth.landmarks)
    known = end_point[~np.isnan(end_point)]
    return PairScore(prediction, epipolar, known, landmarks, truth.flow, _pose_error(matches, truth, frame0))


def _pose_error(matches: Matches, truth: PairTruth, frame: Frame) -> float:
    if truth.pose is None or truth.fundamental is None or frame.camera is None:
        return float("nan")
    estimate = estimate_epipolar(matches.keypoints0, matches.keypoints1, frame.camera)
    pose = recover_relative_pose(estimate, matches.keypoints0, matches.keypoints1, frame.camera)
    return 180.0 if pose is None else max(relative_pose_errors(pose, truth.pose))


def _row(gap: int, method: str, scores: Sequence[PairScore]) -> Row:
    epipolar = np.concatenate([s.epipolar for s in scores])
    end_point = np.concatenate([s.end_point for s in scores])
    times = [s.prediction.milliseconds for s in scores]
    shares = [share_within(s.epipolar if len(s.epipolar) else [np.inf], EPIPOLAR_PX) for s in scores]
    return Row(
        gap=gap,
        method=method,
        pairs=len(scores),
        matches=float(np.mean([len(s.prediction.matches) for s in scores])),
        matches_min=min(len(s.prediction.matches) for s in scores),
        coverage=float(np.mean([s.prediction.matches.coverage for s in scores])),
        precision={t: _mean([share[t] for share in shares]) for t in EPIPOLAR_PX},
        epipolar_mean=_mean(epipolar),
        epipolar_median=_median(epipolar),
        pck=share_within(end_point, PCK_PX),
        end_point_mean=_mean(end_point),
        end_point_median=_median(end_point),
        landmarks=sum(s.landmarks for s in scores),
        landmarks_measured=len(end_point),
        flow=_mean([s.flow for s in scores]),
        pose_error_median=_median([s.pose_error for s in scores]),
        time_p50=float(np.percentile(times, 50)),
        time_p95=float(np.percentile(times, 95)),
    )


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Mean of what is known; NaN if nothing is."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else float("nan")


def _median(values: Sequence[float] | NDArray[np.float64]) -> float:
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(np.median(known)) if len(known) else float("nan")
