"""Start the matcher node.

ros2 launch endomatch_ros endomatch.launch.py image:=/camera/image_raw camera_info:=/camera/camera_info
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from endomatch_ros.ros import dds
from launch import LaunchDescription

ARGUMENTS = {
    "image": ("image_raw", "image topic, without /compressed; relative names are in the namespace"),
    "camera_info": ("camera_info", "calibration topic; need not exist"),
    "image_transport": ("", "raw or compressed; empty: as in params_file"),
    "model": ("", "preset or path of a .safetensors checkpoint; empty: as in params_file"),
    "device": ("", "auto, cpu, cuda or cuda:N; empty: as in params_file"),
    "namespace": ("", "namespace of the node"),
    "name": ("endomatch", "name of the node"),
    "params_file": ("", "YAML file with parameters; empty: config/endomatch.yaml of the package"),
    "log_level": ("info", "debug, info, warn or error"),
    "fastdds_profile": ("true", "give what is started here the shared-memory profile for large images"),
}


def start(context):
    """The actions, once the arguments' values are known."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    default = os.path.join(get_package_share_directory("endomatch_ros"), "config", "endomatch.yaml")
    chosen = {name: value[name] for name in ("image_transport", "model", "device") if value[name]}
    environment = {}
    if value["fastdds_profile"].lower() in ("true", "1"):
        wanted = dict(os.environ)
        dds.prepare(wanted)
        environment = {name: text for name, text in wanted.items() if os.environ.get(name) != text}
    node = Node(
        package="endomatch_ros",
        executable="matcher_node",
        name=value["name"],
        namespace=value["namespace"],
        parameters=[value["params_file"] or default, chosen],
        remappings=[("image_raw", value["image"]), ("camera_info", value["camera_info"])],
        arguments=["--ros-args", "--log-level", f"{value['name']}:={value['log_level']}"],
        output="screen",
        emulate_tty=True,
    )
    return [*(SetEnvironmentVariable(name, text) for name, text in environment.items()), node]


def generate_launch_description():
    """Declare the arguments and start the node."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
