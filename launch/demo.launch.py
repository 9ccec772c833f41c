"""A synthetic endoscope and the node that matches its images.

ros2 launch endomatch_ros demo.launch.py rviz:=true
ros2 launch endomatch_ros demo.launch.py mode:=both          # a stereo endoscope
"""

from pathlib import Path

from launch.actions import GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from endomatch_ros.ros import launching
from launch import LaunchDescription

FOLDER = Path(__file__).resolve().parent
OWN = {
    "camera": ("endoscope", "namespace of the synthetic endoscope, below `namespace`"),
    "rate": ("5.0", "most frames a second; rendering them takes a processor core"),
    "width": ("640", "of the images, pixels"),
    "height": ("512", "of the images, pixels"),
    "seed": ("0", "scene"),
}
GIVEN = ("image", "camera_info", "cameras", "profile", "use_sim_time")  # follow from the synthetic endoscope
NODE = {name: text for name, text in launching.NODE_ARGUMENTS.items() if name not in GIVEN}


def start(context):
    """Publisher and node, once the arguments' values are known."""
    values = launching.perform(context, {**OWN, **NODE})
    below = "/".join(filter(None, (values["namespace"], values["camera"])))
    options = [text for name in ("rate", "width", "height", "seed") for text in (f"--{name}", values[name])]
    options += ["--compressed"] * (values["image_transport"] == "compressed")
    scene = {"image": f"{values['camera']}/image_raw", **dict.fromkeys(GIVEN[1:], "")}
    if values["mode"] in ("stereo", "both"):
        options.append("--stereo")
        scene |= {"image": f"{values['camera']}/{{camera}}/image_raw", "cameras": "[left, right]"}
    publisher = Node(
        package="endomatch_ros",
        executable="endoscope_publisher",
        name="endoscope",
        namespace=below,
        arguments=options,
        additional_env=launching.environment(launching.flag("fastdds_profile", values["fastdds_profile"])),
        output="screen",
        emulate_tty=True,
    )
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(FOLDER / "endomatch.launch.py")),
        launch_arguments={**{name: values[name] for name in NODE}, **scene}.items(),
    )
    return [publisher, GroupAction([node])]


def generate_launch_description():
    """Declare the arguments, start publisher and node."""
    return LaunchDescription([*launching.declare({**OWN, **NODE}), OpaqueFunction(function=start)])
