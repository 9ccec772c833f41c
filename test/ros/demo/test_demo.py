"""The demo, short: real processes over DDS, figures against the known motion, what it leaves behind, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from conftest import ROOT
from PIL import Image

from endomatch_ros.cli import main
from endomatch_ros.ros.demo.recorder import read_bag
from endomatch_ros.ros.demo.report import Pair, summarise, table
from endomatch_ros.ros.launching.processes import Child, ChildError
from endomatch_ros.ros.messages.clouds import stamp_to_ns, unpack_cloud

SMALL = ["--size", "192x160", "--rate", "4", "--device", "cpu"]


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """What a short demo leaves."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    before = ros_environment()
    assert main(["demo", "--output", str(folder), "--seconds", "5", "--distinct", "20", *SMALL]) == 0
    assert ros_environment() == before
    return folder


def test_summary_holds_the_figures_beside_the_identity_baseline(output):
    summary = json.loads((output / "summary.json").read_text())
    assert summary["frames_sent"] == 20
    assert summary["frames_recorded"] >= 18
    assert 1 <= summary["pairs_answered"] <= 19
    assert summary["camera_hz"] == pytest.approx(4, rel=0.2)
    ours, identity = summary["known_motion"]["endomatch"], summary["known_motion"]["identity"]
    assert ours["epipolar_median_px"] < identity["epipolar_median_px"]
    assert ours["end_point_median_px"] < 1.0 < identity["end_point_median_px"]
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p95"]


def test_bag_reads_back_with_everything_that_was_streamed(output):
    summary = json.loads((output / "summary.json").read_text())
    stamps: dict[str, list[int]] = {}
    for topic, arrival, message in read_bag(output / "bag"):
        header = message.header
        stamps.setdefault(topic, []).append(stamp_to_ns(header.stamp))
        assert arrival > 0
        if topic == "/endoscope/image_raw":
            assert (message.width, message.height, message.encoding) == (192, 160, "rgb8")
            assert message.data.size == 192 * 160 * 3
        elif topic == "/endomatch/correspondences":
            points = unpack_cloud(message)
            assert np.isfinite(points["u"]).all()
            assert (points["dt"] > 0).all()
        elif topic == "/endoscope/true_pose":
            q = message.pose.orientation
            assert np.linalg.norm([q.x, q.y, q.z, q.w]) == pytest.approx(1)
    assert len(stamps["/endoscope/image_raw"]) == summary["frames_recorded"]
    assert len(stamps["/endomatch/correspondences"]) == summary["pairs_answered"]
    assert set(stamps["/endomatch/correspondences"]) <= set(stamps["/endoscope/image_raw"])
    assert {"/endoscope/camera_info", "/endoscope/true_pose", "/endomatch/epipolar_error", "/diagnostics"} <= set(
        stamps
    )


def test_pictures_show_the_scene_with_matches_on_it(output):
    overlays = sorted(output.glob("overlay_*.png"))
    assert overlays
    for path in overlays:
        picture = np.asarray(Image.open(path)).astype(int)
        assert picture.shape == (160, 192, 3)
        assert (np.ptp(picture, axis=2) > 100).sum() > 100, "no coloured line to be seen"
    assert Image.open(output / "contact_sheet.jpg").width == 3 * 192
    with Image.open(output / "matches.gif") as animation:
        assert animation.n_frames >= 1


def test_pairs_of_a_camera_at_rest_have_no_epipolar_figures_but_count_otherwise():
    points = np.zeros(3, [("inlier", "f4")])
    unknown, still = np.full(3, np.nan), np.array([0.1, 0.2, np.inf])
    summary = summarise(
        [Pair(10**9, points, 5.0, unknown, unknown, still, still)], [0, 10**9], 2, {"dropped_superseded": "4"}
    )
    assert summary["known_motion"]["endomatch"]["epipolar_median_px"] is None
    assert summary["known_motion"]["endomatch"]["end_point_median_px"] == pytest.approx(0.2)
    assert summary["known_motion"]["endomatch"]["pck_5px"] == pytest.approx(2 / 3)
    json.dumps(summary, allow_nan=False)
    assert "unknown" in table(summary).columns[1]._cells
    assert summary["dropped"] == {"superseded": 4}


def test_another_run_replaces_its_own_files_only(output, capsys):
    (output / "notes.txt").write_text("mine")
    (output / "overlay_99.png").write_bytes(b"")
    assert main(["demo", "--output", str(output), "--seconds", "2", "--distinct", "3", *SMALL]) == 0
    assert (output / "notes.txt").read_text() == "mine"
    assert not (output / "overlay_99.png").exists()
    assert json.loads((output / "summary.json").read_text())["frames_sent"] == 8
    assert "epipolar error" in capsys.readouterr().out


def test_a_node_that_cannot_start_is_explained(tmp_path, capsys):
    assert main(["demo", "--output", str(tmp_path), "--model", "gone.safetensors", *SMALL]) == 2
    shown = capsys.readouterr().err
    assert "gone.safetensors" in shown
    assert "Traceback" not in shown
    assert descendants(os.getpid()) == []


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_no_process_outlives_the_demo(tmp_path, spawn, kind):
    command = [sys.executable, "-m", "endomatch_ros.cli", "demo", "--output", str(tmp_path), "--seconds", "60", *SMALL]
    demo = spawn(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = wait_until(lambda: len(found := descendants(demo.pid)) >= 3 and found, "the children")
    demo.send_signal(kind)
    demo.wait(60)
    children = set(children) | set(descendants(demo.pid))
    wait_until(lambda: not any(alive(pid) for pid in children), "the children's end")
    if kind != signal.SIGKILL:
        assert demo.returncode == 130


def test_child_reports_the_end_of_its_log(tmp_path):
    command = [sys.executable, "-c", "import sys; print('one\\ntwo', flush=True); sys.exit('it broke')"]
    with Child("helper", command, tmp_path / "log", os.environ, read_output=True) as child:
        wait_until(lambda: child.status is not None, "the helper's end")
        assert child.lines() == ["one", "two"]
        with pytest.raises(ChildError, match=r"(?s)helper ended with status 1.*it broke"):
            child.check()


def test_child_that_ignores_signals_is_killed_with_its_own_children(tmp_path):
    code = "import signal, subprocess, sys, time\n"
    code += "for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.SIG_IGN)\n"
    code += "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    code += "print(p.pid, flush=True); time.sleep(600)"
    child = Child("stubborn", [sys.executable, "-c", code], tmp_path / "log", os.environ, read_output=True)
    lines = wait_until(child.lines, "the grandchild")
    child.stop(patience_s=0.2)
    assert child.status == -signal.SIGKILL
    wait_until(lambda: not alive(int(lines[0])), "the grandchild's end")


def ros_environment() -> dict[str, str]:
    """The variables that the middleware reads."""
    return {k: v for k, v in os.environ.items() if k.startswith(("ROS_", "AMENT_", "FASTDDS_", "FASTRTPS_", "RMW_"))}


def wait_until(condition, what: str, patience: float = 90.0):
    """Poll until the condition holds; its value."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail(f"{what} did not come within {patience:.0f} s")


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid: int) -> list[int]:
    """Process ids of all living descendants."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(c) for task in tasks for c in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [p for child in children if alive(child) for p in (child, *descendants(child))]
