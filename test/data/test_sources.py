"""What a user names becomes the right frames, whatever it is, or a clear error."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from support.recordings import write_scared, write_sfm

from endomatch_ros.data.frames import Frame, FrameSequence, landmarks_of, partners_of, scene_of
from endomatch_ros.data.readers.bag_images import BagImages
from endomatch_ros.data.readers.images import ImageFolder
from endomatch_ros.data.readers.scared import ScaredKeyframe
from endomatch_ros.data.readers.sfm import SfmSequence
from endomatch_ros.data.readers.video import VideoFile
from endomatch_ros.data.sources import (
    CompletedSequence,
    SourceOptions,
    SubSequence,
    add_source_arguments,
    open_sequence,
    open_sources,
    parse_frames,
    source_options,
)
from endomatch_ros.data.synthetic import SyntheticSequence
from endomatch_ros.errors import ConfigError, DataError, ImageError
from endomatch_ros.geometry.camera import Camera

SIZE = (64, 48)
STORE = get_typestore(Stores.ROS2_HUMBLE)
CALIBRATION = """\
image_width: 64
image_height: 48
camera_name: scope
camera_matrix: {rows: 3, cols: 3, data: [70, 0, 31, 0, 71, 23, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.1, 0.02, 0, 0, 0]}
"""


def picture(value: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((size[1], size[0], 3), value, np.uint8)


def write_pictures(folder: Path, count: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        cv2.imwrite(str(folder / f"{k}.png"), picture(10 * k))
    return folder


def write_video(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 25, size)
    for k in range(5):
        writer.write(picture(40 * k, size))
    writer.release()
    return path


def write_bag(folder: Path, plugin: StoragePlugin = StoragePlugin.MCAP, topics: tuple[str, ...] = ("/a",)) -> Path:
    types = STORE.types
    with Writer(folder, version=9, storage_plugin=plugin) as writer:
        for topic in topics:
            connection = writer.add_connection(topic, "sensor_msgs/msg/Image", typestore=STORE)
            for k in range(3):
                stamp = types["builtin_interfaces/msg/Time"](sec=100 + k, nanosec=0)
                header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="scope")
                image = types["sensor_msgs/msg/Image"](
                    header, SIZE[1], SIZE[0], "rgb8", 0, 3 * SIZE[0], picture(50 * k).ravel()
                )
                data = bytes(STORE.serialize_cdr(image, "sensor_msgs/msg/Image"))
                writer.write(connection, (100 + k) * 10**9, data)
    return folder


def brightness(sequence: FrameSequence) -> list[int]:
    return [round(float(frame.image.mean())) for frame in sequence]


@pytest.mark.parametrize(
    ("name", "seed", "kind"),
    [("synthetic", 0, "tunnel"), ("synthetic:7", 7, "tunnel"), ("synthetic:7,cavity", 7, "cavity")],
)
def test_synthetic_scenes(name: str, seed: int, kind: str) -> None:
    sequence = open_sequence(name)
    assert isinstance(sequence, SyntheticSequence)
    assert (sequence.scene.config.seed, sequence.scene.config.kind) == (seed, kind)


@pytest.mark.parametrize("name", ["synthetic:", "synthetic:x", "synthetic:1,cube", "synthetic,1"])
def test_scenes_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigError, match=r"SEED|cube"):
        open_sequence(name)


def test_pictures_videos_and_recordings_are_told_apart(tmp_path: Path) -> None:
    pictures = open_sequence(str(write_pictures(tmp_path / "pictures")), SourceOptions(rate=10))
    assert isinstance(pictures, ImageFolder)
    assert brightness(pictures) == [0, 10, 20, 30]
    assert pictures[2].stamp == 0.2
    clip = open_sequence(str(write_video(tmp_path / "clip.AVI")))
    assert isinstance(clip, VideoFile)
    assert brightness(clip) == pytest.approx([0, 40, 80, 120, 160], abs=2)
    assert clip[1].stamp == pytest.approx(0.04)
    sfm = open_sequence(str(write_sfm(tmp_path / "sfm")), SourceOptions(rate=10))
    assert isinstance(sfm, SfmSequence)
    assert brightness(sfm) == [90]


def test_scared_at_each_level(tmp_path: Path) -> None:
    names = ["dataset_1/keyframe_1", "dataset_1/keyframe_2", "dataset_2/keyframe_1"]
    folders = [write_scared(tmp_path / name) for name in names]
    keyframe = open_sequence(str(folders[1]))
    assert isinstance(keyframe, ScaredKeyframe)
    assert brightness(keyframe) == [77]
    assert [s.folder for s in open_sources(str(tmp_path / "dataset_1"))] == folders[:2]
    assert [s.folder for s in open_sources(str(tmp_path))] == folders
    with pytest.raises(DataError, match="2 recordings"):
        open_sequence(str(tmp_path / "dataset_1"))


def test_stereo_videos_are_halved(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "clip.avi", (128, 48)))
    assert open_sequence(path)[0].size == (128, 48)
    assert open_sequence(path, SourceOptions(stereo="left-right"))[0].size == (64, 48)
    assert open_sequence(path, SourceOptions(stereo="top-bottom"))[0].size == (128, 24)


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_bags(plugin: StoragePlugin, tmp_path: Path) -> None:
    folder = write_bag(tmp_path / "bag", plugin)
    (file,) = (path for path in folder.iterdir() if path.suffix in (".mcap", ".db3"))
    for name in (folder, file):
        bag = open_sequence(str(name))
        assert isinstance(bag, BagImages)
        assert brightness(bag) == [0, 50, 100]
        assert [frame.stamp for frame in bag] == [100, 101, 102]


def test_the_topics_of_a_bag_are_chosen(tmp_path: Path) -> None:
    folder = str(write_bag(tmp_path / "bag", topics=("/a", "/b")))
    with pytest.raises((ConfigError, DataError), match="/b"):
        open_sequence(folder)
    assert brightness(open_sequence(folder, SourceOptions(image_topic="/b"))) == [0, 50, 100]


def test_a_folder_of_videos_or_bags_is_all_of_them(tmp_path: Path) -> None:
    for name in ("10.avi", "2.avi"):
        write_video(tmp_path / "videos" / name)
    write_bag(tmp_path / "videos" / "topics")  # what recorders put beside their videos
    assert [s.path.name for s in open_sources(str(tmp_path / "videos"))] == ["2.avi", "10.avi"]
    for name in ("b", "a"):
        write_bag(tmp_path / "bags" / name)
    assert [brightness(s) for s in open_sources(str(tmp_path / "bags"))] == [[0, 50, 100]] * 2
    write_pictures(tmp_path / "videos")
    with pytest.raises(DataError, match="pictures and videos"):
        open_sources(str(tmp_path / "videos"))


def test_what_is_no_source_is_told_what_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for name, message in (("missing", "no file or folder"), ("notes.txt", "nothing that can"), ("", "holds nothing")):
        with pytest.raises(DataError, match=message) as caught:
            open_sequence(str(tmp_path / name))
        for kind in ("synthetic", ".mp4", "bag", "pictures", "SfM", "SCARED"):
            assert kind in str(caught.value)


def test_a_calibration_and_a_mask_complete_frames(tmp_path: Path) -> None:
    (tmp_path / "camera.yaml").write_text(CALIBRATION)
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[5:] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    folder = str(write_pictures(tmp_path / "pictures"))
    options = SourceOptions(calibration=tmp_path / "camera.yaml", mask=tmp_path / "mask.png")
    frame = open_sequence(folder, options, frames="1:")[0]
    assert frame.index == 1
    np.testing.assert_array_equal(frame.camera.matrix, [[70, 0, 31], [0, 71, 23], [0, 0, 1]])
    np.testing.assert_array_equal(frame.camera.distortion, [-0.1, 0.02, 0, 0, 0])
    assert not frame.mask[:5].any()
    assert frame.mask[5:].all()
    own = open_sequence(str(write_sfm(tmp_path / "sfm")), options)[0]
    assert own.camera.matrix[0, 0] == 50
    assert own.mask.all()
    for name in ("calibration", "mask"):
        with pytest.raises((DataError, ImageError), match="missing"):
            open_sequence(folder, SourceOptions(**{name: tmp_path / "missing"}))


def test_a_calibration_or_mask_of_another_size_is_an_error(tmp_path: Path) -> None:
    folder = ImageFolder(write_pictures(tmp_path / "pictures"))
    camera = Camera(np.diag([50.0, 50.0, 1.0]), np.zeros(5), "plumb_bob", (640, 480))
    with pytest.raises(DataError, match=r"\(64, 48\), the calibration is for \(640, 480\)"):
        CompletedSequence(folder, camera=camera)[0]
    with pytest.raises(DataError, match=r"\(64, 48\), the mask is for \(48, 64\)"):
        CompletedSequence(folder, mask=np.ones((64, 48), np.bool_))[0]


class Plain:
    """Ten frames that know their number."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, position: int) -> Frame:
        return Frame(picture(0), 0.0, range(10)[position])

    def __iter__(self):
        return (self[k] for k in range(10))


class Ten(Plain):
    """They know the truth about themselves, too: which positions were asked for."""

    scene_id = "ten"

    def correspondence(self, position0, position1, points):
        return points + np.array([position0, position1]), np.ones(len(points), bool)

    def landmarks(self, position0, position1):
        return np.array([[position0, position1]]), np.zeros((1, 2))


@pytest.mark.parametrize("text", ["0:4", "3:", ":3", ":", "-4:", ":-7", "-5:-2", "2:100", "-100:2"])
def test_parts_are_pythons_slices(text: str) -> None:
    part = parse_frames(text)
    cut = SubSequence(Ten(), part.start, part.stop)
    expected = eval(f"list(range(10))[{text}]")
    assert [frame.index for frame in cut] == expected
    assert len(cut) == len(expected)
    view = SubSequence(CompletedSequence(cut))
    assert view[1].index == expected[1]
    assert view.correspondence(0, 1, np.zeros((1, 2)))[0].tolist() == [[expected[0], expected[1]]]
    assert view.landmarks(0, 1)[0].tolist() == [[expected[0], expected[1]]]
    assert scene_of(view) == "ten"
    plain = Plain()
    view = SubSequence(CompletedSequence(plain))
    assert partners_of(view) is landmarks_of(view) is None
    assert scene_of(plain) == scene_of(view) != scene_of(SubSequence(Plain()))
    for outside in (-1, len(cut)):
        with pytest.raises(IndexError):
            cut[outside]


@pytest.mark.parametrize("text", ["", "5", "a:b", "1:2:3", "1.5:2", "1-2", "--1:"])
def test_parts_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError, match="START:STOP"):
        parse_frames(text)


@pytest.mark.parametrize("text", ["4:4", "5:2", "10:", ":-10"])
def test_parts_that_are_empty(text: str, tmp_path: Path) -> None:
    folder = str(write_pictures(tmp_path, 10))
    with pytest.raises(ConfigError, match=f"frames {text} .* 10 frames"):
        open_sequence(folder, frames=text)


def test_options_from_a_command_line(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    assert source_options(parser.parse_args([])) == SourceOptions()
    line = "--image-topic /a --camera-info-topic /b --partner-topic /c --calibration k.yaml --mask m.png"
    args = parser.parse_args([*line.split(), "--rate", "5", "--stereo", "top-bottom"])
    assert source_options(args) == SourceOptions("/a", "/b", "/c", Path("k.yaml"), Path("m.png"), 5.0, "top-bottom")
    for rate in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="rate"):
            SourceOptions(rate=rate)
    with pytest.raises(ConfigError, match="sideways"):
        SourceOptions(stereo="sideways")
