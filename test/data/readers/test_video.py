"""Video files: every frame is the one that was asked for, whatever the container and the order."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.videos import COUNT, FPS, HEIGHT, WIDTH, stereo_picture, write_video

from endomatch_ros.data.frames import FrameSequence
from endomatch_ros.data.readers.video import VideoFile, VideoReader, split_stereo
from endomatch_ros.errors import ConfigError, DataError, ImageError
from endomatch_ros.geometry.camera import Camera

REAL = cv2.VideoCapture
CODECS = [("clip.mp4", "mp4v"), ("clip.avi", "MJPG"), ("clip.mkv", "mp4v")]


def number_in(image: np.ndarray) -> int:
    """The number that a picture shows."""
    return sum(int(image[32, 16 * bit + 8].mean() > 128) << bit for bit in range(8))


def shuffled() -> list[int]:
    order = list(range(COUNT)) * 2
    random.Random(3).shuffle(order)
    return order


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4")


@pytest.mark.parametrize(("name", "codec"), CODECS)
def test_frames_are_exact_in_order_and_out_of_order(name: str, codec: str, tmp_path: Path) -> None:
    video: FrameSequence = VideoFile(write_video(tmp_path / name, codec))
    assert len(video) == COUNT
    assert [number_in(frame.image) for frame in video] == list(range(COUNT))
    assert [number_in(video[k].image) for k in shuffled()] == shuffled()
    frame = video[7]
    assert frame.index == 7
    assert frame.stamp == pytest.approx(7 / FPS, abs=1e-3)
    assert frame.image.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(frame.image[5, 64], (200, 40, 40), atol=25)  # RGB, not BGR
    np.testing.assert_allclose(frame.image[-5, 64], (40, 40, 200), atol=25)
    assert frame.camera is frame.pose is frame.partner is None
    for outside in (-1, COUNT):
        with pytest.raises(IndexError):
            video[outside]


class Decoder:
    """OpenCV's, to be made worse; its class cannot be derived from."""

    def __init__(self, *arguments: object) -> None:
        self.true = REAL(*arguments)
        self.packets = len(arguments) > 2 and cv2.CAP_PROP_FORMAT in list(arguments[2])

    def set(self, name: int, value: float) -> bool:
        return self.true.set(name, value)

    def get(self, name: int) -> float:
        return self.true.get(name)

    def __getattr__(self, name: str) -> object:
        return getattr(self.true, name)


class Inexact(Decoder):
    """Seeks end up some frames late, as in transport streams."""

    def set(self, name: int, value: float) -> bool:
        return self.true.set(name, value + 9 if name == cv2.CAP_PROP_POS_FRAMES else value)


class WithoutPacketTimes(Decoder):
    """As OpenCV 4.8: packets that are not decoded have no times."""

    def get(self, name: int) -> float:
        return 0.0 if self.packets and name == cv2.CAP_PROP_POS_MSEC else self.true.get(name)


class WithoutTimes(Inexact):
    """A stream that tells no times at all."""

    def get(self, name: int) -> float:
        return 0.0 if name == cv2.CAP_PROP_POS_MSEC else self.true.get(name)


@pytest.mark.parametrize("decoder", [Inexact, WithoutPacketTimes, WithoutTimes])
def test_frames_are_exact_with_a_decoder_that_is_not(
    decoder: type, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", decoder)
    reader = VideoReader(clip)
    np.testing.assert_allclose(reader.times, np.arange(COUNT) / FPS, atol=1e-6)
    order = [5, 6, 80, 81, 2, 50, 49, 0, 89]
    assert [number_in(reader.read(k)) for k in order] == order


class Skipping(Decoder):
    """Passes over a frame that it cannot decode without a word, as MPEG-4's does."""

    def grab(self) -> bool:
        grabbed = self.true.grab()
        damaged = not self.packets and round(self.get(cv2.CAP_PROP_POS_MSEC) / 1000 * FPS) == 40
        return self.true.grab() if grabbed and damaged else grabbed


def test_a_frame_that_the_decoder_passes_over_does_not_shift_the_others(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Skipping)
    reader = VideoReader(clip)
    assert len(reader) == COUNT
    for before in (39, 80):
        assert number_in(reader.read(before)) == before
        with pytest.raises(ImageError, match="frame 40 "):
            reader.read(40)
        assert [number_in(reader.read(k)) for k in (41, 42)] == [41, 42]


def read_in_child(video: VideoFile, position: int, queue: multiprocessing.Queue) -> None:
    queue.put([number_in(video[k].image) for k in (position, position + 1, 3)])


def test_it_survives_pickling_and_forking(clip: Path) -> None:
    video = VideoFile(clip)
    assert number_in(video[10].image) == 10
    copy = pickle.loads(pickle.dumps(video))
    assert [number_in(copy[k].image) for k in (11, 60)] == [11, 60]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(video, 70, queue))
    child.start()
    assert queue.get(timeout=60) == [70, 71, 3]
    child.join(timeout=60)
    assert child.exitcode == 0
    assert [number_in(video[k].image) for k in (11, 12)] == [11, 12]


def test_a_damaged_frame_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", "MJPG")
    data = bytearray(path.read_bytes())
    start = data.index(b"movi")
    for _ in range(41):  # frame 40 is the 41st chunk of video
        start = data.index(b"00dc", start + 1)
    length = int.from_bytes(data[start + 4 : start + 8], "little")
    data[start + 8 : start + 8 + length] = bytes(length)
    path.write_bytes(data)
    video = VideoFile(path)
    assert len(video) == COUNT
    assert [number_in(video[k].image) for k in range(40)] == list(range(40))
    for _ in range(2):
        with pytest.raises(ImageError, match=r"clip\.avi: frame 40 "):
            video[40]
    assert [number_in(video[k].image) for k in (41, 42, 39, 89)] == [41, 42, 39, 89]


def test_a_video_that_was_cut_short_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video(tmp_path / "clip.avi", "MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    video = VideoFile(path)
    assert 30 < len(video) < 60
    assert number_in(video[30].image) == 30
    assert f"speaks of {COUNT} frames" in caplog.text


def test_files_without_frames_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no video .*missing\.mp4"):
        VideoFile(tmp_path / "missing.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(DataError, match=r"text\.mp4 is not a video"):
        VideoFile(tmp_path / "text.mp4")
    path = write_video(tmp_path / "empty.avi", "MJPG")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"00dc")])
    with pytest.raises(DataError, match=r"empty\.avi (holds no frames|is not a video)"):
        VideoFile(path)
    with pytest.raises(ConfigError, match="rate of 0"):
        VideoFile(write_video(tmp_path / "clip.mp4"), rate=0)


@pytest.mark.parametrize("layout", ["left-right", "right-left", "top-bottom"])
def test_stereo_halves(layout: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", "MJPG", [stereo_picture(layout)] * 3)
    assert VideoFile(path)[0].size in ((128, 48), (64, 96))
    half = VideoFile(path, stereo=layout)[1]
    assert half.size == (64, 48)
    assert half.image.mean() == pytest.approx(200, abs=3)
    assert half.partner is None
    camera = Camera(np.diag([80.0, 80.0, 1.0]), np.zeros(5), "plumb_bob", (64, 48))
    pose = np.eye(4)
    pose[0, 3] = -0.004
    frame = VideoFile(path, camera, stereo=layout, partner_camera=camera, partner_pose=pose)[1]
    assert frame.camera is camera
    assert frame.partner is not None
    assert frame.partner.image.mean() == pytest.approx(50, abs=3)
    np.testing.assert_array_equal(frame.partner.pose, pose)


def test_a_forked_process_leaves_the_decoders_of_its_parent_alone(clip: Path) -> None:
    """A decoder in the parent's garbage has threads that the child does not have: it must not be collected there."""
    gc.collect()
    gc.disable()
    try:
        left = [VideoFile(clip)]
        assert left[0][COUNT - 1].image is not None
        left.append(left)
        del left
        child = multiprocessing.get_context("fork").Process(target=gc.collect)
        child.start()
        child.join(20)
        ended = child.exitcode
        child.kill()
    finally:
        gc.enable()
    assert ended == 0


def test_a_picture_that_has_no_halves_is_an_error() -> None:
    with pytest.raises(DataError, match="64x49"):
        split_stereo(np.zeros((49, 64, 3), np.uint8), "top-bottom")
