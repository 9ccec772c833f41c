"""Command lines of ``ros2 bag`` for the launch files, from Humble to Rolling, and what a bag says about its topics."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.ros.launching.arguments import Inputs, flag
from endomatch_ros.ros.parameters.table import STEREO

PRESETS = ("zstd_fast", "zstd_small", "fastwrite", "none")
"""rosbag2's storage presets for mcap. Its own compression of whole files or messages (``--compression-mode``) is not
used: with mcap it does not compress messages, and a compressed file cannot be read in place."""

FRAMES = ("/tf", "/tf_static")
_PAIR = ("correspondences", "epipolar_error")
_CAMERA = (*_PAIR, "relative_pose", "relative_pose_with_covariance")
_IMAGES = {"sensor_msgs/msg/Image": "raw", "sensor_msgs/msg/CompressedImage": "compressed"}
_OVERLAYS = re.compile(r"/visualization(/compressed)?$")
_DISCOVERY_S = 2.0  # between the player's start and its first message, for its topics to be found
_POSITIONAL = ("humble", "iron")  # have no --topics for `ros2 bag record`


def output_topics(inputs: Inputs, visualization: bool) -> list[str]:
    """The node's topics worth recording; the compressed overlay only if wanted, since the node draws it only then."""
    overlay = ("visualization/compressed",) if visualization else ()
    parts = {} if inputs.mode == STEREO else dict.fromkeys(inputs.cameras, (*_CAMERA, *overlay))
    if inputs.mode in (STEREO, "both"):
        parts[STEREO] = (*_PAIR, "points", *overlay)
    topics = ["/".join(filter(None, (inputs.node, part, name))) for part, names in parts.items() for name in names]
    return [*topics, "/diagnostics"]


def record_command(folder: str, topics: Sequence[str], preset: str, use_sim_time: bool, distribution: str) -> list[str]:
    """``ros2 bag record`` of ``topics`` into an mcap bag.

    Args:
        folder: the bag's; empty: ros2 bag makes one with the time in its name.
        topics: absolute names; those that do not exist yet are taken up when they appear.
        preset: one of :data:`PRESETS`.
        use_sim_time: stamp with /clock.
        distribution: ``ROS_DISTRO``.

    Raises:
        ConfigError: an unknown preset, or the folder exists.
    """
    if preset not in PRESETS:
        raise ConfigError(f"compression={preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    if folder and Path(folder).expanduser().exists():
        raise ConfigError(f"there is a {folder} already; name a folder that does not exist for the bag")
    command = ["ros2", "bag", "record", "--storage", "mcap", "--storage-preset-profile", preset]
    command += ["--output", str(Path(folder).expanduser())] * bool(folder)
    command += ["--use-sim-time"] * use_sim_time
    unique = list(dict.fromkeys(topics))
    return [*command, *unique] if distribution in _POSITIONAL else [*command, "--topics", *unique]


@dataclass(frozen=True)
class Playback:
    """How a bag is played.

    Attributes:
        bag: its folder, or one mcap or sqlite3 file.
        rate: speed, 1 as recorded.
        start_s: seconds of the bag to leave out at the beginning.
        loop: begin again at the end.
        clock_hz: rate of /clock.
        remap: ``/topic/in/bag:=/topic`` each.
    """

    bag: str
    rate: float = 1.0
    start_s: float = 0.0
    loop: bool = False
    clock_hz: float = 100.0
    remap: tuple[str, ...] = ()

    def command(self, topics: Sequence[str]) -> list[str]:
        """``ros2 bag play`` of ``topics``, which are named as they are after the remapping.

        The bag's other topics stay silent: outputs that were recorded with the images would mix with the node's.
        """
        back = {new: old for old, new in (rule.split(":=") for rule in self.remap)}
        command = ["ros2", "bag", "play", str(Path(self.bag).expanduser()), "--clock", f"{self.clock_hz:g}"]
        command += ["--rate", f"{self.rate:g}", "--start-offset", f"{self.start_s:g}", "--disable-keyboard-controls"]
        command += ["--delay", f"{_DISCOVERY_S:g}"]
        command += ["--loop"] * self.loop
        command += ["--remap", *self.remap] if self.remap else []
        return [*command, "--topics", *(back.get(topic, topic) for topic in topics)]

    def topics(self) -> dict[str, str]:
        """Type by topic as played; empty if the bag does not say.

        Raises:
            DataError: the bag's metadata is damaged.
        """
        new = dict(rule.split(":=") for rule in self.remap)
        return {new.get(topic, topic): kind for topic, kind in bag_topics(Path(self.bag).expanduser()).items()}

    def check(self, inputs: Inputs) -> None:
        """Raise DataError if the images that the node wants are not in the bag."""
        played = self.topics()
        missing = [topic for topic in inputs.topics[: len(inputs.images)] if played and topic not in played]
        if missing:
            images = ", ".join(topic for topic, kind in played.items() if kind in _IMAGES) or "no images"
            raise DataError(
                f"{', '.join(missing)} is not in the bag {self.bag}, which has {images}; set image and "
                "image_transport, or remap:='/in/bag:=/played'"
            )


def with_topics_of_bag(values: Mapping[str, str], player: Playback) -> dict[str, str]:
    """Launch arguments in which an image that nobody has named is the bag's only one.

    Raises:
        DataError: the bag has none or several, or its metadata is damaged.
    """
    played = player.topics()
    if not played or any(values[name] for name in ("image", "profile", "cameras", "params_file")):
        return dict(values)
    image, transport = only_image(played)
    return {**values, "image": image, "image_transport": transport}


def playback(values: Mapping[str, str]) -> Playback:
    """From the launch arguments ``bag``, ``rate``, ``start``, ``loop`` (true or false) and ``remap``.

    Raises:
        ConfigError: a number out of its range, a remapping that is none.
        DataError: there is no such bag.
    """
    if not Path(values["bag"]).expanduser().exists():
        raise DataError(f"bag={values['bag']!r} does not exist; name a bag's folder")
    rules = tuple(values["remap"].split())
    for rule in rules:
        if not re.fullmatch(r"/[^\s:=]+:=/[^\s:=]+", rule):
            raise ConfigError(f"remap={rule!r} is no remapping; write remap:='/topic/in/bag:=/topic …'")
    numbers = {}
    for name, least in (("rate", 0.01), ("start", 0.0)):
        try:
            numbers[name] = float(values[name])
        except ValueError:
            numbers[name] = float("nan")
        if not least <= numbers[name] < float("inf"):
            raise ConfigError(f"{name}={values[name]!r} is no number of at least {least:g}")
    return Playback(values["bag"], numbers["rate"], numbers["start"], flag("loop", values["loop"]), remap=rules)


def bag_topics(bag: Path) -> dict[str, str]:
    """Type by topic, from the bag's ``metadata.yaml``; empty where there is none (a single file).

    Raises:
        DataError: the metadata is damaged.
    """
    file = bag / "metadata.yaml"
    if not file.is_file():
        return {}
    try:
        listed = yaml.safe_load(file.read_text())["rosbag2_bagfile_information"]["topics_with_message_count"]
        return {entry["topic_metadata"]["name"]: entry["topic_metadata"]["type"] for entry in listed}
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error!r}); `ros2 bag reindex {bag}` makes it anew") from error


def only_image(topics: Mapping[str, str]) -> tuple[str, str]:
    """The one image topic of a bag, without /compressed, and its transport; raw ones come first, overlays do not count.

    Raises:
        DataError: none, or several.
    """
    images = [topic for topic, kind in topics.items() if kind in _IMAGES and not _OVERLAYS.search(topic)]
    raw = [topic for topic in images if _IMAGES[topics[topic]] == "raw"]
    candidates = raw or images
    if len(candidates) != 1:
        found = ", ".join(images) if images else "no images"
        raise DataError(f"the bag has {found}; say which to match: image:=/topic (and cameras, for several at once)")
    return candidates[0].removesuffix("/compressed"), _IMAGES[topics[candidates[0]]]
