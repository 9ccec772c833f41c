"""Presets are declared once: whatever lists them lists all of them, in their order."""

import ast
import re

import pytest
import timm
from conftest import ROOT

from endomatch_ros import cli
from endomatch_ros.errors import ConfigError
from endomatch_ros.models import PRESETS, load_model

LISTED = ", ".join(PRESETS)
CARD = ROOT / "docs" / "model_card.md"
LICENCES = {"apache-2.0": "Apache-2.0", "dinov3-license": "DINOv3 licence", "mit": "MIT"}


@pytest.mark.parametrize("command", ["match", "info", "evaluate", "train"])
def test_help_of_commands_lists_them(capsys, command):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert LISTED in " ".join(capsys.readouterr().out.split())


def test_a_wrong_name_is_answered_with_the_list():
    with pytest.raises(ConfigError, match=re.escape(f"({LISTED})")):
        load_model("dinov9")


def test_the_nodes_parameter_lists_them():
    table = pytest.importorskip("endomatch_ros.ros.parameters.table", reason="rclpy's messages are not installed")
    assert f"({LISTED})" in table.SPECS["model"].text


def test_the_parameter_file_lists_them():
    text = (ROOT / "config" / "endomatch.yaml").read_text().split("\n    model:")[0]
    comment = " ".join(line.strip(" #") for line in text.splitlines()[-2:])
    assert f"({LISTED})" in comment


def test_the_readme_has_a_row_for_each():
    table = (ROOT / "README.md").read_text().split("| model | what | weights |\n")[1].split("\n\n")[0]
    first = [row.split(" | ")[0] for row in table.splitlines()[1:]]
    assert [name for cell in first for name in re.findall(r"`([\w-]+)`", cell)] == list(PRESETS)


def test_the_model_card_says_of_published_ones_what_the_presets_and_timm_say():
    row = re.compile(r"^\| `([\w-]+)` \| `([\w.]+)` \| (\d+) \| (\d+) \| ([\w .-]+) \|$", re.MULTILINE)
    found = {name: tuple(rest) for name, *rest in row.findall(CARD.read_text())}
    published = {name: config for name, config in PRESETS.items() if config.backbone != "compact"}
    assert list(found) == list(published)
    for name, config in published.items():
        licence = LICENCES[timm.get_pretrained_cfg(config.backbone).license]
        assert found[name] == (config.backbone, str(config.patch_size), str(config.embed_dim), licence)


def test_no_source_lists_them_by_hand():
    home = ROOT / "endomatch_ros" / "models" / "config.py"
    for path in (ROOT / "endomatch_ros").rglob("*.py"):
        if path == home:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = set(re.findall(r"\bdinov\d-[a-z-]+\b|\bembedded(?:-dense)?\b", node.value)) & PRESETS.keys()
                assert len(named) < 3, f"{path.name} names {sorted(named)}: take them from PRESETS"
