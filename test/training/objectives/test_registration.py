"""The objective gvsl: the head registers the images of a pair, without labels."""

import json
import math
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from support.pairs import SIZE, STRIDE, descriptors, make, pair, texture
from support.recordings import write_pictures

from endomatch_ros.errors import ConfigError
from endomatch_ros.models import MatcherNetwork, load_model, save_checkpoint
from endomatch_ros.models.checkpoints import load_checkpoint, read_metadata
from endomatch_ros.training import cli
from endomatch_ros.training.config import SyntheticConfig, TrainConfig
from endomatch_ros.training.module import MatcherModule, OptimiserConfig
from endomatch_ros.training.objectives.config import ObjectiveConfig
from endomatch_ros.training.objectives.registration import DenseConfig, dense_losses, dense_targets, grey
from endomatch_ros.training.pairs.crop import CropConfig
from endomatch_ros.training.start import starting_network
from endomatch_ros.training.train import train

ONE_SCALE = DenseConfig(scales=1)


def shifting(rows: float, columns: float) -> MatcherNetwork:
    """A network whose head shifts everything by so many cells; batches of one pair, the way back with other signs."""
    network = make()
    height, width = (side // STRIDE for side in SIZE)
    with torch.no_grad():  # tanh(x) times a quarter of the size
        network.dense.global_stage.last.bias[-2:] = torch.tensor(
            [math.atanh(4 * rows / height), math.atanh(4 * columns / width)]
        )
    return network


def losses(network, batch, config=ONE_SCALE):
    with torch.no_grad():
        return {k: float(v) for k, v in dense_losses(network, *descriptors(network, batch), batch, config).items()}


def test_a_field_in_cells_leads_pixels():
    field = torch.zeros(1, 2, 24, 32)
    field[:, 0], field[:, 1] = 1.5, -2.0
    field[:, :, :, 16:] *= 2
    points = torch.tensor([[[20.0, 30.0], [100.0, 30.0]]])
    found = dense_targets(field, points, 128)
    torch.testing.assert_close(found, torch.tensor([[[12.0, 36.0], [84.0, 42.0]]]))


def test_grey_against_opencv():
    import cv2

    image = texture(smooth=1)
    expected = cv2.cvtColor(image[0].permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY)
    assert abs(255 * grey(image)[0, 0].numpy() - expected).max() <= 0.51


@pytest.mark.parametrize("scales", [1, 3])
def test_an_image_on_itself_is_a_perfect_registration(scales):
    found = losses(make(), pair(), DenseConfig(scales=scales, endpoint=1.0))
    assert found["similarity"] == pytest.approx(-1, abs=1e-4)
    assert found["smoothness"] == 0
    assert found["endpoint"] == 0


def test_the_right_field_is_better_than_none_and_than_its_reverse():
    """One head cannot shift both ways: the loss is the mean of a perfect way there and a bad way back."""
    batch = pair(8, -12)
    right, none, reverse, other = (
        losses(network, batch, DenseConfig(scales=1, endpoint=1.0))
        for network in (shifting(2, -3), make(), shifting(-2, 3), shifting(3, -2))
    )
    assert right["similarity"] < -0.5
    assert right["similarity"] < none["similarity"] - 0.3
    assert right["similarity"] == pytest.approx(reverse["similarity"], abs=0.05)  # the way back is perfect instead
    assert right["similarity"] < other["similarity"] - 0.3
    assert none["endpoint"] == pytest.approx(math.hypot(2, 3), abs=1e-4)
    assert right["endpoint"] == pytest.approx(math.hypot(2, 3), abs=1e-4)  # 0 there, twice as much back
    assert other["endpoint"] == pytest.approx((math.sqrt(2) + math.sqrt(50)) / 2, abs=1e-4)


def test_each_further_resolution_is_half_as_fine_and_counts_the_same():
    network, batch = shifting(1, 2), pair(8, -12)
    single = [
        losses(network, batch, DenseConfig(detail=detail, scales=1, window=5))["similarity"] for detail in (4, 2, 1)
    ]
    together = losses(network, batch, DenseConfig(detail=4, scales=3, window=5))["similarity"]
    assert len({round(value, 3) for value in single}) == 3
    assert together == pytest.approx(sum(single) / 3, abs=1e-6)


def test_pixels_out_of_view_do_not_matter():
    network, batch = shifting(1, 2), pair(4, 8)
    batch["view0"][..., :32] = False
    batch["view1"][:, :, 80:] = False
    found = descriptors(network, batch)
    spoilt = {k: v.clone() for k, v in batch.items()}
    spoilt["image0"][..., :32] = 0
    spoilt["image1"][:, :, 80:] = 255
    with torch.no_grad():
        results = [dense_losses(network, *found, b, ONE_SCALE)["similarity"] for b in (batch, spoilt)]
        seen = dense_losses(network, *found, {**spoilt, "view0": torch.ones_like(spoilt["view0"])}, ONE_SCALE)
    assert results[0] == results[1]
    assert results[0] < -0.3
    assert seen["similarity"] != results[0]


def module_of(network, objective, unfreeze=False):
    return MatcherModule(network, OptimiserConfig(), 10, objective.make(), unfreeze)


def moved(network):
    return {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize(("head_only", "unfreeze"), [(False, False), (False, True), (True, False)])
def test_gradients_reach_the_head_the_adapter_and_the_fine_branch_or_the_head_alone(head_only, unfreeze):
    network = make()
    with torch.no_grad():  # away from the zeros that training starts from, through which nothing flows back
        network.adapter.gate.fill_(0.1)
        for p in network.dense.parameters():
            p += 0.05 * torch.randn_like(p)
    module = module_of(network, ObjectiveConfig(kind="gvsl", dense=DenseConfig(head_only=head_only)), unfreeze)
    sum(module.losses(pair(4, 8)).values()).backward()
    parts = {name.split(".")[0] for name in moved(network)}
    expected = {"dense"} if head_only else {"dense", "adapter", "fine"} | ({"backbone"} if unfreeze else set())
    assert parts == expected
    assert {name for name, p in network.named_parameters() if p.requires_grad} >= moved(network)
    assert all(name in moved(network) for name, _ in network.named_parameters() if name.startswith("dense."))
    assert network.adapter.gate.requires_grad != head_only


def test_a_head_stays_out_of_other_objectives():
    network = make()
    module = module_of(network, ObjectiveConfig(kind="triplet"))
    assert not any(p.requires_grad for p in network.dense.parameters())
    assert set(module.losses(pair())) == {"coarse", "fine"}


def test_a_head_learns_a_pair_without_its_correspondences():
    network, batch = make(), pair(4, -8, smooth=15)
    with torch.no_grad():
        found = descriptors(network, batch)
    images = {name: value for name, value in batch.items() if "points" not in name}
    optimiser = torch.optim.Adam(network.dense.parameters(), 1e-3)
    for _ in range(30):
        optimiser.zero_grad()
        sum(dense_losses(network, *found, images, DenseConfig(scales=2)).values()).backward()
        optimiser.step()
    with torch.no_grad():
        field = network.register(*found).field
    error = (dense_targets(field, batch["points0"], SIZE[1]) - batch["points1"]).norm(dim=2)
    assert error.max() < 3.0  # of 8.9 px


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"levels": 0}, "dense.levels=0"),
        ({"window": 8}, "use 9"),
        ({"detail": 0}, "dense.detail=0"),
        ({"scales": 0}, "dense.scales=0"),
        ({"smoothness": -1.0}, "dense.smoothness"),
        ({"endpoint": float("nan")}, "dense.endpoint"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ConfigError, match=message):
        DenseConfig(**values)


def test_the_head_alone_is_for_gvsl_and_leaves_the_rest_as_it_is(tmp_path):
    with pytest.raises(ConfigError, match="gvsl, not triplet"):
        ObjectiveConfig(dense=DenseConfig(head_only=True))
    objective = ObjectiveConfig(kind="gvsl", dense=DenseConfig(head_only=True))
    for wrong in ({"unfreeze": True}, {"adapter": "new"}, {"fine": "drop"}):
        with pytest.raises(ConfigError, match="head_only"):
            TrainConfig(data=["x"], output=tmp_path, objective=objective, **wrong)


@pytest.mark.parametrize("options", [["--objective", "gvsl", "--head-only"], ["--objective=gvsl", "--head_only=true"]])
def test_short_options(options, tmp_path):
    config, _ = cli.parse(["--data", "x", "--output", str(tmp_path), *options, "--objective.dense.levels", "2"])
    assert config.objective == ObjectiveConfig(kind="gvsl", dense=DenseConfig(head_only=True, levels=2))


def test_a_run_needs_no_monai(tmp_path):
    """In a process of its own, from which the package is barred: the head, its losses and the whole run do without."""
    code = """
        import sys
        sys.modules["monai"] = None  # importing it is an ImportError
        from endomatch_ros.cli import main
        sys.exit(main(sys.argv[1:]))
    """
    recording = write_pictures(tmp_path, 4)
    options = ["train", "--data", str(recording), f"--output={tmp_path / 'run'}", f"--cache={tmp_path / 'cache'}"]
    options += ["--objective=gvsl", "--max-steps=1", "--batch-size=1", "--points=32", "--validation-pairs=1"]
    options += ["--workers=0", "--crop.size=[128,96]", "--device=cpu"]
    options += ["--recording.selection.sharpness=0", "--recording.validation_gap=0"]
    command = [sys.executable, "-c", textwrap.dedent(code), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert load_checkpoint(tmp_path / "run" / "model.safetensors").dense is not None


def test_a_run_gets_a_head_or_loses_one_that_would_not_fit(tmp_path):
    path = tmp_path / "with_head.safetensors"
    network = make()
    with torch.no_grad():
        network.dense.global_stage.last.bias.fill_(0.5)
    save_checkpoint(network, path)

    def start(kind, preset):
        config = TrainConfig(["x"], tmp_path, preset=preset, objective=ObjectiveConfig(kind=kind))
        return starting_network(config)

    assert start("gvsl", "embedded").config.dense_levels == 4
    assert start("gvsl", "embedded").dense is not None
    kept = start("gvsl", str(path))
    assert kept.config.dense_levels == 2
    assert kept.dense.global_stage.last.bias[0] == 0.5
    dropped = start("triplet", str(path))
    assert dropped.dense is None
    assert dropped.config == replace(network.config, dense_levels=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The head alone, two steps on a rendered scene, from the embedded model."""
    config = TrainConfig(
        data=["synthetic"],
        output=tmp_path_factory.mktemp("run") / "out",
        cache=tmp_path_factory.mktemp("cache"),
        max_steps=2,
        validate_every=1,
        batch_size=2,
        points=32,
        validation_pairs=2,
        workers=0,
        device="cpu",
        crop=CropConfig(size=(128, 96)),
        synthetic=SyntheticConfig(scenes=1, validation_scenes=1),
        objective=ObjectiveConfig(kind="gvsl", dense=DenseConfig(head_only=True)),
    )
    return config, train(config)


def test_a_run_of_the_head_alone_leaves_every_other_bit(run):
    config, path = run
    before = load_file(load_model("embedded")[1].source)
    after = load_file(path)
    assert {name for name in after if name not in before} == {
        f"dense.{name}" for name in load_checkpoint(path).dense.state_dict()
    }
    for name, value in before.items():
        if not name.startswith("dense."):
            assert after[name].dtype == value.dtype
            assert torch.equal(after[name], value), name
    embedded = load_model("embedded")[0].config
    assert load_checkpoint(path).config == replace(embedded, dense_levels=config.objective.dense.levels)


def test_a_run_keeps_the_weights_with_the_least_validation_error_and_says_what_it_started_from(run):
    config, path = run
    lines = (config.output / "log" / "from_step_0" / "metrics.csv").read_text().splitlines()
    header = lines[0].split(",")
    assert {"loss_similarity", "loss_smoothness", "val_folding", "val_dense_error_identity"} <= set(header)
    column = header.index("val_dense_error")
    errors = [float(v) for v in (line.split(",")[column] for line in lines[1:]) if v]
    notes = json.loads(read_metadata(path)["notes"])
    # The first figure is that of the start, which is the identity and no checkpoint.
    assert len(errors) == 3
    assert json.loads(notes["validation"])["val_dense_error"] == pytest.approx(min(errors[1:]), abs=1e-4)
    assert "operating_point" not in notes
    start = json.loads(notes["start"])
    assert start == json.loads(read_metadata(_embedded())["notes"])


def _embedded():
    return Path(load_model("embedded")[1].source)
