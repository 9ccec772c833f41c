"""Overlap, and the evaluation of registration on labelled volumes."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import DATA
from monai.metrics import DiceMetric
from support.registration import CONFIG, save_model, shifted
from support.volumes import store

from endomatch_ros import cli
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.gvsl import subjects as subjects_module
from endomatch_ros.gvsl.evaluate import LabelledPairs, choose_subjects, evaluate, summarise
from endomatch_ros.gvsl.overlap import dice_per_label, mean_dice, present_labels
from endomatch_ros.gvsl.registration import REFINE_STEPS, Registrar, no_field
from endomatch_ros.gvsl.subjects import find_subjects, neighbour_pairs

SHAPE = (14, 16, 12)


def test_dice_of_shifted_boxes_is_the_closed_form():
    first, second = np.zeros((10, 10, 10), int), np.zeros((10, 10, 10), int)
    first[2:6, 2:6, 2:6] = 1
    second[3:7, 2:6, 2:6] = 1
    first[8:, 8:, 8:] = 7
    dice = dice_per_label(first, second, [1, 7, 9])
    np.testing.assert_array_equal(dice, [0.75, 0.0, np.nan])  # 3 of 4 layers; in one map only; in neither
    assert mean_dice(dice) == 0.375
    assert np.isnan(mean_dice(np.array([np.nan])))
    assert present_labels(first, second) == [1, 7]


def test_dice_is_monai_s():
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = rng.integers(0, 4, (2, 9, 8, 7))
        onehot = [torch.from_numpy(np.stack([m == k for k in range(4)])[None].astype(np.float32)) for m in (a, b)]
        expected = DiceMetric(include_background=False)(*onehot)[0]
        np.testing.assert_allclose(dice_per_label(a, b, [1, 2, 3]), expected, atol=1e-6)


def test_label_maps_of_other_sizes_are_refused():
    with pytest.raises(DataError, match=r"\(2, 2, 2\)"):
        dice_per_label(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), [1])


def block(offset):
    labels = np.zeros(SHAPE, np.uint8)
    labels[3 + offset : 8 + offset, 4:10, 3:9] = 1
    labels[3 + offset : 8 + offset, 10:13, 3:9] = 2
    return labels


@pytest.fixture
def folder(tmp_path):
    """Three subjects whose structures lie one voxel further to the right each time."""
    rng = np.random.default_rng(1)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for k in range(3):
        store(tmp_path / "images" / f"s{k}.nii.gz", rng.random(SHAPE).astype(np.float32) + block(k), np.eye(4))
        store(tmp_path / "labels" / f"s{k}.nii.gz", block(k), np.eye(4))
    return tmp_path


def pairs_of(folder):
    return LabelledPairs(neighbour_pairs(find_subjects(folder)))


def test_identity_overlap_is_that_of_the_stored_maps(folder):
    pairs = pairs_of(folder)
    scores = pairs.score_all(Registrar(no_field, CONFIG))
    assert [(s.moving, s.fixed) for s in scores] == [("s0", "s1"), ("s1", "s0"), ("s1", "s2"), ("s2", "s1")]
    for score in scores:
        assert score.dice == {1: pytest.approx(0.8), 2: pytest.approx(0.8)}  # 4 of 5 layers
        assert (score.folding_percent, score.minimum_jacobian) == (0.0, 1.0)
    summary = summarise(scores)
    assert summary["dice"] == pytest.approx(0.8)
    assert summary["dice_std"] == pytest.approx(0.0)
    assert summary["pairs"] == 4


def test_the_true_field_gives_overlap_1_and_its_opposite_less(folder):
    pairs = pairs_of(folder)
    # moving s0, fixed s1: s1's structures lie one voxel further along the first axis, so the field looks one back.
    assert pairs.score(Registrar(shifted(-1.0, 0.0, 0.0), CONFIG), 0).mean_dice == 1.0
    assert pairs.score(Registrar(shifted(1.0, 0.0, 0.0), CONFIG), 1).mean_dice == 1.0
    assert pairs.score(Registrar(shifted(1.0, 0.0, 0.0), CONFIG), 0).mean_dice == pytest.approx(0.6)


def test_spread_and_labels_are_summarised_over_pairs(folder):
    pairs = pairs_of(folder)
    mixed = [pairs.score(Registrar(shifted(x, 0.0, 0.0), CONFIG), 0) for x in (-1.0, 0.0)]
    summary = summarise(mixed)
    assert summary["dice"] == pytest.approx(0.9)
    assert summary["dice_std"] == pytest.approx(0.1)
    assert summary["dice_per_label"] == {"1": pytest.approx(0.9), "2": pytest.approx(0.9)}


def test_command_writes_the_figures(folder, tmp_path, capsys):
    model = save_model(tmp_path / "m.safetensors")
    out = tmp_path / "results" / "out.json"
    arguments = ["pretrain", "evaluate", "--data", folder, "--checkpoint", model, "--json", out, "--device", "cpu"]
    assert cli.main([*map(str, arguments), "--refine-steps", "0"]) == 0
    report = json.loads(out.read_text())
    # An untrained model is the identity.
    assert report["dice"] == report["dice_identity"] == pytest.approx(0.8)
    assert report["folding_percent"] == 0.0
    assert report["seconds_per_pair"] > 0
    assert (report["pairs"], report["subjects"], report["subjects_seen_in_training"]) == (4, 3, 0)
    assert report["refine_steps"] == 0
    assert "Dice 0.8000" in capsys.readouterr().out
    # Unless a user says otherwise each pair is improved by some steps of its own.
    assert cli.main(list(map(str, arguments))) == 0
    report = json.loads(out.read_text())
    assert report["refine_steps"] == REFINE_STEPS
    assert report["dice"] > report["dice_identity"] + 0.05


def test_part_of_a_split_is_evaluated_alone(folder, tmp_path, monkeypatch):
    split = tmp_path / "splits"
    split.mkdir()
    parts = {"train": ["s0"], "validation": [], "test": ["s1", "s2"]}
    (split / "mine.json").write_text(json.dumps({"parts": parts}))
    monkeypatch.setattr(subjects_module, "_SPLITS", split)
    report = evaluate(folder, save_model(tmp_path / "m.safetensors"), "test")
    assert (report["pairs"], report["part"], report["split"]) == (2, "test", "mine")
    with pytest.raises(DataError, match="'validation'"):
        choose_subjects(folder, "validation")
    with pytest.raises(ConfigError, match="'best'"):
        choose_subjects(folder, "best")


def test_data_without_anything_to_measure_are_refused(folder):
    for k in range(3):
        store(folder / "labels" / f"s{k}.nii.gz", np.zeros(SHAPE, np.uint8), np.eye(4))
    with pytest.raises(DataError, match="background only"):
        pairs_of(folder)
    (folder / "labels" / "s1.nii.gz").unlink()
    with pytest.raises(DataError, match="no label map for 1 of 3"):
        choose_subjects(folder)


def test_real_volumes_are_laid_centre_on_centre():
    """Overlap before registration, also computed with nothing but arrays."""
    folder = DATA / "hippocampus"
    if not folder.is_dir():
        pytest.skip(f"the real volumes are not at {folder}")
    chosen = choose_subjects(folder, "test")
    assert len(chosen) == 40
    pairs = LabelledPairs(neighbour_pairs(chosen[:3]))
    for score, (moving, fixed) in zip(pairs.score_all(Registrar(no_field, CONFIG)), pairs.pairs, strict=True):
        m, f = (pairs._load(subject)[1].data for subject in (moving, fixed))
        size = np.maximum(m.shape, f.shape)
        m, f = (
            np.pad(x, [((n - k) // 2, n - k - (n - k) // 2) for n, k in zip(size, x.shape, strict=True)])
            for x in (m, f)
        )
        assert score.mean_dice == pytest.approx(mean_dice(dice_per_label(m, f, [1, 2])), abs=0.01)
    assert all(a.name < b.name for a, b in pairwise(chosen))
