"""What pip and colcon make of the sources is whole, and what they install runs, away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import ROOT

INSTALLED = (
    "share/ament_index/resource_index/packages/endomatch_ros",
    "share/endomatch_ros/package.xml",
    "share/endomatch_ros/LICENSE",
    "share/endomatch_ros/launch/endomatch.launch.py",
    "share/endomatch_ros/launch/demo.launch.py",
    "share/endomatch_ros/launch/record.launch.py",
    "share/endomatch_ros/launch/playback.launch.py",
    "share/endomatch_ros/config/endomatch.rviz",
    "share/endomatch_ros/config/foxglove_layout.json",
    "share/endomatch_ros/config/profiles/dvrk.yaml",
    "share/endomatch_ros/config/profiles/topics.yaml",
    "share/endomatch_ros/config/fastdds_shm.xml",
    "share/endomatch_ros/config/endomatch.yaml",
    "share/endomatch_ros/config/train.yaml",
    "lib/endomatch_ros/matcher_node",
    "lib/endomatch_ros/train_matcher",
    "lib/endomatch_ros/endoscope_publisher",
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of what git would give a stranger, plus what is not committed yet."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip("not a git checkout")
    copy = tmp_path_factory.mktemp("workspace") / "src" / "endomatch_ros"
    for name in filter(None, run.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def prefix(sources, tmp_path_factory) -> Path:
    """``pip install`` into a prefix of its own, without network."""
    pytest.importorskip("setuptools", reason="setuptools is needed to build")
    folder = tmp_path_factory.mktemp("prefix")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed", "--prefix", str(folder)]
    done(run([sys.executable, "-m", "pip", "install", *options, str(sources)]))
    return folder


def site(prefix: Path) -> Path:
    """The prefix's folder of Python packages."""
    scheme = sysconfig.get_preferred_scheme("prefix")
    return Path(sysconfig.get_path("purelib", scheme, {"base": str(prefix), "platbase": str(prefix)}))


def run(command: list[str], prefix: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run away from the checkout, with the prefix in front where one is given."""
    environment = {**os.environ, **variables}
    if prefix is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(site(prefix)), environment.get("PYTHONPATH", "")])
        environment["AMENT_PREFIX_PATH"] = os.pathsep.join([str(prefix), environment["AMENT_PREFIX_PATH"]])
    return subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )


def done(result: subprocess.CompletedProcess[str]) -> str:
    """The output of a run that must have succeeded."""
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_pip_installs_every_file_that_ros_looks_for(prefix):
    assert [name for name in INSTALLED if not (prefix / name).is_file()] == []
    for name in ("matcher_node", "train_matcher", "endoscope_publisher"):
        assert os.access(prefix / "lib/endomatch_ros" / name, os.X_OK)
        assert (prefix / "bin" / name).is_file()
    assert (prefix / "bin/endomatch").is_file()


def test_pip_installs_every_module_and_the_weights(sources, prefix):
    package = Path("endomatch_ros")
    for file in (sources / package).rglob("*"):
        if file.suffix in (".py", ".safetensors") or file.name == "py.typed":
            assert (site(prefix) / file.relative_to(sources)).is_file(), file


def test_installed_command_runs_from_there(prefix):
    shown = done(run([sys.executable, str(prefix / "bin/endomatch"), "info", "--device", "cpu", "--json"], prefix))
    assert json.loads(shown)["model"]["source"].startswith(str(prefix))


def test_ament_finds_the_installed_share_folder_and_its_profile(prefix):
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    code = "from endomatch_ros.ros.launching.dds import profile_path; print(profile_path())"
    assert done(run([sys.executable, "-c", code], prefix)).strip().startswith(str(prefix))


def test_installed_node_is_what_ros2_run_would_start(prefix):
    """A parameter of the wrong type ends the node at once with a message: the script has found it and ROS."""
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    executable = prefix / "lib/endomatch_ros/matcher_node"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    result = run([str(executable), "--ros-args", "-p", "max_keypoints:=many"], prefix, PATH=path)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "max_keypoints" in result.stderr


def test_installed_training_is_what_ros2_run_would_start(prefix, tmp_path):
    executable = prefix / "lib/endomatch_ros/train_matcher"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    options = ["--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "run")]
    result = run([str(executable), *options, "--ros-args", "-r", "__node:=train"], prefix, PATH=path)
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.splitlines()[-1].startswith("train_matcher: error: there is no file or folder")


@pytest.mark.slow
def test_colcon_builds_the_same_package(sources):
    colcon = shutil.which("colcon")
    if colcon is None:
        pytest.skip("colcon is not installed: pip install colcon-common-extensions")
    workspace = sources.parents[1]
    subprocess.run([colcon, "build"], cwd=workspace, check=True, capture_output=True, text=True)
    installed = workspace / "install" / "endomatch_ros"
    assert [name for name in INSTALLED if not (installed / name).is_file()] == []
    assert "console_scripts" in (installed / "lib/endomatch_ros/matcher_node").read_text()
    assert (installed / "lib/endomatch_ros/endomatch").is_file()
