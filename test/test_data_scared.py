"""SCARED's layout, on a small stand-in that is rendered: its poses, depths and calibrations are exact."""

from __future__ import annotations

import gzip
import io
import json
import logging
import multiprocessing
import pickle
import shutil
import struct
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from endomatch_ros.data.frames import Frame
from endomatch_ros.data.scared import ScaredKeyframe, is_scared, scared_keyframes
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.errors import DataError, ImageError

SCENE = SyntheticEndoscope(SceneConfig(seed=11, width=96, height=80, noise=0, view_radius=0.8))
COUNT, FPS = 8, 5.0
ROTATION = cv2.Rodrigues(np.array([0.01, -0.02, 0.005]))[0]
TRANSLATION = np.array([-4.3, 0.05, 0.1])  # mm
KR = np.array([[70.0, 0, 50], [0, 71.0, 41], [0, 0, 1]])
D_LEFT, D_RIGHT = np.zeros(5), np.array([-6e-4, 2e-3, 0, 1e-4, 0])


def tiff(points: np.ndarray) -> bytes:
    """A float32 TIFF of points ``(H, W, 3)``, written by the book (TIFF 6.0), without the library that reads it."""
    height, width, channels = points.shape
    pixels = points.astype("<f4").tobytes()
    tail = 8 + 2 + 12 * 11 + 4  # where the arrays that do not fit into an entry begin
    longs = {256: width, 257: height, 273: tail + 12, 278: height, 279: len(pixels)}
    shorts = {259: 1, 262: 2, 277: channels, 284: 1}
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in longs.items()}
    entries |= {tag: struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items()}
    entries |= {258: struct.pack("<HHII", 258, 3, 3, tail), 339: struct.pack("<HHII", 339, 3, 3, tail + 6)}
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<6H", 32, 32, 32, 3, 3, 3) + pixels


def points_of(frame: Frame, unknown: float) -> np.ndarray:
    """x, y, z ``(H, W, 3)`` in mm of a frame's pixels."""
    rows, columns = np.mgrid[: frame.size[1], : frame.size[0]]
    rays = frame.camera.rays(np.stack([columns, rows], -1).reshape(-1, 2)).reshape(*rows.shape, 3)
    with np.errstate(invalid="ignore"):
        points = rays * frame.depth[..., None] * 1000
    return np.where(np.isfinite(frame.depth)[..., None], points, unknown).astype(np.float32)


def frame_data(frame: Frame) -> dict[str, object]:
    pose = frame.pose.copy()
    pose[:3, 3] *= 1000
    matrices = {"KL": frame.camera.matrix, "KR": KR, "DL": D_LEFT[None], "DR": D_RIGHT[None], "R": ROTATION}
    calibration = {name: matrix.tolist() for name, matrix in matrices.items()}
    calibration["T"] = TRANSLATION[:, None].tolist()
    return {"camera-calibration": calibration, "camera-pose": pose.tolist(), "timestamp": 1.5e9 + frame.index}


def pack(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_video(path: Path, pictures: list[np.ndarray]) -> None:
    size = pictures[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), FPS, size)
    for picture in pictures:
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    writer.release()


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


def write_still(folder: Path, frame: Frame) -> None:
    """A keyframe without video."""
    folder.mkdir(parents=True)
    for name, image in (("Left", frame.image), ("Right", frame.image[:, ::-1])):
        cv2.imwrite(str(folder / f"{name}_Image.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    (folder / "left_depth_map.tiff").write_bytes(tiff(points_of(frame, np.nan)))
    storage = cv2.FileStorage(str(folder / "endoscope_calibration.yaml"), cv2.FILE_STORAGE_WRITE)
    matrices = {"M1": frame.camera.matrix, "D1": D_LEFT[None], "M2": KR, "D2": D_RIGHT[None], "R": ROTATION}
    for name, matrix in {**matrices, "T": TRANSLATION[:, None]}.items():
        storage.write(name, matrix)
    storage.release()


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
