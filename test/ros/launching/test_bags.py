"""What record.launch.py and playback.launch.py ask of rosbag2, and what they read of a bag before."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.launch import STEREO, inputs, values

from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.ros.launching import bags


def test_recorded_outputs_follow_mode_and_cameras():
    assert bags.output_topics(inputs(namespace="robot"), False)[:2] == [
        "/robot/endomatch/correspondences",
        "/robot/endomatch/epipolar_error",
    ]
    both = bags.output_topics(inputs(**STEREO, mode="both"), True)
    for name in ("left/relative_pose", "right/visualization/compressed", "stereo/points", "stereo/correspondences"):
        assert f"/endomatch/{name}" in both
    stereo = bags.output_topics(inputs(**STEREO, mode="stereo"), False)
    assert not [
        topic for topic in stereo if "/left/" in topic or "visualization" in topic or "stereo/relative" in topic
    ]
    assert "/diagnostics" in stereo


def test_record_command_of_each_distribution(tmp_path: Path):
    folder = tmp_path / "bag"
    new = bags.record_command(str(folder), ["/a", "/b", "/a"], "zstd_fast", True, "kilted")
    assert new[:3] == ["ros2", "bag", "record"]
    assert new[new.index("--topics") + 1 :] == ["/a", "/b"]
    assert "--use-sim-time" in new
    assert new[new.index("--output") + 1] == str(folder)
    old = bags.record_command("", ["/a"], "none", False, "humble")  # has no --topics
    assert old[-1] == "/a"
    assert {"--topics", "--output", "--use-sim-time"}.isdisjoint(old)
    folder.mkdir()
    with pytest.raises(ConfigError, match="already"):
        bags.record_command(str(folder), ["/a"], "none", False, "")
    with pytest.raises(ConfigError, match="compression='gzip'"):
        bags.record_command("", ["/a"], "gzip", False, "")


PLAY = {"rate": "0.5", "start": "1", "loop": "true", "remap": "/old:=/new"}


def test_play_command_plays_only_the_inputs_under_the_bag_s_own_names(tmp_path: Path):
    command = bags.playback({"bag": str(tmp_path), **PLAY}).command(["/new", "/info"])
    assert command[:4] == ["ros2", "bag", "play", str(tmp_path)]
    assert command[command.index("--topics") + 1 :] == ["/old", "/info"]
    assert command[command.index("--remap") + 1] == "/old:=/new"
    assert command[command.index("--rate") + 1] == "0.5"
    assert "--loop" in command
    assert float(command[command.index("--clock") + 1]) > 0


@pytest.mark.parametrize(
    "wrong", [{"rate": "0"}, {"rate": "fast"}, {"rate": "inf"}, {"start": "-1"}, {"loop": "yes"}, {"remap": "/a=/b"}]
)
def test_playback_arguments_out_of_range(tmp_path: Path, wrong: dict[str, str]):
    ((name, text),) = wrong.items()
    with pytest.raises(ConfigError, match=f"{name}='{text}'"):
        bags.playback({"bag": str(tmp_path), **PLAY, **wrong})


def test_a_bag_that_is_not_there():
    with pytest.raises(DataError, match="bag='/nowhere'"):
        bags.playback({"bag": "/nowhere", **PLAY})


def bag_of(folder: Path, **kinds: str) -> bags.Playback:
    """What is read of a bag: its metadata, as rosbag2 writes it."""
    listed = [{"topic_metadata": {"name": name.replace("__", "/"), "type": kind}} for name, kind in kinds.items()]
    content = {"rosbag2_bagfile_information": {"topics_with_message_count": listed}}
    (folder / "metadata.yaml").write_text(yaml.safe_dump(content))
    return bags.Playback(str(folder))


IMAGE, JPEG, CLOUD = (f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "PointCloud2"))


def test_playback_takes_the_bag_s_only_image_topic(tmp_path: Path):
    topics = {"__s__image_raw": IMAGE, "__s__image_raw__compressed": JPEG, "__e__visualization": IMAGE}
    found = bags.with_topics_of_bag(values(), bag_of(tmp_path, **topics, __e__correspondences=CLOUD))
    assert (found["image"], found["image_transport"]) == ("/s/image_raw", "raw")
    only_jpeg = bag_of(tmp_path, __s__image_raw__compressed=JPEG)
    found = bags.with_topics_of_bag(values(), only_jpeg)
    assert (found["image"], found["image_transport"]) == ("/s/image_raw", "compressed")
    assert bags.with_topics_of_bag(values(image="/x"), only_jpeg)["image"] == "/x"


def test_playback_of_a_bag_without_the_images(tmp_path: Path):
    two = bag_of(tmp_path, __l__image_raw=IMAGE, __r__image_raw=IMAGE)
    with pytest.raises(DataError, match=r"/l/image_raw, /r/image_raw; say which"):
        bags.with_topics_of_bag(values(), two)
    two.check(inputs(cameras="[l, r]", image="/{camera}/image_raw"))
    with pytest.raises(DataError, match=r"/x is not in the bag .* which has /l/image_raw"):
        two.check(inputs(image="/x"))
    renamed = bags.Playback(two.bag, remap=("/l/image_raw:=/x",))
    renamed.check(inputs(image="/x"))
    with pytest.raises(DataError, match="no images"):
        bags.with_topics_of_bag(values(), bag_of(tmp_path, __points=CLOUD))


def test_playback_of_a_bag_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "metadata.yaml").write_text("rosbag2_bagfile_information: 3")
    with pytest.raises(DataError, match="reindex"):
        bags.Playback(str(tmp_path)).topics()
    (tmp_path / "metadata.yaml").unlink()
    bags.Playback(str(tmp_path)).check(inputs(image="/x"))  # a bag without metadata is left to rosbag2
