"""Messages against their documented layout, camera_info against closed forms, the worker."""

import threading

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CameraInfo, PointField, RegionOfInterest

from endomatch_ros.errors import CalibrationError, DataError
from endomatch_ros.matching.types import Matches
from endomatch_ros.ros.messages.calibration import to_camera, to_camera_info
from endomatch_ros.ros.messages.clouds import (
    CLOUD_DTYPE,
    make_points,
    ns_to_stamp,
    pack_cloud,
    pack_pose,
    stamp_to_ns,
    unpack_cloud,
    unpack_values,
)
from endomatch_ros.ros.messages.verdict import Limits, error_values, judge, pack_error
from endomatch_ros.ros.sync import FrameBuffer
from endomatch_ros.ros.worker import Worker

STAMP = Time(sec=12, nanosec=345)


def some_matches(count=40):
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (2, count, 2)).astype(np.float32)
    tracks = np.arange(count, dtype=np.uint32) + 4_000_000_000
    stamps = {"stamp0": 10_900_000_000, "stamp1": 11_000_000_000}
    return Matches(*points, np.linspace(0, 1, count, dtype=np.float32), tracks, (100, 100), (100, 100), **stamps)


def some_points(count=40, rays=True):
    matches = some_matches(count)
    directions = np.c_[np.random.default_rng(1).normal(size=(count, 2)), np.ones(count)] if rays else None
    return make_points(matches, np.linspace(0, 3, count), np.arange(count) % 2 == 0, directions), matches


def test_cloud_layout_is_aligned_and_as_documented():
    cloud = pack_cloud(some_points()[0], STAMP, "optical")
    layout = [(f.name, f.offset, f.datatype, f.count) for f in cloud.fields]
    floats = ["x", "y", "z", "u", "v", "u_ref", "v_ref", "similarity", "epipolar_error", "inlier"]
    assert layout == [
        *((name, 4 * i, PointField.FLOAT32, 1) for i, name in enumerate(floats)),
        ("track_id", 40, PointField.UINT32, 1),
        ("dt", 48, PointField.FLOAT64, 1),
    ]
    assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (1, 40, 56, 40 * 56)
    assert len(cloud.data) == 40 * 56
    assert cloud.is_dense
    assert not cloud.is_bigendian
    assert cloud.header.stamp == STAMP


@pytest.mark.parametrize("count", [0, 1, 40])
def test_cloud_round_trip(count):
    points, matches = some_points(count)
    read = unpack_cloud(pack_cloud(points, STAMP, "optical"))
    assert read.dtype == CLOUD_DTYPE
    for name in CLOUD_DTYPE.names:
        np.testing.assert_array_equal(read[name], points[name])
    np.testing.assert_array_equal(read["track_id"], matches.track_ids)
    np.testing.assert_allclose(read["dt"], 0.1)


def test_uncalibrated_cloud_has_nan_rays_and_is_not_dense():
    cloud = pack_cloud(some_points(rays=False)[0], STAMP, "optical")
    assert not cloud.is_dense
    assert np.isnan(unpack_cloud(cloud)["z"]).all()


def test_big_endian_and_padded_rows_of_others_are_read():
    cloud = pack_cloud(some_points(4)[0], STAMP, "optical")
    swapped = unpack_cloud(cloud).astype(unpack_cloud(cloud).dtype.newbyteorder(">"))
    rows = np.frombuffer(swapped.tobytes(), np.uint8).reshape(2, -1)
    cloud.height, cloud.width, cloud.is_bigendian = 2, 2, True
    padded = np.hstack([rows, np.zeros((2, 8), np.uint8)])
    cloud.row_step, cloud.data = padded.shape[1], padded.tobytes()
    np.testing.assert_array_equal(unpack_cloud(cloud)["u"], some_points(4)[0]["u"])


def test_a_short_cloud_is_refused():
    cloud = pack_cloud(some_points()[0], STAMP, "optical")
    cloud.data = cloud.data[:-1]
    with pytest.raises(DataError, match="announced"):
        unpack_cloud(cloud)


def test_stamps_round_trip():
    assert stamp_to_ns(ns_to_stamp(1_700_000_000_123_456_789)) == 1_700_000_000_123_456_789


def test_error_figures_against_numpy():
    error = np.array([0.5, 1.0, 2.0, np.nan])
    figures = error_values(some_matches(4), error, np.array([True, True, False, False]), "F", np.eye(3))
    assert figures["matches"] == 4
    assert figures["inlier_ratio"] == 0.5
    assert figures["mean_px"] == pytest.approx(3.5 / 3)
    assert figures["median_px"] == 1.0
    assert figures["rms_px"] == pytest.approx(np.sqrt((0.25 + 1 + 4) / 3))
    assert figures["p95_px"] == pytest.approx(np.percentile([0.5, 1, 2], 95))
    message = pack_error(figures, DiagnosticStatus.OK, "fine", STAMP, "optical", "name", "id")
    values = unpack_values(message.status[0])
    assert values["matrix"] == "1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0"
    assert values["reference_stamp"] == "10.900000000"
    assert float(values["mean_px"]) == figures["mean_px"]


def test_no_known_error_gives_nan_without_a_warning():
    figures = error_values(some_matches(0), np.zeros(0), np.zeros(0, bool), "none", None)
    assert np.isnan(figures["median_px"])
    assert figures["inlier_ratio"] == 0


@pytest.mark.parametrize(
    ("changes", "level", "text"),
    [
        ({}, DiagnosticStatus.OK, "200 matches"),
        ({"matches": 29}, DiagnosticStatus.ERROR, "min_matches 30"),
        ({"model": "none"}, DiagnosticStatus.ERROR, "because"),
        ({"median_px": 5.1}, DiagnosticStatus.ERROR, "error_median_px"),
        ({"median_px": float("nan")}, DiagnosticStatus.ERROR, "error_median_px"),
        ({"median_px": 1.6}, DiagnosticStatus.WARN, "warn_median_px"),
        ({"inlier_ratio": 0.4}, DiagnosticStatus.WARN, "min_inlier_ratio"),
    ],
)
def test_levels_and_reasons(changes, level, text):
    figures = {"matches": 200, "inlier_ratio": 0.9, "median_px": 0.4, "model": "F", **changes}
    assert judge(figures, Limits(), "because")[0] == level
    assert text in judge(figures, Limits(), "because")[1]


def test_a_scope_at_rest_is_no_error():
    figures = {"matches": 200, "inlier_ratio": 0.0, "median_px": float("nan"), "model": "none"}
    assert judge(figures, Limits(), "no motion", still=True)[0] == DiagnosticStatus.WARN


@pytest.mark.parametrize("vector", [(0, 0, 0), (0.3, -0.2, 0.1), (np.pi, 0, 0), (0, 1e-9, 0)])
def test_relative_pose_is_the_current_camera_in_the_reference_frame(vector):
    rotation = cv2.Rodrigues(np.array(vector, np.float64))[0]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, (0.6, 0, 0.8)
    message = pack_pose(pose, STAMP, "optical").pose
    q = message.orientation
    x, y, z, w = q.x, q.y, q.z, q.w
    matrix = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    position = np.array([message.position.x, message.position.y, message.position.z])
    np.testing.assert_allclose(matrix, rotation.T, atol=1e-9)
    np.testing.assert_allclose(rotation @ position + pose[:3, 3], 0, atol=1e-12)  # the camera's centre maps to 0
    assert np.linalg.norm(position) == pytest.approx(1)


def some_info(**changes):
    k = [500.0, 0.0, 319.5, 0.0, 510.0, 239.5, 0.0, 0.0, 1.0]
    values = {"width": 640, "height": 480, "distortion_model": "plumb_bob", "d": [0.1, -0.05, 0.001, 0.002, 0.01]}
    return CameraInfo(**{**values, "k": k, **changes})


def test_camera_info_round_trip():
    camera = to_camera(some_info(), (640, 480))
    again = to_camera(to_camera_info(camera, STAMP, "optical"), (640, 480))
    np.testing.assert_array_equal(again.matrix, camera.matrix)
    np.testing.assert_array_equal(again.distortion, camera.distortion)


def test_zero_k_is_uncalibrated():
    assert to_camera(CameraInfo(width=640, height=480), (640, 480)) is None


def test_binning_and_region_move_the_principal_point_by_pixel_centres():
    info = some_info(binning_x=2, binning_y=2, roi=RegionOfInterest(x_offset=100, y_offset=40, width=400, height=300))
    camera = to_camera(info, (200, 150))
    full = np.array([[500.0, 0, 319.5], [0, 510, 239.5], [0, 0, 1]])
    ray = np.array([0.03, -0.02, 1.0])
    u, v = (full @ ray)[:2]
    expected = [(u - 100 + 0.5) / 2 - 0.5, (v - 40 + 0.5) / 2 - 0.5]
    np.testing.assert_allclose((camera.matrix @ ray)[:2], expected)


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (some_info(width=1280), "1280 x 480"),
        (some_info(distortion_model="thin_prism"), "thin_prism"),
        (some_info(binning_x=2, binning_y=2), "320 x 240"),
        (some_info(k=[-500.0, 0.0, 319.5, 0.0, 510.0, 239.5, 0.0, 0.0, 1.0]), "-500"),
    ],
)
def test_contradictions_are_named(info, text):
    with pytest.raises(CalibrationError, match=text):
        to_camera(info, (640, 480))


def test_rectified_images_use_p_and_no_distortion():
    p = [400.0, 0.0, 320.0, -20.0, 0.0, 400.0, 240.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    camera = to_camera(some_info(p=p), (640, 480), rectified=True)
    np.testing.assert_array_equal(camera.matrix, [[400, 0, 320], [0, 400, 240], [0, 0, 1]])
    assert not camera.distortion.any()


def test_worker_takes_the_latest_and_survives_errors():
    gate, done, failed = threading.Event(), [], []
    finished = threading.Event()

    def process(item):
        assert gate.wait(10)
        if item == "bad":
            raise ValueError(item)
        done.append(item)
        if item == "last":
            finished.set()

    started = threading.Event()
    dropped = []
    worker = Worker(
        FrameBuffer([""]),
        lambda items: (started.set(), process(items[""])),
        lambda items, error: failed.append(items[""]),
        lambda camera, cause: dropped.append((camera, cause)),
    )
    worker.submit("", "bad", 0)
    assert started.wait(10)
    worker.submit("", "old", 1)
    assert dropped == []
    worker.submit("", "last", 2)
    assert dropped == [("", "superseded")]  # the old one
    gate.set()
    assert finished.wait(10)
    assert (done, failed) == (["last"], ["bad"])
    assert worker.stop()


def test_worker_gives_a_lonely_frame_out_when_its_patience_ends():
    taken, done = [], threading.Event()
    worker = Worker(
        FrameBuffer(["left", "right"]),
        lambda items: (taken.append(items), done.set()),
        lambda *_: None,
        lambda *_: None,
    )
    worker.submit("left", "l", 0, patience=0.05)
    assert done.wait(10)
    assert taken == [{"left": "l"}]
    assert worker.stop()


def test_stopping_drops_what_waits():
    gate, started, done = threading.Event(), threading.Event(), []

    def process(items):
        started.set()
        assert gate.wait(10)
        done.append(items[""])

    worker = Worker(FrameBuffer([""]), process, lambda *_: None, lambda *_: None)
    worker.submit("", 1, 0)
    assert started.wait(10)
    worker.submit("", 2, 1)
    assert not worker.stop(timeout=0)
    gate.set()
    assert worker.stop()
    assert done == [1]
