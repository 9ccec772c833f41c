"""SCARED's layout, on a small stand-in that is rendered: its poses, depths and calibrations are exact."""

from __future__ import annotations

import gzip
import json
import logging
import multiprocessing
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from support.scared import (
    COUNT,
    D_RIGHT,
    FPS,
    KR,
    ROTATION,
    TRANSLATION,
    frame_data,
    pack,
    points_of,
    tiff,
    write_still,
    write_video,
)

from endomatch_ros.data.frames import Frame
from endomatch_ros.data.readers.scared import ScaredKeyframe, is_scared, scared_keyframes
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.errors import DataError, ImageError

SCENE = SyntheticEndoscope(SceneConfig(seed=11, width=96, height=80, noise=0, view_radius=0.8))


@pytest.fixture(scope="module")
def rendered() -> list[Frame]:
    return [SCENE.render(k / FPS, k) for k in range(COUNT)]


@pytest.fixture(scope="module")
def keyframe(rendered: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole keyframe; frames 4 to 7 lack something or are damaged. The right images are the left ones mirrored."""
    folder = tmp_path_factory.mktemp("scared") / "dataset_1" / "keyframe_1"
    (folder / "data").mkdir(parents=True)
    write_video(folder / "data" / "rgb.mp4", [np.concatenate([f.image, f.image[:, ::-1]]) for f in rendered])
    points = [points_of(frame, np.nan if frame.index % 2 else 0) for frame in rendered]
    tiffs = {f"scene_points{k:06d}.tiff": tiff(np.concatenate([p, p + 1000])) for k, p in enumerate(points)}
    entries = {f"frame_data{f.index:06d}.json": json.dumps(frame_data(f)).encode() for f in rendered}
    del entries["frame_data000004.json"], tiffs["scene_points000005.tiff"]
    entries["frame_data000006.json"] = b'{"camera-calibration": {}}'
    tiffs["scene_points000007.tiff"] = tiffs["scene_points000007.tiff"][:5000]
    pack(folder / "data" / "frame_data.tar.gz", entries)
    pack(folder / "data" / "scene_points.tar.gz", tiffs)
    return folder


def test_frames_are_those_that_were_rendered(keyframe: Path, rendered: list[Frame]) -> None:
    recording = ScaredKeyframe(keyframe)
    assert len(recording) == COUNT
    for k in (0, 1, 2, 3, 1):
        frame, truth = recording[k], rendered[k]
        assert (frame.index, frame.stamp) == (k, pytest.approx(k / FPS))
        differences = [np.abs(frame.image.astype(float) - other.image).mean() for other in rendered]
        assert int(np.argmin(differences)) == k
        assert differences[k] < 6  # compression
        np.testing.assert_allclose(frame.camera.matrix, SCENE.camera.matrix)
        known = np.isfinite(truth.depth)
        assert 0.5 < known.mean() < 1
        np.testing.assert_allclose(frame.depth[known], truth.depth[known] * 1000, rtol=1e-5)
        assert (frame.depth[~known] == 0).all()
        np.testing.assert_allclose(frame.pose[:3, :3], truth.pose[:3, :3])
        np.testing.assert_allclose(frame.pose[:3, 3], truth.pose[:3, 3] * 1000)


def test_depth_and_poses_give_the_true_correspondences(keyframe: Path) -> None:
    recording = ScaredKeyframe(keyframe)
    for first, second in ((0, 3), (3, 1)):
        frame0, frame1 = recording[first], recording[second]
        rows, columns = np.nonzero(frame0.depth[::5, ::5])
        pixels = np.stack([columns * 5.0, rows * 5.0], -1)
        targets, visible = SCENE.correspondence(first / FPS, second / FPS, pixels)
        local = frame0.camera.rays(pixels) * frame0.depth[rows * 5, columns * 5, None]
        moved = np.column_stack([local, np.ones(len(local))]) @ (frame1.pose @ np.linalg.inv(frame0.pose)).T
        assert visible.sum() > 50
        assert np.linalg.norm(targets - pixels, axis=1)[visible].mean() > 1
        np.testing.assert_allclose(frame1.camera.project(moved[:, :3])[visible], targets[visible], atol=0.01)


def test_the_partner_is_the_lower_half(keyframe: Path, rendered: list[Frame]) -> None:
    partner = ScaredKeyframe(keyframe)[2].partner
    assert np.abs(partner.image.astype(float) - rendered[2].image[:, ::-1]).mean() < 6
    np.testing.assert_allclose(partner.camera.matrix, KR)
    np.testing.assert_allclose(partner.camera.distortion, D_RIGHT)
    np.testing.assert_allclose(partner.pose[:3, :3], ROTATION)
    np.testing.assert_allclose(partner.pose[:3, 3], TRANSLATION)


def test_frames_that_lack_something_are_told_apart(keyframe: Path) -> None:
    recording = ScaredKeyframe(keyframe)
    with pytest.raises(DataError, match=r"frame_data\.tar\.gz holds nothing for frame 4"):
        recording[4]
    frame = recording[5]
    assert frame.depth is None
    assert frame.pose is not None
    with pytest.raises(DataError, match=r"frame_data000006\.json"):
        recording[6]
    with pytest.raises(ImageError, match=r"scene_points000007\.tiff"):
        recording[7]
    assert recording[3].index == 3
    for outside in (-1, COUNT):
        with pytest.raises(IndexError):
            recording[outside]


@pytest.mark.parametrize("unpacked", [("scene_points",), ("frame_data", "scene_points")])
def test_unpacked_folders_are_read_as_the_archives_are(
    unpacked: tuple[str, ...], keyframe: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "keyframe_1"
    shutil.copytree(keyframe, copy)
    for name in unpacked:
        archive = copy / "data" / f"{name}.tar.gz"
        with tarfile.open(archive) as content:
            content.extractall(copy / "data" / name, filter="data")
        archive.unlink()
    packed, loose = ScaredKeyframe(keyframe)[1], ScaredKeyframe(copy)[1]
    np.testing.assert_array_equal(packed.depth, loose.depth)
    np.testing.assert_array_equal(packed.pose, loose.pose)
    with pytest.raises(ImageError, match=r"scene_points000007\.tiff"):
        ScaredKeyframe(copy)[7]


def damage(path: Path, how: str) -> None:
    if how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "no archive":
        path.write_bytes(b"nothing")
    else:
        content = bytearray(gzip.decompress(path.read_bytes()))
        start = content.index(b"scene_points000003.tiff")
        content[start : start + 512] = bytes([7]) * 512
        path.write_bytes(gzip.compress(bytes(content)))


@pytest.mark.parametrize("how", ["cut", "header", "no archive"])
def test_a_damaged_archive_is_named_and_never_a_reason_for_silence(how: str, keyframe: Path, tmp_path: Path) -> None:
    copy = tmp_path / "keyframe_1"
    shutil.copytree(keyframe, copy)
    damage(copy / "data" / "scene_points.tar.gz", how)
    recording = ScaredKeyframe(copy)
    for _ in range(2):
        with pytest.raises(DataError, match=r"scene_points\.tar\.gz is damaged"):
            recording[5 if how == "header" else 3]
    if how != "no archive":
        assert recording[0].depth.max() > 0


def read_in_child(recording: ScaredKeyframe, queue: multiprocessing.Queue) -> None:
    queue.put([recording[k].pose.tolist() for k in (3, 0)])


def test_it_survives_pickling_and_forking(keyframe: Path) -> None:
    recording = ScaredKeyframe(keyframe)
    expected = [recording[k].pose.tolist() for k in (3, 0)]
    copy = pickle.loads(pickle.dumps(recording))
    assert [copy[k].pose.tolist() for k in (3, 0)] == expected
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(recording, queue))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(timeout=60)
    assert child.exitcode == 0
    assert recording[2].depth.max() > 0


def test_a_keyframe_without_video_is_one_frame(rendered: list[Frame], tmp_path: Path) -> None:
    write_still(tmp_path / "keyframe_5", rendered[0])
    recording = ScaredKeyframe(tmp_path / "keyframe_5")
    assert len(recording) == 1
    (frame,) = recording
    np.testing.assert_array_equal(frame.image, rendered[0].image)
    known = np.isfinite(rendered[0].depth)
    np.testing.assert_allclose(frame.depth[known], rendered[0].depth[known] * 1000, rtol=1e-5)
    np.testing.assert_allclose(frame.camera.matrix, SCENE.camera.matrix)
    np.testing.assert_array_equal(frame.partner.image, rendered[0].image[:, ::-1])
    np.testing.assert_allclose(frame.partner.pose[:3, 3], TRANSLATION)
    assert frame.pose is None
    for name in ("left_depth_map.tiff", "Right_Image.png"):
        (tmp_path / "keyframe_5" / name).unlink()
    frame = recording[0]
    assert frame.depth is frame.partner is None
    (tmp_path / "keyframe_5" / "endoscope_calibration.yaml").write_text("%YAML:1.0\n---\nM1: 3\n")
    with pytest.raises(DataError, match="endoscope_calibration"):
        recording[0]


def test_data_sets_with_faulty_calibration_are_left_out(
    rendered: list[Frame], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["dataset_1/keyframe_2", "dataset_1/keyframe_10", "dataset_4/keyframe_1", "dataset_10/keyframe_1"]
    for name in names:
        write_still(tmp_path / name, rendered[0])

    def found(root: Path, **options: bool) -> list[str]:
        caplog.clear()
        return [str(k.folder.relative_to(tmp_path)) for k in scared_keyframes(root, **options)]

    with caplog.at_level(logging.WARNING):
        assert found(tmp_path / "dataset_1") == names[:2]
        assert not caplog.text
        assert found(tmp_path) == [names[0], names[1], names[3]]
        assert "dataset_4" in caplog.text
        assert "left out" in caplog.text
        assert found(tmp_path, include_faulty=True) == names
        assert "used nevertheless" in caplog.text
        assert found(tmp_path / "dataset_4") == [names[2]]
        assert "used nevertheless" in caplog.text
        assert found(tmp_path / names[0]) == [names[0]]


def test_folders_that_are_no_keyframes_are_clear_errors(keyframe: Path, tmp_path: Path) -> None:
    assert is_scared(keyframe)
    assert is_scared(keyframe.parent)
    assert is_scared(keyframe.parent.parent)
    assert not is_scared(tmp_path)
    with pytest.raises(DataError, match="not a keyframe"):
        ScaredKeyframe(tmp_path)
    with pytest.raises(DataError, match="no keyframes"):
        scared_keyframes(tmp_path)
    shutil.copytree(keyframe, tmp_path / "keyframe_1")
    (tmp_path / "keyframe_1" / "data" / "frame_data.tar.gz").unlink()
    with pytest.raises(DataError, match=r"frame_data\.tar\.gz"):
        scared_keyframes(tmp_path)
