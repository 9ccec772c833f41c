"""Which calibration is in use, or why none is, as ``/diagnostics`` tells; read once per content of camera_info."""

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo
from support.fakes import pinhole
from support.ros import bench, wait_until

from endomatch_ros.ros.calibration import Calibration

SIZE = (640, 480)
PAIR = {"cameras": ["left", "right"], "mode": "stereo"}


def some_info(**changes):
    info = CameraInfo(width=640, height=480, distortion_model="plumb_bob", d=[0.1, 0.0, 0.0, 0.0, 0.0])
    info.k = [500.0, 0.0, 319.5, 0.0, 510.0, 239.5, 0.0, 0.0, 1.0]
    info.p = [400.0, 0.0, 320.0, 0.0, 0.0, 410.0, 240.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    for name, value in changes.items():
        setattr(info, name, value)
    return info


@pytest.mark.parametrize(
    ("changes", "rectified", "text"),
    [
        ({}, False, "plumb_bob, 640 x 480 px, focal lengths 500.0, 510.0 px"),
        ({}, True, "rectified, 640 x 480 px, focal lengths 400.0, 410.0 px"),
        ({"d": [], "distortion_model": ""}, False, "no distortion, 640 x 480 px, focal lengths 500.0, 510.0 px"),
        ({"k": [0.0] * 9}, False, "none: K of camera_info is all zero, which means uncalibrated"),
        ({"p": [0.0] * 12}, True, "none: P of camera_info is all zero, which means uncalibrated"),
    ],
)
def test_what_is_read_is_told_and_is_no_warning(changes, rectified, text):
    warnings = []
    calibration = Calibration(warnings.append)
    camera = calibration.camera(some_info(**changes), SIZE, rectified)
    assert calibration.text == text
    assert (camera is None) == text.startswith("none: ")
    assert not warnings


@pytest.mark.parametrize(
    ("changes", "reason"), [({"width": 1280}, "1280 x 480"), ({"distortion_model": "thin_prism"}, "thin_prism")]
)
def test_what_is_refused_is_told_with_the_reason_and_warned_of_once(changes, reason):
    warnings = []
    calibration = Calibration(warnings.append)
    for _ in range(3):
        assert calibration.camera(some_info(**changes), SIZE, False) is None
    assert calibration.text.startswith("none: ")
    assert reason in calibration.text
    assert len(warnings) == 1
    assert reason in warnings[0]
    # Mended while the node runs.
    assert calibration.camera(some_info(), SIZE, False) is not None
    assert calibration.text.startswith("plumb_bob")


def test_the_same_content_is_the_same_camera():
    calibration = Calibration(print)
    camera = calibration.camera(some_info(), SIZE, False)
    assert calibration.camera(some_info(), SIZE, False) is camera
    assert calibration.camera(some_info(k=(2 * np.eye(3)).ravel().tolist()), SIZE, False) is not camera


def publish(current, camera="", **changes):
    client, channel = current.clients[camera], current.node._session.channels[camera]
    before = channel.info
    wait_until(lambda: client.infos.get_subscription_count(), "the camera_info subscription")
    info = CameraInfo(width=160, height=120, distortion_model="plumb_bob", k=pinhole(160, 120).ravel().tolist())
    for name, value in changes.items():
        setattr(info, name, value)
    client.infos.publish(info)
    wait_until(lambda: channel.info is not before, "camera_info")


def told(current, text, part="processing"):
    return current.client.wait_diagnostics(part, lambda _, v: text in v["calibration"], text)[1]["calibration"]


def test_diagnostics_follow_the_calibration_of_a_camera():
    with bench({"autostart": False}, wait_active=False) as current:
        assert told(current, "") == ""  # not configured
    with bench(cli_args=["-r", "camera_info:=/elsewhere"]) as current:
        assert told(current, "none") == "none: no camera_info received on /elsewhere"
    with bench() as current:
        current.settled()
        assert told(current, "none") == "none: no camera_info received on /camera_info"
        publish(current)
        assert told(current, "no image") == "none: camera_info received, but no image after it"
        current.settled()
        assert told(current, "focal") == "no distortion, 160 x 120 px, focal lengths 160.0, 160.0 px"
        publish(current, k=[0.0] * 9)
        current.settled()
        assert "K of camera_info" in told(current, "all zero")
        publish(current, width=640)
        current.settled()
        assert told(current, "publish the calibration of this resolution").startswith("none: camera_info describes")


def test_diagnostics_follow_the_calibration_of_a_pair():
    matrix = pinhole(160, 120)

    def send(stamp):
        for camera in ("left", "right"):
            current.clients[camera].send(stamp=stamp)
        current.client.answer(stamp)

    with bench(PAIR, clients=("stereo", "left", "right")) as current:
        pair = "stereo processing"
        assert told(current, "none", pair) == "none: no pair has been matched yet"
        publish(current, "left", p=np.column_stack([matrix, [0, 0, 0]]).ravel().tolist(), r=np.eye(3).ravel().tolist())
        send(10**9)
        assert told(current, "uncalibrated", pair) == "none: a camera of the pair is uncalibrated"
        assert told(current, "focal", "left processing").startswith("no distortion")
        assert told(current, "none", "right processing") == "none: no camera_info received on /right/camera_info"
        publish(current, "right", p=np.column_stack([matrix, [0, 0, 0]]).ravel().tolist(), r=np.eye(3).ravel().tolist())
        send(2 * 10**9)
        assert told(current, "baseline", pair).startswith("none: P of the two camera_info is without a baseline")
        shifted = np.column_stack([matrix, [-160 * 0.0045, 0, 0]]).ravel().tolist()
        publish(current, "right", p=shifted, r=np.eye(3).ravel().tolist())
        send(3 * 10**9)
        assert told(current, "mm", pair) == "stereo pair, baseline 4.50 mm"
