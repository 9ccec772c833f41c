"""What colcon, rosdep, pip and ros2 read of this package, and that its parts agree with each other."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import ROOT

from endomatch_ros import __version__

PACKAGE = ROOT / "endomatch_ros"
MANIFEST = ElementTree.parse(ROOT / "package.xml").getroot()


def setup_call() -> dict[str, ast.expr]:
    """The keyword arguments of setup.py's setup(), unevaluated."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "setup")
    return {k.arg: k.value for k in call.keywords if k.arg}


def test_package_xml_is_format_3_ament_python_with_the_same_version():
    assert MANIFEST.get("format") == "3"
    assert MANIFEST.findtext("name") == "endomatch_ros"
    assert MANIFEST.findtext("version") == __version__
    assert MANIFEST.findtext("license") == "Apache-2.0"
    assert MANIFEST.findtext("export/build_type") == "ament_python"
    assert (ROOT / str(MANIFEST.find("license").get("file"))).is_file()


def imports_of(files: Iterable[Path]) -> set[str]:
    """Top-level names of all absolute imports."""
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names


def from_ros(names: set[str]) -> set[str]:
    """Those that a ROS installation brings."""
    known = {"rclpy", "cv_bridge", "launch", "launch_ros", "ament_index_python", "message_filters"}
    return {name for name in names if name.endswith(("_msgs", "_srvs", "_interfaces")) or name in known}


def test_package_xml_names_every_ros_package_that_is_imported():
    ros = from_ros(imports_of([*PACKAGE.rglob("*.py"), *ROOT.glob("launch/*.py")]))
    assert "rclpy" in ros
    declared = {e.text for e in MANIFEST if e.tag in ("depend", "exec_depend")}
    assert ros <= declared, f"missing in package.xml: {sorted(ros - declared)}"


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("endomatch_ros", ("train", "mono", "evaluate", "gvsl")),
        ("test", ("train", "mono", "evaluate", "gvsl", "test")),
    ],
)
def test_setup_names_every_distribution_that_is_imported(folder: str, extras: tuple[str, ...]):
    named = {"PIL": "pillow", "cv2": "opencv-contrib-python-headless", "yaml": "pyyaml"}
    own = {"endomatch_ros", *(path.stem for path in (ROOT / folder).iterdir())}
    imported = imports_of((ROOT / folder).rglob("*.py"))
    imported -= own | from_ros(imported) | set(sys.stdlib_module_names)
    allowed = {"_pytest", "rosidl_runtime_py", "rpyutils", "launch_testing"}  # parts of pytest and of ROS
    call = setup_call()
    groups = ast.literal_eval(
        ast.Dict(
            [k for k in call["extras_require"].keys if k.value != "ros"],
            [v for v in call["extras_require"].values if isinstance(v, ast.List)],
        )
    )
    asked = [*ast.literal_eval(call["install_requires"]), *(item for extra in extras for item in groups[extra])]
    declared = {normal(re.split(r"[\[<>=~ ]", item)[0]) for item in asked}
    missing = {name for name in imported - allowed if normal(named.get(name, name)) not in declared}
    assert missing == set()


def test_changelog_has_this_version_or_a_section_for_the_next():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{__version__}]" in text or "## [Unreleased]" in text


def test_license_is_the_whole_apache_licence():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_console_scripts_point_to_functions():
    source = (ROOT / "setup.py").read_text()
    entries = dict(re.findall(r'f?"(\w+) = \{NAME\}([\w.:]+)"', source))
    assert set(entries) >= {"endomatch", "matcher_node"}
    for target in entries.values():
        module, function = target.lstrip(".").split(":")
        assert callable(getattr(importlib.import_module(f"endomatch_ros.{module}"), function))


def test_data_files_exist_and_the_ament_marker_has_the_package_name():
    assert (ROOT / "resource" / "endomatch_ros").is_file()
    assert (PACKAGE / "py.typed").is_file()
    assert list(ROOT.glob("launch/*.launch.*")), "no launch file to install"
    assert (ROOT / "config" / "fastdds_shm.xml").is_file()
    listed = {n.value for n in ast.walk(setup_call()["data_files"]) if isinstance(n, ast.Constant)}
    assert {"package.xml", "LICENSE", "scripts/matcher_node"} <= listed
    assert os.access(ROOT / "scripts" / "matcher_node", os.X_OK)


def test_every_folder_with_code_is_a_package():
    """find_packages() silently leaves out a folder without __init__.py."""
    folders = {file.parent for file in PACKAGE.rglob("*.py")}
    assert [str(f) for f in folders if not (f / "__init__.py").is_file()] == []


def test_requirements_and_constraints_are_parsed_and_cover_what_setup_asks_for():
    from packaging.requirements import Requirement

    pinned = [Requirement(line) for line in lines_of(ROOT / "constraints.txt")]
    assert all(str(r.specifier).startswith("==") for r in pinned)
    names = {normal(r.name) for r in pinned}
    asked = [n.value for n in ast.walk(setup_call()["install_requires"]) if isinstance(n, ast.Constant)]
    asked += [n.value for n in ast.walk(setup_call()["extras_require"].values[1]) if isinstance(n, ast.Constant)]
    missing = {normal(Requirement(a).name) for a in asked} - names - {"setuptools"}
    assert missing == set()
    assert "-c constraints.txt" in lines_of(ROOT / "requirements.txt")


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_constraints_pin_each_package_once_for_a_python_version(version: str):
    from packaging.requirements import Requirement

    pinned = [Requirement(line) for line in lines_of(ROOT / "constraints.txt")]
    chosen = [normal(r.name) for r in pinned if r.marker is None or r.marker.evaluate({"python_version": version})]
    assert len(chosen) == len(set(chosen))
    assert {"numpy", "torch"} <= set(chosen)


def test_git_tracks_no_build_output_and_no_large_file():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [Path(f) for f in listed.stdout.split("\0") if f]
    ignored = {"build", "install", "log", "dist", "demo_output", "__pycache__", ".venv"}
    assert [f for f in files if ignored & set(f.parts)] == []
    assert [f for f in files if (ROOT / f).is_file() and (ROOT / f).stat().st_size > 12 * 2**20] == []


def lines_of(path: Path) -> list[str]:
    """The lines that are neither empty nor comments."""
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
