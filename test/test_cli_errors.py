"""Bad input to the command line: exit status 2, one clear line, no traceback, and nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT

from endomatch_ros import __version__
from endomatch_ros.cli import main
from endomatch_ros.errors import EndomatchError


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A readable picture."""
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8))
    return path


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command, expect status 2, give the message."""
    try:
        status = main([str(a) for a in arguments])
    except SystemExit as error:  # argparse's own
        status = error.code
    shown = capsys.readouterr()
    assert status == 2
    assert "Traceback" not in shown.err
    assert "error:" in shown.err
    return shown.err


def test_missing_picture(capsys, tmp_path, picture):
    text = fails(capsys, "match", picture, tmp_path / "gone.png", "--output", tmp_path / "o.png")
    assert "gone.png" in text
    assert text.count("\n") == 1
    assert not (tmp_path / "o.png").exists()


def test_a_folder_is_no_picture(capsys, tmp_path, picture):
    assert str(tmp_path) in fails(capsys, "match", tmp_path, picture)


@pytest.mark.parametrize("content", [b"", b"this is text", b"\x89PNG\r\n\x1a\nbroken"])
def test_not_a_picture(capsys, tmp_path, picture, content):
    bad = tmp_path / "bad.png"
    bad.write_bytes(content)
    assert "bad.png" in fails(capsys, "match", picture, bad)


def test_unknown_preset_names_the_known_ones(capsys, picture):
    text = fails(capsys, "match", picture, picture, "--model", "dinov9")
    assert "dinov9" in text
    assert "embedded" in text


def test_missing_checkpoint(capsys, tmp_path, picture):
    assert "none.safetensors" in fails(capsys, "match", picture, picture, "--model", tmp_path / "none.safetensors")


def test_corrupt_checkpoint(capsys, tmp_path, picture):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\0" * 100)
    assert "bad.safetensors" in fails(capsys, "match", picture, picture, "--model", bad)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--threshold", "1.5"),
        ("--threshold", "-0.1"),
        ("--threshold", "nan"),
        ("--threshold", "high"),
        ("--resolution", "0"),
        ("--resolution", "-5"),
        ("--resolution", "big"),
        ("--device", "tpu"),
        ("--layout", "3d"),
    ],
)
def test_bad_value_is_named(capsys, picture, option, value):
    assert value in fails(capsys, "match", picture, picture, option, value)


def test_unwritable_format_is_said_before_the_work(capsys, tmp_path, picture):
    assert ".docx" in fails(capsys, "match", picture, picture, "--output", tmp_path / "o.docx")
    assert "folder" in fails(capsys, "match", picture, picture, "--json", tmp_path)


def test_unknown_argument_and_command(capsys, picture):
    assert "--colour" in fails(capsys, "match", picture, picture, "--colour")
    assert "fly" in fails(capsys, "fly")
    assert "COMMAND" in fails(capsys)


def test_debug_gives_the_traceback(tmp_path, picture):
    for order in (["--debug", "match"], ["match", "--debug"]):
        with pytest.raises(EndomatchError):
            main([*order, str(picture), str(tmp_path / "gone.png")])


@pytest.mark.parametrize("option", [["--seconds", "0"], ["--rate", "1000"], ["--size", "640"], ["--size", "8x8"]])
def test_demo_refuses_bad_values(capsys, tmp_path, option):
    pytest.importorskip("rclpy")
    assert option[1] in fails(capsys, "demo", "--output", tmp_path / "demo", *option).replace("width=8", "8x8")
    assert not (tmp_path / "demo").exists()


def test_train_refuses_unknown_preset(capsys, tmp_path):
    assert "resnet" in fails(capsys, "train", "--data", "synthetic", "--output", tmp_path, "--preset", "resnet")


@pytest.mark.parametrize("command", ["", "match", "node", "info", "demo", "evaluate", "train"])
def test_help_tells_what_it_does(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"] if command else ["--help"])
    assert stop.value.code == 0
    assert f"usage: endomatch{' ' + command if command else ''}" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"endomatch {__version__}"


def test_help_needs_neither_torch_nor_ros():
    """The command answers at once: heavy imports wait for a command that needs them."""
    code = "import sys, endomatch_ros.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit(bool({'torch', 'cv2', 'rclpy', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_node_without_ros_says_what_to_do(tmp_path):
    """A stand-in rclpy that cannot be imported, as one of another Python version cannot."""
    (tmp_path / "rclpy.py").write_text("raise ImportError('built for another Python')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.path.insert(1, {str(ROOT)!r})\n"
    code += "from endomatch_ros.cli import main; sys.exit(main(['node']))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "built for another Python" in run.stderr
    assert "source a ROS 2 installation" in run.stderr
    assert "Traceback" not in run.stderr


def test_reader_that_closes_early_is_no_error():
    command = f"{sys.executable} -m endomatch_ros.cli info --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in run.stderr
    assert "BrokenPipe" not in run.stderr
