"""`endomatch match` and `endomatch info`: what they print and write is right."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, fields
from pathlib import Path

import cv2
import numpy as np
import pytest

from endomatch_ros.cli import main
from endomatch_ros.data.readers.images import read_image
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.errors import ConfigError, ImageError
from endomatch_ros.evaluation import pair
from endomatch_ros.matching import Matcher, MatcherConfig

TIMES = 0.0, 0.4


@pytest.fixture(scope="module")
def scene() -> SyntheticEndoscope:
    """A small scene with exact truth."""
    return SyntheticEndoscope(SceneConfig(seed=11, width=320, height=256))


@pytest.fixture(scope="module")
def pictures(scene, tmp_path_factory) -> tuple[Path, Path]:
    """Two views of it as files."""
    folder = tmp_path_factory.mktemp("pair")
    paths = folder / "a.png", folder / "b.png"
    for path, time in zip(paths, TIMES, strict=True):
        pair.write_image(path, scene.render(time).image)
    return paths


def test_written_matches_agree_with_the_known_motion(capsys, tmp_path, scene, pictures):
    files = {name: tmp_path / "new" / f"m.{name}" for name in ("png", "json", "csv")}
    arguments = ["--output", files["png"], "--json", files["json"], "--csv", files["csv"], "--device", "cpu"]
    assert main(["match", *map(str, [*pictures, *arguments])]) == 0
    shown = capsys.readouterr().out
    result = json.loads(files["json"].read_text())
    rows = list(csv.DictReader(files["csv"].open()))
    assert len(rows) == len(result["correspondences"]) == result["matches"] > 50
    assert f"{result['matches']} matches" in shown
    assert all(str(path) in shown for path in files.values())
    points = np.array([[float(row[key]) for key in ("x0", "y0", "x1", "y1")] for row in rows])
    target, visible = scene.correspondence(*TIMES, points[:, :2])
    distance = np.linalg.norm(points[:, 2:] - target, axis=1)[visible]
    assert np.median(distance) < 1.5
    assert result["inliers"] == sum(int(row["inlier"]) for row in rows)
    assert result["inlier_ratio"] == pytest.approx(result["inliers"] / result["matches"])
    overlay = cv2.imread(str(files["png"]))
    assert overlay.shape[0] == 256
    assert overlay.shape[1] > 640


def test_the_head_s_field_starts_the_refinement_or_checks_its_matches(capsys, tmp_path, pictures):
    def run(*options: str) -> dict:
        file = tmp_path / "m.json"
        arguments = [*pictures, "--json", file, "--device", "cpu", "--model", "embedded-dense", *options]
        assert main(["match", *map(str, arguments)]) == 0
        return json.loads(file.read_text())

    plain, dense, checked = run(), run("--refinement", "dense"), run("--dense-consistency-cells", "1")
    assert plain["dropped"] == dense["dropped"] == {}
    assert "dense" not in plain["timings_ms"]
    assert dense["timings_ms"]["dense"] > 0
    assert dense["matches"] > 0.8 * plain["matches"]
    assert checked["matches"] + checked["dropped"]["dense_consistency"] == plain["matches"]
    assert main(["match", *map(str, pictures), "--refinement", "dense", "--device", "cpu"]) == 2
    assert "embedded-dense" in capsys.readouterr().err


def test_every_setting_of_the_matcher_is_an_option(monkeypatch, pictures):
    given = {}

    def remember(*args: object, **config: object) -> None:
        given.update(config)
        raise ConfigError("enough")

    monkeypatch.setattr(Matcher, "from_pretrained", remember)
    names = [field.name for field in fields(MatcherConfig)]
    values = {
        "refinement": "none",
        "mask": "none",
        "half": False,
        "engine": "torch",
        "resolution": 320,
        "max_keypoints": 50,
    }
    wanted = {name: values.get(name, 0.25) for name in names}
    for threshold in ("--threshold", "--similarity-threshold"):
        options = []
        for name, value in wanted.items():
            flag = threshold if name == "similarity_threshold" else "--" + name.replace("_", "-")
            options += ["--no-half"] if name == "half" else [flag, str(value)]
        given.clear()
        assert main(["match", *map(str, pictures), *options]) == 2
        assert given == wanted
    given.clear()
    assert main(["match", *map(str, pictures)]) == 2
    assert given == {}


def test_a_setting_out_of_range_is_one_line(capsys, pictures):
    assert main(["match", *map(str, pictures), "--threshold", "1.5"]) == 2
    assert capsys.readouterr().err == "endomatch: error: similarity_threshold=1.5 is outside its range [0, 1]\n"


def test_pictures_of_different_size(tmp_path, scene, pictures):
    """Doubling the second picture doubles its coordinates (x' = (x + 1/2) s - 1/2)."""
    large = tmp_path / "large.png"
    pair.write_image(large, cv2.resize(read_image(pictures[1]), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))
    for layout in ("pair", "flow"):
        out = tmp_path / f"{layout}.jpg"
        options = ["--output", out, "--json", tmp_path / "m.json", "--layout", layout]
        assert main(["match", *map(str, [pictures[0], large, *options])]) == 0
        assert cv2.imread(str(out)).shape[0] == 512
    result = json.loads((tmp_path / "m.json").read_text())
    assert (result["size0"], result["size1"]) == ([320, 256], [640, 512])
    points = np.array([[m[key] for key in ("x0", "y0", "x1", "y1")] for m in result["correspondences"]])
    target, visible = scene.correspondence(*TIMES, points[:, :2])
    distance = np.linalg.norm(points[:, 2:] - ((target + 0.5) * 2 - 0.5), axis=1)[visible]
    assert np.median(distance) < 3.0


def test_nothing_to_match_is_said_not_raised(capsys, tmp_path):
    black = tmp_path / "black.png"
    pair.write_image(black, np.zeros((128, 160, 3), np.uint8))
    out, table = tmp_path / "o.png", tmp_path / "m.json"
    assert main(["match", str(black), str(black), "--output", str(out), "--json", str(table)]) == 0
    assert "no epipolar geometry" in capsys.readouterr().out
    assert json.loads(table.read_text())["inlier_ratio"] is None  # and not NaN, which is no JSON
    assert out.is_file()


@pytest.mark.parametrize("kind", ["grey", "grey16", "alpha"])
def test_read_image_makes_rgb_of_anything(tmp_path, kind):
    data = {
        "grey": np.full((4, 5), 200, np.uint8),
        "grey16": np.full((4, 5), 200 * 257, np.uint16),
        "alpha": np.dstack([np.full((4, 5), value, np.uint8) for value in (10, 20, 200, 255)]),
    }[kind]
    cv2.imwrite(str(tmp_path / "x.png"), data)
    image = read_image(tmp_path / "x.png")
    assert (image.dtype, image.shape) == (np.uint8, (4, 5, 3))
    assert image[0, 0, 0] == 200
    assert image[0, 0].tolist() == ([200, 20, 10] if kind == "alpha" else [200] * 3)


def test_write_then_read_is_lossless_for_png(tmp_path):
    image = np.random.default_rng(1).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    pair.write_image(tmp_path / "deep" / "x.png", image)
    assert np.array_equal(read_image(tmp_path / "deep" / "x.png"), image)


def test_helpers_name_the_file(tmp_path):
    with pytest.raises(ImageError, match=r"nothing\.png"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(ConfigError, match=r"\.xyz"):
        pair.check_outputs(tmp_path / "o.xyz")


def test_info_names_model_versions_and_ros(capsys):
    assert main(["info", "--device", "cpu", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model"]["name"] == "embedded"
    assert len(facts["model"]["sha256"]) == 64
    assert facts["packages"]["torch"] != "not installed"
    assert "rclpy" in facts["ros"]
    assert facts["settings"] == asdict(Matcher.from_pretrained("embedded", "cpu").config)
    assert main(["info", "--device", "cpu"]) == 0
    assert facts["model"]["sha256"] in capsys.readouterr().out
