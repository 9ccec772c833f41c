"""config/endomatch.yaml and docs/parameters.md say what the table of the parameters says."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

pytest.importorskip("rclpy", reason="rclpy is not installed")

from endomatch_ros.matching import Matcher
from endomatch_ros.ros.parameters import document
from endomatch_ros.ros.parameters.table import GROUPS, MATCHER_PARAMETERS, SPECS

FILES = [ROOT / "config" / "endomatch.yaml", ROOT / "docs" / "parameters.md"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_file_is_as_it_is_made(file):
    command = f"python -m {document.__name__} config/endomatch.yaml docs/parameters.md"
    assert file.read_text().count(command) == 1
    assert file.read_text() == document.renewed(file), f"run {command}"


@pytest.mark.parametrize("name", [file.name for file in FILES])
def test_renewing_mends_what_is_made_and_keeps_what_was_written_by_hand(tmp_path, name):
    (original,) = (file.read_text() for file in FILES if file.name == name)
    file = tmp_path / name
    head, marker, made = original.partition(document.__name__)
    file.write_text(f"By hand.\n{head}{marker}{made[: len(made) // 2]}")
    assert document.main([str(file)]) == 0
    assert file.read_text() == f"By hand.\n{original}".replace(original, head + marker + made)


def test_the_page_has_a_row_for_every_parameter():
    text = FILES[1].read_text()
    rows = [re.split(r" *\| *", line)[1:-1] for line in re.findall(r"^\| `.*$", text, re.MULTILINE)]
    assert [name.strip("`") for name, *_ in rows] == list(SPECS)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(GROUPS)
    types = {bool: "bool", int: "integer", float: "double", str: "string"}
    for (_, kind, default, allowed, changes, about), spec in zip(rows, SPECS.values(), strict=True):
        first = spec.default[0] if isinstance(spec.default, tuple) else spec.default
        assert kind == types[type(first)] + "_array" * isinstance(spec.default, tuple)
        assert about == spec.text
        assert (changes, spec.when) in {
            ("at once", "live"),
            ("while unconfigured", "unconfigured"),
            ("at start", "start"),
        }
        assert default.startswith("`model` (") == spec.own
        if spec.low is not None:
            assert f"{spec.low:g} to {spec.high:g}" in allowed
        assert all(choice in allowed for choice in spec.choices)


def test_the_page_tells_the_default_models_own_values():
    config, text = Matcher.from_pretrained("embedded", "cpu").config, FILES[1].read_text()
    for name in MATCHER_PARAMETERS:
        if SPECS[name].own:
            assert re.search(rf"^\| `{name}` \| \w+ \| `model` \({getattr(config, name)}\) \|", text, re.MULTILINE), (
                name
            )
