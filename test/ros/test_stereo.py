"""A stereo scope from end to end: synthetic cameras with known depth, the real matcher, the node over DDS."""

import numpy as np
import pytest
from support.ros import bench, wait_until

from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.ros import node
from endomatch_ros.ros.messages.calibration import to_camera_info
from endomatch_ros.ros.messages.clouds import ns_to_stamp, unpack_cloud, unpack_values

STAMPS = (10**9, 10**9 + 100_000_000)


@pytest.fixture(scope="module")
def answers():
    """Clouds of left, right and stereo, the stereo points and figures of the second moment, and its true frame."""
    scene = SyntheticEndoscope(SceneConfig(seed=20101, kind="cavity", width=400, height=320, stereo_baseline=0.003))
    frames = [scene.render(t) for t in (0.0, 0.1)]
    parameters = {"cameras": ["left", "right"], "mode": "both", "device": "cpu", "resolution": 320, "batch_wait_s": 1.0}
    with bench(parameters, load=node._load_matcher, clients=("stereo", "left", "right")) as current:
        stereo, left, right = current.clients.values()
        for stamp, frame in zip(STAMPS, frames, strict=True):
            views = ((left, frame.image, frame.camera, 0.0), (right, frame.partner.image, frame.partner.camera, 0.003))
            for client, _, camera, baseline in views:
                info = to_camera_info(camera, ns_to_stamp(stamp), client.camera, baseline)
                client.infos.publish(info)
                wait_until(lambda c=client: current.node._session.channels[c.camera].info, "camera_info")
            for client, image, _, _ in views:
                client.send(image, stamp)
            wait_until(lambda s=stamp: current.counts("stereo").answered > STAMPS.index(s), "the pair", patience=60)
        return {
            "left": unpack_cloud(left.wait_stamped(left.clouds, STAMPS[1])),
            "right": unpack_cloud(right.wait_stamped(right.clouds, STAMPS[1])),
            "stereo": unpack_cloud(stereo.wait_stamped(stereo.clouds, STAMPS[1])),
            "points": unpack_cloud(stereo.wait_stamped(stereo.points, STAMPS[1])),
            "figures": unpack_values(stereo.answer(STAMPS[1])),
            "frame": frames[1],
        }


def test_stereo_matches_lie_on_the_rows_of_parallel_cameras(answers):
    points = answers["stereo"]
    assert len(points) > 300
    assert answers["figures"]["model"] == "E"
    np.testing.assert_allclose(points["epipolar_error"], np.abs(points["v"] - points["v_ref"]), atol=1e-3)
    assert np.median(points["epipolar_error"]) < 0.6
    assert (points["dt"] == 0).all()


def test_points_have_the_true_depth_in_metres(answers):
    points, frame = answers["points"], answers["frame"]
    assert len(points) > 300
    position = np.stack([points[axis] for axis in "xyz"], 1)
    x, y = np.round(frame.camera.project(position)).astype(int).T
    truth = frame.depth[y, x]
    error = np.abs(points["z"] / truth - 1)
    assert np.median(error) < 0.01
    assert (error < 0.05).mean() > 0.9


def test_temporal_and_stereo_matches_can_be_joined_by_track(answers):
    left, stereo = answers["left"], answers["stereo"]
    assert len(left) > 300
    assert len(answers["right"]) > 300
    _, i, j = np.intersect1d(left["track_id"], stereo["track_id"], return_indices=True)
    assert len(i) > 0.5 * len(left)
    assert np.array_equal(left["u"][i], stereo["u_ref"][j])
    assert np.array_equal(left["v"][i], stereo["v_ref"][j])
