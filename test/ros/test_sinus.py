"""The main job on real input: 35 frames of sinus endoscopy, a publisher process, DDS, the node process, the answers."""

import json
import os

import numpy as np
import pytest
from support.ros import DOMAIN

from endomatch_ros.data.readers.sfm import SfmSequence
from endomatch_ros.ros.demo import replay as replay_module
from endomatch_ros.ros.demo.replay import replay
from endomatch_ros.ros.messages.clouds import CLOUD_DTYPE, stamp_to_ns


@pytest.fixture(scope="module")
def result(sinus, tmp_path_factory):
    assert os.environ["ROS_DOMAIN_ID"] == str(DOMAIN)
    return replay(sinus, {"device": "cpu"}, os.environ, tmp_path_factory.mktemp("replay"))


@pytest.fixture(scope="module")
def sequence(sinus):
    return SfmSequence(sinus)


def test_nearly_every_pair_is_answered(result):
    assert result.frames == 35
    assert len(result.answers) >= 30
    assert set(result.answers) <= set(range(1, 35))  # the first frame has nothing to be matched with


def test_answers_carry_stamp_frame_and_documented_fields(result):
    for position, answer in result.answers.items():
        assert answer.points.dtype == CLOUD_DTYPE
        assert answer.frame_id == "endoscope_optical_frame"
        reference = float(answer.figures["reference_stamp"])
        np.testing.assert_allclose(answer.points["dt"], position / 30 - reference, atol=2e-9)
        assert int(answer.figures["matches"]) == len(answer.points)
        assert int(answer.figures["inliers"]) == int(answer.points["inlier"].sum())


def test_matches_are_many_and_inside_the_view(result, sequence):
    mask = sequence[0].mask
    for answer in result.answers.values():
        points = answer.points
        assert len(points) >= 300
        for x, y in (("u", "v"), ("u_ref", "v_ref")):
            columns, rows = np.rint(points[x]).astype(int), np.rint(points[y]).astype(int)
            assert mask[rows.clip(0, 1079), columns.clip(0, 1919)].mean() > 0.98
        assert ((points["similarity"] > 0) & (points["similarity"] <= 1.0001)).all()
        assert len(np.unique(points["track_id"])) == len(points)


def test_calibration_gives_rays_and_poses(result, sequence):
    matrix = sequence.camera(0).matrix
    poses = 0
    for answer in result.answers.values():
        points = answer.points
        pixels = np.stack([points["x"], points["y"], points["z"]], axis=1) @ matrix.T
        np.testing.assert_allclose(pixels[:, :2], np.stack([points["u"], points["v"]], axis=1), atol=0.01)
        assert answer.figures["model"] in ("E", "none")
        if answer.pose is not None:
            poses += 1
            position = answer.pose.pose.position
            assert np.hypot(np.hypot(position.x, position.y), position.z) == pytest.approx(1)
            assert stamp_to_ns(answer.pose.header.stamp) > 0
    assert poses >= 20


def test_tracks_go_on_from_pair_to_pair(result):
    for position, answer in result.answers.items():
        before = result.answers.get(position - 1)
        if before is None or round(float(answer.points["dt"][0]) * 30) != 1:
            continue
        common, first, second = np.intersect1d(
            before.points["track_id"], answer.points["track_id"], return_indices=True
        )
        assert len(common) > 0.2 * len(answer.points)
        for current, reference in (("u", "u_ref"), ("v", "v_ref")):
            np.testing.assert_array_equal(before.points[current][first], answer.points[reference][second])


def test_epipolar_error_against_the_given_poses_beats_the_identity(result):
    published, identity = result.published, result.identity
    assert published.median_px < identity.median_px
    assert published.mean_px < identity.mean_px
    assert published.within_1px > identity.within_1px
    assert published.within_3px > 0.9
    assert published.median_px < 1.5  # the poses themselves are good to 1 or 2 px


def test_nothing_was_dropped_but_what_is_counted(result):
    (values,) = (values for name, values in result.diagnostics.items() if name.endswith("/endomatch: processing"))
    assert [values[f"dropped_{cause}"] for cause in ("bad_encoding", "bad_image", "matching_failed")] == ["0"] * 3
    assert int(values["answered"]) + int(values["dropped_superseded"]) <= 34


def test_the_command_prints_and_writes_the_figures(result, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(replay_module, "replay", lambda *_: result)
    monkeypatch.setattr(replay_module.dds, "prepare", lambda **_: None)
    assert replay_module.main(["anywhere", "--json", str(tmp_path / "out.json")]) == 0
    assert "identity" in capsys.readouterr().out
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["answers"] == len(result.answers)
    assert report["published"]["median_px"] == result.published.median_px


def test_a_folder_that_is_no_recording_is_a_clear_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(replay_module.dds, "prepare", lambda **_: None)
    assert replay_module.main([str(tmp_path / "nothing")]) == 2
    assert "there is no folder" in capsys.readouterr().err
