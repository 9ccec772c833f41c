"""Pre-training: which pairs are drawn, that runs can be broken off, what is written, and the command line."""

import csv
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import DATA
from PIL import Image
from support.volumes import store

from endomatch_ros import cli
from endomatch_ros.data.frames import Frame
from endomatch_ros.errors import CheckpointError, ConfigError, DataError
from endomatch_ros.fitting.checkpoint_io import steps_done
from endomatch_ros.gvsl import checkpoint
from endomatch_ros.gvsl.cli import parse
from endomatch_ros.gvsl.config import GvslConfig
from endomatch_ros.gvsl.losses import LossConfig
from endomatch_ros.gvsl.model import GvslModel
from endomatch_ros.gvsl.pretraining.damage import DamageConfig
from endomatch_ros.gvsl.pretraining.data import (
    DamagedPairs,
    FrameConfig,
    FrameDraw,
    VolumeDraw,
    VolumeValidation,
    _Cache,
    prepare_frame,
)
from endomatch_ros.gvsl.pretraining.module import GvslModule, OptimiserConfig
from endomatch_ros.gvsl.pretraining.pretrain import PretrainConfig, PretrainData, pretrain
from endomatch_ros.gvsl.registration import VOLUMES_NOTE, load_registrar
from endomatch_ros.gvsl.subjects import find_subjects
from endomatch_ros.gvsl.volumes import VolumeConfig

VOLUMES = VolumeConfig(size=(12, 12, 8))
TINY = GvslConfig(channels=(4, 8), pool=2, integration_steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six subjects of slightly different sizes and types: a bright box somewhere in noise."""
    folder = tmp_path_factory.mktemp("volumes")
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for k in range(6):
        shape = (11 + k % 3, 12, 8)
        labels = np.zeros(shape, np.uint8)
        start = rng.integers(2, 4, 3)
        labels[tuple(slice(s, s + 4) for s in start)] = 1
        image = 100 * labels + 20 * rng.random(shape)
        store(folder / "images" / f"s{k}.nii.gz", image.astype(np.uint8 if k % 2 else np.float32), np.eye(4))
        store(folder / "labels" / f"s{k}.nii.gz", labels, np.eye(4))
    return folder


@pytest.fixture(scope="module")
def subjects(folder):
    return find_subjects(folder)


def pairs_of(subjects, seed=0, damage=None):
    return DamagedPairs(VolumeDraw(subjects, VOLUMES), seed, damage or DamageConfig())


def config_for(output, **changes):
    values = {"steps": 3, "validate_every": 2, "device": "cpu", "model": TINY, "loss": LossConfig(window=5)}
    return PretrainConfig(output, **{**values, **changes})


def test_a_pair_is_two_subjects_and_a_is_damaged_inside_its_volume_only(subjects):
    pairs = pairs_of(subjects)
    for k in range(6):
        item = pairs[k]
        assert item["moving"].shape == item["clean"].shape == item["fixed"].shape == (1, *VOLUMES.size)
        assert item["clean_mask"].shape == item["fixed_mask"].shape == (1, *VOLUMES.size)
        assert all(value.dtype == torch.float32 for value in item.values())
        assert not torch.equal(item["clean"], item["fixed"])
        assert all(float(item[n].min()) >= 0 and float(item[n].max()) <= 1 for n in ("moving", "clean", "fixed"))
        outside = item["clean_mask"] == 0
        assert torch.equal(item["moving"][outside], item["clean"][outside])
    assert any(not torch.equal(pairs[k]["moving"], pairs[k]["clean"]) for k in range(6))


def test_a_pair_depends_on_seed_and_number_only(subjects):
    first, again, other = pairs_of(subjects), pairs_of(subjects), pairs_of(subjects, seed=1)
    again[7]
    assert all(torch.equal(first[3][name], again[3][name]) for name in first[3])
    assert not torch.equal(first[3]["moving"], other[3]["moving"])


def test_every_subject_is_drawn_as_a_and_as_b(subjects):
    draw = VolumeDraw(subjects, VOLUMES)
    rng = np.random.default_rng(0)
    drawn = [draw(rng) for _ in range(100)]
    for side in (0, 1):
        assert len({pair[side][0].tobytes() for pair in drawn}) == len(subjects)
    assert all(a.tobytes() != b.tobytes() for (a, _), (b, _) in drawn)
    with pytest.raises(DataError, match="1 volume"):
        VolumeDraw(subjects[:1], VOLUMES)


def test_the_cache_ends_at_its_limit():
    made = []

    def make(key):
        made.append(key)
        return np.zeros((1, 10), np.float32), np.zeros(10, bool)

    cache = _Cache(make, limit=120)  # 50 bytes an item
    for key in (0, 1, 2, 0, 1, 2):
        cache(key)
    assert made == [0, 1, 2, 2]


def test_workers_do_not_change_the_order(subjects):
    batches = []
    for workers in (0, 2):
        data = PretrainData(PretrainConfig("unused", batch_size=3, workers=workers), pairs_of(subjects))
        loader = iter(data.train_dataloader())
        batches.append([next(loader)["moving"] for _ in range(4)])
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))
    assert not torch.equal(batches[0][0], batches[0][1])
    late = PretrainData(PretrainConfig("unused", batch_size=3), pairs_of(subjects), done=2)
    assert torch.equal(next(iter(late.train_dataloader()))["moving"], batches[0][2])


def test_validation_pairs_are_clean_and_labels_end_with_the_volume(subjects, tmp_path):
    full = store(tmp_path / "full.nii", np.ones((11, 12, 8), np.uint8), np.eye(4))
    subjects = [replace(subjects[0], labels=full), *subjects[1:]]
    validation = VolumeValidation(subjects, VOLUMES, most=4)
    assert len(validation) == 4
    item = validation[0]
    assert torch.equal(item["moving_labels"], item["moving_mask"].int())
    for side in ("moving", "fixed"):
        assert set(item[f"{side}_labels"].unique().tolist()) == {0, 1}
        assert not item[f"{side}_labels"][item[f"{side}_mask"] == 0].any()
    unlabelled = [type(s)(s.name, s.image) for s in subjects]
    assert "moving_labels" not in VolumeValidation(unlabelled, VOLUMES)[0]


def weights(path):
    return checkpoint.load(path)[0].state_dict()


def test_a_run_broken_off_and_resumed_ends_where_an_unbroken_one_does(subjects, tmp_path):
    validation = VolumeValidation(subjects[4:], VOLUMES)
    train = subjects[:4]
    decay = OptimiserConfig(1e-3)
    whole = pretrain(config_for(tmp_path / "whole", steps=5, optimiser=decay), pairs_of(train), validation)
    assert steps_done(tmp_path / "whole" / "last.ckpt") == 5
    # 3 is not a multiple of 2: the last checkpoint does not come from a validation.
    for steps in (3, 5):
        broken = config_for(tmp_path / "broken", steps=steps, optimiser=decay)
        path = pretrain(broken, pairs_of(train), validation, resume=True)
    assert all(torch.equal(value, weights(path)[name]) for name, value in weights(whole).items())
    again = pretrain(broken, pairs_of(train), validation, resume=True)  # nothing left to do
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(whole).items())
    with pytest.raises(ConfigError, match="--resume"):
        pretrain(broken, pairs_of(train), validation)
    (tmp_path / "broken" / "last.ckpt").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        pretrain(broken, pairs_of(train), validation, resume=True)


def test_every_part_of_the_model_learns(subjects, tmp_path):
    path = pretrain(config_for(tmp_path, steps=3, optimiser=OptimiserConfig(1e-2)), pairs_of(subjects))
    torch.manual_seed(0)
    before = pretrain(config_for(tmp_path / "start", steps=1, optimiser=OptimiserConfig(1e-9)), pairs_of(subjects))
    start, end = weights(before), weights(path)
    for part in ("backbone", "head.global_stage", "head.local_stage", "restoration"):
        names = [name for name in end if name.startswith(part)]
        assert names
        assert any(not torch.allclose(start[name], end[name], atol=1e-3) for name in names), part


def test_registration_improves_on_the_identity_and_labels_are_reported(subjects, tmp_path):
    config = config_for(tmp_path, steps=40, validate_every=20, batch_size=3, optimiser=OptimiserConfig(5e-3, "cosine"))
    path = pretrain(config, pairs_of(subjects[:4]), VolumeValidation(subjects[4:], VOLUMES), {"data": "boxes"})
    with next((tmp_path / "log").rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    validated = [r for r in rows if r.get("val_dice")]
    assert len(validated) == 2
    assert 0 < float(validated[0]["val_dice_identity"]) < 1
    last = validated[1]
    assert float(last["val_similarity"]) > float(last["val_similarity_identity"]) + 0.05
    notes = checkpoint.load(path)[1]
    assert notes["data"] == "boxes"
    assert json.loads(notes["recipe"])["steps"] == 40


def test_labels_choose_weights_only_where_that_is_asked_for(subjects, tmp_path):
    unlabelled = [type(s)(s.name, s.image) for s in subjects]
    validation = VolumeValidation(unlabelled, VOLUMES)
    with pytest.raises(ConfigError, match="label maps"):
        pretrain(config_for(tmp_path / "a", choose="dice"), pairs_of(subjects), validation)
    with pytest.raises(ConfigError, match="validation subjects"):
        pretrain(config_for(tmp_path / "b", choose="similarity"), pairs_of(subjects))
    chosen = pretrain(config_for(tmp_path / "c", choose="similarity"), pairs_of(subjects), validation)
    best = torch.load(tmp_path / "c" / "best.ckpt", weights_only=False)
    assert best["global_step"] == 2  # of 3: the weights are not the last ones
    expected = {name.removeprefix("model."): value.half().float() for name, value in best["state_dict"].items()}
    assert all(torch.equal(value, expected[name]) for name, value in weights(chosen).items())
    pretrain(config_for(tmp_path / "d"), pairs_of(subjects), VolumeValidation(subjects, VOLUMES))
    assert not (tmp_path / "d" / "best.ckpt").exists()


def test_labels_never_reach_the_weights(folder, subjects, tmp_path):
    paths = []
    for name, data in (("with", subjects), ("without", [type(s)(s.name, s.image) for s in subjects])):
        paths.append(pretrain(config_for(tmp_path / name), pairs_of(data), VolumeValidation(data, VOLUMES)))
    first, second = map(weights, paths)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_runs_that_cannot_be_are_refused(tmp_path):
    for changes, message in (
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"choose": "best"}, "choose"),
    ):
        with pytest.raises(ConfigError, match=message):
            PretrainConfig(tmp_path, **changes)
    with pytest.raises(ConfigError, match="decay"):
        OptimiserConfig(decay="linear")
    with pytest.raises(ConfigError, match="learning_rate"):
        OptimiserConfig(learning_rate=0.0)
    with pytest.raises(ConfigError, match="warmup"):
        OptimiserConfig(warmup=-1)


def test_the_rate_rises_in_the_warm_up_and_then_falls_to_zero_or_stays():
    def rates(**options):
        module = GvslModule(GvslModel(TINY), LossConfig(window=5), OptimiserConfig(1e-2, **options), steps=10)
        made = module.configure_optimizers()
        optimiser, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
        found = []
        for _ in range(11):
            found.append(optimiser.param_groups[0]["lr"] / 1e-2)
            optimiser.step()
            schedule.step()
        return found

    assert rates() == [1.0] * 11
    assert rates(warmup=4) == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 8)
    cosine = [0.5 * (1 + np.cos(np.pi * k / 6)) for k in range(7)]
    assert rates(warmup=4, decay="cosine") == pytest.approx([0.25, 0.5, 0.75, 1.0, *cosine], abs=1e-9)


COMMON = ["--steps", "2", "--channels", "4", "8", "--window", "5", "--device", "cpu", "--validate-every", "1"]


def test_command_trains_on_volumes_and_its_checkpoint_registers_them(folder, tmp_path, capsys):
    run = ["pretrain", "volume", "--data", str(folder), "--output", str(tmp_path / "run"), "--size", "12", "12", "8"]
    assert cli.main([*run, *COMMON, "--spacing", "1.5", "--split", "none", "--inversion", "0"]) == 0
    text = capsys.readouterr().out
    assert "6 volumes for training" in text
    recipe = json.loads(checkpoint.load(tmp_path / "run" / "model.safetensors")[1]["recipe"])
    assert (recipe["damage"]["inversion"], recipe["damage"]["curve"]) == (0.0, DamageConfig.curve)
    registrar, notes = load_registrar(tmp_path / "run" / "model.safetensors")
    assert registrar.config == VolumeConfig(1.5, (12, 12, 8))
    assert notes["subjects"].split() == [f"s{k}" for k in range(6)]
    assert json.loads(notes[VOLUMES_NOTE])["spacing"] == 1.5
    resumed = ["pretrain", "volume", "--output", str(tmp_path / "run"), "--resume", "--steps", "3"]
    assert cli.main(resumed) == 0
    assert "step 3/3" in capsys.readouterr().out
    assert cli.main([*run, *COMMON]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_a_resumed_run_keeps_its_values_unless_told_otherwise(tmp_path):
    kept = ["volume", "--data", "d", "--output", str(tmp_path), "--channels", "4", "8", "--no-affine", "--steps", "7"]
    (tmp_path / "arguments.json").write_text(json.dumps(kept))
    args = parse(["volume", "--output", str(tmp_path), "--resume", "--steps", "9"])
    assert (args.channels, args.affine, args.steps, str(args.data)) == ([4, 8], False, 9, "d")
    with pytest.raises(ConfigError, match="pretrain volume"):
        parse(["frames", "--output", str(tmp_path), "--resume"])
    with pytest.raises(ConfigError, match="--data"):
        parse(["volume", "--output", str(tmp_path / "new")])


def test_command_says_what_is_wrong_with_a_folder(tmp_path, capsys):
    run = ["pretrain", "volume", "--output", str(tmp_path / "run"), *COMMON, "--data"]
    (tmp_path / "images").mkdir()
    assert cli.main([*run, str(tmp_path)]) == 2
    assert "holds no .nii" in capsys.readouterr().err
    store(tmp_path / "images" / "a.nii", np.random.default_rng(0).random((9, 9, 9)).astype(np.float32))
    assert cli.main([*run, str(tmp_path)]) == 2
    assert "at least two subjects" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def frame(index, mask=None, size=(40, 60)):
    image = np.full((*size, 3), index, np.uint8)
    return Frame(image, float(index), index, mask)


def test_frames_are_fitted_with_their_proportions_and_masks():
    mask = np.zeros((40, 60), bool)
    mask[:, 30:] = True
    image, valid = prepare_frame(frame(51, mask), (64, 48))  # 60 wide to 48: scale 0.8, so 32 high
    assert image.shape == (3, 64, 48)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[:, 16:48], 0.2)
    assert not image[:, :16].any()
    expected = np.zeros((64, 48), bool)
    expected[16:48, 24:] = True
    np.testing.assert_array_equal(valid, expected)
    assert prepare_frame(frame(0), (40, 60))[1].all()


def test_frames_of_a_pair_lie_close_and_in_one_recording():
    sequences = [[frame(k) for k in range(30)], [frame(k) for k in range(100, 105)], [frame(200)]]
    draw = FrameDraw(sequences, FrameConfig((32, 32), gap=3))
    rng = np.random.default_rng(0)
    pairs = [tuple(round(float(item[0].max()) * 255) for item in draw(rng)) for _ in range(400)]
    assert {abs(a - b) for a, b in pairs} == {1, 2, 3}
    assert {a for a, _ in pairs} == {*range(30), *range(100, 105)}
    with pytest.raises(DataError, match="two frames"):
        FrameDraw([[frame(0)]], FrameConfig())
    with pytest.raises(ConfigError, match="gap"):
        FrameConfig(gap=0)
    with pytest.raises(ConfigError, match="size"):
        FrameConfig(size=(8, 8))


def test_command_trains_on_frames(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for k in range(21):
        Image.fromarray(rng.integers(0, 255, (36, 48, 3), np.uint8)).save(tmp_path / f"{k:02d}.png")
    run = ["pretrain", "frames", "--data", str(tmp_path), "--frames", "0:20", "--output", str(tmp_path / "run")]
    assert cli.main([*run, *COMMON, "--size", "32", "40", "--gap", "2"]) == 0
    text = capsys.readouterr().out
    assert "18 frames for training, 2 for validation" in text
    assert "val_similarity_identity" in text
    model, notes = checkpoint.load(tmp_path / "run" / "model.safetensors")
    assert (model.config.spatial_dims, model.config.in_channels) == (2, 3)
    assert json.loads(notes["frames"]) == {"size": [32, 40]}


def test_real_volumes_of_both_types_train(tmp_path):
    folder = DATA / "hippocampus"
    if not folder.is_dir():
        pytest.skip(f"the real volumes are not at {folder}")
    subjects = find_subjects(folder)[:3]
    assert {str(nib.load(s.image).get_data_dtype()) for s in subjects} == {"uint8", "float32"}
    pretrain(config_for(tmp_path, steps=1), pairs_of(subjects))


def test_the_network_sees_the_damaged_image_and_the_field_moves_the_clean_one():
    seen = []

    class Watched(GvslModel):
        def forward(self, *images):
            seen.append(images)
            return super().forward(*images)

    values = {"moving": 0.1, "clean": 0.2, "fixed": 0.3}
    batch = {name: torch.full((1, 1, 12, 12), value) for name, value in values.items()}
    model = Watched(GvslConfig(spatial_dims=2, channels=(4, 8), pool=2))
    module = GvslModule(model, LossConfig(window=3), OptimiserConfig(), 10)
    module.log = lambda *_, **__: None
    module.training_step(batch, 0)
    moving, fixed, clean = seen[0]
    assert (float(moving.mean()), float(fixed.mean()), float(clean.mean())) == pytest.approx((0.1, 0.3, 0.2))
