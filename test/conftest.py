"""What every test shares: an isolated ROS environment, the real recordings where they are at hand, clean-up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Beside the checkout, or wherever this variable says.
DATA = Path(os.environ.get("ENDOMATCH_TEST_DATA", ROOT.parent / "shared" / "data"))


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before anything imports rclpy; child processes inherit it."""
    # A virtual environment with ROS wheels is an ament prefix only if it is named.
    prefixes = [sys.prefix, *filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))]
    os.environ["AMENT_PREFIX_PATH"] = os.pathsep.join(dict.fromkeys(prefixes))
    # Neither a robot on the network nor another test run on this machine may be heard. 1 to 100 are safe on Linux.
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.setdefault("ROS_LOG_DIR", tempfile.mkdtemp(prefix="endomatch_test_ros_log_"))
    # A shell's background jobs (`make test &`) ignore SIGINT, and so would the processes that tests start to interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def sinus() -> Path:
    """Folder of the real sinus recording (frames, masks, poses, points)."""
    folder = DATA / "sinus"
    if not folder.is_dir():
        pytest.skip(f"the real recording is not at {folder}; name its parent folder with ENDOMATCH_TEST_DATA")
    return folder


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes that are certain to be gone after the test: ``spawn(["python", …], stdout=…)``."""
    running: list[subprocess.Popen[str]] = []

    def start(command: list[str], **options: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, text=True, start_new_session=True, **options)  # type: ignore[call-overload]
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
