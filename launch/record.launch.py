"""Record a bag (mcap, zstd) of the images, their calibration and the node's outputs, until Ctrl-C.

ros2 launch endomatch_ros record.launch.py image:=/camera/image_raw output:=case_1
ros2 launch endomatch_ros record.launch.py profile:=dvrk output:=case_1 topics:='/ECM/measured_cp'

rosbag2 asks each publisher for the QoS that it offers, so nothing has to be set for best-effort drivers. Raw images
over Fast DDS need its shared-memory profile in the driver's process (README).
"""

import os
from pathlib import Path

from launch.actions import ExecuteProcess, OpaqueFunction

from endomatch_ros.ros import launching
from endomatch_ros.ros.launching import bags
from launch import LaunchDescription

CONFIG = Path(__file__).resolve().parent.parent / "config"
ARGUMENTS = {
    **launching.INPUT_ARGUMENTS,
    "output": ("", "the bag's folder, which must not exist; empty: rosbag2_ and the time, in the working directory"),
    "outputs": ("true", "also record what the node publishes, and /diagnostics"),
    "visualization": ("false", "also record the compressed overlay, which the node then draws for each frame"),
    "topics": ("", "further topics, with spaces between them, such as the robot's poses"),
    "compression": ("zstd_fast", "storage preset of rosbag2 for mcap: zstd_fast, zstd_small, fastwrite or none"),
    "use_sim_time": ("", "true: stamp with /clock"),
    "fastdds_profile": ("true", "give the recorder the shared-memory profile for large images"),
}


def start(context):
    """The recorder, once the arguments' values are known."""
    values = launching.perform(context, ARGUMENTS)
    inputs = launching.find_inputs(values, CONFIG, launching.pushed_namespace(context))
    topics = [*inputs.topics, *bags.FRAMES]
    if launching.flag("outputs", values["outputs"]):
        topics += bags.output_topics(inputs, launching.flag("visualization", values["visualization"]))
    topics += values["topics"].split()
    sim_time = launching.flag("use_sim_time", values["use_sim_time"] or "false")
    command = bags.record_command(
        values["output"], topics, values["compression"], sim_time, os.environ.get("ROS_DISTRO", "")
    )
    recorder = ExecuteProcess(
        cmd=command,
        name="record",
        additional_env=launching.environment(launching.flag("fastdds_profile", values["fastdds_profile"])),
        output="screen",
        # After Ctrl-C its cache of up to 200 MiB goes to the disk; killed before that, the bag would have no index.
        sigterm_timeout="60",
        sigkill_timeout="60",
    )
    return [recorder]


def generate_launch_description():
    """Declare the arguments and start the recorder."""
    return LaunchDescription([*launching.declare(ARGUMENTS), OpaqueFunction(function=start)])
