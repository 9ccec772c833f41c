"""Bags that cannot be read, or not all of them: what is said, and that the rest is read all the same."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionMode
from support.bags import (
    MCAP,
    RAW,
    SQLITE,
    START,
    STORE,
    camera_messages,
    compressed_message,
    in_order,
    picture,
    raw_message,
    stamp_of,
    text_message,
    write,
)

from endomatch_ros.data.readers.bag_images import BagImages
from endomatch_ros.errors import ConfigError, DataError, ImageError


def test_topics_are_not_guessed(tmp_path):
    both = in_order(camera_messages("left"), camera_messages("right"), [("/chatter", text_message(), START)])
    folder = write(tmp_path / "bag", both, empty=[("/spare/image_raw", "sensor_msgs/msg/Image")])
    with pytest.raises(
        ConfigError, match=r"several image topics; choose .*--image-topic.*/left/image_raw, /right/image"
    ):
        BagImages(folder)
    np.testing.assert_array_equal(BagImages(folder, "/right/image_raw")[1].image, picture(1))
    with pytest.raises(ConfigError, match=r"no topic /middle; .*/left/image_raw, /right/image_raw"):
        BagImages(folder, "/middle")
    with pytest.raises(ConfigError, match=r"/chatter is of type std_msgs/msg/String; .*/left/image_raw"):
        BagImages(folder, "/chatter")
    with pytest.raises(DataError, match="/spare/image_raw holds no message"):
        BagImages(folder, "/spare/image_raw")


def test_an_empty_image_topic_does_not_make_the_choice_hard(tmp_path):
    folder = write(tmp_path / "bag", camera_messages(), empty=[("/spare/image_raw", "sensor_msgs/msg/Image")])
    assert BagImages(folder).topic == RAW


def test_bags_without_images(tmp_path):
    with pytest.raises(DataError, match=r"holds no images.*only /chatter"):
        BagImages(write(tmp_path / "talk", [("/chatter", text_message(), START)]))
    with pytest.raises(DataError, match="/scope/image_raw holds no message"):
        BagImages(write(tmp_path / "dark", [], empty=[(RAW, "sensor_msgs/msg/Image")]))


def broken(kind):
    good = raw_message(stamp_of(2), picture(2))
    if kind == "unknown encoding":
        good.encoding = "rgb10"
    elif kind == "short data":
        good.data = good.data[:100]
    elif kind == "cut message":
        return ("sensor_msgs/msg/Image", bytes(STORE.serialize_cdr(good, good.__msgtype__))[:500])
    else:
        return ("sensor_msgs/msg/Image", b"")
    return good


@pytest.mark.parametrize("kind", ["unknown encoding", "short data", "cut message", "no bytes at all"])
@pytest.mark.parametrize("plugin", [MCAP, SQLITE])
def test_a_broken_image_in_the_middle_is_named_and_passed_over(tmp_path, plugin, kind):
    entries = list(camera_messages())
    position = next(k for k, entry in enumerate(entries) if entry[0] == RAW and entry[2] > stamp_of(2))
    arrival = entries[position][2]
    entries[position] = (RAW, broken(kind), arrival)
    images = BagImages(write(tmp_path / "bag", entries, plugin))
    stamp = arrival if kind == "no bytes at all" else stamp_of(2)
    for position in range(6):
        if position == 2:
            with pytest.raises(ImageError, match=rf"bag, /scope/image_raw, stamp {stamp / 1e9:.6f}: "):
                images[position]
        else:
            np.testing.assert_array_equal(images[position].image, picture(position))
    frames = iter(images)
    assert [next(frames).index, next(frames).index] == [0, 1]
    with pytest.raises(ImageError):
        next(frames)
    assert [frame.index for frame in frames] == [3, 4, 5]


def test_a_cut_jpeg_is_named(tmp_path):
    _, jpeg = cv2.imencode(".jpg", picture(0))
    topic = f"{RAW}/compressed"
    images = BagImages(write(tmp_path / "bag", [(topic, compressed_message(stamp_of(0), jpeg[:-200]), START)]))
    with pytest.raises(ImageError, match=r"image_raw/compressed, stamp .*no end marker"):
        images[0]


def data_file(folder):
    (file,) = (path for path in folder.iterdir() if path.suffix in (".mcap", ".db3"))
    return file


def cut(folder):
    data = data_file(folder).read_bytes()
    data_file(folder).write_bytes(data[: len(data) // 2])


DAMAGE = {
    "cut file": cut,
    "empty file": lambda folder: data_file(folder).write_bytes(b""),
    "another file": lambda folder: data_file(folder).write_bytes(bytes(range(256)) * 40),
    "no file": lambda folder: data_file(folder).unlink(),
    "empty metadata": lambda folder: (folder / "metadata.yaml").write_text(""),
    "cut metadata": lambda folder: (folder / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: 9}"),
    "binary metadata": lambda folder: (folder / "metadata.yaml").write_bytes(bytes(range(256))),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("plugin", [MCAP, SQLITE])
def test_a_damaged_bag_is_named_with_the_remedy(tmp_path, plugin, kind):
    folder = write(tmp_path / "bag", camera_messages(numbers=range(12)), plugin)
    DAMAGE[kind](folder)
    with pytest.raises(DataError, match=r"bag is damaged or incomplete \(.*ros2 bag reindex.*mcap recover") as caught:
        BagImages(folder)
    assert str(folder) in str(caught.value)


def test_damage_in_the_middle_of_a_file_with_a_sound_index(tmp_path):
    folder = write(tmp_path / "bag", camera_messages(numbers=range(12)), MCAP, CompressionMode.STORAGE)
    data = data_file(folder).read_bytes()
    start_of_a_chunk = data.index(b"\x28\xb5\x2f\xfd")
    data_file(folder).write_bytes(data[:start_of_a_chunk] + b"\0" + data[start_of_a_chunk + 1 :])
    with pytest.raises(DataError, match=r"is damaged or incomplete .*mcap recover"):
        BagImages(folder)


def test_fewer_messages_than_the_bag_says(tmp_path):
    folder = write(tmp_path / "bag", camera_messages(), SQLITE)
    metadata = folder / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("message_count: 6", "message_count: 7"))
    with pytest.raises(DataError, match=r"says that it holds 7 messages of /scope/\w+, but 6 can be read; .*reindex"):
        BagImages(folder)


def test_paths_that_are_no_bag(tmp_path):
    with pytest.raises(DataError, match=r"there is no bag .*nowhere; check the path"):
        BagImages(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no metadata.yaml.*\.mcap or \.db3 file itself.*ros2 bag reindex"):
        BagImages(tmp_path)
    for name, text in (("old.bag", "ROS 1 bag.*rosbags-convert"), ("film.mp4", r"no rosbag2; .*\.mcap or \.db3")):
        (tmp_path / name).write_bytes(b"something")
        with pytest.raises(ConfigError, match=text):
            BagImages(tmp_path / name)


@pytest.mark.parametrize("plugin", [MCAP, SQLITE])
def test_a_bag_that_goes_away_while_it_is_read(tmp_path, plugin):
    images = BagImages(write(tmp_path / "bag", camera_messages(), plugin))
    data_file(images.path).rename(tmp_path / "moved")
    with pytest.raises(DataError, match="is damaged or incomplete"):
        images[0]
    (tmp_path / "moved").rename(images.path / f"bag.{plugin.name.lower() if plugin == MCAP else 'db3'}")
    np.testing.assert_array_equal(images[0].image, picture(0))


def test_files_that_overlap_in_time(tmp_path):
    """Two files under one metadata.yaml, the later one first."""
    folder = write(tmp_path / "bag", camera_messages(numbers=range(3, 6)))
    other = write(tmp_path / "earlier", camera_messages(numbers=range(3)))
    data_file(other).rename(folder / "earlier.mcap")
    metadata = folder / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("  - bag.mcap", "  - bag.mcap\n  - earlier.mcap"))
    with pytest.raises(DataError, match=r"overlap in time; give the \.mcap or \.db3 files one by one"):
        BagImages(folder)
    metadata.write_text(
        metadata.read_text().replace("  - bag.mcap\n  - earlier.mcap", "  - earlier.mcap\n  - bag.mcap")
    )
    for number, frame in enumerate(BagImages(folder)):
        np.testing.assert_array_equal(frame.image, picture(number))
    assert number == 5
