"""Whole training runs: killed and resumed, in several processes, from the command line."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from safetensors.torch import load_file
from support.recordings import write_pictures
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.fitting.checkpoint_io import steps_done
from endomatch_ros.matching import Matcher
from endomatch_ros.models.checkpoints import load_checkpoint, load_model, read_metadata
from endomatch_ros.training import cli
from endomatch_ros.training.config import TrainConfig
from endomatch_ros.training.module import MatcherModule, OptimiserConfig
from endomatch_ros.training.objectives.config import ObjectiveConfig
from endomatch_ros.training.start import starting_network

STEPS = 6


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("recording"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def arguments(recording, cache, output, **changes):
    values = {
        "data": recording,
        "cache": cache,
        "output": output,
        "max-steps": STEPS,
        "batch-size": 4,
        "points": 64,
        "workers": 0,
        "validate-every": 2,
        "validation-pairs": 4,
        "recording.selection.sharpness": 0,
        "recording.validation_gap": 1,
        "crop.size": "[128,96]",
        "optimiser.learning_rate": 0.002,
        "device": "cpu",
    } | {name.replace("_", "-"): value for name, value in changes.items()}
    return [f"--{name}={value}" if name != "data" else f'--data=["{value}"]' for name, value in values.items()]


def state(output):
    return torch.load(output / "last.ckpt", map_location="cpu", weights_only=False)["state_dict"]


def largest_difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def unbroken(recording, cache, tmp_path_factory):
    """A run in a process of its own, as the ones that it is compared with: sums depend on the number of threads."""
    output = tmp_path_factory.mktemp("unbroken")
    command = [sys.executable, "-m", "endomatch_ros.cli", "train", *arguments(recording, cache, output)]
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    return output


def test_a_run_writes_a_model_that_the_matcher_takes(unbroken, recording):
    path = unbroken / "model.safetensors"
    matcher = Matcher.from_pretrained(path, device="cpu", resolution=128)
    image = np.random.default_rng(0).integers(40, 200, (96, 128, 3), dtype=np.uint8)
    assert matcher.match(image, image) is not None
    notes = read_metadata(path)["notes"]
    assert "val_pck" in notes
    assert "photometric" in notes
    assert str(recording) in notes
    kept = yaml.safe_load((unbroken / "config.yaml").read_text())
    assert kept["max_steps"] == STEPS
    assert not list(unbroken.rglob("*.part"))


def test_the_frozen_backbone_stays_bit_for_bit_and_the_rest_moves(unbroken):
    before = {f"network.{k}": v for k, v in load_model("embedded")[0].state_dict().items()}
    after = state(unbroken)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert not [name for name in moved if name.startswith("network.backbone.")]
    assert {name.split(".")[1] for name in moved} == {"adapter", "fine"}
    assert largest_difference({k: before[k] for k in moved}, {k: after[k] for k in moved}) > 0.003


def test_the_log_holds_figures_and_pictures(unbroken):
    events = EventAccumulator(str(unbroken / "log"), size_guidance={"images": 0})
    events.Reload()
    assert set(events.Tags()["images"]) == {"pair", "triplets", "matches_before_and_after"}
    assert {"loss", "loss_coarse", "loss_fine", "val_pck", "val_median_error"} <= set(events.Tags()["scalars"])
    picture = events.Images("matches_before_and_after")[-1].encoded_image_string
    decoded = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (2 * 2 * 96, 2 * 2 * 128, 3)
    assert np.asarray(decoded).std() > 10


def test_a_killed_run_resumes_to_the_same_weights(unbroken, recording, cache, tmp_path, spawn):
    command = [sys.executable, "-m", "endomatch_ros.cli", "train"]
    options = {"cwd": tmp_path, "env": environment(), "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = spawn([*command, *arguments(recording, cache, tmp_path / "run")], **options)
    # The second validation's line comes before its checkpoint: the kill falls on or beside the writing of that.
    assert any(line.startswith("step 4/") for line in process.stdout)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    last = tmp_path / "run" / "last.ckpt"
    assert steps_done(last) in (2, 4)
    assert not (tmp_path / "run" / "model.safetensors").exists()

    # The values of the run are kept: nothing but the folder has to be said again.
    resumed = subprocess.run([*command, "--output", "run", "--resume"], check=True, **options)
    assert resumed.returncode == 0
    assert steps_done(last) == STEPS
    assert largest_difference(state(unbroken), state(tmp_path / "run")) < 1e-6
    models = [load_file(folder / "model.safetensors") for folder in (unbroken, tmp_path / "run")]
    assert largest_difference(*models) < 1e-6


def test_an_interrupted_run_says_how_to_go_on(recording, cache, tmp_path, spawn):
    command = [
        sys.executable,
        "-m",
        "endomatch_ros.cli",
        "train",
        *arguments(recording, cache, tmp_path, max_steps=500),
    ]
    process = spawn(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert any(line.startswith("step 4/") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.splitlines()[-1].endswith(f"--output {tmp_path} --resume goes on from the last validation")


def test_two_processes_with_half_the_batch_are_one_with_the_whole(unbroken, recording, cache, tmp_path):
    """Gradients, the other images' negatives included: the weights agree after every step has built on the last."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "endomatch_ros.cli", "train"]
    options = arguments(recording, cache, tmp_path, **{"batch-size": 2})
    done = subprocess.run([*command, *options], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("wrote ") == 1
    start = {f"network.{k}": v for k, v in load_model("embedded")[0].state_dict().items()}
    one, two = state(unbroken), state(tmp_path)
    # Adam's first steps have the size of the learning rate whatever the gradient's: where that is but rounding noise,
    # the weights may differ, so what is compared is how far all of them have moved.
    movement = sum(float((one[k] - start[k]).square().sum()) for k in one)
    apart = sum(float((one[k] - two[k]).square().sum()) for k in one)
    assert apart < 1e-3 * movement
    for name in ("loss", "val_median_error"):
        figures = []
        for folder in (unbroken, tmp_path):
            events = EventAccumulator(str(folder / "log"))
            events.Reload()
            figures.append([e.value for e in events.Scalars(name)])
        assert len(figures[0]) >= 3
        assert figures[0] == pytest.approx(figures[1], rel=1e-3), name


def test_a_finished_or_started_run_is_not_overwritten(unbroken, recording, cache):
    before = (unbroken / "last.ckpt").read_bytes()
    with pytest.raises(ConfigError, match="holds a run already"):
        cli.main(arguments(recording, cache, unbroken))
    # Resuming a finished run writes its model again and trains no further.
    assert cli.main(["--output", str(unbroken), "--resume"]) == 0
    assert (unbroken / "last.ckpt").read_bytes() == before


def test_early_stop_and_accumulation(recording, cache, tmp_path):
    """With a vanishing step size nothing improves: the second validation is the last one of the patience."""
    options = arguments(
        recording, cache, tmp_path, patience=1, accumulate=2, **{"batch-size": 1, "optimiser.learning_rate": 1e-9}
    )
    assert cli.main(options) == 0
    assert steps_done(tmp_path / "last.ckpt") == 4


def test_data_errors_come_before_training(cache, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "empty"):
        with pytest.raises(DataError, match=name):
            cli.main(["--data", str(tmp_path / name), "--output", str(tmp_path / "run"), "--cache", str(cache)])
    assert not (tmp_path / "run").exists()
    (tmp_path / "broken").mkdir()
    for k in range(3):
        (tmp_path / "broken" / f"{k}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="3 broken"):
        cli.main(["--data", str(tmp_path / "broken"), "--output", str(tmp_path / "run"), "--cache", str(cache)])


def test_options_reach_every_value(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: [a]\noutput: out\nmax_steps: 7\nobjective:\n  kind: infonce\n  margin: 0.5\n")
    config, resume = cli.parse(["--config", str(recipe)])
    assert (config.data, config.max_steps, config.objective.kind, config.objective.margin) == (["a"], 7, "infonce", 0.5)
    assert not resume
    options = f"--config {recipe} --data b c --max-steps 9 --unfreeze --depth stereo --frames :20 --resume".split()
    options += ["--objective.margin=0.25", "--novel_view.motion.translation", "[0.1, 0.4]"]
    config, resume = cli.parse(options)
    assert (config.data, config.max_steps, config.unfreeze, resume) == (["b", "c"], 9, True, True)
    assert (config.objective.kind, config.objective.margin) == ("infonce", 0.25)
    assert config.novel_view.motion.translation == (0.1, 0.4)
    assert (config.recording.depth, config.recording.frames) == ("stereo", ":20")


def test_help_explains_every_value(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())

    def leaves(config, prefix=""):
        for name in config.__dataclass_fields__:
            value = getattr(config, name)
            if hasattr(value, "__dataclass_fields__"):
                yield from leaves(value, f"{prefix}{name}.")
            else:
                yield f"--{prefix}{name}"

    for name in leaves(TrainConfig(data=["a"], output=ROOT)):
        assert f"{name} " in text, name
    assert " (type: " in text
    assert "] (type:" not in text  # an option without a word of explanation


def test_the_shipped_yaml_names_every_default():
    shipped, _ = cli.parse(["--config", str(ROOT / "config" / "train.yaml")])
    assert shipped == TrainConfig(data=shipped.data, output=shipped.output)
    assert (ROOT / "config" / "train.yaml").read_text().count("#") > 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-steps", "0"], "max_steps is 0"),
        (["--max-steps", "many"], "max_steps.*many"),
        (["--nonsense", "3"], "nonsense"),
        (["--optimiser.learning_rate", "3"], "learning_rate is 3"),
        (["--init", "random"], "--unfreeze"),
        (["--depth", "sonar"], "sonar"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--synthetic.scenes", "1000000"], "scenes is 1000000"),
        (["--recording.validation_share", "1"], "validation_share"),
        (["--crop.size", "[16, 16]"], "crop.size"),
    ],
)
def test_bad_options(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        cli.parse(["--data", "x", "--output", str(tmp_path), *options])


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    with pytest.raises(ConfigError, match=r"jsonargparse.*endomatch_ros\[train\]"):
        cli.parse(["--data", "x", "--output", "y"])


def test_where_training_starts_from(tmp_path):
    def start(**changes):
        return starting_network(TrainConfig(data=["x"], output=tmp_path, **changes))

    shipped, kept, fresh = load_model("embedded")[0], start(), start(adapter="new")
    assert torch.equal(kept.adapter.gate, shipped.adapter.gate)
    assert kept.adapter.gate != 0
    assert fresh.adapter.gate == 0
    last = shipped.backbone.vit.blocks[-1].state_dict()
    assert all(torch.equal(value, last[name]) for name, value in fresh.adapter.block.state_dict().items())
    tokens = start(fine="drop")
    assert tokens.fine is None
    assert tokens.config.fine_dim == 0
    again = starting_network(TrainConfig(data=["x"], output=tmp_path, preset=str(_saved(tokens, tmp_path)), fine="add"))
    assert again.fine is not None
    random = start(init="random", unfreeze=True)
    assert not torch.equal(random.backbone.vit.blocks[0].mlp.fc1.weight, shipped.backbone.vit.blocks[0].mlp.fc1.weight)
    with pytest.raises(ConfigError, match="builds a preset"):
        start(init="random", unfreeze=True, preset="some.safetensors")


def _saved(network, folder):
    from endomatch_ros.models import save_checkpoint

    path = folder / "tokens.safetensors"
    save_checkpoint(network, path)
    assert load_checkpoint(path).fine is None
    return path


def test_a_dinov2_backbone_trains_its_adapter_only(recording, cache, tmp_path):
    """A DINOv2 of the right architecture with random weights; its file must not hold the backbone."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    vit = timm.create_model("vit_small_patch14_dinov2.lvd142m", num_classes=0, dynamic_img_size=True)
    weights = tmp_path / "dinov2.safetensors"
    save_file(vit.state_dict(), str(weights))
    options = arguments(recording, cache, tmp_path / "run", preset="dinov2-small", **{"max-steps": 1, "batch-size": 1})
    options += [f"--backbone_weights={weights}", "--crop.size=[100,80]", "--validation_pairs=1"]
    assert cli.main(options) == 0
    model = tmp_path / "run" / "model.safetensors"
    assert all(name.startswith(("adapter.", "log_scale")) for name in load_file(model))
    matcher = Matcher.from_pretrained(model, "cpu", backbone_weights=weights, resolution=112)
    assert float(matcher.network.adapter.gate) != 0

    # An unfrozen backbone has moved, so its weights go with the model and need no other file.
    options[options.index(f"--output={tmp_path / 'run'}")] = f"--output={tmp_path / 'whole'}"
    assert cli.main([*options, "--unfreeze"]) == 0
    whole = load_checkpoint(tmp_path / "whole" / "model.safetensors")
    assert not torch.equal(whole.backbone.vit.blocks[0].mlp.fc1.weight, vit.blocks[0].mlp.fc1.weight)


def test_a_collapse_is_told(monkeypatch, caplog):
    module = MatcherModule(load_model("embedded")[0], OptimiserConfig(), 10, ObjectiveConfig().make())
    for reached, told in ((0.5, False), (0.4, False), (0.1, True)):
        figures = SimpleNamespace(callback_metrics={"val_pck": torch.tensor(reached)})
        monkeypatch.setattr(MatcherModule, "trainer", figures)
        module.on_validation_epoch_end()
        assert ("fell from 0.500 to 0.100" in caplog.text) is told
