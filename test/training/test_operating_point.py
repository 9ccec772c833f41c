"""The similarity threshold against brute force and closed forms, and as a run on two sources writes it."""

import json
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from endomatch_ros.data.selection import SelectionConfig
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.matching import Matcher
from endomatch_ros.models import load_model, save_checkpoint
from endomatch_ros.models.checkpoints import load_checkpoint, read_metadata
from endomatch_ros.training.config import SyntheticConfig, TrainConfig
from endomatch_ros.training.data import TrainingData
from endomatch_ros.training.module import MatcherModule
from endomatch_ros.training.operating_point import best_threshold, choose_operating_point, labelled_matches
from endomatch_ros.training.pairs.crop import CropConfig
from endomatch_ros.training.pairs.datasets import Pairs
from endomatch_ros.training.pairs.prepare import RecordingConfig
from endomatch_ros.training.train import train


def by_brute_force(similarity, right):
    """Every threshold in turn, from the definitions of precision, recall and F1, in exact arithmetic."""
    best = (Fraction(-1), 0.0, Fraction(0), Fraction(0))
    for k in range(100):
        kept = [r for s, r in zip(similarity, right, strict=True) if s >= np.float32(k / 100)]
        precision = Fraction(sum(kept), len(kept)) if kept else Fraction(0)
        recall = Fraction(sum(kept), sum(right)) if any(right) else Fraction(0)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else Fraction(0)
        if f1 >= best[0]:
            best = (f1, k / 100, precision, recall)
    return best[1:]


@pytest.mark.parametrize("count", [1, 2, 9, 400])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_that_of_brute_force(count, seed):
    rng = np.random.default_rng([seed, count])
    right = rng.random(count) < (0.2, 0.5, 0.9)[seed % 3]
    # Right ones are more similar on the whole; two digits, so that many lie exactly on a threshold.
    similarity = np.clip(rng.normal(0.3 + 0.4 * right, 0.25), -1, 1).round(2).astype(np.float32)
    threshold, precision, recall = by_brute_force(similarity.tolist(), right.tolist())
    assert best_threshold(similarity, right) == (threshold, float(precision), float(recall))


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ([0.8, 0.9, 0.95], [0.1, 0.2, 0.3], (0.8, 1, 1)),  # separable: as high as costs nothing
        ([0.55, 0.7], [], (0.55, 1, 1)),
        ([], [0.4, 0.6], (0.99, 0, 0)),  # no threshold is any good
        ([], [], (0.99, 0, 0)),
        ([0.5, 0.5], [0.5], (0.5, 2 / 3, 1)),  # ties stay together
        ([0.4, 0.8, 0.9], [0.5], (0.4, 3 / 4, 1)),  # F1 6/7 with all, 4/5 without the doubtful two
        ([0.4, 0.8, 0.9], [0.5, 0.5], (0.8, 1, 2 / 3)),  # F1 3/4 with all
        ([-0.2, 0.6], [], (0.6, 1, 1 / 2)),  # what no threshold keeps is missing from the recall
    ],
)
def test_the_best_threshold_in_closed_form(right, wrong, expected):
    labels = np.array([True] * len(right) + [False] * len(wrong), bool)
    assert best_threshold(np.array([*right, *wrong], np.float32), labels) == pytest.approx(expected)


STRIDE, COLUMNS, ROWS = 8, 10, 7


def some_maps(noise):
    """Descriptors of an image, and those of the same tissue two cells to the right of it."""
    generator = torch.Generator().manual_seed(3)
    first = normalize(torch.randn(6, ROWS, COLUMNS, generator=generator), dim=0)
    moved = first.roll(2, 2) + noise * torch.randn(6, ROWS, COLUMNS, generator=generator)
    return first, normalize(moved, dim=0)


def centres():
    y, x = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
    return (torch.stack([x, y], 2).reshape(-1, 2) + 0.5) * STRIDE - 0.5


def labelled_by_brute_force(maps, valid, points):
    """Pairs of cells one by one, and for each the points that lie in it."""
    flat = [m.double().flatten(1).T.numpy() for m in maps]
    allowed = [np.flatnonzero(v.numpy()) for v in valid]
    place = centres().double().numpy()
    out = []
    for cell in allowed[0]:
        partner = max(allowed[1], key=lambda j: flat[0][cell] @ flat[1][j])
        if max(allowed[0], key=lambda i: flat[0][i] @ flat[1][partner]) != cell:
            continue
        held = [k for k, p in enumerate(points[0].double().numpy()) if (np.abs(p - place[cell]) <= STRIDE / 2).all()]
        if held:
            k = min(held, key=lambda k: np.linalg.norm(points[0][k].double().numpy() - place[cell]))
            truth = place[cell] + (points[1][k] - points[0][k]).double().numpy()
            # 5 px, or three quarters of these cells.
            out.append((flat[0][cell] @ flat[1][partner], np.linalg.norm(place[partner] - truth) < 6.0))
    return out


def test_matches_are_labelled_as_by_brute_force():
    generator = torch.Generator().manual_seed(4)
    points0 = torch.rand(150, 2, generator=generator) * torch.tensor([COLUMNS, ROWS]) * STRIDE - 0.5
    # Partners are off by some pixels, so that right and wrong lie close together.
    points1 = points0 + torch.tensor([2.0 * STRIDE, 0]) + 4 * torch.randn(150, 2, generator=generator)
    maps = some_maps(noise=0.4)
    valid = tuple(torch.rand(ROWS, COLUMNS, generator=generator) < 0.9 for _ in range(2))
    similarity, right = labelled_matches(maps, valid, (points0, points1), COLUMNS * STRIDE)
    expected = labelled_by_brute_force(maps, valid, (points0, points1))
    assert len(expected) > 25
    assert 0.2 < np.mean([label for _, label in expected]) < 0.8
    np.testing.assert_allclose(similarity, [s for s, _ in expected], rtol=1e-5)
    np.testing.assert_array_equal(right, [label for _, label in expected])


def test_every_cell_counts_once_with_its_most_central_point():
    maps, everywhere = some_maps(noise=0.0), torch.ones(ROWS, COLUMNS, dtype=torch.bool)
    start, shift = centres(), torch.tensor([2.0 * STRIDE, 0])
    inside = start[:, 0] < (COLUMNS - 2) * STRIDE
    similarity, right = labelled_matches(maps, (everywhere, everywhere), (start, start + shift), COLUMNS * STRIDE)
    # What left the image came back on the other side: matched, and wrong.
    np.testing.assert_array_equal(right, inside.numpy())
    np.testing.assert_allclose(similarity, 1, rtol=1e-5)
    off = start + torch.tensor([3.0, -2.0])
    doubled = torch.cat([off, start, start]), torch.cat([off, start + shift, start + shift])
    _, again = labelled_matches(maps, (everywhere, everywhere), doubled, COLUMNS * STRIDE)
    np.testing.assert_array_equal(again, right)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run on rendered scenes, validated on whole frames, and on a recording, validated on smaller cut-outs."""
    folder = tmp_path_factory.mktemp("recording")
    scene = SyntheticEndoscope(SceneConfig(seed=1001, width=192, height=160, view_radius=0.6))
    for k in range(8):
        cv2.imwrite(str(folder / f"{k}.png"), scene.render(0.3 * k).image[..., ::-1])
    # A threshold that lies on no grid: no choice can be mistaken for it.
    network = load_model("embedded")[0]
    network.config = replace(network.config, similarity_threshold=0.123)
    save_checkpoint(network, folder.parent / "start.safetensors")
    return TrainConfig(
        preset=str(folder.parent / "start.safetensors"),
        data=["synthetic", str(folder)],
        output=tmp_path_factory.mktemp("run") / "out",
        cache=tmp_path_factory.mktemp("cache"),
        max_steps=2,
        validate_every=1,
        batch_size=4,
        points=256,
        validation_pairs=6,
        workers=0,
        device="cpu",
        crop=CropConfig(size=(128, 96)),
        recording=RecordingConfig(selection=SelectionConfig(sharpness=0), validation_gap=1),
        synthetic=SyntheticConfig(scenes=1, validation_scenes=1),
    )


@pytest.fixture(scope="module")
def trained(config):
    return train(config)


def operating_point(path):
    return json.loads(json.loads(read_metadata(path)["notes"])["operating_point"])


def test_sources_of_different_image_sizes_train_and_validate_together(config, trained):
    data = TrainingData(config, load_checkpoint(trained).config.resolution)
    data.setup("fit")
    sizes = {tuple(batch["image0"].shape[2:]) for batch in data.val_dataloader()}
    assert sizes == {(256, 320), (96, 128)}
    assert sum(len(batch["image0"]) for batch in data.val_dataloader()) == config.validation_pairs
    # Cut-outs are of one size, so the two may share a training batch, and in the second one they do.
    mixed = Pairs([None, None], 8, seed=config.seed)
    assert {mixed.source(k) for k in range(4, 8)} == {0, 1}
    for batch in data.train_dataloader():
        assert batch["image0"].shape == batch["image1"].shape == (4, 3, 96, 128)
    assert trained.is_file()


def test_the_model_carries_its_threshold_and_the_caller_has_the_last_word(config, trained):
    chosen, before = operating_point(trained), load_model(config.preset)[0].config
    assert load_checkpoint(trained).config == replace(before, similarity_threshold=chosen["threshold"])
    assert before.similarity_threshold == 0.123 != chosen["threshold"]
    assert chosen["right"] < chosen["matches"]
    assert Matcher.from_pretrained(trained, "cpu").config.similarity_threshold == chosen["threshold"]
    assert Matcher.from_pretrained(trained, "cpu", similarity_threshold=0.21).config.similarity_threshold == 0.21


def test_the_threshold_is_that_of_the_best_weights_also_in_a_run_resumed_at_its_end(config, trained, capsys):
    """The best weights are made poorer behind the run's back: nothing else can have led to the new figures."""
    before = operating_point(trained)
    best = config.output / "best.ckpt"
    state = torch.load(best, map_location="cpu", weights_only=False)
    weight = state["state_dict"]["network.fine.fuse.3.weight"]
    weight += 0.6 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    torch.save(state, best)
    assert train(config, resume=True) == trained
    after = operating_point(trained)
    assert after["right"] < before["right"]
    assert f"similarity threshold {after['threshold']:.2f}: precision " in capsys.readouterr().out
    assert "validation from 10000" in json.loads(read_metadata(trained)["notes"])["data"]

    data = TrainingData(config, load_checkpoint(trained).config.resolution)
    data.setup("validate")
    module = MatcherModule(load_checkpoint(trained), config.optimiser, 1, config.objective.make())
    again = choose_operating_point(module, data.val_dataloader(), torch.device("cpu"))
    # To the half precision of the file.
    assert again.threshold == pytest.approx(after["threshold"], abs=0.011)
    assert (again.matches, again.right) == pytest.approx((after["matches"], after["right"]), rel=0.02)
    assert (again.precision, again.recall) == pytest.approx((after["precision"], after["recall"]), abs=0.02)


def test_too_few_matches_and_a_run_without_calibration_keep_the_old_value(config, trained, capsys):
    old = load_model(config.preset)[0].config
    train(replace(config, points=16), resume=True)
    assert "threshold kept as it was" in capsys.readouterr().out
    few = operating_point(trained)
    assert few["threshold"] is None
    assert 0 < few["right"] <= few["matches"] <= 16 * config.validation_pairs
    assert load_checkpoint(trained).config == old
    train(replace(config, calibrate=False), resume=True)
    assert "threshold" not in capsys.readouterr().out
    assert "operating_point" not in json.loads(read_metadata(trained)["notes"])
    assert load_checkpoint(trained).config == old
