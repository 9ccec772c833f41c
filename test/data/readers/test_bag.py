"""Bags written by rosbags itself, read as frames: pixels, stamps, calibration, access in a row and at random."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionMode, Reader
from support.bags import (
    HEIGHT,
    INFO,
    MCAP,
    RAW,
    SQLITE,
    WIDTH,
    camera_messages,
    compressed_message,
    in_order,
    info_message,
    picture,
    raw_message,
    stamp_of,
    text_message,
    write,
)

from endomatch_ros.data.frames import FrameSequence
from endomatch_ros.data.readers.bag_images import BagImages
from endomatch_ros.errors import CalibrationError, ConfigError

STORAGES = {
    "mcap": (MCAP, CompressionMode.NONE),
    "mcap, zstd chunks": (MCAP, CompressionMode.STORAGE),
    "mcap, zstd messages": (MCAP, CompressionMode.MESSAGE),
    "mcap, zstd file": (MCAP, CompressionMode.FILE),
    "sqlite3": (SQLITE, CompressionMode.NONE),
    "sqlite3, zstd messages": (SQLITE, CompressionMode.MESSAGE),
    "sqlite3, zstd file": (SQLITE, CompressionMode.FILE),
}


@pytest.mark.parametrize("storage", STORAGES)
def test_frames_of_every_storage(tmp_path, storage):
    others = [("/chatter", text_message(), stamp_of(k)) for k in range(3)]
    folder = write(tmp_path / "bag", in_order(camera_messages(), others), *STORAGES[storage])
    with BagImages(folder) as images:
        sequence: FrameSequence = images
        assert (len(sequence), images.topic, images.pairs) == (6, RAW, 0)
        frames = list(sequence)
        for number, frame in enumerate(frames):
            np.testing.assert_array_equal(frame.image, picture(number))
            assert frame.image.flags.writeable
            assert (frame.stamp, frame.index, frame.partner) == (stamp_of(number) / 1e9, number, None)
            np.testing.assert_array_equal(frame.camera.matrix, [[80, 0, 31.5], [0, 80, 23.5], [0, 0, 1]])
            np.testing.assert_array_equal(frame.camera.distortion, [0.1, -0.02, 0.001, 0.002, 0])
        for number in (3, 1, 1, 5, 0, 1, 2, 4):
            np.testing.assert_array_equal(sequence[number].image, frames[number].image)
            assert sequence[number].stamp == frames[number].stamp
        for number in (-1, 6):
            with pytest.raises(IndexError):
                sequence[number]


@pytest.mark.parametrize("plugin", [MCAP, SQLITE])
def test_a_single_file_without_its_folder(tmp_path, plugin):
    folder = write(tmp_path / "bag", camera_messages(), plugin)
    (file,) = (path for path in folder.iterdir() if path.suffix != ".yaml")
    moved = shutil.move(file, tmp_path)
    frames = list(BagImages(moved))
    assert [frame.stamp for frame in frames] == [stamp_of(k) / 1e9 for k in range(6)]
    np.testing.assert_array_equal(frames[4].image, picture(4))


def test_nothing_of_ros_is_imported(tmp_path):
    folder = write(tmp_path / "bag", camera_messages())
    code = (
        "import sys; from endomatch_ros.data.readers.bag_images import BagImages; "
        f"assert len(list(BagImages({str(folder)!r}))) == 6; "
        "assert not {'rclpy', 'sensor_msgs', 'builtin_interfaces'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("plugin", [MCAP, SQLITE])
@pytest.mark.parametrize("padding", [0, 7])
def test_raw_encodings_to_the_pixel(tmp_path, plugin, padding):
    image = picture(1)
    mosaic = np.empty((HEIGHT, WIDTH), np.uint8)  # of one flat colour, which every pixel must come back as
    mosaic[0::2, 0::2], mosaic[0::2, 1::2], mosaic[1::2, 0::2], mosaic[1::2, 1::2] = 200, 120, 120, 30
    cases = [
        ("rgb8", image, image),
        ("bgr8", image[..., ::-1], image),
        ("mono8", image[..., 0], np.repeat(image[..., :1], 3, axis=2)),
        ("bayer_rggb8", mosaic, np.broadcast_to(np.array([200, 120, 30], np.uint8), image.shape)),
    ]
    messages = [
        (RAW, raw_message(stamp_of(k), rows, encoding, padding), stamp_of(k))
        for k, (encoding, rows, _) in enumerate(cases)
    ]
    for frame, (_, _, expected) in zip(BagImages(write(tmp_path / "bag", messages, plugin)), cases, strict=True):
        np.testing.assert_array_equal(frame.image, expected)
        assert frame.camera is None


def test_compressed_images_have_the_same_camera_info(tmp_path):
    smooth = cv2.GaussianBlur(picture(2), (0, 0), 6)
    _, png = cv2.imencode(".png", smooth[..., ::-1])
    _, jpeg = cv2.imencode(".jpg", smooth[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    topic = f"{RAW}/compressed"
    messages = [
        (topic, compressed_message(stamp_of(0), png, "rgb8; png compressed bgr8"), stamp_of(0)),
        (topic, compressed_message(stamp_of(1), jpeg), stamp_of(1)),
        (INFO, info_message(stamp_of(0)), stamp_of(2)),
    ]
    first, second = BagImages(write(tmp_path / "bag", messages))
    np.testing.assert_array_equal(first.image, smooth)
    np.testing.assert_allclose(second.image.astype(int), smooth, atol=12)
    assert first.camera.matrix[0, 0] == second.camera.matrix[0, 0] == 80


def test_a_zero_stamp_gives_way_to_the_time_of_reception(tmp_path):
    messages = [(RAW, raw_message(0, picture(k)), stamp_of(k) + 123) for k in range(3)]
    images = BagImages(write(tmp_path / "bag", messages))
    assert [frame.stamp for frame in images] == [(stamp_of(k) + 123) / 1e9 for k in range(3)]


def test_messages_received_at_the_same_time_stay_apart(tmp_path):
    messages = [(RAW, raw_message(stamp_of(k), picture(k)), stamp_of(k // 3)) for k in range(6)]
    images = BagImages(write(tmp_path / "bag", messages, SQLITE))
    for position in (4, 5, 1, 2, 3, 0):
        np.testing.assert_array_equal(images[position].image, picture(position))


def test_frames_in_a_row_are_read_from_one_iterator(tmp_path, monkeypatch):
    images = BagImages(write(tmp_path / "bag", camera_messages(numbers=range(12))))
    opened, iterators = [], []
    open_, messages = Reader.open, Reader.messages
    monkeypatch.setattr(Reader, "open", lambda self: (opened.append(1), open_(self))[1])
    monkeypatch.setattr(Reader, "messages", lambda self, *rest: (iterators.append(1), messages(self, *rest))[1])
    assert len(list(images)) == 12
    assert (len(opened), len(iterators)) == (1, 1)
    for position in (7, 3, 4, 5, 6):  # 3 begins a row, 4 its iterator
        assert images[position].index == position
    assert (len(opened), len(iterators)) == (1, 4)


def open_files(folder):
    links = Path("/proc/self/fd").iterdir()
    return [target for link in links if (target := os.path.realpath(link)).startswith(str(folder))]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "mcap, zstd file"])
def test_processes_do_not_share_open_files(tmp_path, monkeypatch, storage):
    unpacked = tmp_path / "unpacked"  # where rosbags puts its copy of a compressed file
    unpacked.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(unpacked))
    folder = write(tmp_path / "bag", camera_messages(numbers=range(8)), *STORAGES[storage])
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def read_in_child():
        pictures = [images[position].image for position in (2, 3, 6)]
        gc.collect()
        there.send((pictures, len(open_files(tmp_path))))

    with BagImages(folder) as images:
        for position in (0, 1):  # a row is under way
            np.testing.assert_array_equal(images[position].image, picture(position))
        before, copies = len(open_files(tmp_path)), list(unpacked.iterdir())
        child = context.Process(target=read_in_child)
        child.start()
        there.close()
        pictures, after = here.recv()
        child.join()
        assert after > before  # its own, beside the inherited ones
        for position, image in zip((2, 3, 6), pictures, strict=True):
            np.testing.assert_array_equal(image, picture(position))
        assert {*copies} <= {*unpacked.iterdir()}
        for position in (2, 3, 7, 4):
            np.testing.assert_array_equal(images[position].image, picture(position))
        again = pickle.loads(pickle.dumps(images))
        np.testing.assert_array_equal(again[2].image, picture(2))


@pytest.mark.parametrize("plugin", [MCAP, SQLITE])
def test_closing_frees_the_files_and_a_later_access_opens_them_again(tmp_path, plugin):
    folder = write(tmp_path / "bag", camera_messages(), plugin)
    with BagImages(folder) as images:
        assert not open_files(folder)
        assert images[2].index == 2
        assert open_files(folder)
    assert not open_files(folder)
    np.testing.assert_array_equal(images[3].image, picture(3))
    images.close()
    images.close()
    assert not open_files(folder)


def test_the_latest_camera_info_at_or_before_the_stamp(tmp_path):
    images = [(RAW, raw_message(stamp_of(k), picture(k)), stamp_of(k)) for k in range(5)]
    # Received late and in the wrong order: stamps count.
    infos = [
        (INFO, info_message(stamp_of(3), focal=90.0), stamp_of(5)),
        (INFO, info_message(stamp_of(1), focal=70.0), stamp_of(6)),
    ]
    frames = list(BagImages(write(tmp_path / "bag", [*images, *infos])))
    assert [frame.camera.matrix[0, 0] for frame in frames] == [70, 70, 70, 90, 90]


def test_rectified_topics_take_p(tmp_path):
    messages = [
        ("/scope/image_rect_color", raw_message(stamp_of(0), picture(0)), stamp_of(0)),
        (INFO, info_message(stamp_of(0)), stamp_of(0)),
    ]
    (frame,) = BagImages(write(tmp_path / "bag", messages))
    np.testing.assert_array_equal(frame.camera.matrix, [[85, 0, 30], [0, 85, 24], [0, 0, 1]])
    assert not frame.camera.distortion.any()


def test_no_camera_info_or_an_empty_one_is_no_camera(tmp_path):
    blank = info_message(0)
    blank.k[:] = blank.p[:] = 0
    messages = [(RAW, raw_message(stamp_of(0), picture(0)), stamp_of(0)), ("/other", blank, stamp_of(1))]
    folder = write(tmp_path / "bag", messages, empty=[(INFO, "sensor_msgs/msg/CameraInfo")])
    assert BagImages(folder)[0].camera is None
    assert BagImages(folder, camera_info="/other")[0].camera is None


def test_camera_info_that_is_absent_wrong_or_of_another_size(tmp_path):
    messages = [
        (RAW, raw_message(stamp_of(0), picture(0)), stamp_of(0)),
        ("/chatter", text_message(), stamp_of(1)),
        ("/large/camera_info", info_message(stamp_of(0), size=(640, 480)), stamp_of(2)),
        ("/cut/camera_info", ("sensor_msgs/msg/CameraInfo", bytes(40)), stamp_of(3)),
    ]
    folder = write(tmp_path / "bag", messages)
    with pytest.raises(ConfigError, match=r"/missing is not in it.*/large/camera_info"):
        BagImages(folder, camera_info="/missing")
    with pytest.raises(ConfigError, match=r"/chatter holds 1 messages of std_msgs/msg/String"):
        BagImages(folder, camera_info="/chatter")
    with pytest.raises(CalibrationError, match=r"bag, /scope/image_raw: .*640 x 480.*64 x 48"):
        BagImages(folder, camera_info="/large/camera_info")[0]
    with pytest.raises(CalibrationError, match="camera_info is damaged"):
        BagImages(folder, camera_info="/cut/camera_info")[0]
