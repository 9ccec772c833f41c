"""Methods by name, and an identity that changes with all that their answers depend on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from endomatch_ros.device import device_name
from endomatch_ros.errors import CheckpointError, ConfigError
from endomatch_ros.evaluation import provenance
from endomatch_ros.evaluation.methods import interface, learned, ours
from endomatch_ros.evaluation.methods.baselines import BASELINES
from endomatch_ros.evaluation.methods.interface import plain_entry
from endomatch_ros.evaluation.methods.ours import matcher_code, parse_matcher
from endomatch_ros.evaluation.methods.registry import METHODS, named_methods, usable_methods
from endomatch_ros.evaluation.provenance import code_digest, dependencies
from endomatch_ros.matching import MatcherConfig, refiners
from endomatch_ros.models import MatcherNetwork, ModelConfig, ModelInfo, save_checkpoint
from endomatch_ros.models.backbones.registry import build_backbone

TINY = ModelConfig(embed_dim=32, depth=1, heads=2, stem_channels=16, fine_dim=16, resolution=64)
MATCHER = "endomatch_ros.matching.matcher"


def checkpoint(path: Path, seed: int = 0, config: ModelConfig = TINY) -> Path:
    torch.manual_seed(seed)
    save_checkpoint(MatcherNetwork(config, build_backbone(config)).eval(), path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("runs") / "mine" / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "model", "settings"),
    [
        ("endomatch", "", {}),
        ("endomatch:", "", {}),
        ("endomatch:dinov2-small", "dinov2-small", {}),
        ("endomatch:runs/a,b/m.safetensors", "runs/a,b/m.safetensors", {}),
        ("endomatch:refinement=none", "", {"refinement": "none"}),
        ("endomatch:embedded,refinement=none,half=", "embedded", {"refinement": "none", "half": ""}),
        ("endomatch:C:/x/m.safetensors,half=false", "C:/x/m.safetensors", {"half": "false"}),
        ("endomatch:a=b=c", "", {"a": "b=c"}),
    ],
)
def test_model_and_settings_are_read_from_the_name(name: str, model: str, settings: dict[str, str]) -> None:
    assert parse_matcher(name) == (model, settings)


def test_settings_reach_the_matcher(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "with_head.safetensors", config=replace(TINY, dense_levels=1))
    wanted = {
        "resolution": 96,
        "similarity_threshold": 0.25,
        "max_keypoints": 123,
        "refinement": "none",
        "forward_backward_px": 1.5,
        "engine": "torch",
        "dense_consistency_cells": 2.5,
        "mask": "none",
        "half": False,
    }
    assert set(wanted) == {field.name for field in fields(MatcherConfig)}
    text = ",".join(f"{key}={value}" for key, value in wanted.items())
    plain, changed = named_methods(["endomatch", f"endomatch:{text}"], model=str(model), device="cpu")
    assert {key: changed.about[key] for key in wanted} == wanted
    assert plain.about["resolution"] == 64  # the model's own
    assert plain.about["sha256"] == changed.about["sha256"]
    images = np.random.default_rng(0).integers(0, 255, (2, 96, 96, 3), np.uint8)
    assert changed.call(*images, None, None).size1 == (96, 96)


def test_several_models_have_names_that_tell_them_apart(model: Path, tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other" / "model.safetensors", seed=1)
    names = ["klt", f"endomatch:{model}", f"endomatch:{other},half=false", "endomatch", "klt"]
    found = named_methods(names, model=str(other), device="cpu")
    assert [method.name for method in found] == [
        "klt",
        "endomatch:mine/model.safetensors",
        "endomatch:other/model.safetensors,half=false",
        "endomatch",
    ]
    assert [method.about and method.about["source"] for method in found] == [None, str(model), str(other), str(other)]
    twin = tmp_path / "mine" / "model.safetensors"
    twin.parent.mkdir()
    shutil.copy(model, twin)
    names = [f"endomatch:{model}", f"endomatch:{twin}"]
    assert [method.name for method in named_methods(names, device="cpu")] == names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("surf", "there is no method 'surf'.*identity"),
        ("endomatcher", "there is no method"),
        ("endomatch:nothing", "unknown model 'nothing'"),
        ("endomatch:,speed=3", "unknown setting 'speed'"),
        ("endomatch:half=maybe", "half is 'maybe'; it must be true or false"),
        ("endomatch:max_keypoints=1.5", "max_keypoints is '1.5'; it must be a whole number"),
        ("endomatch:similarity_threshold=", "similarity_threshold is ''; it must be a number"),
        ("endomatch:similarity_threshold=nan", "outside its range"),
        ("endomatch:refinement=wild", "refinement='wild' is unknown"),
        ("endomatch:refinement=dense", "refinement='dense' needs a model with a head"),
    ],
)
def test_bad_names_are_clear_errors(name: str, message: str, model: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        named_methods([name], model=str(model), device="cpu")


def test_a_missing_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        named_methods([f"endomatch:{tmp_path}/none.safetensors"])


def identity(name: str, **options: object) -> str:
    (method,) = named_methods([name], **{"device": "cpu", **options})
    assert method.identity is not None
    return method.identity


def test_identity_follows_weights_settings_and_architecture(model: Path, tmp_path: Path) -> None:
    first = identity("endomatch", model=str(model))
    assert identity(f"endomatch:{model}") == first
    assert identity("endomatch", model=str(shutil.copy(model, tmp_path / "elsewhere.safetensors"))) == first
    others = [
        identity(f"endomatch:{model},max_keypoints=1999"),
        identity(f"endomatch:{model},refinement=none"),
        identity(f"endomatch:{checkpoint(tmp_path / 'b.safetensors', seed=1)}"),
        identity(f"endomatch:{checkpoint(tmp_path / 'c.safetensors', config=replace(TINY, normalisation='imagenet'))}"),
    ]
    assert len({first, *others}) == 5


def test_identity_follows_weights_that_the_checkpoint_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    # The same file, another backbone in it.
    network = MatcherNetwork(TINY, build_backbone(TINY)).eval()
    info = ModelInfo("x", "x", "the file's digest", 1, "cpu")
    monkeypatch.setattr(f"{MATCHER}.load_model", lambda *_: (network, info))
    first = identity("endomatch")
    with torch.no_grad():
        next(network.backbone.parameters()).view(-1)[0] += 1
    assert identity("endomatch") != first


def test_identity_follows_the_gpu(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    assert [device_name(device) for device in ("cpu", "cuda:0", "cuda:1")] == ["cpu", "card 0", "card 1"]
    first = identity("endomatch", model=str(model))
    monkeypatch.setattr(ours, "device_name", lambda _: "card 0")
    assert identity("endomatch", model=str(model)) != first


def test_baselines_have_provenance_of_their_own() -> None:
    names = [name for name in usable_methods() if name in BASELINES]
    found = named_methods(names)
    assert [method.name for method in found] == names
    assert len({method.identity for method in found}) == len(names) >= 4
    assert all(method.call is BASELINES[method.name] for method in found)


class Learned:
    """Stands in for a network with weights."""

    def __init__(self, name: str, weights: Path | None, device: str) -> None:
        self.about = {"name": name, "weights": {"file": f"digest of {weights}"}, "device": "cpu"}
        self.asked = (name, weights, device)


def test_learned_methods_take_the_path_of_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "learned_method", Learned)
    names = ["loftr", "loftr:some/where/weights.ckpt", "xfeat:folder"]
    found = named_methods(names, device="cpu")
    assert [method.name for method in found] == ["loftr", "loftr:where/weights.ckpt", "xfeat:folder"]
    assert [method.call.asked for method in found] == [
        ("loftr", None, "cpu"),
        ("loftr", Path("some/where/weights.ckpt"), "cpu"),
        ("xfeat", Path("folder"), "cpu"),
    ]
    assert len({method.identity for method in found}) == 3
    assert found[1].about == found[1].call.about
    again = named_methods(["loftr"], device="auto")[0].identity
    assert again == found[0].identity
    monkeypatch.setattr(learned, "device_name", lambda _: "card 0")
    assert named_methods(["loftr"])[0].identity != again
    monkeypatch.setattr(interface, "code_digest", lambda _: "other code")
    assert named_methods(["klt"])[0].identity == "klt other code"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_registry_keeps_the_interface(name: str) -> None:
    """A texture moved by (6, 4) px, with a view that leaves its left side out; networks without weights say so."""
    entry = METHODS[name]
    assert entry.name == name
    if not entry.by_default:
        with pytest.raises((CheckpointError, ConfigError), match=name):
            named_methods([f"{name}:/no/such/weights"], device="cpu")
        return
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    whole = cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC)
    images = whole[8:232, 8:308], np.ascontiguousarray(whole[4:228, 2:302])
    view = np.ones((224, 300), bool)
    view[:, :100] = False
    (method,) = named_methods([name], device="cpu")
    matches = method.call(images[0], images[1], view, view)
    assert len(matches) > 50
    assert matches.keypoints0.dtype == matches.keypoints1.dtype == matches.similarity.dtype == np.float32
    assert matches.size0 == matches.size1 == (300, 224)
    for points in (matches.keypoints0, matches.keypoints1):
        assert (points >= (99.5, -0.5)).all()
        assert (points <= (299.5, 223.5)).all()
    assert (np.abs(matches.similarity) <= 1).all()
    motion = np.median(matches.keypoints1 - matches.keypoints0, axis=0)
    assert motion == pytest.approx((0, 0) if name == "identity" else (6, 4), abs=0.3)
    again = method.call(images[0], images[1], view, view)
    assert np.array_equal(again.keypoints1, matches.keypoints1)
    assert method.identity


def test_a_new_method_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "mine", plain_entry("mine", BASELINES["identity"]))
    assert usable_methods()[-1] == "mine"
    (found,) = named_methods(["mine"])
    assert found.name == "mine"
    assert found.identity.startswith("mine ")
    assert named_methods(["identity"])[0].identity != found.identity
    with pytest.raises(ConfigError, match="method 'mine:x': nothing can follow the name mine"):
        named_methods(["mine:x"])


def test_a_method_that_cannot_run_here_is_left_out_or_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ConfigError("method 'broken' needs a library")

    monkeypatch.setitem(METHODS, "broken", plain_entry("broken", broken))
    assert "broken" not in usable_methods()
    assert "needs a library" in caplog.text
    with pytest.raises(ConfigError, match="needs a library"):
        named_methods(["identity", "broken"])


def test_all_modules_that_a_matcher_loads_are_known() -> None:
    """Held against the interpreter's own list."""
    stages = [entry.module for entry in (*refiners.REFINERS.values(), *refiners.CHECKS.values())]
    imports = ", ".join([MATCHER, *stages])
    code = f"import sys, json, {imports}; print(json.dumps([m for m in sys.modules if m.startswith('endomatch_ros')]))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    # What only the package's own __init__ loads beside the matcher does not count.
    package = {"endomatch_ros", "endomatch_ros.matching"}
    files, foreign = dependencies(MATCHER)
    files = {name: source for module in (MATCHER, *stages) for name, source in dependencies(module)[0].items()}
    inits = {name for name in loaded if provenance._file(name).name == "__init__.py"}
    assert set(loaded) - package - inits <= set(files)
    assert {"torch", "numpy", "cv2", "timm"} <= foreign
    assert "endomatch_ros.models.backbones.registry" in files
    assert not any(".evaluation" in name or ".ros" in name or ".training" in name for name in files)


def test_a_baseline_does_not_depend_on_the_matcher() -> None:
    files, foreign = dependencies("endomatch_ros.evaluation.methods.baselines")
    assert {"endomatch_ros.evaluation.methods.baselines", "endomatch_ros.geometry.coverage"} <= set(files)
    assert {"endomatch_ros.matching.types", "endomatch_ros.errors"} <= set(files)
    assert MATCHER not in files
    assert {"cv2", "numpy"} <= foreign
    assert "torch" not in foreign


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's source that is looked at instead."""
    folder = tmp_path / "endomatch_ros"
    shutil.copytree(provenance._FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    monkeypatch.setattr(provenance, "_FOLDER", folder)
    monkeypatch.setattr(provenance, "dependencies", dependencies.__wrapped__)
    return folder


def test_identity_follows_every_line_of_code_that_matters(copied: Path) -> None:

    def digests() -> tuple[object, ...]:
        """Of the matcher, of the matcher without refinement, of a baseline."""
        settings = MatcherConfig(), MatcherConfig(refinement="none")
        return *(matcher_code(config) for config in settings), code_digest("endomatch_ros.evaluation.methods.baselines")

    first = digests()
    assert digests() == first

    def edited(path: str) -> tuple[bool, ...]:
        file = copied / path
        before = file.read_bytes()
        file.write_bytes(before + b"\n# another line\n")
        changed = tuple(now != then for now, then in zip(digests(), first, strict=True))
        file.write_bytes(before)
        return changed

    for path in (
        "matching/matcher",
        "matching/refiners/interface",
        "matching/refiners/field",
        "models/network",
        "models/__init__",
    ):
        assert edited(f"{path}.py") == (True, True, False), path
    # A refiner counts where it is used.
    for path in ("photometric", "dense_flow", "opencv_engine", "torch_engine", "photometric_torch/flow"):
        assert edited(f"matching/refiners/{path}.py") == (True, False, False), path
    assert edited("matching/refiners/grid.py") == (False, True, False)
    assert edited("matching/refiners/dense.py") == edited("ros/node.py") == (False, False, False)
    for path in ("matching/types", "geometry/coverage", "errors"):
        assert edited(f"{path}.py") == (True, True, True), path
    assert edited("evaluation/methods/baselines.py") == (False, False, True)
    assert edited("evaluation/metrics.py") == edited("data/readers/video.py") == (False, False, False)


def test_a_check_is_part_of_the_identity_where_it_is_used() -> None:
    checked = MatcherConfig(dense_consistency_cells=2.0)
    assert set(matcher_code(checked)) > set(matcher_code(MatcherConfig()))


def test_a_module_that_is_imported_anew_counts_at_once(copied: Path) -> None:
    name = "endomatch_ros.evaluation.methods.baselines"
    (copied / "geometry" / "fresh.py").write_text("VALUE = 1\n")
    with (copied / "geometry" / "coverage.py").open("a") as file:
        file.write(
            "\ndef late():\n    from endomatch_ros.geometry import fresh\n    import endomatch_ros.data.readers.video\n"
        )
    first = code_digest(name)
    assert {"endomatch_ros.geometry.fresh", "endomatch_ros.data.readers.video"} <= set(
        dependencies.__wrapped__(name)[0]
    )
    (copied / "geometry" / "fresh.py").write_text("VALUE = 2\n")
    assert code_digest(name) != first


def test_identity_follows_the_versions_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "endomatch_ros.evaluation.methods.baselines"
    first = code_digest(name)
    monkeypatch.setattr("cv2.__version__", "0.0.1")
    assert code_digest(name) != first
    assert provenance._version("no_such_library") == "absent"
