"""The registration model in the package."""

import itertools
import json

import numpy as np
import pytest
import torch
from conftest import DATA
from scipy import ndimage

from endomatch_ros import cli
from endomatch_ros.gvsl.evaluate import LabelledPairs, choose_subjects, evaluate
from endomatch_ros.gvsl.registration import Registrar, checkpoint_path, load_registrar, load_volume_model, no_field
from endomatch_ros.gvsl.subjects import neighbour_pairs, read_split
from endomatch_ros.gvsl.volumes import Volume

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"))]
SUBJECTS = DATA / "hippocampus"
needs_data = pytest.mark.skipif(not SUBJECTS.is_dir(), reason=f"the real volumes are not at {SUBJECTS}")


def test_it_is_small_and_has_seen_the_training_subjects_only():
    assert checkpoint_path("hippocampus").stat().st_size <= 10e6
    _, config, notes = load_volume_model("hippocampus")
    split = read_split("hippocampus")
    assert set(notes["subjects"].split()) == split["train"]
    assert not split["train"] & (split["validation"] | split["test"])
    # In all directions the largest volumes fit into the grid of the training.
    assert config.size == (44, 60, 46)
    recipe = json.loads(notes["recipe"])
    assert recipe["choose"] == "last"  # the labels of the validation subjects chose nothing in the run


@needs_data
@pytest.mark.parametrize("device", DEVICES)
def test_it_registers_subjects_that_it_has_not_seen(device):
    registrar, _ = load_registrar("hippocampus", device)
    pairs = LabelledPairs(neighbour_pairs(choose_subjects(SUBJECTS, "test")[:4]))
    scores, before = (pairs.score_all(r) for r in (registrar, Registrar(no_field, registrar.config)))
    gains = [a.mean_dice - b.mean_dice for a, b in zip(scores, before, strict=True)]
    assert np.mean(gains) > 0.08
    assert np.mean([score.mean_dice for score in scores]) > 0.7
    assert max(score.folding_percent for score in scores) < 0.1


@needs_data
def test_it_undoes_a_known_rotation():
    """A subject against itself, tilted as subjects are against each other: the true field is known."""
    subject = choose_subjects(SUBJECTS, "test")[3]
    data = LabelledPairs([(subject, subject)])._load(subject)[0].data
    angle = np.radians(10.0)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    centre = (np.array(data.shape) - 1) / 2
    turned = ndimage.affine_transform(data, turn, centre - turn @ centre, order=1, mode="nearest")
    fixed, moving = (Volume(np.asarray(array, np.float32), np.eye(4)) for array in (data, turned))
    result = load_registrar("hippocampus")[0].register(fixed, moving)
    inside = result.fixed.mask[0, 0].numpy()
    places = np.argwhere(inside) - np.argwhere(inside).mean(axis=0)
    true = places @ turn - places  # moving(p + u) = fixed(p) for u = Tᵀ(p − c) − (p − c)
    error = np.linalg.norm(result.field[0].numpy()[:, inside].T - true, axis=1)
    near = np.linalg.norm(places, axis=1) < 14  # beyond, the turned volume's border values begin
    assert error[near].mean() < 0.5 * np.linalg.norm(true, axis=1)[near].mean()


@needs_data
def test_the_command_of_the_readme_measures_it(tmp_path, capsys):
    folder = tmp_path / "few"
    names = sorted(read_split("hippocampus")["test"])[:3]
    for kind, name in itertools.product(("images", "labels"), names):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / f"{name}.nii.gz").symlink_to(SUBJECTS / kind / f"{name}.nii.gz")
    run = ["pretrain", "evaluate", "--data", str(folder), "--checkpoint", "hippocampus", "--json"]
    assert cli.main([*run, str(tmp_path / "out.json"), "--device", "cpu"]) == 0
    assert "4 pairs of 3 subjects" in capsys.readouterr().out
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["subjects_seen_in_training"] == 0
    assert report["dice"] > report["dice_identity"] + 0.05
    assert report["folding_percent"] < 0.1
    assert report["seconds_per_pair"] > 0
    again = evaluate(folder, "hippocampus", device="cpu")
    assert again["dice"] == report["dice"]
