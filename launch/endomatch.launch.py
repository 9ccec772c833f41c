"""Start the matcher node, if wanted with RViz and a recording.

ros2 launch endomatch_ros endomatch.launch.py image:=/camera/image_raw
ros2 launch endomatch_ros endomatch.launch.py image:=/stereo/{camera}/image_raw cameras:='[left, right]' mode:=stereo
ros2 launch endomatch_ros endomatch.launch.py profile:=dvrk rviz:=true record:=case_1

In another launch file, include it inside a GroupAction, which keeps its arguments to itself; PushRosNamespace there
counts for the node as for any other.
"""

from pathlib import Path

from launch.actions import GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import LifecycleNode, Node

from endomatch_ros.ros import launching
from launch import LaunchDescription

FOLDER = Path(__file__).resolve().parent
CONFIG = FOLDER.parent / "config"


def start(context):
    """The actions, once the arguments' values are known."""
    values = launching.perform(context, launching.NODE_ARGUMENTS)
    inputs = launching.find_inputs(values, CONFIG, launching.pushed_namespace(context))
    chosen = launching.overrides(values, inputs.cameras)
    node = LifecycleNode(  # so that OnStateTransition can wait until it is active
        package="endomatch_ros",
        executable="matcher_node",
        name=values["name"],
        namespace=values["namespace"],
        parameters=[*map(str, inputs.files), chosen],
        remappings=inputs.remappings,
        arguments=["--ros-args", "--log-level", f"{inputs.logger}:={launching.log_level(values['log_level'])}"],
        additional_env=launching.environment(launching.flag("fastdds_profile", values["fastdds_profile"])),
        output="screen",
        emulate_tty=True,
    )
    # The recording first: where its folder exists already, the error comes before anything is started.
    actions = [recording(values), node] if values["record"] else [node]
    if launching.flag("rviz", values["rviz"]):
        actions.append(rviz(values, inputs, chosen))
    return actions


def rviz(values, inputs, chosen):
    """RViz on the node's topics."""
    file = CONFIG / "endomatch.rviz"
    return Node(
        package="rviz2",
        executable="rviz2",
        name=f"{values['name']}_rviz",
        namespace=values["namespace"],
        arguments=["-d", str(file)],
        parameters=[{"use_sim_time": chosen.get("use_sim_time", False)}],
        remappings=launching.rviz_remappings(file, inputs),
        output="log",
    )


def recording(values):
    """record.launch.py with the same inputs."""
    forwarded = {name: values[name] for name in (*launching.INPUT_ARGUMENTS, "use_sim_time", "fastdds_profile")}
    file = PythonLaunchDescriptionSource(str(FOLDER / "record.launch.py"))
    arguments = {**forwarded, "output": values["record"], "outputs": "true"}
    return GroupAction([IncludeLaunchDescription(file, launch_arguments=arguments.items())])


def generate_launch_description():
    """Declare the arguments and start the node."""
    return LaunchDescription([*launching.declare(launching.NODE_ARGUMENTS), OpaqueFunction(function=start)])
