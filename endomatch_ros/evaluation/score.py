"""Predictions held against the truth, and summed up: one score per pair, one row per gap and method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame
from endomatch_ros.evaluation.metrics import (
    end_point_errors,
    epipolar_errors,
    pose_auc,
    predict_at,
    relative_pose_errors,
    share_within,
)
from endomatch_ros.evaluation.report import Row
from endomatch_ros.evaluation.truth import PairTruth
from endomatch_ros.geometry.robust import estimate_epipolar, recover_relative_pose
from endomatch_ros.matching.types import Matches

EPIPOLAR_PX = (1.0, 3.0, 5.0)
PCK_PX = (1.0, 3.0, 5.0, 10.0)
CURVE_PX = tuple(k / 4 for k in range(1, 41))
"""Thresholds of the curves: 0.25 to 10 px."""
POSE_DEGREES = (5.0, 10.0, 20.0)
LANDMARK_RADIUS_PX = 8.0
NO_POSE_DEGREES = 180.0
"""The error of a pair whose pose could not be found: none is larger."""


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
        motion_known: whether the pair has a true epipolar geometry.
        epipolar: ``(N,)`` px, error of each match under the true motion.
        end_point: px; SfM: of each landmark with a match nearby; dense truth: of each match whose partner is visible.
        landmarks: how many positions with a known partner there were to get ``end_point`` from.
        flow: mean true motion, px.
        pose_error: larger one of rotation and translation direction error, degrees; 180 if no pose could be found.
    """

    prediction: Prediction
    motion_known: bool
    epipolar: NDArray[np.float64]
    end_point: NDArray[np.float64]
    landmarks: int
    flow: float
    pose_error: float


def score(prediction: Prediction, truth: PairTruth, frame0: Frame, frame1: Frame) -> PairScore:
    """Measure a prediction about two frames."""
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
    return PairScore(
        prediction=prediction,
        motion_known=truth.fundamental is not None,
        epipolar=epipolar,
        end_point=end_point[~np.isnan(end_point)],
        landmarks=landmarks,
        flow=truth.flow,
        pose_error=_pose_error(matches, truth, frame0),
    )


def summarise(scores: Sequence[PairScore]) -> list[Row]:
    """One row for each gap and method, in the order of first appearance within ascending gaps.

    Precision is the mean over pairs (a pair without matches counts 0); errors, PCK and end-point errors are over all
    matches or landmarks of all pairs. The true flow is the mean over pairs of a pair's mean, that of the
    matches the mean over pairs of a pair's median, which a few wrong ones do not change.
    """
    groups: dict[tuple[int, str], list[PairScore]] = {}
    for one in scores:
        groups.setdefault((one.prediction.gap, one.prediction.method), []).append(one)
    return [_row(gap, method, groups[gap, method]) for gap, method in sorted(groups, key=lambda key: key[0])]


def _pose_error(matches: Matches, truth: PairTruth, frame: Frame) -> float:
    if truth.pose is None or truth.fundamental is None or frame.camera is None:
        return float("nan")
    estimate = estimate_epipolar(matches.keypoints0, matches.keypoints1, frame.camera)
    pose = recover_relative_pose(estimate, matches.keypoints0, matches.keypoints1, frame.camera)
    return NO_POSE_DEGREES if pose is None else max(relative_pose_errors(pose, truth.pose))


def _row(gap: int, method: str, scores: Sequence[PairScore]) -> Row:
    epipolar = np.concatenate([s.epipolar for s in scores])
    end_point = np.concatenate([s.end_point for s in scores])
    every = [s.prediction.matches for s in scores]
    moved = [_median(np.linalg.norm(m.keypoints1 - m.keypoints0, axis=1)) for m in every]
    times = [s.prediction.milliseconds for s in scores]
    pose_errors = [s.pose_error for s in scores]
    return Row(
        gap=gap,
        method=method,
        pairs=len(scores),
        matches=float(np.mean([len(m) for m in every])),
        matches_min=min(len(m) for m in every),
        coverage=float(np.mean([m.coverage for m in every])),
        precision=_precision(scores, EPIPOLAR_PX),
        epipolar_mean=_mean(epipolar),
        epipolar_median=_median(epipolar),
        pck=share_within(end_point, PCK_PX),
        end_point_mean=_mean(end_point),
        end_point_median=_median(end_point),
        landmarks=sum(s.landmarks for s in scores),
        landmarks_measured=len(end_point),
        flow=_mean([s.flow for s in scores]),
        match_flow=_mean(moved),
        pose_error_median=_median(pose_errors),
        pose_auc=pose_auc(pose_errors, POSE_DEGREES),
        precision_curve=_precision(scores, CURVE_PX),
        pck_curve=share_within(end_point, CURVE_PX),
        time_p50=float(np.percentile(times, 50)),
        time_p95=float(np.percentile(times, 95)),
    )


def _precision(scores: Sequence[PairScore], thresholds: Sequence[float]) -> dict[float, float]:
    """Mean over the pairs with known motion; one without matches counts 0."""
    known = [s.epipolar if len(s.epipolar) else [np.inf] for s in scores if s.motion_known]
    shares = [share_within(errors, thresholds) for errors in known]
    return {t: _mean([share[t] for share in shares]) for t in thresholds}


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Mean of what is known; NaN if nothing is."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else float("nan")


def _median(values: Sequence[float] | NDArray[np.floating]) -> float:
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(np.median(known)) if len(known) else float("nan")
