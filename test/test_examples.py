"""What docs/consuming/ tells strangers to paste: tracks and odometry against exact truth, the subscribers."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from endomatch_ros.data.clouds import CLOUD_DTYPE, unpack_cloud
from endomatch_ros.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
PYTHON, CPP = ROOT / "examples" / "python", ROOT / "examples" / "cpp"
SOURCE = CPP / "src" / "correspondence_subscriber.cpp"
SECOND = 1_000_000_000


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", PYTHON / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def rigid(vector, translation):
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(np.array(vector, float))[0], translation
    return pose


def walk():
    """first_from_camera poses of a path with steps of very different length."""
    steps = [rigid((0.01 * k, -0.02, 0.015), (0.1 * k, 0.05 * (k % 3), -0.03 * k)) for k in range(1, 7)]
    poses = [np.eye(4)]
    for step in steps:
        poses.append(poses[-1] @ step)
    return poses


def clouds_of(poses, count=40):
    """The clouds of a scene that all cameras see, as the node would publish them; the first image has none."""
    world = np.random.default_rng(1).uniform((-1, -1, 4), (1, 1, 8), (count, 3))
    rays = []
    for pose in poses:
        seen = (world - pose[:3, 3]) @ pose[:3, :3]
        rays.append(seen / seen[:, 2:])
    for k in range(1, len(poses)):
        points = np.zeros(count, CLOUD_DTYPE)
        points["x"], points["y"], points["z"] = rays[k].T
        points["u"], points["v"] = 100 * rays[k][:, :2].T
        points["u_ref"], points["v_ref"] = 100 * rays[k - 1][:, :2].T
        points["track_id"], points["inlier"], points["dt"] = np.arange(count) + 7, 1, 0.1
        yield points


def unit(step):
    scaled = step.copy()
    scaled[:3, 3] /= np.linalg.norm(step[:3, 3])
    return scaled


def test_odometry_recovers_the_path_up_to_one_scale():
    odometry, poses = example("odometry").Odometry(), walk()
    for k, points in enumerate(clouds_of(poses), start=1):
        whole = odometry.push(points, unit(np.linalg.inv(poses[k - 1]) @ poses[k]))
        assert whole == (k > 2)
    scale = np.linalg.norm((np.linalg.inv(poses[1]) @ poses[2])[:3, 3])
    assert len(odometry.path) == len(poses) - 1
    for found, pose in zip(odometry.path, poses[1:], strict=True):
        expected = np.linalg.inv(poses[1]) @ pose
        np.testing.assert_allclose(found[:3, :3], expected[:3, :3], atol=1e-5)
        np.testing.assert_allclose(scale * found[:3, 3], expected[:3, 3], atol=2e-4)  # rays are float32


def test_odometry_uses_the_rays_of_inliers_alone():
    points = next(clouds_of(walk()))
    points["inlier"][3:] = 0
    rays = example("odometry").rays_by_track(points)
    assert list(rays) == [7, 8, 9]
    np.testing.assert_array_equal(rays[8], [points["x"][1], points["y"][1], 1])


def test_odometry_begins_anew_without_a_pose_and_without_common_tracks():
    odometry, poses = example("odometry").Odometry(), walk()
    for k, points in enumerate(clouds_of(poses), start=1):
        step = unit(np.linalg.inv(poses[k - 1]) @ poses[k])
        if k == 4:
            assert not odometry.push(points, None)
            assert len(odometry.path) == 1
        elif k == 6:
            points["track_id"] += 1000
            assert not odometry.push(points, step)
            np.testing.assert_allclose(odometry.path, [np.eye(4), step])
        else:
            odometry.push(points, step)


def test_odometry_reads_the_pose_as_the_node_packs_it():
    messages = pytest.importorskip("endomatch_ros.ros.messages.clouds", reason="rclpy's messages are not installed")
    step = rigid((0.3, -0.2, 0.5), (0.0, 0.6, 0.8))
    packed = messages.pack_pose(np.linalg.inv(step), messages.ns_to_stamp(0), "optical").pose
    np.testing.assert_allclose(example("odometry").pose_matrix(packed.position, packed.orientation), step, atol=1e-12)


def test_depths_against_closed_form():
    step = rigid((0, 0, 0), (1.0, 0, 0))
    points = np.array([[0.5, 0.2, 4.0], [-1.0, 0.0, 2.0]])
    after = points - (1.0, 0, 0)
    found = example("odometry").depths(step, points / points[:, 2:], after / after[:, 2:])
    np.testing.assert_allclose(found, [[4, 2], [4, 2]])


@pytest.mark.parametrize("keyframe", [False, True])
def test_tracks_are_joined_over_images(keyframe):
    builder = example("track_builder").TrackBuilder()
    clouds = list(clouds_of(walk()))
    for k, points in enumerate(clouds, start=1):
        if keyframe:
            points["u_ref"], points["v_ref"], points["dt"] = clouds[0]["u_ref"], clouds[0]["v_ref"], 0.1 * k
        if k == 3:
            points["inlier"][5] = 0
        builder.push(points, 10 * SECOND + k * SECOND // 10)
    stamps = [10 * SECOND + k * SECOND // 10 for k in range(7)]
    assert list(builder.tracks) == [7 + i for i in range(40)]
    track = builder.tracks[9]
    assert list(track) == stamps
    assert track[stamps[0]] == (clouds[0]["u_ref"][2], clouds[0]["v_ref"][2])
    assert track[stamps[4]] == (clouds[3]["u"][2], clouds[3]["v"][2])
    # The outlier's image is missing where it is nobody's reference.
    assert (stamps[3] in builder.tracks[12]) == (not keyframe)
    assert len(builder.longer_than(6)) == (39 if keyframe else 40)


@pytest.fixture
def bag(tmp_path):
    """What the node would publish on the walk, and the true poses."""
    rosbags = pytest.importorskip("rosbags.rosbag2")
    messages = pytest.importorskip("endomatch_ros.ros.messages.clouds", reason="rclpy's messages are not installed")
    from rclpy.serialization import serialize_message
    from rosbags.typesys import Stores, get_typestore

    poses, store = walk(), get_typestore(Stores.ROS2_JAZZY)
    with rosbags.Writer(tmp_path / "bag", version=9) as writer:

        def write(topic, kind, pack, content, k):
            stamp = SECOND + k * SECOND // 10
            known = {connection.topic: connection for connection in writer.connections}
            connection = known.get(topic) or writer.add_connection(topic, kind, typestore=store)
            packed = pack(content, messages.ns_to_stamp(stamp), "optical")
            writer.write(connection, stamp, serialize_message(packed))

        pose_kind = "geometry_msgs/msg/PoseStamped"
        for k, pose in enumerate(poses):
            write("/truth", pose_kind, messages.pack_pose, np.linalg.inv(pose), k)
        for k, points in enumerate(clouds_of(poses), start=1):
            write("/endomatch/correspondences", "sensor_msgs/msg/PointCloud2", messages.pack_cloud, points, k)
            step = unit(np.linalg.inv(poses[k - 1]) @ poses[k])
            write("/endomatch/relative_pose", pose_kind, messages.pack_pose, np.linalg.inv(step), k)
    return tmp_path / "bag"


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("track_builder", [], ["6 clouds, 40 tracks", "seen in images: median 7, longest 7"]),
        ("odometry", ["--truth", "/truth"], ["longest chain: 6 images", r"0\.[0-9]{2} mm off .* path of 2123 mm"]),
        ("odometry", [], ["longest chain: 6 images"]),
    ],
)
def test_a_recorded_bag_is_read_without_ros(bag, name, options, expected):
    script, arguments = str(PYTHON / f"{name}.py"), ["", str(bag), *options]
    code = (
        "import runpy, sys; sys.modules |= dict.fromkeys(('rclpy', 'sensor_msgs', 'builtin_interfaces')); "
        f"sys.argv = {arguments!r}; runpy.run_path({script!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    lines = done.stdout.splitlines()
    assert len(lines) == len(expected), done.stderr
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line)


def test_python_subscriber_prints_what_the_node_says(spawn):
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    from support.ros import bench, wait_until

    with bench() as current:
        node = current.client.node
        process = spawn(
            [sys.executable, str(PYTHON / "correspondence_subscriber.py")], cwd=ROOT, stdout=subprocess.PIPE
        )
        for topic in ("correspondences", "epipolar_error", "relative_pose"):
            wait_until(
                lambda t=topic: "correspondence_subscriber" in subscribers(node, t), f"its subscription to {topic}"
            )
        lines = []
        os.set_blocking(process.stdout.fileno(), False)

        def spoken():
            current.client.send()
            lines.extend(filter(None, process.stdout.readline().splitlines()))
            return lines

        wait_until(spoken, "a line")
        assert re.match(r"\d+\.\d{3} s  level [012]: .*  coverage 0\.5  60 points, \d+ inliers", lines[-1]), lines


def subscribers(node, topic):
    return [info.node_name for info in node.get_subscriptions_info_by_topic(f"/endomatch/{topic}")]


def test_cpp_subscriber_reads_every_field_of_the_cloud_with_its_type():
    text = SOURCE.read_text()
    body = text[text.index("read_matches(") : text.index("std::string value_of")]
    fields = re.findall(r'(\w+)\(cloud, "(\w+)"\)', body)
    assert [name for _, name in fields] == list(CLOUD_DTYPE.names)
    kinds = {"track": "uint32", "dt": "float64"}
    for variable, name in fields:
        assert CLOUD_DTYPE[name].name == kinds.get(variable, "float32")


def test_cpp_package_declares_what_it_includes():
    included = set(re.findall(r'#include "(\w+)/', SOURCE.read_text()))
    depended = {d.text for d in xml.etree.ElementTree.parse(CPP / "package.xml").iter("depend")}
    cmake = (CPP / "CMakeLists.txt").read_text()
    assert included == depended == set(re.findall(r"find_package\((\w+)", cmake)) - {"ament_cmake"}
    assert re.search(r"project\((\w+)", cmake)[1] == xml.etree.ElementTree.parse(CPP / "package.xml").findtext("name")


def test_cpp_subscriber_compiles():
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)]
    compiler = shutil.which("g++")
    if compiler is None or not any((prefix / "include/rclcpp/rclcpp").is_dir() for prefix in prefixes):
        pytest.skip("a compiler and rclcpp's headers come with a ROS installation only")
    folders = [folder for prefix in prefixes for folder in (prefix / "include").glob("*") if folder.is_dir()]
    flags = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    includes = [argument for folder in folders for argument in ("-isystem", str(folder))]
    done = subprocess.run([compiler, *flags, *includes, str(SOURCE)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def cloud(**changes):
    fields = [SimpleNamespace(name="x", offset=0, datatype=7, count=1)]
    values = {"height": 1, "width": 2, "fields": fields, "is_bigendian": False, "point_step": 4, "row_step": 8}
    return SimpleNamespace(**{**values, "data": np.array([1, 2], "<f4").tobytes(), **changes})


def test_clouds_are_read_without_ros_messages_and_may_be_changed():
    points = unpack_cloud(cloud())
    points["x"] += 1
    assert points["x"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"row_step": 4}, "row_step is 4"),
        ({"data": b"1234"}, "announced"),
        ({"point_step": 2, "row_step": 8}, "point_step of 2"),
        ({"fields": [SimpleNamespace(name="x", offset=0, datatype=9, count=1)]}, "datatype"),
    ],
)
def test_a_contradictory_cloud_is_refused(changes, text):
    with pytest.raises(DataError, match=text):
        unpack_cloud(cloud(**changes))


def test_types_are_those_of_point_field_and_others_are_refused():
    messages = pytest.importorskip("endomatch_ros.ros.messages.clouds", reason="rclpy's messages are not installed")
    from sensor_msgs.msg import PointField

    from endomatch_ros.data.clouds import POINT_FIELD_TYPES

    names = {"i": "INT", "u": "UINT", "f": "FLOAT"}
    for code, kind in POINT_FIELD_TYPES.items():
        assert getattr(PointField, f"{names[kind[0]]}{8 * int(kind[1])}") == code
    for dtype in ([("x", "<i8")], [("x", ">f4")], [("x", "<f4", 3)], [("y", "<f4")], "<f4"):
        with pytest.raises(DataError, match="no layout of a PointCloud2"):
            messages.pack_cloud(np.zeros(2, dtype), messages.ns_to_stamp(0), "optical")
