"""The node as a process: start-up errors, a clean end, QoS between processes, the shared-memory profile."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from rcl_interfaces.msg import Log
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from support.ros import BEST_EFFORT, RELIABLE, bench, wait_until

from endomatch_ros import openmp
from endomatch_ros.ros.launching import dds

NODE = [sys.executable, "-m", "endomatch_ros.ros.node"]
PUBLISHER = [sys.executable, "-m", "endomatch_ros.ros.publisher"]


@pytest.fixture
def watching():
    """A bench whose own node is not started by itself: its client watches the processes."""
    with bench({"autostart": False}, wait_active=False, cli_args=["-r", "__node:=bystander"]) as current:
        yield current


def state_of(watching):
    found = watching.client.diagnostics("/endomatch: input")
    return found and found[1]["state"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-p", "similarity_threshold:=7.0"], "similarity_threshold"),
        (["-p", "max_keypoints:=many"], "max_keypoints"),
        (["-p", "resolution:=0"], "[64, 4096]; write model for the model's own value"),
        (["-p", "image_transport:=theora"], "must be one of raw, compressed"),
        (["--params-file", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments, text):
    done = subprocess.run([*NODE, "--ros-args", *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    line = next(line for line in done.stderr.splitlines() if line.startswith("endomatch: "))
    assert text in line


@pytest.mark.parametrize("kind", ["missing", "damaged", "unknown"])
def test_a_model_that_cannot_be_loaded_keeps_the_process_up_and_says_so(watching, spawn, tmp_path, kind):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no weights at all" * 100)
    model = {"missing": "/nowhere/model.safetensors", "damaged": str(damaged), "unknown": "dinov9-huge"}[kind]
    process = spawn([*NODE, "--ros-args", "-p", f"model:={model}"], cwd=ROOT)
    status, _ = wait_until(
        lambda: (found := watching.client.diagnostics("/endomatch: model")) and found[0].level != b"\x00" and found,
        "an ERROR",
        patience=120,
    )
    assert model in status.message
    assert process.poll() is None


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM]])
def test_the_process_ends_cleanly_when_told(watching, spawn, signals):
    process = spawn([*NODE, "--ros-args", "-p", "autostart:=false"], cwd=ROOT, stderr=subprocess.PIPE)
    wait_until(lambda: state_of(watching) == "unconfigured", "the node to report", patience=60)
    for number in signals:
        process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in stderr


def test_large_images_cross_processes_best_effort_with_the_profile(tmp_path, spawn):
    """1280 x 1024 rgb8, ten of them at 20 Hz: without the profile only a few would arrive."""
    for index in range(10):
        picture = np.random.default_rng(index).integers(0, 255, (64, 80), np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.png"), cv2.resize(picture, (1280, 1024)))
    with bench(wait_active=False) as current:
        current.wait_state("active")
        options = ["--rate", "20", "--preload", "--wait-for-subscriber"]
        # The client publishes on image_raw, too; it stays silent here.
        spawn([*PUBLISHER, "--source", "images", str(tmp_path), *options], cwd=ROOT)
        wait_until(lambda: current.counts().received >= 9, "the images", patience=60)


@pytest.mark.parametrize(("offered", "arrives"), [(RELIABLE, True), (BEST_EFFORT, False)])
def test_qos_override_is_used_and_an_incompatible_publisher_is_logged(offered, arrives):
    cli_args = ["-p", "qos_overrides./other/image_raw.subscription.reliability:=reliable", "-r", "__ns:=/other"]
    with bench(cli_args=cli_args, wait_active=False) as current:
        current.wait_state("active")
        node, logged = current.client.node, []
        node.create_subscription(Log, "/rosout", logged.append, 100)
        wait_until(lambda: node.count_publishers("/rosout") > 1, "the log")
        publisher = node.create_publisher(Image, "/other/image_raw", QoSProfile(depth=1, reliability=offered))
        (info,) = wait_until(lambda: node.get_subscriptions_info_by_topic("/other/image_raw"), "the subscription")
        assert info.qos_profile.reliability == RELIABLE
        (other,) = wait_until(lambda: node.get_subscriptions_info_by_topic("/other/camera_info"), "the subscription")
        assert other.qos_profile.reliability == BEST_EFFORT  # an override is one topic's
        if arrives:
            wait_until(publisher.get_subscription_count, "the match")
        else:
            text = "qos_overrides./other/image_raw.subscription"
            wait_until(lambda: any(text in message.msg for message in logged), "the error in the log")
            assert publisher.get_subscription_count() == 0


def test_profile_is_found_without_an_ament_index_and_the_users_own_is_kept(monkeypatch):
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    environment = {}
    dds.prepare(environment)
    assert Path(environment["FASTDDS_DEFAULT_PROFILES_FILE"]).name == "fastdds_shm.xml"
    chosen = {"FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml", "ROS_DOMAIN_ID": "7"}
    dds.prepare(chosen, domain_id=9)
    assert chosen["FASTDDS_DEFAULT_PROFILES_FILE"] == "/mine.xml"
    assert chosen["ROS_DOMAIN_ID"] == "9"
    assert os.environ["FASTDDS_DEFAULT_PROFILES_FILE"]


def test_the_publisher_takes_ros_arguments_and_ends_cleanly_when_told(watching, spawn):
    """A remapping is no folder of pictures; SIGINT in the middle of the frames is no failure."""
    options = ["--stereo", "--width", "64", "--height", "64", "--rate", "100"]
    process = spawn([*PUBLISHER, *options, "--ros-args", "-r", "left/image_raw:=first", "-r", "__ns:=/scope"])
    count = watching.client.node.count_publishers
    wait_until(lambda: count("/scope/first") == 1, "the left camera", patience=60)
    wait_until(lambda: count("/scope/right/camera_info") == 1, "the right camera")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0


def test_pytorch_s_threads_in_the_node_wait_as_chosen():
    code = "import sys; from endomatch_ros.ros.node import main; main(sys.argv[1:]); import torch"
    command = [sys.executable, "-c", code, "--ros-args", "-p", "similarity_threshold:=7.0"]  # which ends it at once
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    environment = {**kept, "OMP_DISPLAY_ENV": "verbose"}
    shown = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False).stderr
    if "GOMP_" not in shown:
        pytest.skip("PyTorch brings another OpenMP than GNU's")
    assert all(f"{name} = '{text}'" in shown for name, text in openmp.WAITING.items())
