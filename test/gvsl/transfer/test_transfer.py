"""Transfer with few labelled volumes: what is measured, what is compared."""

import json

import numpy as np
import pytest
from support.registration import save_model
from support.segmentation import FEW, SHAPE, VOLUMES, blocks, one_thread  # noqa: F401 - the last is a fixture
from support.volumes import store

from endomatch_ros import cli
from endomatch_ros.errors import CheckpointError, ConfigError, DataError
from endomatch_ros.gvsl.subjects import Subject, find_subjects
from endomatch_ros.gvsl.transfer.cli import names, table
from endomatch_ros.gvsl.transfer.initialisation import read_initialisations
from endomatch_ros.gvsl.transfer.run import Run, TransferConfig, _case, _example, choose_shots, summarise, transfer
from endomatch_ros.gvsl.transfer.segmentation import SegmentationConfig
from endomatch_ros.gvsl.volumes import VolumeConfig


def test_fewer_volumes_are_among_more_and_seeds_differ():
    pool = [Subject(str(k), None) for k in range(20)]
    many = choose_shots(pool, 10, seed=3)
    assert choose_shots(pool, 4, seed=3) == many[:4]
    assert len(set(many)) == 10
    assert choose_shots(pool, 10, seed=4) != many
    with pytest.raises(ConfigError, match="shots=21: the train part has 20"):
        choose_shots(pool, 21, seed=0)


def test_means_spreads_and_paired_differences():
    values = {("scratch", 2): (0.5, 0.7, 0.6), ("full", 2): (0.6, 0.75, 0.55), ("scratch", 5): (0.8, 0.8, 0.8)}
    values["full", 5] = (0.9, 0.8, 0.85)
    runs = [
        Run(name, shots, seed, dice, {1: dice, 2: dice / 2}, 1.0)
        for (name, shots), row in values.items()
        for seed, dice in enumerate(row)
    ]
    rows = {(row["initialisation"], row["shots"]): row for row in summarise(runs, "scratch")}
    assert "difference" not in rows["scratch", 2]
    assert rows["scratch", 2]["dice"] == pytest.approx(0.6)
    assert rows["scratch", 2]["dice_std"] == pytest.approx(0.1)
    assert rows["scratch", 2]["dice_per_label_std"] == {"1": pytest.approx(0.1), "2": pytest.approx(0.05)}
    full = rows["full", 2]
    assert full["dice_by_seed"] == [0.6, 0.75, 0.55]
    assert full["difference"] == pytest.approx(0.1 / 3)
    assert full["difference_std"] == pytest.approx(np.std([0.1, 0.05, -0.05], ddof=1))
    assert full["seeds_better"] == 2
    assert rows["full", 5]["difference"] == pytest.approx(0.05)  # against scratch with as many volumes
    assert "difference" not in summarise(runs, None)[1]
    assert summarise(runs[:1], None)[0]["dice_std"] is None  # one seed has no spread


@pytest.fixture
def folder(tmp_path):
    """Eight subjects, whose images show their labels: five to learn from, one and two to measure on."""
    rng = np.random.default_rng(1)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for k in range(8):
        labels = blocks(k)
        image = (labels + 0.1 * rng.random(SHAPE)).astype(np.float32)
        store(tmp_path / "images" / f"s{k}.nii.gz", image, np.eye(4))
        store(tmp_path / "labels" / f"s{k}.nii.gz", labels * np.uint8(7), np.eye(4))  # 7 and 14
    parts = {"train": [f"s{k}" for k in range(5)], "validation": ["s5"], "test": ["s6", "s7"]}
    (tmp_path / "split.json").write_text(json.dumps({"parts": parts}))
    return tmp_path


def compare(folder, *checkpoints, **options):
    config = TransferConfig(**{"shots": (3, 2), "seeds": 2, "training": FEW, **options})
    return transfer(folder, dict(checkpoints), config, split=str(folder / "split.json"))


def timeless(report):
    return [{name: value for name, value in run.items() if name != "seconds"} for run in report["runs"]]


def test_a_seed_fixes_volumes_and_result(folder, tmp_path):
    # The same file twice: what starts equal must end equal. Scratch differs.
    given = [(name, str(save_model(tmp_path / "m.safetensors", VOLUMES))) for name in ("one", "other")]
    steps = SegmentationConfig(steps=10, learning_rate=3e-2, batch_size=1)
    report = compare(folder, ("scratch", "none"), *given, training=steps)
    assert len(report["runs"]) == 12
    dice = {(run["initialisation"], run["shots"], run["seed"]): run["dice"] for run in report["runs"]}
    for shots in (2, 3):
        for seed in (0, 1):
            assert dice["one", shots, seed] == dice["other", shots, seed]
            assert report["chosen"][f"{shots} shots, seed {seed}"] == report["chosen"][f"3 shots, seed {seed}"][:shots]
    assert any(dice["one", shots, seed] != dice["scratch", shots, seed] for shots in (2, 3) for seed in (0, 1))
    again = compare(folder, *given, ("scratch", "none"), training=steps)
    assert sorted(map(str, timeless(again))) == sorted(map(str, timeless(report)))
    assert report["labels"] == [7, 14]
    assert (report["train_subjects"], report["measured_subjects"], report["baseline"]) == (5, 2, "scratch")


def test_what_images_show_is_learned_and_found(folder, tmp_path):
    model = str(save_model(tmp_path / "m.safetensors", VOLUMES, channels=(8, 8)))
    config = SegmentationConfig("finetune", 60, 2e-2, 2, augment=False)
    report = compare(folder, ("a", model), shots=(5,), seeds=1, training=config)
    assert report["results"][0]["dice"] > 0.8
    assert set(report["results"][0]["dice_per_label"]) == {"7", "14"}


def test_volumes_are_cut_for_training_only(folder):
    small, subject = VolumeConfig(size=(8, 16, 8)), find_subjects(folder)[0]
    assert _example(subject, small, [7, 14]).image.shape[2:] == (8, 16, 8)
    assert _case(subject, small).prepared.image.shape[2:] == (12, 16, 10)
    target = _example(subject, VolumeConfig(size=SHAPE), [7, 14]).target
    np.testing.assert_array_equal(target[0, 0], blocks(0))


def test_the_command_writes_the_figures_and_prints_the_table(folder, tmp_path, capsys):
    out, model = tmp_path / "results" / "out.json", save_model(tmp_path / "m.safetensors", VOLUMES)
    arguments = ["pretrain", "transfer", "--data", folder, "--split", folder / "split.json", "--device", "cpu"]
    arguments += ["--checkpoint", "scratch=none", "--checkpoint", f"full={model}", "--mode", "probe", "--json", out]
    arguments += ["--shots", 2, "--seeds", 2, "--steps", 2, "--part", "validation"]
    assert cli.main(list(map(str, arguments))) == 0
    report = json.loads(out.read_text())
    assert [row["initialisation"] for row in report["results"]] == ["scratch", "full"]
    fields = {"dice", "dice_std", "dice_by_seed", "dice_per_label", "difference", "difference_std", "seeds_better"}
    assert fields <= set(report["results"][1])
    assert report["training"]["mode"] == "probe"
    assert report["training"]["steps"] == 2
    assert (report["part"], report["seeds"], report["shots"]) == ("validation", 2, [2])
    assert report["measured_subjects_seen_in_pretraining"] == {"scratch": 0, "full": 0}
    printed = capsys.readouterr().out
    assert table(report) in printed
    assert "| full |" in printed


def test_the_table_shows_spreads_and_differences():
    rows = [{"initialisation": "scratch", "shots": 2, "dice": 0.5, "dice_std": 0.01}]
    rows.append({**rows[0], "initialisation": "full", "difference": 0.0512, "difference_std": 0.002})
    report = {"shots": [2], "results": rows, "checkpoints": {"scratch": "none", "full": "x"}, "seeds": 5}
    text = table(report | {"measured_subjects": 40, "part": "test"})
    assert "| scratch | 0.500 ± 0.010 |" in text
    assert "| full | 0.500 ± 0.010 (+0.051 ± 0.002) |" in text


def test_checkpoints_are_named():
    assert names(["scratch=none", "a=/x=1.safetensors", "hippocampus"]) == {
        "scratch": "none",
        "a": "/x=1.safetensors",
        "hippocampus": "hippocampus",
    }
    for wrong in (["=x"], ["x="], ["a=x", "a=y"]):
        with pytest.raises(ConfigError, match="NAME="):
            names(wrong)


def test_checkpoints_that_cannot_be_compared_are_refused(tmp_path):
    first = str(save_model(tmp_path / "a.safetensors", VOLUMES))
    others = {
        "shrink": save_model(tmp_path / "b.safetensors", VOLUMES, shrink=2),
        "channels": save_model(tmp_path / "c.safetensors", VOLUMES, channels=(8, 8)),
        "preparation": save_model(tmp_path / "d.safetensors", VolumeConfig(2.0)),
    }
    for name, other in others.items():
        with pytest.raises(CheckpointError, match=f"{name}.*only equals"):
            read_initialisations({"first": first, name: str(other)})
    frames = save_model(tmp_path / "e.safetensors", None, spatial_dims=2, in_channels=3)
    with pytest.raises(CheckpointError, match="model for frames"):
        read_initialisations({"frames": str(frames)})
    with pytest.raises(ConfigError, match="architecture"):
        read_initialisations({"scratch": "none"})
    # A stage of the head is no part of the backbone.
    without = save_model(tmp_path / "f.safetensors", VOLUMES, affine=False)
    assert len(read_initialisations({"full": first, "without": str(without)})[0]) == 2


def test_data_that_do_not_suffice_are_refused(folder, tmp_path):
    model = ("a", str(save_model(tmp_path / "m.safetensors", VOLUMES)))
    with pytest.raises(ConfigError, match="shots=6: the train part has 5"):
        compare(folder, model, shots=(6,))
    for wrong in ({"shots": ()}, {"shots": (0, 2)}, {"seeds": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            TransferConfig(**wrong)
    with pytest.raises(ConfigError, match="'train'"):
        transfer(folder, dict([model]), TransferConfig(), part="train")
    for k in range(5):
        store(folder / "labels" / f"s{k}.nii.gz", np.zeros(SHAPE, np.uint8), np.eye(4))
    with pytest.raises(DataError, match="background only"):
        compare(folder, model)
    (folder / "labels" / "s1.nii.gz").unlink()
    with pytest.raises(DataError, match="no label map for 1 of 8"):
        compare(folder, model)
