"""A setting is declared once; what derives from the declaration is right."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass, fields

import pytest
from conftest import ROOT

from endomatch_ros import settings
from endomatch_ros.errors import ConfigError
from endomatch_ros.matching.config import MatcherConfig
from endomatch_ros.matching.keyframes import KeyframeRules
from endomatch_ros.models.config import ModelConfig
from endomatch_ros.settings import declared, setting


@dataclass(frozen=True)
class Example:
    count: int = setting(3, "How many.", low=1, high=10)
    share: float = setting(0.5, "A share, 100% at most.", low=0.0, high=1.0, own=True)
    kind: str = setting("a", "Which.", choices=("a", "b"))
    wanted: bool = setting(True, "Whether.")
    corner: tuple[int, ...] = setting((0, 0), "Where.", low=0, high=9)
    name: str = setting("", "Anything.", when="start")
    undeclared: float = 7.0

    def __post_init__(self) -> None:
        settings.check(self)


def test_declarations_are_those_of_the_fields_in_order():
    found = declared(Example)
    assert list(found) == ["count", "share", "kind", "wanted", "corner", "name"]
    assert [spec.name for spec in found.values()] == list(found)
    assert Example() == Example(3, 0.5, "a", True, (0, 0), "", 7.0)
    assert [spec.default for spec in found.values()] == [3, 0.5, "a", True, (0, 0), ""]
    assert [spec.initial for spec in found.values()] == [3, "model", "a", True, (0, 0), ""]
    assert [spec.allowed for spec in found.values()] == ["1 to 10", "0 to 1", "a, b", "", "0 to 9", ""]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", 0, r"count=0 is outside its range \[1, 10\]"),
        ("count", 2.0, "count=2.0 must be a whole number"),
        ("count", True, "count=True is outside its range"),
        ("count", "3", "count='3' is outside its range"),
        ("count", None, "count=None is outside its range"),
        ("share", float("nan"), "share=nan is outside its range"),
        ("share", 1.01, r"share=1.01 is outside its range \[0, 1\]"),
        (
            "share",
            "model",
            "share='model' is outside its range",
        ),  # a configuration holds values, not what stands for one
        ("kind", "c", "kind='c' is unknown: it must be one of a, b"),
        ("wanted", "false", "wanted='false' must be true or false"),
        ("corner", (1, 10), r"corner=10 is outside its range \[0, 9\]"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name, value, message):
    with pytest.raises(ConfigError, match=message):
        Example(**{name: value})


@pytest.mark.parametrize(
    "values", [{"count": 10}, {"share": 1}, {"share": 0.0}, {"corner": (9, 0)}, {"undeclared": -1.0}]
)
def test_the_ends_of_a_range_and_whole_numbers_for_others_are_right(values):
    assert Example(**values)


def test_a_text_becomes_a_value_of_the_type_of_the_default():
    found = declared(Example)
    texts = {"count": ("07", 7), "share": ("1", 1.0), "kind": ("b", "b"), "wanted": ("False", False)}
    for name, (text, value) in texts.items():
        read = found[name].parse(text)
        assert (type(read), read) == (type(value), value)
    for name, text, wanted in (("count", "1.5", "whole number"), ("share", "", "number"), ("wanted", "no", "true or")):
        with pytest.raises(ConfigError, match=f"{name} is '{text}'; it must be .*{wanted}"):
            found[name].parse(text)


def test_options_have_type_choices_range_and_default(capsys):
    parser = argparse.ArgumentParser()
    found = declared(Example)
    for name in ("count", "share", "kind", "wanted", "name"):
        found[name].add_option(parser, *(["--part"] if name == "share" else []))
    assert vars(parser.parse_args([])) == dict.fromkeys(("count", "share", "kind", "wanted", "name"))
    given = parser.parse_args(["--count", "4", "--part", "1", "--kind", "b", "--no-wanted", "--name", "x"])
    assert vars(given) == {"count": 4, "share": 1.0, "kind": "b", "wanted": False, "name": "x"}
    for wrong in (["--count", "4.5"], ["--kind", "c"]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)
    text = " ".join(parser.format_help().split())
    assert "how many (1 to 10; default: 3)" in text
    assert "a share, 100% at most (0 to 1; default: the model's own)" in text
    assert "--kind {a,b} which (default: a)" in text


@pytest.mark.parametrize("config", [MatcherConfig, KeyframeRules], ids=lambda config: config.__name__)
def test_every_field_is_declared_with_a_sentence_and_a_default_inside_its_range(config):
    found = declared(config)
    assert list(found) == [field.name for field in fields(config)]
    for name, spec in found.items():
        assert spec.text[0].isupper(), name
        assert spec.text.endswith("."), name
        assert "|" not in spec.text, name  # it goes into tables
        spec.check(spec.default)
        if not isinstance(spec.default, bool):
            assert spec.choices or spec.low is not None, name


def test_the_models_own_are_what_a_checkpoint_holds_and_the_refinement():
    own = {name: spec.default for name, spec in declared(MatcherConfig).items() if spec.own}
    model = {field.name: field.default for field in fields(ModelConfig) if field.name in declared(MatcherConfig)}
    assert own == {**model, "refinement": "photometric"}


def test_declarations_need_neither_torch_nor_ros():
    code = "import sys, endomatch_ros.matching.config, endomatch_ros.matching.keyframes\n"
    code += "sys.exit(bool({'torch', 'cv2', 'rclpy', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_the_docstring_tells_every_setting():
    text = MatcherConfig.__doc__
    assert text.startswith("Settings of")
    attributes = text.split("Attributes:\n")[1].splitlines()
    assert [line.split(":")[0].strip() for line in attributes] == list(declared(MatcherConfig))
    assert attributes[0].endswith("Range: 64 to 4096.")
