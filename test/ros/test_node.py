"""The node's behaviour on real DDS, with a fake matcher: fields, stamps, lifecycle, parameters, services."""

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import SetBool, Trigger
from support.fakes import TRUE_POSE, pinhole, two_views
from support.ros import bench, texture, wait_until

from endomatch_ros.ros.messages.clouds import CLOUD_DTYPE, ns_to_stamp, stamp_to_ns, unpack_cloud, unpack_values
from endomatch_ros.ros.messages.images import to_compressed_message

WIDTH, HEIGHT = 160, 120


@pytest.fixture
def running():
    with bench() as current:
        yield current


def transition(client, code):
    request = ChangeState.Request(transition=Transition(id=code))
    return client.call(ChangeState, "endomatch/change_state", request).success


def test_a_pair_gives_the_documented_cloud(running):
    stamp, _ = running.matched()
    cloud = running.client.wait_stamped(running.client.clouds, stamp)
    assert cloud.header.frame_id == "scope_optical"
    names = ["x", "y", "z", "u", "v", "u_ref", "v_ref", "similarity", "epipolar_error", "inlier", "track_id", "dt"]
    assert [field.name for field in cloud.fields] == names
    points = unpack_cloud(cloud)
    assert points.dtype == CLOUD_DTYPE
    points0, points1 = two_views(60, WIDTH, HEIGHT)
    np.testing.assert_array_equal(np.stack([points["u"], points["v"]], 1), points1)
    np.testing.assert_array_equal(np.stack([points["u_ref"], points["v_ref"]], 1), points0)
    np.testing.assert_allclose(points["dt"], 0.1, atol=1e-9)
    np.testing.assert_array_equal(points["track_id"], np.arange(60))
    assert (points["epipolar_error"] < 1e-2).all()
    assert (points["inlier"] == 1).all()
    assert np.isnan(points["x"]).all()  # no camera_info
    assert not cloud.is_dense


def test_epipolar_error_has_the_documented_values(running):
    _, status = running.matched()
    values = unpack_values(status)
    assert list(values) == [
        "matches", "inliers", "inlier_ratio", "mean_px", "median_px", "p95_px", "rms_px", "coverage", "model",
        "matrix", "reference_stamp",
    ]  # fmt: skip
    assert status.level == DiagnosticStatus.OK
    assert (values["matches"], values["inliers"], values["model"]) == ("60", "60", "F")
    fundamental = np.array([float(v) for v in values["matrix"].split(",")]).reshape(3, 3)
    points0, points1 = (np.c_[p, np.ones(60)] for p in two_views(60, WIDTH, HEIGHT))
    residual = np.einsum("ni,ij,nj->n", points1, fundamental / np.linalg.norm(fundamental), points0)
    assert np.abs(residual).max() < 0.1
    assert values["reference_stamp"] == f"{running.client.clock / 1e9 - 0.1:.9f}"


def test_camera_info_adds_rays_and_relative_pose(running):
    info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5)
    info.k = pinhole(WIDTH, HEIGHT).ravel().tolist()
    wait_until(lambda: running.client.infos.get_subscription_count(), "the camera_info subscription")
    running.client.infos.publish(info)
    wait_until(lambda: running.node._session.channels[""].info, "camera_info")
    stamp, _ = running.matched()
    pose = running.client.wait_stamped(running.client.poses, stamp)
    position = pose.pose.position
    expected = np.linalg.inv(TRUE_POSE)[:3, 3]
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose([position.x, position.y, position.z], expected, atol=0.02)
    assert pose.pose.orientation.w == pytest.approx(1, abs=1e-3)
    points = unpack_cloud(running.client.wait_stamped(running.client.clouds, stamp))
    np.testing.assert_allclose(points["z"], 1)
    np.testing.assert_allclose(points["x"] * WIDTH + (WIDTH - 1) / 2, points["u"], atol=1e-3)


def test_contradictory_camera_info_is_named_and_matching_goes_on(running):
    info = CameraInfo(width=640, height=480, distortion_model="plumb_bob", k=pinhole(640, 480).ravel().tolist())
    wait_until(lambda: running.client.infos.get_subscription_count(), "the camera_info subscription")
    running.client.infos.publish(info)
    wait_until(lambda: running.node._session.channels[""].info, "camera_info")
    warnings = []
    running.node._session.channels[""].pipeline.calibration._on_warning = warnings.append
    _, status = running.matched()
    assert status.level == DiagnosticStatus.OK
    running.matched()
    assert len(warnings) == 1
    assert "640 x 480" in warnings[0]
    assert "160 x 120" in warnings[0]


def test_too_few_matches_are_an_error_with_the_reason(running):
    running.stream.count = 5
    _, status = running.matched()
    assert status.level == DiagnosticStatus.ERROR
    assert "5 matches" in status.message
    assert unpack_values(status)["model"] == "none"


def test_latest_frame_wins_while_the_matcher_is_busy(running):
    client, stream = running.client, running.stream
    running.matched()
    stream.gate.clear()
    before = stream.entered
    busy = client.send()
    wait_until(lambda: stream.entered > before, "the worker to hold the frame")
    stamps = []
    for waiting in range(5):
        stamps.append(client.send())
        wait_until(lambda n=waiting: running.counts().received >= 4 + n, "arrival")
    stream.gate.set()
    client.answer(busy)
    client.answer(stamps[-1])
    answered = {stamp_to_ns(message.header.stamp) for message in client.errors}
    assert not answered & set(stamps[:-1])
    client.wait_diagnostics("processing", lambda _, v: v["dropped_superseded"] == "4", "four superseded frames")


def test_visualization_is_made_only_for_a_subscriber(running, monkeypatch):
    drawn = []
    from endomatch_ros.ros import outputs

    original = outputs.draw_flow
    monkeypatch.setattr(outputs, "draw_flow", lambda *a, **k: drawn.append(1) or original(*a, **k))
    running.matched()
    running.matched()
    assert not drawn
    running.client.watch_pictures()
    wait_until(lambda: running.node._session._outputs[""]._picture.get_subscription_count(), "the subscriber")
    stamp, _ = running.matched()
    picture = running.client.wait_stamped(running.client.pictures, stamp)
    assert (picture.width, picture.height, picture.encoding) == (80, 60, "rgb8")


def test_lifecycle_round_trip_frees_and_reloads_the_model(running):
    client = running.client
    running.matched()
    assert transition(client, Transition.TRANSITION_DEACTIVATE)
    before = len(client.errors)
    client.send()
    client.wait_diagnostics("processing", lambda _, v: v["dropped_not_active"] == "1", "a frame counted as not_active")
    assert transition(client, Transition.TRANSITION_CLEANUP)
    assert running.node._session is None
    assert client.node.count_publishers("endomatch/correspondences") <= 1
    assert len(client.errors) == before
    assert transition(client, Transition.TRANSITION_CONFIGURE)
    assert transition(client, Transition.TRANSITION_ACTIVATE)
    assert len(running.loaded) == 2
    running.wait_connected()
    _, status = running.matched()
    assert status.level == DiagnosticStatus.OK


def test_shutdown_transition_ends_the_work(running):
    assert transition(running.client, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert running.state == "finalized"
    assert running.node._session is None


def test_without_autostart_the_node_waits():
    with bench({"autostart": False}, wait_active=False) as current:
        found = current.client.wait_diagnostics("input", lambda *_: True, "a report")
        assert current.state == "unconfigured"
        assert "unconfigured" in found[0].message
        assert not current.loaded
        assert transition(current.client, Transition.TRANSITION_CONFIGURE)
        assert current.state == "inactive"


def test_reset_makes_the_next_frame_the_reference(running):
    running.matched()
    assert running.client.call(Trigger, "endomatch/reset", Trigger.Request()).success
    before = len(running.client.errors)
    skipped = running.client.send()
    wait_until(lambda: running.counts().resets.get("service"), "the reset")
    stamp = running.client.send()
    running.client.answer(stamp)
    assert len(running.client.errors) == before + 1
    assert skipped not in {stamp_to_ns(m.header.stamp) for m in running.client.errors}


def test_enable_false_ignores_frames(running):
    running.matched()
    assert running.client.call(SetBool, "endomatch/enable", SetBool.Request(data=False)).success
    running.client.send()
    running.client.wait_diagnostics("processing", lambda _, v: v["dropped_disabled"] == "1", "a disabled frame")
    assert running.client.call(SetBool, "endomatch/enable", SetBool.Request(data=True)).success
    running.matched()


def test_a_stamp_in_the_past_or_another_size_starts_again(running):
    client = running.client
    running.matched()
    for image, stamp, cause in (
        (None, client.clock - 50_000_000, "stamp_backwards"),
        (texture(200, 100), None, "size_changed"),
    ):
        done = running.stream.done
        client.send(image, stamp)
        wait_until(lambda c=cause: running.counts().resets.get(c), "the reset")
        wait_until(lambda n=done: running.stream.done > n, "the new reference")
    stamp = client.send(texture(200, 100))
    client.answer(stamp)


def test_compressed_transport():
    with bench({"image_transport": "compressed"}) as current:
        client = current.client
        for stamp in (1_000_000_000, 1_100_000_000):
            before = current.stream.done
            client.jpegs.publish(to_compressed_message(texture(), ns_to_stamp(stamp), "scope_optical"))
            wait_until(lambda n=before: current.stream.done > n, "the frame to be taken")
        assert client.answer(stamp).level == DiagnosticStatus.OK


def test_reports_name_model_rate_and_latency(running):
    running.stream.dropped = {"dense_consistency": 5}
    running.matched()
    _, values = running.client.wait_diagnostics("model", lambda _, v: "sha256" in v, "the model's status")
    assert (values["name"], values["device"], values["sha256"]) == ("fake", "cpu", "0" * 64)
    _, values = running.client.wait_diagnostics("processing", lambda _, v: v["answered"] == "1", "one answer")
    assert float(values["latency_p50_ms"]) > 0
    assert values["matches_dropped_dense_consistency"] == "5"
    assert values["stamp_latency_p50_ms"] == ""  # the test's stamps are of another clock
    _, values = running.client.wait_diagnostics("input", lambda _, v: v["received"] == "2", "two frames")
    assert values["topic"] == "/image_raw"
