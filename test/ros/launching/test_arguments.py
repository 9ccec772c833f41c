"""What the launch files decide: topics, remappings, parameters, and errors that help.

The files themselves run in test_ros_launch_files.py, where ROS's launch is installed.
"""

from __future__ import annotations

import ast
import json
import xml.etree.ElementTree
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from rclpy.expand_topic_name import expand_topic_name
from support.launch import CONFIG, STEREO, inputs, values
from support.ros import bench

from endomatch_ros import openmp
from endomatch_ros.errors import ConfigError
from endomatch_ros.ros import launching
from endomatch_ros.ros.launching.files import read_parameters
from endomatch_ros.ros.launching.names import camera_names, join_namespaces, resolve
from endomatch_ros.ros.parameters.table import SPECS

FILES = sorted((ROOT / "launch").glob("*.launch.py"))
PROFILES = sorted(file.stem for file in (CONFIG / "profiles").glob("*.yaml") if file.stem != "topics")


@pytest.fixture
def own_config(tmp_path: Path) -> Path:
    """A folder like config/, with one profile."""
    (tmp_path / "profiles").mkdir()
    parameters(tmp_path / "endomatch.yaml", cameras=[""], model="embedded", image_transport="raw")
    parameters(tmp_path / "profiles" / "rig.yaml", cameras=["left", "right"], image_transport="compressed")
    topics = {"rig": {"image": "/rig/{camera}/image", "camera_info": "/rig/{camera}/info"}}
    (tmp_path / "profiles" / "topics.yaml").write_text(yaml.safe_dump(topics))
    return tmp_path


def parameters(file: Path, node: str = "/**", **content: object) -> Path:
    file.write_text(yaml.safe_dump({node: {"ros__parameters": content}}))
    return file


# Names


@pytest.mark.parametrize("name", ["image_raw", "left/image_raw", "/camera/image_raw"])
@pytest.mark.parametrize("namespace", ["/", "/robot", "/robot/arm"])
def test_names_resolve_as_rcl_does(name: str, namespace: str):
    assert resolve(name, namespace) == expand_topic_name(name, "endomatch", namespace)


@pytest.mark.parametrize(
    ("pushed", "given", "joined"),
    [("", "", "/"), ("", "arm", "/arm"), ("/robot", "", "/robot"), ("/robot", "arm", "/robot/arm"),
     ("/robot", "/arm", "/arm"), ("/", "arm", "/arm"), ("robot", "arm/", "/robot/arm"), ("/robot", "/", "/")],
)  # fmt: skip
def test_namespaces_join(pushed: str, given: str, joined: str):
    assert join_namespaces(pushed, given) == joined


@pytest.mark.parametrize("text", ["left", "{left: 1}", "[]", "[1, 2]", "[left", "[[left]]", "3"])
def test_cameras_that_are_no_list_of_names(text: str):
    with pytest.raises(ConfigError, match=r"cameras=.*cameras:='\[left, right\]'"):
        camera_names(text)


# Topics


def test_without_arguments_the_node_keeps_its_own_topics():
    found = inputs(namespace="robot")
    assert found.images == ("/robot/image_raw",)
    assert found.camera_infos == ("/robot/camera_info",)
    assert found.remappings == ()
    assert (found.node, found.logger, found.mode, found.cameras) == (
        "/robot/endomatch",
        "robot.endomatch",
        "temporal",
        ("",),
    )


def test_camera_info_is_beside_the_image_unless_it_is_named():
    assert inputs(image="/scope/image_raw").remappings == (
        ("image_raw", "/scope/image_raw"),
        ("camera_info", "/scope/camera_info"),
    )
    assert inputs(image="/scope/image_raw", camera_info="/other").camera_infos == ("/other",)
    assert inputs("/robot", image="picture").camera_infos == ("/robot/camera_info",)


def test_a_relative_image_is_in_the_namespace_of_the_group_around():
    assert inputs("/robot", namespace="arm", image="scope/image").images == ("/robot/arm/scope/image",)


def test_each_camera_gets_its_own_topics():
    found = inputs(**STEREO)
    assert found.images == ("/rig/left/image_raw", "/rig/right/image_raw")
    assert ("left/image_raw", "/rig/left/image_raw") in found.remappings
    assert ("right/camera_info", "/rig/right/camera_info") in found.remappings
    unmapped = inputs(cameras="[left, right]", namespace="rig")
    assert (unmapped.images, unmapped.remappings) == (("/rig/left/image_raw", "/rig/right/image_raw"), ())


def test_compressed_images_are_listed_as_they_are_on_the_wire():
    found = inputs(image="/scope/image_raw", image_transport="compressed")
    assert found.topics == ["/scope/image_raw/compressed", "/scope/camera_info"]
    assert found.images == ("/scope/image_raw",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cameras": "[left, right]", "image": "/scope/image_raw"}, "same topic for the cameras left, right"),
        ({"image": "/rig/{camera}/image_raw"}, "needs names"),
        ({"cameras": "[left, right]", "image": "/{cam}/image_raw"}, "same topic"),
        ({"image": "/{cam}/image_raw"}, r"no topic; \{camera\}"),
        ({"image": "/scope/image_raw/compressed"}, "image:=/scope/image_raw image_transport:=compressed"),
        ({**STEREO, "camera_info": "/one"}, "camera_info='/one' is the same"),
        ({"profile": "nobodys"}, "profile='nobodys' is unknown; there are "),
        ({"params_file": "/nowhere.yaml"}, "/nowhere.yaml cannot be read"),
    ],
)
def test_what_cannot_be_launched_says_why(given: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=message):
        inputs(**given)


# Profiles and parameters


def test_profile_gives_topics_and_parameters(own_config: Path):
    found = launching.find_inputs(values(profile="rig"), own_config)
    assert found.topics[:2] == ["/rig/left/image/compressed", "/rig/right/image/compressed"]
    assert found.camera_infos == ("/rig/left/info", "/rig/right/info")
    assert [file.name for file in found.files] == ["endomatch.yaml", "rig.yaml"]


def test_arguments_win_over_the_profile(own_config: Path):
    given = values(profile="rig", cameras="[a, b]", image="/x/{camera}/image_raw", image_transport="raw")
    found = launching.find_inputs(given, own_config)
    assert found.images == ("/x/a/image_raw", "/x/b/image_raw")
    assert not found.compressed
    assert found.camera_infos == ("/x/a/camera_info", "/x/b/camera_info")  # not the calibration of other images


def test_params_file_wins_over_the_profile_and_a_node_s_own_block_over_everyones(own_config: Path, tmp_path: Path):
    file = parameters(tmp_path / "mine.yaml", cameras=["one"], mode="both")
    found = launching.find_inputs(values(profile="rig", params_file=str(file), image="/x"), own_config)
    assert (found.cameras, found.mode, found.compressed) == (("one",), "both", True)
    parameters(file, "endomatch", cameras=["two"])
    assert read_parameters([file, own_config / "endomatch.yaml"], "/endomatch")["cameras"] == ["two"]
    assert read_parameters([file, own_config / "endomatch.yaml"], "/robot/endomatch")["cameras"] == [""]


@pytest.mark.parametrize("text", ["endomatch: {model: embedded}", "- a", "a: [", "/**: {ros__parameters: 3}"])
def test_files_that_are_no_parameter_files_are_named(tmp_path: Path, text: str):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        inputs(params_file=str(file))


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_in_config_launches(profile: str):
    found = inputs(profile=profile)
    assert all(topic.startswith("/") for topic in found.topics)
    assert len(found.images) == len(found.cameras) == len(set(found.images))
    assert profile in yaml.safe_load((CONFIG / "profiles" / "topics.yaml").read_text())


def test_only_given_arguments_override_parameters():
    assert launching.overrides(values(), [""]) == {}
    given = values(model="mine", cameras="[left, right]", use_sim_time="True", mode="stereo")
    assert launching.overrides(given, ["left", "right"]) == {
        "model": "mine", "mode": "stereo", "cameras": ["left", "right"], "use_sim_time": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("check", "text"), [(launching.log_level, "loud"), (lambda t: launching.flag("rviz", t), "no")]
)
def test_words_that_are_unknown(check, text: str):
    with pytest.raises(ConfigError, match=f"'{text}'"):
        check(text)


def test_environment_names_the_profile_unless_the_user_has_one(monkeypatch):
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "ROS_DISTRO"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert Path(launching.environment(True)["FASTDDS_DEFAULT_PROFILES_FILE"]).is_file()
    assert launching.environment(False) == {}
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "mine.xml")
    assert launching.environment(True) == {}


def test_environment_says_how_threads_wait_unless_the_user_has(monkeypatch):
    for name in ("OMP_WAIT_POLICY", *openmp.WAITING):
        monkeypatch.delenv(name, raising=False)
    assert launching.environment(False) == openmp.WAITING
    monkeypatch.setenv(next(iter(openmp.WAITING)), "7")
    assert launching.environment(False) == {}


# RViz


def rviz(tmp_path: Path, **given: str) -> dict[str, str]:
    file = tmp_path / "some.rviz"
    names = ("correspondences", "right/visualization", "stereo/points")
    shown = [{"Topic": {"Value": f"/endomatch/{name}"}} for name in names]
    file.write_text(yaml.safe_dump({"Visualization Manager": {"Displays": [*shown, {"Topic": "/image_raw"}]}}))
    return dict(launching.rviz_remappings(file, inputs(**given)))


def test_rviz_follows_the_node_s_name_and_cameras(tmp_path: Path):
    assert rviz(tmp_path) == {}
    one = rviz(tmp_path, namespace="robot", name="m", image="/scope/image_raw")
    assert one["/endomatch/correspondences"] == "/robot/m/correspondences"
    assert one["/image_raw"] == "/scope/image_raw"
    pair = rviz(tmp_path, cameras="[l, r]")
    assert pair["/endomatch/correspondences"] == "/endomatch/l/correspondences"
    assert pair["/endomatch/right/visualization"] == "/endomatch/r/visualization"
    assert "/endomatch/stereo/points" not in pair
    stereo = rviz(tmp_path, cameras="[left, right]", mode="stereo")
    assert stereo["/endomatch/correspondences"] == "/endomatch/stereo/correspondences"


# Files


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_launch_files_parse(file: Path):
    tree = ast.parse(file.read_text())
    assert "generate_launch_description" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert f"ros2 launch endomatch_ros {file.name}" in (ast.get_docstring(tree) or "")


def test_fast_dds_profile_is_well_formed_and_large_enough():
    tree = xml.etree.ElementTree.parse(CONFIG / "fastdds_shm.xml")
    (size,) = (element.text for element in tree.iter() if element.tag.endswith("segment_size"))
    assert int(size or 0) >= 64 << 20


def test_configuration_file_holds_every_default():
    content = yaml.safe_load((CONFIG / "endomatch.yaml").read_text())["/**"]["ros__parameters"]
    assert list(content) == list(SPECS)
    for name, spec in SPECS.items():
        value = tuple(content[name]) if isinstance(content[name], list) else content[name]
        assert (type(value), value) == (str, "model") if spec.own else (type(spec.default), spec.default)


def test_the_node_takes_the_configuration_file():
    with bench(cli_args=["--params-file", str(CONFIG / "endomatch.yaml")]) as current:
        assert current.matched()[1].level == b"\x00"


def test_configuration_files_of_other_tools_parse():
    assert all(json.loads(file.read_text()) for file in CONFIG.glob("*.json"))
    assert all(yaml.safe_load(file.read_text()) for file in CONFIG.rglob("*.yaml"))
