"""Several cameras in one node, stereo pairs, keyframes, regions: on real DDS, with a fake matcher."""

import numpy as np
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import Trigger
from support.fakes import TRUE_POSE, pinhole, two_views
from support.ros import Bench, bench, texture, wait_until

from endomatch_ros.data.clouds import STEREO_DTYPE
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.ros.messages.calibration import to_camera_info
from endomatch_ros.ros.messages.clouds import ns_to_stamp, stamp_to_ns, unpack_cloud, unpack_values

WIDTH, HEIGHT = 160, 120
OK, WARN, ERROR = b"\x00", b"\x01", b"\x02"
LEFT_RIGHT = ("left", "right")


@pytest.fixture
def rig():
    with bench({"cameras": ["left", "right"], "batch_wait_s": 1.0}, clients=LEFT_RIGHT) as current:
        yield current


@pytest.fixture
def stereo():
    parameters = {"cameras": ["left", "right"], "mode": "stereo", "rectified": True}
    with bench(parameters, clients=("stereo", *LEFT_RIGHT)) as current:
        yield current


def send_both(current: Bench, stamp: int, offset: int = 0, settle: bool = True) -> None:
    """Send a frame of each camera and wait until both are through the matcher."""
    done = [stream.done for stream in current.streams]
    current.clients["left"].send(stamp=stamp)
    current.clients["right"].send(stamp=stamp + offset)
    if settle:
        wait_until(lambda: all(s.done > n for s, n in zip(current.streams, done, strict=True)), "both frames")


def calibrate(current: Bench, baseline: float = 0.004) -> None:
    for camera, shift in (("left", 0.0), ("right", baseline)):
        info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob")
        matrix = pinhole(WIDTH, HEIGHT)
        info.k, info.r = matrix.ravel().tolist(), np.eye(3).ravel().tolist()
        info.p = np.column_stack([matrix, [-matrix[0, 0] * shift, 0, 0]]).ravel().tolist()
        current.clients[camera].infos.publish(info)
        wait_until(lambda c=camera: current.node._session.channels[c].info, "camera_info")


def set_parameters(client, **values):
    kinds = {
        str: ("string_value", ParameterType.PARAMETER_STRING),
        float: ("double_value", ParameterType.PARAMETER_DOUBLE),
    }
    kinds[list] = ("integer_array_value", ParameterType.PARAMETER_INTEGER_ARRAY)
    request = SetParameters.Request()
    for name, value in values.items():
        field, code = kinds[type(value)]
        message = ParameterValue(type=code)
        setattr(message, field, value)
        request.parameters.append(Parameter(name=name, value=message))
    return client.call(SetParameters, "endomatch/set_parameters", request).results


def test_each_camera_has_its_own_topics_and_state(rig):
    left, right = rig.clients.values()
    send_both(rig, 10**9)
    send_both(rig, 2 * 10**9)
    for client in (left, right):
        assert client.wait_stamped(client.clouds, 2 * 10**9).width == 60
        assert client.answer(2 * 10**9).name == f"/endomatch: {client.camera} epipolar error"
    # Left starts again, right goes on.
    left.send(stamp=10**9)
    right.send(stamp=3 * 10**9)
    right.answer(3 * 10**9)
    assert rig.counts("left").resets.get("stamp_backwards") == 1
    assert "stamp_backwards" not in rig.counts("right").resets
    assert len(left.errors) == 1


def test_frames_of_one_moment_share_a_pass_of_the_network(rig):
    matcher = rig.node._session.matcher
    for stamp in (10**9, 2 * 10**9):
        send_both(rig, stamp, offset=5_000_000)
    assert matcher.batches == [2, 2]


def test_a_camera_alone_is_matched_after_the_wait(rig):
    results = set_parameters(rig.client, batch_wait_s=0.01)
    assert results[0].successful
    left = rig.clients["left"]
    for stamp in (10**9, 2 * 10**9):
        left.send(stamp=stamp)
        wait_until(lambda s=stamp: rig.streams[0].done >= s // 10**9, "the frame")
    left.answer(2 * 10**9)
    assert rig.node._session.matcher.batches == [1, 1]


def test_diagnostics_are_by_camera(rig):
    left, right = rig.clients.values()
    send_both(rig, 10**9)
    send_both(rig, 2 * 10**9)
    right.answer(2 * 10**9)
    left.send(stamp=3 * 10**9, encoding="unheard_of")
    _, values = left.wait_diagnostics("left processing", lambda _, v: v["dropped_bad_encoding"] == "1", "the drop")
    assert (values["tracks_alive"], values["track_frames_p50"], values["track_frames_max"]) == ("4", "2.5", "9.0")
    _, other = left.diagnostics(": right processing")
    assert other["dropped_bad_encoding"] == "0"
    _, values = left.diagnostics(": left input")
    assert values["topic"] == "/left/image_raw"
    assert left.diagnostics(": model") is not None
    assert left.diagnostics("stereo processing") is None


def test_a_camera_without_images_is_told_what_is_published():
    with bench({"cameras": ["left", "right"], "input_timeout_s": 0.2}, clients=("",)) as current:
        status, _ = current.client.wait_diagnostics(": left input", lambda s, _: s.level == WARN, "the warning")
        assert "nobody publishes it" in status.message
        assert "(there are: /image_raw)" in status.message  # and not /right/image_raw, to which the node listens itself


def test_a_bad_frame_of_one_camera_does_not_cost_the_other(rig):
    left, right = rig.clients.values()
    send_both(rig, 10**9)
    left.send(stamp=2 * 10**9, encoding="unheard_of")
    right.send(stamp=2 * 10**9)
    assert right.answer(2 * 10**9).level == OK
    assert "bad_encoding" in left.answer(2 * 10**9).message


def test_a_camera_may_have_its_own_region():
    parameters = {"cameras": ["left", "right"], "roi": [0, 0, 100, 100], "right.roi": [10, 10, 80, 80]}
    with bench(parameters, clients=LEFT_RIGHT) as current:
        asked = current.matchers[0].asked
        send_both(current, 10**9)
        assert sorted(call.roi for call in asked) == [(0, 0, 100, 100), (10, 10, 80, 80)]
        # It changes while the node runs, for one camera alone, and what does not fit is refused with the reason.
        assert set_parameters(current.client, **{"left.roi": [0, 0, 64, 64]})[0].successful
        refused = set_parameters(current.client, **{"left.roi": [0, 0, 5, 5]})[0]
        assert not refused.successful
        assert "left.roi" in refused.reason
        assert "at least 32" in refused.reason
        asked.clear()
        send_both(current, 2 * 10**9)
        assert sorted(call.roi for call in asked) == [(0, 0, 64, 64), (10, 10, 80, 80)]


def test_a_camera_may_have_its_own_mask():
    with bench({"cameras": ["left", "right"], "left.mask": "none"}, clients=LEFT_RIGHT) as current:
        asked = current.matchers[0].asked
        for level, camera in ((10, "left"), (20, "right")):
            current.clients[camera].send(np.full((HEIGHT, WIDTH, 3), level, np.uint8), stamp=10**9)
        wait_until(lambda: len(asked) == 2, "both frames")
        assert {call.level: call.auto for call in asked} == {10: False, 20: True}


def test_the_models_own_value_comes_back_for_all_cameras():
    parameters = {"cameras": ["left", "right"], "similarity_threshold": 0.9}
    with bench(parameters, clients=LEFT_RIGHT) as current:
        channels, own = current.node._session.channels, current.matchers[0].config
        send_both(current, 10**9)
        assert [channel.pipeline.matcher.config.similarity_threshold for channel in channels.values()] == [0.9, 0.9]
        assert set_parameters(current.client, similarity_threshold="model")[0].successful
        send_both(current, 2 * 10**9)
        assert [channel.pipeline.matcher.config for channel in channels.values()] == [own, own]


def test_a_region_beyond_the_image_is_told_and_counted():
    with bench({"roi": [100, 100, 100, 100]}) as current:
        status = current.client.answer(current.client.send())
        assert status.level == ERROR
        assert "roi" in status.message
        assert "160x120" in status.message
        assert current.counts().drops["bad_image"] == 1


def test_a_network_that_fails_fails_each_frame_once(rig):
    left, right = rig.clients.values()
    matcher = rig.node._session.matcher
    matcher.describe = lambda frames: 1 / 0
    left.send(stamp=10**9, encoding="unheard_of")
    right.send(stamp=10**9)
    assert "division" in right.answer(10**9).message
    left.answer(10**9)
    assert rig.counts("left").drops == {"bad_encoding": 1}
    assert rig.counts("right").drops == {"matching_failed": 1}


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"cameras": ["left", "left"]}, "different names"),
        ({"cameras": ["Left"]}, "small letters"),
        ({"cameras": ["left", "stereo"]}, "stereo"),
        ({"cameras": ["left"], "mode": "stereo"}, "cameras is"),
        ({"mode": "both"}, "cameras is"),
        ({"roi": [1, 2, 3]}, "x, y, width, height"),
        ({"reference": "first"}, "previous, keyframe"),
    ],
)
def test_contradictory_parameters_end_the_start_with_the_reason(parameters, problem):
    with pytest.raises(Exception, match=problem), bench(parameters, wait_active=False):
        pass


def test_stereo_matches_against_the_calibrated_geometry(stereo):
    calibrate(stereo)
    send_both(stereo, 10**9, offset=3_000_000)
    client = stereo.client
    stamp = 10**9 + 3_000_000  # the second camera's: its image is the current one
    points = unpack_cloud(client.wait_stamped(client.clouds, stamp))
    figures = unpack_values(client.answer(stamp))
    before, after = two_views(60, WIDTH, HEIGHT)
    # Rectified: the error is the difference of the rows.
    expected = np.abs(before[:, 1] - after[:, 1])
    np.testing.assert_allclose(points["epipolar_error"], expected, atol=1e-3)
    assert np.array_equal(points["inlier"] == 1, expected <= 1.0)
    np.testing.assert_allclose(points["dt"], 0.003, atol=1e-9)
    assert figures["model"] == "E"
    assert float(figures["reference_stamp"]) == 1.0
    assert not stereo.clients["left"].errors  # no temporal matching in this mode


def test_stereo_points_are_metric_in_the_first_camera(stereo):
    baseline = 0.004
    calibrate(stereo, baseline)
    rng = np.random.default_rng(5)
    world = rng.uniform((-0.02, -0.015, 0.05), (0.02, 0.015, 0.1), (40, 3))
    seen = [(world - (shift, 0, 0)) @ pinhole(WIDTH, HEIGHT).T for shift in (0.0, baseline)]
    before, after = ((s[:, :2] / s[:, 2:]).astype(np.float32) for s in seen)
    after[0, 1] += 5  # a wrong match has no point
    after[1] = before[1] + (3, 0)  # nor has one behind the cameras
    stereo.streams[0].views = before, after
    client = stereo.client
    send_both(stereo, 10**9)
    points = unpack_cloud(client.wait_stamped(client.points, 10**9))
    assert points.dtype == STEREO_DTYPE
    assert points["track_id"].tolist() == list(range(2, 40))
    np.testing.assert_allclose(np.stack([points[axis] for axis in "xyz"], 1), world[2:], rtol=1e-3, atol=1e-6)
    x, y = np.round(before[2:]).astype(int).T
    colours = points["rgb"].copy().view(np.uint32)
    red, green, blue = texture()[y, x].T.astype(np.uint32)
    assert np.array_equal(colours, red << 16 | green << 8 | blue)


def test_a_calibration_of_which_only_the_rectification_changes_is_taken_up():
    parameters = {"cameras": ["left", "right"], "mode": "stereo"}
    with bench(parameters, clients=("stereo", *LEFT_RIGHT)) as current:
        calibrate(current)
        send_both(current, 10**9)
        before = unpack_cloud(current.client.wait_stamped(current.client.clouds, 10**9))
        info = current.node._session.channels["right"].info
        info.r = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0]
        current.clients["right"].infos.publish(info)
        wait_until(lambda: current.node._session.channels["right"].info is not info, "camera_info")
        send_both(current, 2 * 10**9)
        after = unpack_cloud(current.client.wait_stamped(current.client.clouds, 2 * 10**9))
        assert not np.allclose(before["epipolar_error"], after["epipolar_error"], equal_nan=True)


def test_stereo_without_calibration_estimates_the_geometry(stereo):
    send_both(stereo, 10**9)
    figures = unpack_values(stereo.client.answer(10**9))
    assert figures["model"] == "F"
    assert not stereo.client.points


def test_stamps_that_never_agree_are_counted_and_explained(stereo):
    set_parameters(stereo.client, input_timeout_s=0.2)
    client = stereo.clients["left"]
    stamp = [10**9]

    def explained():
        stamp[0] += 33_000_000
        send_both(stereo, stamp[0], offset=15_000_000, settle=False)
        found = client.diagnostics("stereo processing")
        return found and found[0].level == WARN and found

    status, _ = wait_until(explained, "the warning")
    assert "15.0 ms" in status.message
    assert "sync_tolerance_s" in status.message
    assert stereo.counts("left").drops["unpaired"] > 0
    assert stereo.node._session.matcher.batches == []


def test_both_modes_share_the_track_ids():
    with bench({"cameras": ["left", "right"], "mode": "both"}, clients=("stereo", *LEFT_RIGHT)) as current:
        for stamp in (10**9, 2 * 10**9):
            send_both(current, stamp)
            current.client.answer(stamp)
        assert current.clients["left"].answer(2 * 10**9).level == OK
        assert current.node._session.matcher.batches == [2, 2]


def test_no_stereo_pair_of_two_moments_where_the_first_camera_failed():
    with bench({"cameras": ["left", "right"], "mode": "both"}, clients=("stereo", *LEFT_RIGHT)) as current:
        send_both(current, 10**9)
        current.client.answer(10**9)
        current.streams[0].fail_with = RuntimeError("broken")
        send_both(current, 2 * 10**9)
        assert "broken" in current.clients["left"].answer(2 * 10**9).message
        send_both(current, 3 * 10**9)
        current.client.answer(3 * 10**9)
        assert [stamp_to_ns(message.header.stamp) for message in current.client.errors] == [10**9, 3 * 10**9]


def test_keyframe_stays_until_it_is_set_anew():
    with bench({"reference": "keyframe"}) as current:
        client = current.client
        first = current.settled()
        for _ in range(2):
            stamp = client.send()
            assert float(unpack_values(client.answer(stamp))["reference_stamp"]) == first / 1e9
        reply = client.call(Trigger, "endomatch/set_keyframe", Trigger.Request())
        assert reply.success
        newest, stamp = stamp, client.send()
        assert float(unpack_values(client.answer(stamp))["reference_stamp"]) == newest / 1e9
        assert current.counts().keyframes == {"first": 1, "service": 1}
        # Back to consecutive frames.
        assert set_parameters(client, reference="previous")[0].successful
        before = current.settled()
        after = client.send()
        assert float(unpack_values(client.answer(after))["reference_stamp"]) == before / 1e9


def test_keyframe_changes_when_too_little_of_it_is_seen():
    with bench({"reference": "keyframe"}) as current:
        client, stream = current.client, current.stream
        current.matched()
        stream.coverage = 0.2  # 0.5 before, half of which is the limit
        stamp = client.send()
        client.answer(stamp)
        assert current.counts().keyframes == {"first": 1, "overlap": 1}
        after = client.send()
        assert float(unpack_values(client.answer(after))["reference_stamp"]) == stamp / 1e9


def test_set_keyframe_says_why_it_cannot():
    with bench() as current:
        reply = current.client.call(Trigger, "endomatch/set_keyframe", Trigger.Request())
        assert not reply.success
        assert "keyframe" in reply.message


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [
        ("plumb_bob", [-0.3, 0.1, 0.001, -0.002, 0.0]),
        ("rational_polynomial", [0.3, 0.05, 0.001, -0.001, 0.01, 0.5, 0.1, 0.01]),
        ("equidistant", [-0.05, 0.01, 0.0, 0.0]),
    ],
)
def test_points_of_a_distorting_lens_are_undistorted(model, coefficients):
    lens = Camera(pinhole(WIDTH, HEIGHT), np.array(coefficients), model, (WIDTH, HEIGHT))
    world = np.random.default_rng(3).uniform((-1, -0.7, 3), (1, 0.7, 6), (60, 3))
    local = [world @ pose[:3, :3].T + pose[:3, 3] for pose in (np.eye(4), TRUE_POSE)]
    with bench() as current:
        client = current.client
        current.stream.views = tuple(lens.project(points).astype(np.float32) for points in local)
        client.infos.publish(to_camera_info(lens, ns_to_stamp(0), "scope"))
        wait_until(lambda: current.node._session.channels[""].info, "camera_info")
        stamp, status = current.matched()
        assert status.level == OK
        points = unpack_cloud(client.wait_stamped(client.clouds, stamp))
        rays = local[1] / local[1][:, 2:]
        np.testing.assert_allclose(np.stack([points[axis] for axis in "xyz"], 1), rays, atol=2e-6)
        assert points["epipolar_error"].max() < 1e-3
        # The points as they are in the image, which is not resampled.
        assert np.array_equal(points["u"], current.stream.views[1][:, 0])
        position = client.wait_stamped(client.poses, stamp).pose.position
        expected = np.linalg.inv(TRUE_POSE)[:3, 3] / np.linalg.norm(TRUE_POSE[:3, 3])
        np.testing.assert_allclose([position.x, position.y, position.z], expected, atol=1e-3)


def test_a_pose_comes_with_its_covariance():
    with bench() as current:
        client = current.client
        info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob")
        info.k = pinhole(WIDTH, HEIGHT).ravel().tolist()
        client.infos.publish(info)
        wait_until(lambda: current.node._session.channels[""].info, "camera_info")
        stamp, _ = current.matched()
        pose = client.wait_stamped(client.poses, stamp)
        uncertain = client.wait_stamped(client.uncertain_poses, stamp)
        assert uncertain.pose.pose == pose.pose
        assert uncertain.header.stamp == ns_to_stamp(stamp)
        covariance = np.array(uncertain.pose.covariance).reshape(6, 6)
        direction = np.linalg.inv(TRUE_POSE)[:3, 3]
        direction /= np.linalg.norm(direction)
        assert np.linalg.eigvalsh(covariance)[-1] < 1e-4
        assert abs(direction @ covariance[:3, :3] @ direction) < 1e-3 * np.trace(covariance[:3, :3]) + 1e-12
