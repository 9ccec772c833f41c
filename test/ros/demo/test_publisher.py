"""The publisher reads through the same sources as everything else."""

from __future__ import annotations

import argparse
import itertools

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from support import bags
from support.videos import stereo_picture, write_video

from endomatch_ros.data.frames import Frame, StereoPartner
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.ros.demo import publisher
from endomatch_ros.ros.parameters import Settings
from endomatch_ros.ros.pipeline import _read_mask


def frames(*arguments: str) -> list[Frame]:
    args: argparse.Namespace = publisher._parser().parse_args(list(arguments))
    return list(publisher._frames(args))


@pytest.mark.parametrize("source", [["--source", "images"], []])
def test_pictures_come_in_the_natural_order_of_their_names(tmp_path, source):
    for number in (10, 2, 1):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((48, 64, 3), number, np.uint8))
    found = frames(*source, str(tmp_path), "--rate", "5")
    assert [frame.image[0, 0, 0] for frame in found] == [1, 2, 10]
    assert [frame.stamp for frame in found] == [0.0, 0.2, 0.4]
    assert [frame.stamp for frame in frames(*source, str(tmp_path), "--stamp-rate", "10")] == [0.0, 0.1, 0.2]


def test_any_source_can_be_published(tmp_path):
    video = write_video(tmp_path / "clip.avi", "MJPG")
    assert [frame.index for frame in frames(str(video), "--frames", "3:6")] == [3, 4, 5]
    bag = bags.write(tmp_path / "bag", bags.camera_messages())
    (first, *_) = frames(str(bag), "--image-topic", bags.RAW)
    assert np.array_equal(first.image, bags.picture(0))
    assert first.camera is not None
    (scene, *_) = frames("synthetic:3", "--frames", "0:1")
    assert scene.camera is not None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--source", "images"], "needs the path"),
        (["--source", "images", "{}/missing"], "no file or folder"),
        (["--source", "sfm", "{}"], "motion.yaml"),
        (["{}"], "holds nothing"),
        (["--stereo", "{}/clip.avi"], "no second camera"),
        (["--to-and-fro", "5"], "never ends"),
    ],
)
def test_a_source_that_cannot_be_is_an_error_before_anything_is_sent(tmp_path, arguments, text, capsys):
    write_video(tmp_path / "clip.avi", "MJPG", [stereo_picture("left-right")] * 2)
    (tmp_path / "empty").mkdir()
    folder = tmp_path if "clip" in arguments[-1] else tmp_path / "empty"
    with pytest.raises(DataError, match=text):
        frames(*(argument.format(folder) for argument in arguments))
    assert publisher.main([argument.format(folder) for argument in arguments]) == 2
    assert text in capsys.readouterr().err


def test_frames_without_partner_are_passed_over_in_stereo():
    image, camera = np.zeros((48, 64, 3), np.uint8), Camera(np.eye(3), np.zeros(5), "plumb_bob", (64, 48))
    whole = Frame(image, 0.0, 0, partner=StereoPartner(image, camera, np.eye(4)))
    alone = Frame(image, 1.0, 1)
    assert list(publisher.with_partners([whole, alone, whole])) == [whole, whole]
    assert list(publisher.with_partners([alone, alone, whole])) == [whole]
    for without in ([], [alone], itertools.repeat(alone)):
        with pytest.raises(DataError, match="no second camera"):
            next(publisher.with_partners(without))


def test_a_stereo_bag_whose_second_camera_begins_late_can_be_published(tmp_path):
    right = bags.camera_messages("right", numbers=(2, 3, 5), translation=-0.4, seed=50)
    bag = bags.write(tmp_path / "bag", bags.in_order(bags.camera_messages("left"), right))
    topics = ["--image-topic", "/left/image_raw", "--partner-topic", "/right/image_raw"]
    found = frames("--stereo", str(bag), *topics)
    assert [frame.index for frame in found] == [2, 3, 5]
    assert all(np.array_equal(frame.partner.image, bags.picture(frame.index + 50)) for frame in found)


def test_stamps_need_a_rate(tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(ConfigError, match="rate 0"):
        frames(str(tmp_path), "--stamp-rate", "0")


def test_a_mask_is_bright_inside_the_view_as_everywhere(tmp_path):
    levels = np.array([[0, 1, 127, 128, 255]] * 8, np.uint8)
    cv2.imwrite(str(tmp_path / "mask.png"), levels)
    assert _read_mask(str(tmp_path / "mask.png"))[0].tolist() == [False, False, False, True, True]
    assert _read_mask(Settings().mask_file) is None
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ConfigError, match=r"mask .*text\.png.* cannot be read as an image"):
        _read_mask(str(tmp_path / "text.png"))
