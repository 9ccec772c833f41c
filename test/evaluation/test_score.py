"""Scores and their summary: figures that are known in advance, scale invariance, what is unknown, what is missing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from endomatch_ros.data.frames import Frame
from endomatch_ros.evaluation.report import Row
from endomatch_ros.evaluation.score import CURVE_PX, EPIPOLAR_PX, PCK_PX, PairScore, Prediction, score, summarise
from endomatch_ros.evaluation.truth import PairTruth, pair_truth
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.warping import resize_matrix, resize_points
from endomatch_ros.matching.types import Matches

SIZE = (640, 480)
K = np.array([[500.0, 0, 320], [0, 510.0, 240], [0, 0, 1]])
MOTION = np.eye(4)
MOTION[:3, :3] = Rotation.from_rotvec([0.02, -0.03, 0.04]).as_matrix()
MOTION[:3, 3] = (0.4, 0.1, 0.15)
POINTS = np.random.default_rng(0).uniform([-2, -1.5, 5], [2, 1.5, 9], (300, 3))
NOISE = np.random.default_rng(1).normal(0, 0.7, (300, 2))


def matches_of(points0: np.ndarray, points1: np.ndarray, size: tuple[int, int] = SIZE) -> Matches:
    ones = np.ones(len(points0), np.float32)
    ids = np.arange(len(points0), dtype=np.uint32)
    return Matches(np.float32(points0), np.float32(points1), ones, ids, size, size, coverage=0.5)


class Pair:
    """Two frames that see POINTS, with images of any size and any unit of length."""

    def __init__(self, scale: float = 1.0, unit: float = 1.0) -> None:
        self.size = (round(SIZE[0] * scale), round(SIZE[1] * scale))
        camera = Camera(resize_matrix(SIZE, self.size) @ K, np.zeros(5), "plumb_bob", self.size)
        image = np.zeros((*self.size[::-1], 3), np.uint8)
        pose = MOTION.copy()
        pose[:3, 3] *= unit
        self.frames = (
            Frame(image, 0.0, 0, camera=camera, pose=np.eye(4)),
            Frame(image, 0.0, 1, camera=camera, pose=pose),
        )
        ahead = POINTS @ MOTION[:3, :3].T + MOTION[:3, 3]
        moved = [Camera(K, np.zeros(5), "plumb_bob", SIZE).project(points) for points in (POINTS, ahead)]
        self.points = [resize_points(points, SIZE, self.size) for points in moved]
        self.factor = scale

    def truth(self) -> PairTruth:
        return pair_truth(self.frames, 0, 1, *self.frames)

    def score(self, matches: Matches, truth: PairTruth | None = None, gap: int = 1, method: str = "m") -> PairScore:
        return score(Prediction(method, gap, (0, 1), matches, 5.0), truth or self.truth(), *self.frames)

    def noisy(self) -> Matches:
        return matches_of(self.points[0], self.points[1] + NOISE * self.factor, self.size)


def row_of(*scores: PairScore) -> Row:
    (row,) = summarise(scores)
    return row


def test_errors_are_those_of_opencv() -> None:
    pair = Pair()
    matches = pair.noisy()
    fundamental = pair.truth().fundamental
    sides = []
    for which, (a, b) in enumerate(
        ((matches.keypoints0, matches.keypoints1), (matches.keypoints1, matches.keypoints0))
    ):
        lines = cv2.computeCorrespondEpilines(np.float64(a)[:, None], which + 1, fundamental).reshape(-1, 3)
        sides.append(np.abs((lines[:, :2] * b).sum(axis=1) + lines[:, 2]) / np.linalg.norm(lines[:, :2], axis=1))
    np.testing.assert_allclose(pair.score(matches).epipolar, np.mean(sides, axis=0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("scale", "unit"), [(2.0, 1.0), (0.5, 1.0), (1.0, 1e-12), (2.0, 1e6)])
def test_larger_images_scale_pixels_and_nothing_scales_angles(scale: float, unit: float) -> None:
    plain, changed = Pair(), Pair(scale, unit)
    one, other = plain.score(plain.noisy()), changed.score(changed.noisy())
    # Keypoints are float32: at 640 px they are good to some 3e-5 px.
    np.testing.assert_allclose(other.epipolar, one.epipolar * scale, atol=2e-4 * scale)
    assert row_of(other).match_flow == pytest.approx(row_of(one).match_flow * scale, rel=1e-5)
    exact = plain.score(matches_of(*plain.points)), changed.score(matches_of(*changed.points, changed.size))
    for both in exact:
        assert both.pose_error < 0.05
        assert both.epipolar.max() < 1e-3
    if scale == 1:  # the inlier threshold is in pixels: at another size it chooses others
        assert other.pose_error == pytest.approx(one.pose_error, rel=1e-6)


def test_pose_error_is_that_of_a_wrong_motion() -> None:
    pair, wrong = Pair(), MOTION.copy()
    turn = Rotation.from_rotvec([0, np.radians(9), 0]).as_matrix()
    wrong[:3, :3] = turn @ wrong[:3, :3]
    truth = PairTruth(wrong, pair.truth().fundamental)
    assert pair.score(matches_of(*pair.points), truth).pose_error == pytest.approx(9, abs=0.05)


def test_a_pair_without_pose_is_a_failure_and_one_without_truth_is_none() -> None:
    pair = Pair()
    good, few = pair.score(matches_of(*pair.points)), pair.score(matches_of(pair.points[0][:5], pair.points[1][:5]))
    unknown = pair.score(pair.noisy(), PairTruth())
    assert good.pose_error < 0.05
    assert few.pose_error == 180
    assert np.isnan(unknown.pose_error)
    row = row_of(good, few, unknown)
    assert list(row.pose_auc) == [5, 10, 20]
    for limit, area in row.pose_auc.items():
        assert area == pytest.approx((limit - good.pose_error / 2) / limit / 2)
    assert row_of(few).pose_auc[20] == 0
    assert np.isnan(row_of(unknown).pose_auc[20])


def test_curves_go_through_the_figures_of_the_table() -> None:
    pair = Pair()
    truth = PairTruth(MOTION, pair.truth().fundamental, correspondence=lambda _: (pair.points[1], np.ones(300, bool)))
    row = row_of(pair.score(pair.noisy(), truth))
    assert list(CURVE_PX) == np.arange(0.25, 10.01, 0.25).tolist()
    for curve, figures, thresholds in (
        (row.precision_curve, row.precision, EPIPOLAR_PX),
        (row.pck_curve, row.pck, PCK_PX),
    ):
        assert tuple(curve) == CURVE_PX
        assert {t: curve[t] for t in thresholds} == figures
        assert (np.diff(list(curve.values())) >= 0).all()
        assert 0 < curve[0.25] < 1 == curve[10]
    # End-point errors of this noise have Rayleigh's distribution: 1 - exp(-t² / 2σ²).
    assert row.pck_curve[1.0] == pytest.approx(1 - np.exp(-1 / (2 * 0.7**2)), abs=0.08)
    assert row.landmarks == row.landmarks_measured == 300


def test_precision_is_the_mean_over_pairs_of_known_motion() -> None:
    pair = Pair()
    good, none = pair.score(matches_of(*pair.points)), pair.score(matches_of(*np.zeros((2, 0, 2))))
    blind, blind_none = (pair.score(s.prediction.matches, PairTruth()) for s in (good, none))
    assert row_of(good, none).precision == {1: 0.5, 3: 0.5, 5: 0.5}
    assert set(row_of(good, none).precision_curve.values()) == {0.5}
    assert row_of(good, none, blind).precision == {1: 0.5, 3: 0.5, 5: 0.5}
    # Without matches nothing is known to be wrong where nothing is known.
    assert np.isnan(row_of(blind, blind_none).precision[3])
    assert np.isnan(row_of(blind, blind_none).precision_curve[3])
    assert row_of(good, blind_none).precision[3] == 1


def test_a_method_that_finds_no_motion_shows_in_flow_and_pck() -> None:
    small = Pair()
    still = matches_of(small.points[0], small.points[0])
    # A forward motion of little: epipolar errors of standing still are small.
    forward = np.eye(4)
    forward[:3, 3] = (0, 0, -0.15)
    frames = small.frames[0], Frame(small.frames[0].image, 0.0, 1, camera=small.frames[0].camera, pose=forward)
    truth = pair_truth(frames, 0, 1, *frames)
    targets = frames[0].camera.project(POINTS + forward[:3, 3])
    known = PairTruth(truth.pose, truth.fundamental, small.points[0], targets)
    row = row_of(score(Prediction("identity", 1, (0, 1), still, 1.0), known, *frames))
    assert row.precision[3] == 1
    assert row.match_flow == 0
    assert row.flow > 2
    assert row.pck[1] < 0.2
    moved = row_of(small.score(matches_of(*small.points)))
    lengths = np.linalg.norm(small.points[1] - small.points[0], axis=1)
    assert moved.match_flow == pytest.approx(np.median(lengths), rel=1e-5)
    silent = small.score(matches_of(*np.zeros((2, 0, 2))))
    assert np.isnan(row_of(silent).match_flow)
    few = small.score(matches_of(np.zeros((5, 2)), [[3, 4], [0, 5], [5, 0], [300, 0], [0, 0]]))
    # Each pair with matches counts alike.
    assert row_of(small.score(matches_of(*small.points)), few, silent).match_flow == pytest.approx(
        (moved.match_flow + 5) / 2
    )


def test_landmarks_are_asked_at_the_nearest_match() -> None:
    pair = Pair()
    landmarks = np.array([[100.0, 100.0], [300.0, 200.0], [500.0, 400.0]])
    truth = PairTruth(landmarks=landmarks, targets=landmarks + np.array([10, 0]))
    shifts = np.array([[7.9, 0], [7.9, 0]]), np.array([[17.9, 2], [15.9, 0]])
    matches = matches_of(*(landmarks[:2] + shift for shift in shifts))
    result = pair.score(matches, truth)
    np.testing.assert_allclose(result.end_point, [2, 2], atol=1e-4)
    row = row_of(result)
    assert (row.landmarks, row.landmarks_measured, row.flow) == (3, 2, 10)
    assert row.pck == {1: 0, 3: 1, 5: 1, 10: 1}


def test_rows_are_sorted_by_gap_and_keep_the_order_of_methods() -> None:
    pair = Pair()
    scores = [pair.score(pair.noisy(), gap=gap, method=name) for gap in (5, 1) for name in ("z", "a")]
    assert [(row.gap, row.method, row.pairs) for row in summarise(scores + scores)] == [
        (1, "z", 2),
        (1, "a", 2),
        (5, "z", 2),
        (5, "a", 2),
    ]
    assert summarise([]) == []
