"""What the middleware needs from the environment, to be set before a process's first ``rclpy.init``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

from endomatch_ros import openmp

_PROFILE = "fastdds_shm.xml"
_VARIABLE, _HUMBLE_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"


def profile_path() -> Path:
    """The package's Fast DDS profile, whose shared-memory segment is large enough for raw images.

    Raises:
        FileNotFoundError: the package is neither installed nor run from its source tree.
    """
    candidates = [Path(sys.prefix, "share", "endomatch_ros"), Path(__file__).resolve().parents[3]]
    with contextlib.suppress(LookupError, OSError):  # not in the index; no index at all
        candidates.insert(0, Path(get_package_share_directory("endomatch_ros")))
    for folder in candidates:
        if (folder / "config" / _PROFILE).is_file():
            return folder / "config" / _PROFILE
    raise FileNotFoundError(f"config/{_PROFILE} is in none of {', '.join(map(str, candidates))}; reinstall the package")


def prepare(environment: MutableMapping[str, str] = os.environ, domain_id: int | None = None) -> None:
    """Set up ``environment`` so that large images arrive; what the user has set stays.

    Without the profile a best-effort subscriber of another process loses most images of a megabyte and more.

    Args:
        environment: changed in place; of this process or for one to be started.
        domain_id: if given, this ROS domain on this machine only: nothing outside takes part.
    """
    humble = environment.get("ROS_DISTRO") == "humble"  # Fast DDS 2.6 reads the old name, later ones warn of it
    if not {_VARIABLE, _HUMBLE_VARIABLE} & environment.keys():
        environment[_HUMBLE_VARIABLE if humble else _VARIABLE] = str(profile_path())
    environment.setdefault("AMENT_PREFIX_PATH", sys.prefix)  # a pip environment is a prefix only if it says so
    if domain_id is not None:
        environment["ROS_DOMAIN_ID"] = str(domain_id)
        environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        if humble:
            environment["ROS_LOCALHOST_ONLY"] = "1"


@contextlib.contextmanager
def own_domain() -> Iterator[dict[str, str]]:
    """The environment for child processes, in force here too for as long, with a ROS domain that nobody else uses."""
    before = dict(os.environ)
    prepare(os.environ, domain_id=1 + os.getpid() % 100)
    openmp.prepare(os.environ)
    try:
        yield dict(os.environ)
    finally:
        os.environ.clear()
        os.environ.update(before)
