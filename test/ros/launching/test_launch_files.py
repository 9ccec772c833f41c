"""The launch files through ROS's own launch and launch_ros: what they would start, without starting it."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import yaml
from conftest import ROOT

pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS installation only")

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.actions.execute_local import ExecuteLocal
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace, lifecycle_node, node
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.ros.launching.names import join_namespaces
from launch import LaunchContext, LaunchDescription

FOLDER = ROOT / "launch"


@pytest.fixture
def started(monkeypatch, tmp_path: Path):
    """``started(file, around, **arguments)``: command line and launch configurations of each process it would start."""
    found: list[tuple[list[str], dict[str, str]]] = []

    def execute(self, context):
        self.prepare(context)
        found.append((self.process_description.final_cmd, dict(context.launch_configurations)))

    def run(file: str, *around, **arguments: str):
        visit(LaunchDescription([*around, including(file, arguments)]), LaunchContext())
        return found

    monkeypatch.setattr(ExecuteLocal, "execute", execute)
    monkeypatch.setattr(lifecycle_node, "get_ros_node", lambda context: MagicMock())  # no participant in this process
    # The package need not be installed, nor RViz be there: the executables are not looked for.
    monkeypatch.setattr(
        node, "ExecutableInPackage", lambda executable, package: f"{package}/{executable}", raising=False
    )
    return run


def including(file: str, arguments: dict[str, str]) -> IncludeLaunchDescription:
    source = PythonLaunchDescriptionSource(str(FOLDER / file))
    return IncludeLaunchDescription(source, launch_arguments=arguments.items())


def visit(entity, context: LaunchContext) -> None:
    for below in entity.visit(context) or []:
        visit(below, context)


def values_after(command: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(command) if name == option]


def remappings(command: list[str]) -> dict[str, str]:
    return dict(rule.split(":=") for rule in values_after(command, "-r"))


def parameters(command: list[str]) -> dict[str, object]:
    """What the parameter files of a command line say, the later over the earlier."""
    merged: dict[str, object] = {}
    for file in values_after(command, "--params-file"):
        merged |= next(iter(yaml.load(Path(file).read_text(), yaml.FullLoader).values()))[
            "ros__parameters"
        ]  # has tuples
    return merged


@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("*.launch.py")))
def test_every_argument_is_declared_and_described(file: str):
    description = PythonLaunchDescriptionSource(str(FOLDER / file)).get_launch_description(LaunchContext())
    declared = [entity for entity in description.entities if isinstance(entity, DeclareLaunchArgument)]
    assert all(argument.description for argument in declared)
    assert isinstance(description.entities[-1], OpaqueFunction)
    assert {"params_file", "namespace", "name", "fastdds_profile"} <= {argument.name for argument in declared}


def test_the_node_gets_what_was_asked(started):
    ((command, _),) = started(
        "endomatch.launch.py", namespace="arm", image="/rig/{camera}/image_raw", cameras="[left, right]", mode="stereo",
        model="12", use_sim_time="true", log_level="WARN",
    )  # fmt: skip
    assert command[0] == "endomatch_ros/matcher_node"
    assert values_after(command, "--log-level") == ["arm.endomatch:=warn"]
    rules = remappings(command)
    assert (rules["__node"], rules["__ns"]) == ("endomatch", "/arm")
    assert (rules["right/image_raw"], rules["left/camera_info"]) == ("/rig/right/image_raw", "/rig/left/camera_info")
    found = parameters(command)
    assert (found["cameras"], found["mode"], found["model"]) == (("left", "right"), "stereo", "12")
    assert found["use_sim_time"] is True


def test_the_node_is_in_the_namespace_of_the_group_around(started):
    ((command, _),) = started("endomatch.launch.py", PushRosNamespace("robot"), namespace="arm", image="scope/image")
    assert remappings(command)["__ns"] == "/robot/arm"
    assert values_after(command, "--log-level") == ["robot.arm.endomatch:=info"]
    assert remappings(command)["image_raw"] == "scope/image"


def test_files_come_in_the_order_of_precedence(started, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("/**: {ros__parameters: {min_matches: 77, device: cuda}}")
    profile = sorted(path.stem for path in (ROOT / "config" / "profiles").glob("*.yaml") if path.stem != "topics")[0]
    ((command, _),) = started("endomatch.launch.py", profile=profile, params_file=str(file), device="cpu")
    names = [Path(path).name for path in values_after(command, "--params-file")]
    assert names[:3] == ["endomatch.yaml", f"{profile}.yaml", "mine.yaml"]
    assert (parameters(command)["min_matches"], parameters(command)["device"]) == (77, "cpu")


@pytest.mark.parametrize("pushed", ["", "/robot", "/robot/arm"])
@pytest.mark.parametrize("given", ["", "arm", "/arm", "a/b"])
def test_namespaces_join_as_in_launch_ros(pushed: str, given: str):
    theirs = make_namespace_absolute(prefix_namespace(pushed or None, given or None) or "")
    assert join_namespaces(pushed, given) == theirs


def test_record_gets_the_node_s_topics_and_keeps_its_arguments_to_itself(started, tmp_path: Path):
    robot, bag = PushRosNamespace("robot"), str(tmp_path / "bag")
    (command, inside), _ = started("endomatch.launch.py", robot, image="scope/image_raw", record=bag, namespace="arm")
    wanted = ("scope/image_raw", "scope/camera_info", "endomatch/correspondences")
    assert {f"/robot/arm/{name}" for name in wanted} <= set(command)
    assert values_after(command, "--output") == [bag]
    context = LaunchContext()
    visit(LaunchDescription([including("endomatch.launch.py", {"record": bag})]), context)
    assert inside["output"] == bag
    assert "output" not in context.launch_configurations


def test_record_alone(started):
    ((command, _),) = started("record.launch.py", image="/s/image_raw", outputs="false", topics="/ECM/measured_cp /a")
    assert {"/s/image_raw", "/s/camera_info", "/ECM/measured_cp", "/a", "/tf"} <= set(command)
    assert "/endomatch/correspondences" not in command


def test_rviz_gets_the_node_s_topics(started):
    _, (command, _) = started("endomatch.launch.py", namespace="robot", rviz="true")
    assert command[0] == "rviz2/rviz2"
    assert Path(values_after(command, "-d")[0]).is_file()
    assert remappings(command)["/endomatch/correspondences"] == "/robot/endomatch/correspondences"


def test_demo_starts_a_camera_and_matches_its_images(started):
    (camera, _), (matcher, _) = started("demo.launch.py", namespace="robot", width="320")
    assert camera[0] == "endomatch_ros/endoscope_publisher"
    assert remappings(camera)["__ns"] == "/robot/endoscope"
    assert values_after(camera, "--width") == ["320"]
    assert remappings(matcher)["image_raw"] == "endoscope/image_raw"
    assert remappings(matcher)["__ns"] == "/robot"


def test_demo_of_a_stereo_endoscope(started):
    (camera, _), (matcher, _) = started("demo.launch.py", mode="both", image_transport="compressed")
    assert {"--stereo", "--compressed"} <= set(camera)
    assert remappings(matcher)["right/image_raw"] == "endoscope/right/image_raw"
    found = parameters(matcher)
    assert (found["cameras"], found["mode"], found["image_transport"]) == (("left", "right"), "both", "compressed")


def test_playback_starts_the_node_on_the_bag_s_images_and_the_player_later(started, tmp_path: Path):
    listed = [{"topic_metadata": {"name": "/scope/image_raw", "type": "sensor_msgs/msg/Image"}}]
    content = {"rosbag2_bagfile_information": {"topics_with_message_count": listed}}
    (tmp_path / "metadata.yaml").write_text(yaml.safe_dump(content))
    ((command, _),) = started("playback.launch.py", bag=str(tmp_path), rviz="false", exit="true")
    assert remappings(command)["image_raw"] == "/scope/image_raw"
    assert parameters(command)["use_sim_time"] is True


@pytest.mark.parametrize(
    ("file", "arguments", "error"),
    [
        ("endomatch.launch.py", {"profile": "nobodys"}, ConfigError),
        ("endomatch.launch.py", {"cameras": "left"}, ConfigError),
        ("endomatch.launch.py", {"log_level": "loud"}, ConfigError),
        ("record.launch.py", {"output": os.sep}, ConfigError),
        ("playback.launch.py", {"bag": "/nowhere"}, DataError),
    ],
)
def test_wrong_values_stop_the_launch(started, file: str, arguments: dict[str, str], error: type[Exception]):
    with pytest.raises(error, match=next(iter(arguments.values()))):
        started(file, **arguments)
