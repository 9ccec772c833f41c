"""``endomatch bench``: what it leaves behind, and what it says of what cannot be."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from endomatch_ros.cli import main


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    wide = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8), (0, 0), 1)
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.png"), wide[:, 2 * number : 128 + 2 * number])
    return folder


def test_a_short_run_leaves_figures_tables_and_a_picture(pictures, tmp_path, capsys):
    output = tmp_path / "out"
    parts = ["--only", "matcher", "scaling", "soak", "--soak", "12", "--peers", "klt", "orb"]
    settings = ["--resolution", "96", "--device", "cpu"]
    assert main(["bench", "--quick", "--data", str(pictures), *parts, *settings, "--output", str(output)]) == 0
    report = json.loads((output / "bench.json").read_text())
    assert report["settings"]["resolution"] == 96
    assert report["source"] == {"name": str(pictures), "size": [128, 96], "frames": 4}
    assert report["machine"].keys() >= {"device", "processor", "torch", "opencv", "endomatch_ros", "commit", "date"}
    assert report["arguments"]["soak"] == 12
    assert list(report["matcher"]["peers"]) == ["klt", "orb"]
    assert "node" not in report
    tables = (output / "bench.md").read_text()
    for text in ("| backbone | 30 |", "| klt |", "| 256 | 1000 |", "MiB per 1000 frames"):
        assert text in tables
    assert "PCK@1" not in tables  # pictures know no truth
    assert cv2.imread(str(output / "bench.png")).std() > 5
    assert "Bare matcher by stage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--peers", "surf"], "klt-normalised"),
        (["--only", "soak"], "--soak 10000"),
        (["--frames", "3"], "--frames=3"),
        (["--size", "large"], "WIDTHxHEIGHT"),
        (["--data", "gone.mp4"], "gone.mp4"),
        (["--resolution", "1"], "resolution=1"),
    ],
)
def test_what_cannot_be_is_one_clear_line(arguments, text, tmp_path, capsys):
    assert main(["bench", *arguments, "--output", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert text in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_peer_without_its_weights_says_where_they_belong(tmp_path, monkeypatch, capsys):
    pytest.importorskip("kornia", reason="kornia is not installed")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert main(["bench", "--peers", "xfeat", "--output", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert "xfeat.pt" in shown
    assert shown.count("\n") == 1
