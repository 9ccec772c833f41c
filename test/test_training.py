"""Losses against explicit sums, pairs against the scene's truth, and a training run from end to end."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from endomatch_ros.data.synthetic import SyntheticEndoscope
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.matching import Matcher
from endomatch_ros.models.checkpoint import read_metadata
from endomatch_ros.training import cli
from endomatch_ros.training import train as train_module
from endomatch_ros.training.losses import sample_map, soft_target_cross_entropy, symmetric_infonce
from endomatch_ros.training.module import MatcherModule
from endomatch_ros.training.pairs import AugmentConfig, ScenePairs
from endomatch_ros.training.render import TIMES, render_scenes, scene_config
from endomatch_ros.training.train import TEST_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS, TrainConfig, train


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """Cache folder with two training scenes and one validation scene."""
    folder = tmp_path_factory.mktemp("scenes")
    render_scenes(TRAIN_SEEDS[:2], folder)
    render_scenes(VALIDATION_SEEDS[:1], folder)
    return folder


def unit(*shape):
    values = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))
    return values


def test_cross_entropy_against_an_explicit_softmax():
    features = torch.nn.functional.normalize(unit(2, 5, 4, 6), dim=1)
    anchors = torch.nn.functional.normalize(unit(2, 7, 5), dim=2)
    targets = torch.rand(2, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [5.0, 3.0]
    )
    loss = soft_target_cross_entropy(anchors, features, targets, torch.tensor(9.0))
    total = 0.0
    for b in range(2):
        for k in range(7):
            logits = np.array([[9.0 * float(anchors[b, k] @ features[b, :, y, x]) for x in range(6)] for y in range(4)])
            log_p = logits - np.log(np.exp(logits).sum())
            x, y = targets[b, k].tolist()
            x0, y0 = int(x), int(y)
            for dy in (0, 1):
                for dx in (0, 1):
                    weight = abs(1 - dx - (x - x0)) * abs(1 - dy - (y - y0))
                    if weight:
                        total -= weight * log_p[y0 + dy, x0 + dx]
    assert float(loss) == pytest.approx(total / 14, rel=1e-9)


def test_the_loss_is_smallest_at_the_truth_and_symmetric():
    # Smooth maps, so that a wrong position is worse the further it is away.
    coarse = unit(1, 8, 3, 3)
    features = torch.nn.functional.normalize(
        torch.nn.functional.interpolate(coarse, size=(12, 12), mode="bicubic"), dim=1
    )
    cells = torch.tensor([[[3.0, 4.0], [7.5, 6.0], [2.0, 9.0]]], dtype=torch.float64)
    scale = torch.tensor(30.0)
    at_truth = symmetric_infonce(features, features, cells, cells, scale)
    for shift in (1.0, 2.0):
        assert symmetric_infonce(features, features, cells, cells + shift, scale) > at_truth
    other = torch.nn.functional.normalize(unit(1, 8, 12, 12), dim=1)
    assert torch.allclose(
        symmetric_infonce(features, other, cells, cells + 1, scale),
        symmetric_infonce(other, features, cells + 1, cells, scale),
    )
    assert torch.allclose(sample_map(features, cells[:, :1])[0, 0], features[0, :, 4, 3])


def test_seeds_of_training_validation_and_test_are_apart():
    assert not set(TRAIN_SEEDS) & set(VALIDATION_SEEDS)
    assert not set(TRAIN_SEEDS) & set(TEST_SEEDS)
    assert not set(VALIDATION_SEEDS) & set(TEST_SEEDS)


def test_stored_correspondences_are_the_scenes_own(rendered):
    seed = TRAIN_SEEDS[0]
    with np.load(rendered / f"scene_{seed:06d}.npz") as archive:
        points, targets = archive["points"].astype(float), archive["targets"]
        assert len(archive["images"]) == len(TIMES)
    scene = SyntheticEndoscope(scene_config(seed))
    exact, visible = scene.correspondence(TIMES[1], TIMES[3], points)
    both = visible & np.isfinite(targets[1, 3, :, 0])
    assert both.sum() > 500
    assert np.linalg.norm(targets[1, 3] - exact, axis=1)[both].max() < 0.01


def test_pairs_are_reproducible_and_consistent(rendered):
    files = sorted(rendered.glob("scene_00*.npz"))
    a, b = (ScenePairs(files, 10, points=64, seed=3, augment=AugmentConfig()) for _ in range(2))
    for key, value in a[4].items():
        assert torch.equal(value, b[4][key])
    assert not torch.equal(a[4]["image0"], a[5]["image0"])
    item = a[4]
    assert item["image0"].shape == (3, 192, 256)
    assert item["view1"].shape == (1, 192, 256)
    for k in (0, 1):
        x, y = item[f"points{k}"].round().long().T
        assert item[f"view{k}"][0, y, x].all()


def test_augmented_correspondences_still_fit_the_pictures(rendered):
    """Without photometric changes, colours at corresponding points agree far better than at shuffled ones."""
    calm = AugmentConfig(gamma=(1.0, 1.0), log_gain=0.0, white_balance=0.0, blur=0.0, noise=0.0)
    pairs = ScenePairs(sorted(rendered.glob("scene_00*.npz")), 20, points=256, seed=0, augment=calm)
    true, shuffled = [], []
    for index in range(12):
        item = pairs[index]
        colours = []
        for k in (0, 1):
            size = torch.tensor([256, 192])
            grid = (2 * item[f"points{k}"] + 1) / size - 1
            image = torch.nn.functional.avg_pool2d(item[f"image{k}"][None], 3, 1, 1)
            colours.append(torch.nn.functional.grid_sample(image, grid[None, None], align_corners=False)[0, :, 0].T)
            colours[-1] = colours[-1] / colours[-1].mean(0)
        true.append((colours[0] - colours[1]).norm(dim=1).median())
        shuffled.append((colours[0] - colours[1].roll(97, 0)).norm(dim=1).median())
    assert np.mean(true) < 0.5 * np.mean(shuffled)


def test_no_files_is_an_error():
    with pytest.raises(DataError, match="no training scenes"):
        ScenePairs([], 10)


def config(tmp_path, rendered, **changes):
    values = {"max_steps": 4, "batch_size": 2, "scenes": 2, "validation_scenes": 1, "workers": 0, "checkpoint_every": 2}
    return TrainConfig(output=tmp_path, cache=rendered, **(values | changes))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, rendered):
    output = tmp_path_factory.mktemp("unbroken")
    return train(config(output, rendered))


def test_a_run_writes_a_model_that_the_matcher_takes(unbroken):
    assert unbroken.name == "model.safetensors"
    matcher = Matcher.from_pretrained(unbroken, device="cpu", resolution=128)
    image = np.random.default_rng(0).integers(40, 200, (96, 128, 3), dtype=np.uint8)
    assert matcher.match(image, image) is not None
    notes = read_metadata(unbroken)["notes"]
    assert "scene seeds 1000 to 1001" in notes
    assert "val_pck5" in notes


def test_training_moves_every_part(unbroken, rendered, tmp_path):
    more = load_file(train(config(tmp_path, rendered, max_steps=1)))
    for name, value in load_file(unbroken).items():
        # The adapter's block moves once its gate has opened, too little for float16 in four steps.
        if value.ndim > 1 and "adapter" not in name:
            assert not torch.equal(value, more[name]), name
    assert more["adapter.gate"] != 0


def test_a_broken_run_resumes_to_the_same_weights(unbroken, rendered, tmp_path, monkeypatch):
    step = MatcherModule.training_step

    def die(self, batch, index):
        if self.global_step == 3:
            raise RuntimeError("power cut")
        return step(self, batch, index)

    monkeypatch.setattr(MatcherModule, "training_step", die)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config(tmp_path, rendered))
    assert not (tmp_path / "model.safetensors").exists()
    monkeypatch.setattr(MatcherModule, "training_step", step)
    resumed = load_file(train(config(tmp_path, rendered, resume=True)))
    for name, value in load_file(unbroken).items():
        assert torch.allclose(value.float(), resumed[name].float(), atol=2e-3), name


def test_bad_arguments(tmp_path):
    with pytest.raises(ConfigError, match="--max-steps is 0"):
        TrainConfig(output=tmp_path, max_steps=0)
    with pytest.raises(ConfigError, match="--learning-rate is 3"):
        TrainConfig(output=tmp_path, learning_rate=3)
    with pytest.raises(ConfigError, match="at most"):
        TrainConfig(output=tmp_path, scenes=10**6)
    for arguments, message in ((["--data", "videos"], "'videos'"), (["--preset", "dinov2-small"], "'dinov2-small'")):
        with pytest.raises(ConfigError, match=message):
            cli.main(["--output", str(tmp_path), *arguments])
    (tmp_path / "last.ckpt").write_bytes(b"half")
    with pytest.raises(Exception, match="cannot be resumed"):
        train_module._steps(tmp_path / "last.ckpt")
