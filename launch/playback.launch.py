"""Play a bag's images into the node and show the result in RViz.

ros2 launch endomatch_ros playback.launch.py bag:=case_1
ros2 launch endomatch_ros playback.launch.py bag:=case_1 rate:=0.5 model:=mine.safetensors record:=case_1_new exit:=true

The bag is played once the node is active, with /clock, and only its images, calibration and transforms: outputs that
were recorded with them stay silent. Without `image` (and `profile`) the bag's only image topic is taken.
"""

from pathlib import Path

from launch.actions import (
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.events.lifecycle import StateTransition

from endomatch_ros.ros import launching
from endomatch_ros.ros.launching import bags
from launch import EventHandler, LaunchDescription

FOLDER = Path(__file__).resolve().parent
CONFIG = FOLDER.parent / "config"
LAST_ANSWER_S = 5.0  # for the node to answer the bag's last frame
OWN = {
    "bag": (None, "the bag's folder"),
    "rate": ("1.0", "speed; 1 is as recorded"),
    "start": ("0.0", "seconds of the bag to leave out at the beginning"),
    "loop": ("false", "begin again at the end"),
    "remap": ("", "topics to rename while playing, with spaces between them: '/in/bag:=/played …'"),
    "exit": ("false", "end everything when the bag has ended, otherwise Ctrl-C"),
}
NODE = {
    **{name: text for name, text in launching.NODE_ARGUMENTS.items() if name != "use_sim_time"},
    "rviz": ("true", launching.NODE_ARGUMENTS["rviz"][1]),
}


def start(context):
    """Node and player, once the arguments' values are known."""
    values = launching.perform(context, {**OWN, **NODE})
    player = bags.playback(values)
    values = bags.with_topics_of_bag(values, player)
    inputs = launching.find_inputs(values, CONFIG, launching.pushed_namespace(context))
    player.check(inputs)
    play = ExecuteProcess(
        cmd=player.command([*inputs.topics, *bags.FRAMES]),
        name="play",
        additional_env=launching.environment(launching.flag("fastdds_profile", values["fastdds_profile"])),
        output="screen",
    )
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(FOLDER / "endomatch.launch.py")),
        launch_arguments={**{name: values[name] for name in NODE}, "use_sim_time": "true"}.items(),
    )

    def ready(event):
        active = isinstance(event, StateTransition) and event.goal_state == "active"
        return active and event.action.node_name == inputs.node

    actions = [RegisterEventHandler(EventHandler(matcher=ready, entities=[play], handle_once=True)), node]
    if launching.flag("exit", values["exit"]):
        end = TimerAction(period=LAST_ANSWER_S, actions=[EmitEvent(event=Shutdown(reason="the bag has ended"))])
        actions.insert(0, RegisterEventHandler(OnProcessExit(target_action=play, on_exit=[end])))
    return actions


def generate_launch_description():
    """Declare the arguments, start the node and then the player."""
    return LaunchDescription([*launching.declare({**OWN, **NODE}), OpaqueFunction(function=start)])
