"""Launch and configuration files parse and agree with the parameters; the launch file runs where launch exists."""

import ast
import importlib.util
import xml.etree.ElementTree
from pathlib import Path

import pytest
import yaml
from ros_support import bench

from endomatch_ros.ros.parameters import SPECS

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch" / "endomatch.launch.py"


def launch_module():
    spec = importlib.util.spec_from_file_location("endomatch_launch", LAUNCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_launch_file_compiles():
    tree = ast.parse(LAUNCH.read_text())
    assert "generate_launch_description" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_launch_file_starts_the_node_with_what_was_asked():
    pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS installation only")
    from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
    from launch_ros.actions import Node

    from launch import LaunchContext

    module = launch_module()
    context = LaunchContext()
    description = module.generate_launch_description()
    arguments = [entity for entity in description.entities if isinstance(entity, DeclareLaunchArgument)]
    assert {argument.name for argument in arguments} == set(module.ARGUMENTS)
    for argument in arguments:
        argument.execute(context)
    context.launch_configurations.update(image="/scope/image_raw", model="dinov2-small")
    actions = module.start(context)
    (node,) = (action for action in actions if isinstance(action, Node))
    assert node.node_executable == "matcher_node"
    assert all(isinstance(action, SetEnvironmentVariable) for action in actions[:-1])


def test_configuration_file_holds_every_default():
    text = (ROOT / "config" / "endomatch.yaml").read_text()
    values = yaml.safe_load(text)["/**"]["ros__parameters"]
    assert values == {name: spec.default for name, spec in SPECS.items()}


def test_the_node_takes_the_configuration_file():
    with bench(cli_args=["--params-file", str(ROOT / "config" / "endomatch.yaml")]) as current:
        assert current.matched()[1].level == b"\x00"


def test_fast_dds_profile_is_well_formed_and_large_enough():
    tree = xml.etree.ElementTree.parse(ROOT / "config" / "fastdds_shm.xml")
    (size,) = (element.text for element in tree.iter() if element.tag.endswith("segment_size"))
    assert int(size) >= 64 << 20
