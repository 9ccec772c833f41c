"""Stereo pairs of a bag: which frames belong together, and a synthetic rectified rig measured through them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from support.bags import (
    HEIGHT,
    PERIOD,
    SIZE,
    WIDTH,
    camera_messages,
    header,
    in_order,
    info_message,
    make,
    picture,
    raw_message,
    stamp_of,
    write,
)

from endomatch_ros.data.readers.bag_images import BagImages
from endomatch_ros.errors import CalibrationError, ConfigError, DataError

LEFT, RIGHT = "/left/image_raw", "/right/image_raw"
TX = -0.4  # P[0, 3] of the right camera; its focal length is 85 px, so the baseline is 0.4 / 85


def stereo_bag(folder, **right):
    return write(folder, in_order(camera_messages("left"), camera_messages("right", translation=TX, seed=50, **right)))


@pytest.mark.parametrize("late", [0, PERIOD // 2 - 1, 1 - PERIOD // 2])
def test_partners_are_paired_by_stamp(tmp_path, late):
    images = BagImages(stereo_bag(tmp_path / "bag", late=late), LEFT, partner_topic=RIGHT)
    assert images.pairs == 6
    for number, frame in enumerate(images):
        np.testing.assert_array_equal(frame.image, picture(number))
        np.testing.assert_array_equal(frame.partner.image, picture(number + 50))
        np.testing.assert_array_equal(frame.partner.camera.matrix, frame.camera.matrix)
        np.testing.assert_allclose(frame.partner.pose[:3, 3], (TX / 85, 0, 0))


def test_a_missing_partner_frame_is_not_made_up(tmp_path):
    images = BagImages(stereo_bag(tmp_path / "bag", numbers=(0, 1, 3, 5)), LEFT, partner_topic=RIGHT)
    assert images.pairs == 4
    for number in (0, 1, 2, 3, 4, 5, 1, 4, 3):
        frame = images[number]
        np.testing.assert_array_equal(frame.image, picture(number))
        if number in (2, 4):
            assert frame.partner is None
        else:
            np.testing.assert_array_equal(frame.partner.image, picture(number + 50))


def test_a_partner_is_no_ones_twice(tmp_path):
    """Left frames 1 and 2 in a hurry: the right one belongs to the nearer."""
    stamps = [0, PERIOD, PERIOD + PERIOD // 4, 3 * PERIOD]
    left = [("/left/image_raw", raw_message(stamp_of(0) + t, picture(t)), stamp_of(0) + t) for t in stamps]
    infos = [("/left/camera_info", info_message(stamp_of(0)), stamp_of(0))]
    right = camera_messages("right", numbers=(0, 1, 3), translation=TX)
    images = BagImages(write(tmp_path / "bag", in_order(left, infos, right)), LEFT, partner_topic=RIGHT)
    assert [frame.partner is not None for frame in images] == [True, True, False, True]
    assert images.pairs == 3


@pytest.mark.parametrize(("late", "apart"), [(60_000_000_000, "59800.0"), (PERIOD // 2, "20.0")])
def test_cameras_that_are_not_synchronised(tmp_path, late, apart):
    text = rf"no image of /right/image_raw is within 20.0 ms .*nearest is {apart} ms away"
    with pytest.raises(DataError, match=text):
        BagImages(stereo_bag(tmp_path / "bag", late=late), LEFT, partner_topic=RIGHT)


def test_a_partner_needs_a_calibration(tmp_path):
    folder = stereo_bag(tmp_path / "bag", info=False)
    with pytest.raises(CalibrationError, match=r"/right/image_raw has no camera_info; record it"):
        BagImages(folder, LEFT, partner_topic=RIGHT)
    with pytest.raises(ConfigError, match="/right/info is not in it"):
        BagImages(folder, LEFT, partner_topic=RIGHT, partner_camera_info="/right/info")
    with pytest.raises(CalibrationError, match=r"/left/image_raw and /right/image_raw: .*without a baseline"):
        BagImages(folder, LEFT, partner_topic=RIGHT, partner_camera_info="/left/camera_info")
    with pytest.raises(ConfigError, match="no topic /centre"):
        BagImages(folder, LEFT, partner_topic="/centre")


# A rig of unlike cameras, turned a little against each other, and the scene in the left camera's axes, metres.
K = np.array([[80.0, 0, 32], [0, 81, 23], [0, 0, 1]]), np.array([[78.0, 0, 31], [0, 79, 24.5], [0, 0, 1]])
D = np.array([-0.1, 0.03, 0.001, -0.001, 0.0]), np.array([-0.08, 0.02, 0.0, 0.001, 0.0])
ROTATION, TRANSLATION = cv2.Rodrigues(np.array([0.01, 0.04, -0.02]))[0], np.array([-0.005, 0.0003, 0.0002])
SCENE = np.random.default_rng(3).uniform((-0.015, -0.01, 0.06), (0.015, 0.01, 0.09), (30, 3))


def rig_infos(stamp):
    """camera_info of both cameras as a ROS stereo calibration publishes them, for raw and rectified images alike."""
    r1, r2, p1, p2, *_ = cv2.stereoRectify(K[0], D[0], K[1], D[1], SIZE, ROTATION, TRANSLATION[:, None], alpha=0)
    roi = make("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    fields = {"width": WIDTH, "height": HEIGHT, "distortion_model": "plumb_bob", "binning_x": 0, "binning_y": 0}
    return [
        make(
            "sensor_msgs/msg/CameraInfo",
            header=header(stamp),
            roi=roi,
            d=d,
            k=k.ravel(),
            r=r.ravel(),
            p=p.ravel(),
            **fields,
        )
        for k, d, r, p in ((K[0], D[0], r1, p1), (K[1], D[1], r2, p2))
    ], (r1, r2, p1, p2)


@pytest.mark.parametrize("name", ["image_raw", "image_rect"])
def test_the_scene_is_where_opencv_sees_it(tmp_path, name):
    """Points of the scene through frame.camera, partner.pose and partner.camera against OpenCV's projections."""
    infos, (r1, r2, p1, p2) = rig_infos(stamp_of(0))
    messages = [
        entry
        for side, info in zip(("left", "right"), infos, strict=True)
        for entry in (
            (f"/{side}/{name}", raw_message(stamp_of(0), picture(0)), stamp_of(0)),
            (f"/{side}/camera_info", info, stamp_of(0)),
        )
    ]
    folder = write(tmp_path / "bag", messages)
    (frame,) = BagImages(folder, f"/left/{name}", partner_topic=f"/right/{name}")
    pixels = [
        cv2.projectPoints(SCENE, cv2.Rodrigues(rotation)[0], translation, k, d)[0]
        for rotation, translation, k, d in zip((np.eye(3), ROTATION), (np.zeros(3), TRANSLATION), K, D, strict=True)
    ]
    scene = SCENE
    if name == "image_rect":
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
        rectifications = zip(pixels, K, D, (r1, r2), (p1, p2), strict=True)
        pixels = [cv2.undistortPoints(raw, k, d, R=r, P=p, criteria=criteria) for raw, k, d, r, p in rectifications]
        scene = SCENE @ r1.T
    partner = frame.partner
    moved = scene @ partner.pose[:3, :3].T + partner.pose[:3, 3]
    np.testing.assert_allclose(frame.camera.project(scene), pixels[0][:, 0], atol=1e-5)
    np.testing.assert_allclose(partner.camera.project(moved), pixels[1][:, 0], atol=1e-5)
    backwards = BagImages(folder, f"/right/{name}", partner_topic=f"/left/{name}")[0].partner
    np.testing.assert_allclose(backwards.pose, np.linalg.inv(partner.pose), atol=1e-12)
