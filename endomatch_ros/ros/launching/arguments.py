"""What the launch files decide: values of launch arguments in; topics, parameters and remappings out.

Nothing here needs the package ``launch``, except :func:`declare` and :func:`perform`, which import it when called.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from endomatch_ros import openmp
from endomatch_ros.errors import ConfigError
from endomatch_ros.ros.launching import dds
from endomatch_ros.ros.launching.files import load_yaml, read_parameters
from endomatch_ros.ros.launching.names import camera_names, fill, join_namespaces, resolve
from endomatch_ros.ros.parameters.table import STEREO, UNNAMED

Arguments = Mapping[str, tuple[str | None, str]]
"""Default and description by launch argument; without a default (None) it has to be given."""

INPUT_ARGUMENTS: Arguments = {
    "image": ("", "image topic without /compressed, {camera} stands for a camera's name; empty: the profile's, else "
              "image_raw or CAMERA/image_raw in the namespace"),
    "camera_info": ("", "calibration topic, likewise; need not exist; empty: the profile's, else beside image"),
    "image_transport": ("", "raw or compressed; empty: as in params_file or profile"),
    "cameras": ("", "list of camera names, such as [left, right]; empty: as in params_file or profile"),
    "mode": ("", "temporal, stereo or both; empty: as in params_file or profile"),
    "profile": ("", "topics and parameters of known hardware, a name from config/profiles; empty: none"),
    "params_file": ("", "YAML file with parameters, over those of the profile and of config/endomatch.yaml"),
    "namespace": ("", "namespace of the node"),
    "name": ("endomatch", "name of the node"),
}  # fmt: skip
NODE_ARGUMENTS: Arguments = {
    **INPUT_ARGUMENTS,
    "model": ("", "preset or path of a .safetensors checkpoint; empty: as in params_file or profile"),
    "device": ("", "auto, cpu, cuda or cuda:N; empty: as in params_file or profile"),
    "use_sim_time": ("", "true: take the time from /clock; empty: as in params_file"),
    "rviz": ("false", "also start RViz with config/endomatch.rviz"),
    "record": ("", "folder for a bag of inputs and outputs, which must not exist; empty: none (see record.launch.py)"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "fastdds_profile": ("true", "give what is started here the shared-memory profile for large images"),
}

_CHOSEN = ("image_transport", "model", "device", "mode")
_SECOND = "right"
_LEVELS = ("debug", "info", "warn", "error", "fatal")


@dataclass(frozen=True)
class Inputs:
    """Where the node's images come from.

    Attributes:
        node: fully qualified name of the node, ``/robot/endomatch``.
        cameras: their names; ``("",)`` is one without a name.
        images, camera_infos: absolute topics in the order of ``cameras``.
        mode: temporal, stereo or both, as it was given; the node checks it.
        compressed: the images are CompressedImage on ``…/compressed``.
        remappings: from the node's relative names to those topics; none where they are the same.
        files: parameter files, the later over the earlier.
    """

    node: str
    cameras: tuple[str, ...]
    images: tuple[str, ...]
    camera_infos: tuple[str, ...]
    mode: str
    compressed: bool
    remappings: tuple[tuple[str, str], ...]
    files: tuple[Path, ...]

    @property
    def topics(self) -> list[str]:
        """What is on the wire: images as they are transported, and camera_infos."""
        return [image + "/compressed" * self.compressed for image in self.images] + list(self.camera_infos)

    @property
    def logger(self) -> str:
        """Name of the node's logger, for ``--log-level NAME:=LEVEL``."""
        return self.node.strip("/").replace("/", ".")


def find_inputs(values: Mapping[str, str], config: Path, pushed: str = "") -> Inputs:
    """Put :data:`INPUT_ARGUMENTS`, profile and parameter files together.

    A parameter is the argument's, else that of ``params_file``, else the profile's, else that of ``endomatch.yaml``.
    The profile's topics hold where ``image`` is empty.

    Args:
        values: launch arguments by name.
        config: the package's folder ``config``.
        pushed: namespace around the launch file (PushRosNamespace).

    Raises:
        ConfigError: an unknown profile, a file that is missing or no parameter file, cameras that are no list of names,
            a topic that does not fit the cameras.
    """
    namespace = join_namespaces(pushed, values["namespace"])
    node = resolve(values["name"], namespace)
    files = (config / "endomatch.yaml", *_profile(values["profile"], config), *_params_file(values["params_file"]))
    parameters = read_parameters(files, node)
    cameras = camera_names(values["cameras"] or parameters.get("cameras", [UNNAMED]))
    patterns = _patterns(values, _profile_topics(values["profile"], config))
    relative = {"image": "image_raw", "camera_info": "camera_info"}
    topics: dict[str, tuple[str, ...]] = {}
    remappings = []
    for kind, own in relative.items():
        names = [f"{camera}/{own}".lstrip("/") for camera in cameras]
        wanted = fill(kind, patterns[kind], cameras) if patterns[kind] else names
        remappings += [pair for pair in zip(names, wanted, strict=True) if pair[0] != pair[1]]
        topics[kind] = tuple(resolve(name, namespace) for name in wanted)
    transport = values["image_transport"] or parameters.get("image_transport", "raw")
    compressed = transport == "compressed"
    mode = values["mode"] or str(parameters.get("mode", "temporal"))
    images, infos = topics["image"], topics["camera_info"]
    return Inputs(node, cameras, images, infos, mode, compressed, tuple(remappings), files)


def overrides(values: Mapping[str, str], cameras: Sequence[str]) -> dict[str, str | bool | list[str]]:
    """The parameters that are launch arguments and were given.

    Raises:
        ConfigError: ``use_sim_time`` is neither true nor false.
    """
    chosen: dict[str, str | bool | list[str]] = {name: values[name] for name in _CHOSEN if values[name]}
    if values["cameras"]:
        chosen["cameras"] = list(cameras)
    if values["use_sim_time"]:
        chosen["use_sim_time"] = flag("use_sim_time", values["use_sim_time"])
    return chosen


def flag(argument: str, text: str) -> bool:
    """True or false from a launch argument.

    Raises:
        ConfigError: neither.
    """
    if text.lower() not in ("true", "1", "false", "0"):
        raise ConfigError(f"{argument}={text!r} is neither true nor false")
    return text.lower() in ("true", "1")


def log_level(text: str) -> str:
    """The level in lower case.

    Raises:
        ConfigError: an unknown level.
    """
    if text.lower() not in _LEVELS:
        raise ConfigError(f"log_level={text!r} is unknown; choose one of {', '.join(_LEVELS)}")
    return text.lower()


def environment(fastdds_profile: bool) -> dict[str, str]:
    """Variables that a started process needs on top of this one's.

    Args:
        fastdds_profile: with those of :func:`.dds.prepare`, not only those of :func:`.openmp.prepare`.
    """
    prepared = dict(os.environ)
    openmp.prepare(prepared)
    if fastdds_profile:
        dds.prepare(prepared)
    return {name: text for name, text in prepared.items() if os.environ.get(name) != text}


def rviz_remappings(file: Path, inputs: Inputs) -> list[tuple[str, str]]:
    """From the topics of ``config/endomatch.rviz`` to the node's.

    The file shows ``/endomatch/…`` of one camera, ``/endomatch/right/…`` of a second, ``/endomatch/stereo/…`` of the
    pair, and ``/image_raw``. With several cameras the first takes the one's place, in mode stereo the pair does.
    """
    first = STEREO if inputs.mode == STEREO else inputs.cameras[0]
    places = {STEREO: STEREO, **({_SECOND: inputs.cameras[1]} if len(inputs.cameras) > 1 else {})}
    pairs = {"/image_raw": inputs.images[0]}
    for topic in _texts(load_yaml(file)):
        if topic.startswith("/endomatch/"):
            head, _, rest = topic.removeprefix("/endomatch/").partition("/")
            parts = (places[head], rest) if head in places else (first, head, rest)
            pairs[topic] = "/".join(filter(None, (inputs.node, *parts)))
    return [(topic, to) for topic, to in pairs.items() if topic != to]


def declare(arguments: Arguments) -> list[Any]:
    """A DeclareLaunchArgument for each."""
    from launch.actions import DeclareLaunchArgument

    return [
        DeclareLaunchArgument(name, default_value=value, description=text) for name, (value, text) in arguments.items()
    ]


def perform(context: Any, arguments: Iterable[str]) -> dict[str, str]:
    """The arguments' values in a launch context."""
    from launch.substitutions import LaunchConfiguration

    return {name: LaunchConfiguration(name).perform(context).strip() for name in arguments}


def pushed_namespace(context: Any) -> str:
    """The namespace that PushRosNamespace has set in a launch context; empty if none."""
    return str(context.launch_configurations.get("ros_namespace") or "")


def _patterns(values: Mapping[str, str], profile: Mapping[str, str]) -> dict[str, str]:
    image, info = values["image"], values["camera_info"]
    if not image:  # the profile's calibration belongs to the profile's images
        image, info = profile.get("image", ""), info or profile.get("camera_info", "")
    if image and not info:  # where image_transport looks for it
        info = f"{image.rpartition('/')[0]}/camera_info" if "/" in image else "camera_info"
    return {"image": image, "camera_info": info}


def _profile(name: str, config: Path) -> list[Path]:
    if not name:
        return []
    file = config / "profiles" / f"{name}.yaml"
    known = sorted(path.stem for path in file.parent.glob("*.yaml") if path.stem != "topics")
    if name not in known:
        raise ConfigError(f"profile={name!r} is unknown; there are {', '.join(known)}, or use params_file and image")
    return [file]


def _profile_topics(name: str, config: Path) -> Mapping[str, str]:
    return load_yaml(config / "profiles" / "topics.yaml").get(name) or {} if name else {}


def _params_file(name: str) -> list[Path]:
    return [Path(name).expanduser().absolute()] if name else []


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [text for part in (value.values() if isinstance(value, dict) else value) for text in _texts(part)]
    return [value] if isinstance(value, str) else []
