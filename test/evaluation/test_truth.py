"""What is taken for true, against OpenCV and exact synthetic scenes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest

from endomatch_ros.data.frames import Frame
from endomatch_ros.data.sources import CompletedSequence, SubSequence
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope, SyntheticSequence
from endomatch_ros.evaluation.truth import depth_correspondence, pair_truth
from endomatch_ros.geometry.camera import Camera


@pytest.fixture(scope="module")
def scene() -> SyntheticSequence:
    return SyntheticSequence(SyntheticEndoscope(SceneConfig(seed=5, width=160, height=128)), count=12, rate=6)


def test_synthetic_truth_is_consistent(scene: SyntheticSequence) -> None:
    frame0, frame1 = scene[0], scene[6]
    truth = pair_truth(scene, 0, 6, frame0, frame1)
    assert len(truth.landmarks) > 10
    assert truth.flow > 1
    lines = cv2.computeCorrespondEpilines(truth.landmarks[:, None], 1, truth.fundamental).reshape(-1, 3)
    distance = np.abs((lines[:, :2] * truth.targets).sum(axis=1) + lines[:, 2])
    assert distance.max() < 1e-3


def test_a_part_of_a_sequence_has_the_truth_of_the_whole(scene: SyntheticSequence) -> None:
    part = CompletedSequence(SubSequence(scene, 3, 10))
    whole, cut = pair_truth(scene, 4, 9, scene[4], scene[9]), pair_truth(part, 1, 6, part[1], part[6])
    np.testing.assert_array_equal(cut.landmarks, whole.landmarks)
    np.testing.assert_array_equal(cut.targets, whole.targets)
    np.testing.assert_array_equal(cut.fundamental, whole.fundamental)


class Recorded:
    """The frames of a scene without the scene: what is known of them is what they carry."""

    def __init__(self, scene: SyntheticSequence) -> None:
        self.scene = scene

    def __len__(self) -> int:
        return len(self.scene)

    def __getitem__(self, position: int) -> Frame:
        return self.scene[position]

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.scene)


@pytest.mark.parametrize(("kind", "gap"), [("tunnel", 4), ("cavity", 2)])
def test_depth_and_poses_give_the_exact_correspondence(kind: str, gap: int) -> None:
    config = SceneConfig(seed=5, kind=kind, width=192, height=160, noise=0)
    scene = SyntheticSequence(SyntheticEndoscope(config), count=12, rate=6)
    truth = pair_truth(Recorded(scene), 1, 1 + gap, scene[1], scene[1 + gap])
    points = np.random.default_rng(0).uniform((-5, -5), (197, 165), (1500, 2))
    targets, visible = truth.correspondence(points)
    exact, really = scene.correspondence(1, 1 + gap, points)
    assert np.linalg.norm(exact - points, axis=1)[really].mean() > 3
    assert visible.sum() > 0.85 * really.sum() > 300  # folds' edges have no depth of their own
    assert really[visible].mean() > 0.995
    both = visible & really
    error = np.linalg.norm(targets - exact, axis=1)[both]
    assert np.median(error) < 0.01
    assert np.percentile(error, 99) < 0.1
    assert truth.flow == pytest.approx(pair_truth(scene, 1, 1 + gap, scene[1], scene[1 + gap]).flow, rel=0.1)


def plane(depth: float, shift: float, lens: np.ndarray, **changes: object) -> Frame:
    """A plane that faces a camera at ``shift`` along x."""
    camera = Camera(np.array([[100.0, 0, 80], [0, 100.0, 60], [0, 0, 1]]), lens, "plumb_bob", (160, 120))
    pose = np.eye(4)
    pose[0, 3] = -shift
    frame = Frame(np.zeros((120, 160, 3), np.uint8), 0.0, 0, camera=camera, pose=pose)
    return replace(frame, depth=np.full((120, 160), depth, np.float32), **changes)


def test_a_plane_moves_by_focal_length_times_baseline_over_depth() -> None:
    first, second = plane(10.0, 0.0, np.zeros(5)), plane(10.0, 0.8, np.zeros(5))
    targets, visible = depth_correspondence(first, second, second.pose)(np.array([[50.25, 60.5], [3.0, 60.0]]))
    np.testing.assert_allclose(targets, [[42.25, 60.5], [-5.0, 60.0]], atol=1e-5)
    assert visible.tolist() == [True, False]


def test_lens_distortion_is_undone_and_done_again() -> None:
    lens = np.array([-0.2, 0.05, 0.001, -0.001, 0.0])
    first, second = plane(10.0, 0.0, lens), plane(10.0, 0.8, lens)
    points = np.random.default_rng(0).uniform(30, 90, (50, 2))
    matrix = first.camera.matrix
    ideal = cv2.undistortPoints(points[:, None], matrix, lens, criteria=(3, 100, 1e-12))[:, 0]
    space = np.column_stack([ideal * 10, np.full(len(points), 10.0)]) - (0.8, 0, 0)
    expected = cv2.projectPoints(space, np.zeros(3), np.zeros(3), matrix, lens)[0][:, 0]
    targets, visible = depth_correspondence(first, second, second.pose)(points)
    np.testing.assert_allclose(targets, expected, atol=1e-4)
    assert visible.all()


def test_what_is_hidden_unknown_or_out_of_view_is_not_visible() -> None:
    zero = np.zeros(5)
    first, second = plane(10.0, 0.0, zero), plane(10.0, 0.8, zero)
    points = np.array([[50.0, 60.0], [100.0, 60.0]])

    def seen(a: Frame, b: Frame) -> list[bool]:
        return depth_correspondence(a, b, second.pose)(points)[1].tolist()

    assert seen(first, second) == [True, True]
    hidden = second.depth.copy()
    hidden[:, :60] = 8.0  # something nearer has come before the left part
    assert seen(first, replace(second, depth=hidden)) == [False, True]
    for unknown in (0.0, np.nan, np.inf, -1.0):
        hole = first.depth.copy()
        hole[60, 100] = unknown
        assert seen(replace(first, depth=hole), second) == [True, False]
        hole = second.depth.copy()
        hole[60, 92] = unknown
        assert seen(first, replace(second, depth=hole)) == [True, False]
    mask = np.ones((120, 160), bool)
    mask[60, 42] = False
    assert seen(first, replace(second, mask=mask)) == [False, True]
    edge = first.depth.copy()
    edge[:, 100:] = 12.0
    between = plane(11.0, 0.8, zero)
    at_edge = depth_correspondence(replace(first, depth=edge), between, second.pose)(np.array([[99.5, 60.0]]))
    assert not at_edge[1].any()  # neither the near nor the far surface's
    forward = second.pose.copy()
    forward[2, 3] = 1.0
    for unknown in (0.0, np.nan, np.inf, -1.0):
        hole = first.depth.copy()
        hole[50:70, 90:110] = unknown
        targets, visible = depth_correspondence(replace(first, depth=hole), second, forward)(points + 0.25)
        assert np.isfinite(targets).all(axis=1).tolist() == [True, False]
        assert not visible[1]


def test_without_depth_or_calibration_there_is_no_correspondence() -> None:
    frame, pose = plane(10.0, 0.0, np.zeros(5)), np.eye(4)
    assert depth_correspondence(frame, replace(frame, depth=None), pose) is None
    assert depth_correspondence(replace(frame, depth=None), frame, pose) is None
    assert depth_correspondence(frame, replace(frame, camera=None), pose) is None
