"""Mining and losses against loops over every anchor and every cell."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from endomatch_ros.errors import ConfigError
from endomatch_ros.models import Descriptors, MatcherNetwork, ModelConfig
from endomatch_ros.models.backbones.registry import build_backbone
from endomatch_ros.training.objectives.config import ObjectiveConfig
from endomatch_ros.training.objectives.interface import Processes
from endomatch_ros.training.objectives.losses import descriptor_distance, sample_map, triplet_loss, triplet_margin
from endomatch_ros.training.objectives.mining import cells_in_view, hardest_elsewhere, hardest_in_image, spread_cells


def unit(*shape, seed=0):
    values = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(values, dim=1 if len(shape) == 4 else 2)


def places(batch, count, width, height, seed=5):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform(0, [width - 1, height - 1], (batch, count, 2)))


def test_hardest_negative_against_a_search_of_every_cell():
    features, anchors, partners = unit(2, 6, 5, 7), unit(2, 9, 6, seed=1), places(2, 9, 7, 5)
    valid = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(2)) > 0.3
    found = hardest_in_image(anchors, features, partners, 1.5, valid)
    for b in range(2):
        for k in range(9):
            best, cell = -2.0, None
            for y in range(5):
                for x in range(7):
                    far = np.hypot(x - float(partners[b, k, 0]), y - float(partners[b, k, 1])) > 1.5
                    similarity = float(anchors[b, k] @ features[b, :, y, x])
                    if far and valid[b, y, x] and similarity > best:
                        best, cell = similarity, (x, y)
            assert float(found.similarity[b, k]) == pytest.approx(best, abs=1e-12)
            assert tuple(found.cells[b, k].tolist()) == cell


def test_an_image_without_negatives_costs_nothing():
    features, anchors, partners = unit(1, 6, 4, 4), unit(1, 3, 6, seed=1), places(1, 3, 4, 4)
    assert (hardest_in_image(anchors, features, partners, 100.0).similarity == -1).all()
    assert torch.isfinite(triplet_loss(anchors, features, partners, 1.0, 100.0))


def test_triplet_margin_is_the_paper_s():
    """d = √(2 − 2·cos) is the distance of the unit vectors; max(0, d⁺ − d⁻ + 1)."""
    a, p, n = (unit(1, 40, 8, seed=s)[0] for s in (0, 1, 2))
    positive, negative = (a * p).sum(1), (a * n).sum(1)
    assert torch.allclose(descriptor_distance(positive), (a - p).norm(dim=1))
    reference = functional.triplet_margin_loss(a, p, n, margin=1.0, p=2)
    assert float(triplet_margin(positive, negative, 1.0)) == pytest.approx(float(reference), abs=1e-5)
    assert float(triplet_margin(torch.ones(3), -torch.ones(3), 1.0)) == 0.0
    # Equal descriptors must not poison the gradient.
    one = torch.ones(4, requires_grad=True)
    triplet_margin(one, torch.zeros(4), 1.0).backward()
    assert torch.isfinite(one.grad).all()


def test_triplet_loss_is_least_at_the_true_partner_and_moves_descriptors_towards_it():
    coarse = unit(1, 8, 3, 3)
    features = functional.normalize(functional.interpolate(coarse, size=(12, 12), mode="bicubic"), dim=1)
    cells = torch.tensor([[[3.0, 4.0], [7.5, 6.0], [2.0, 9.0]]], dtype=torch.float64)
    anchors = sample_map(features, cells)
    at_truth = triplet_loss(anchors, features, cells, 1.0, 1.5)
    assert all(triplet_loss(anchors, features, cells + shift, 1.0, 1.5) > at_truth for shift in (1.5, 2.5))
    free = unit(1, 8, 12, 12, seed=9).requires_grad_(True)
    optimiser = torch.optim.Adam([free], lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        loss = triplet_loss(anchors, functional.normalize(free, dim=1), cells, 1.0, 1.5)
        loss.backward()
        optimiser.step()
    best = (anchors @ functional.normalize(free, dim=1).flatten(2)).argmax(2)[0]
    found = torch.stack([best % 12, best // 12], 1)
    assert ((found - cells[0]).abs().max(1).values <= 1).all()


def test_negatives_of_other_images():
    anchors, others = unit(3, 5, 6), unit(3, 11, 6, seed=4)
    expected = torch.stack([(anchors[b] @ others[b].T).max(1).values for b in range(3)])
    assert torch.allclose(hardest_elsewhere(anchors, others), expected)
    maps = unit(2, 6, 4, 8)
    picked, inside = spread_cells(maps, torch.ones(2, 4, 8, dtype=torch.bool), 5)
    assert picked.shape == (2, 5, 6)
    assert inside.all()
    assert torch.equal(picked[:, 0], maps[:, :, 0, 0])
    assert torch.equal(picked[:, -1], maps[:, :, 3, 7])
    view = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    view[..., :5] = True
    assert cells_in_view(view, 4, 4)[0, 0].tolist() == [True, True, True, False]


@pytest.fixture(scope="module")
def network():
    config = ModelConfig(patch_size=16, embed_dim=48, depth=1, heads=2, stem_channels=16, fine_dim=16)
    torch.manual_seed(0)
    return MatcherNetwork(config, build_backbone(config))


def batch_of(count):
    # Eight coarse and 32 fine cells a side, cell for cell the same tissue in both images of a pair.
    centres = (torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="xy"), -1).reshape(1, -1, 2)) * 16
    points = (centres + 7.5).float().repeat(count, 1, 1)
    view = torch.ones(count, 1, 128, 128, dtype=torch.bool)
    return {"points0": points, "points1": points.clone(), "view0": view, "view1": view}


def batch_losses(network, first, second, batch, config, rank=0, gather=None):
    """Of the token grid and of the fine map."""
    parts = config.make().losses(network, first, second, batch, Processes(rank, gather))
    assert list(parts) == ["coarse", "fine"]
    return tuple(parts.values())


@pytest.mark.parametrize("kind", ["triplet", "infonce"])
def test_the_loss_of_a_batch_is_lowest_for_matching_descriptors(network, kind):
    coarse, fine = unit(2, 24, 8, 8).float(), unit(2, 16, 32, 32, seed=3).float()
    right = Descriptors(coarse, fine)
    wrong = Descriptors(coarse.roll(1, dims=3), fine.roll(4, dims=3))
    config = ObjectiveConfig(kind=kind)
    good = batch_losses(network, right, right, batch_of(2), config)
    bad = batch_losses(network, right, wrong, batch_of(2), config)
    assert good[0] < bad[0]
    assert good[1] < bad[1]
    alone = batch_losses(network, Descriptors(coarse, None), Descriptors(coarse, None), batch_of(2), config)
    assert torch.equal(alone[0], good[0])
    assert alone[1] == 0
    doubled = batch_losses(network, right, wrong, batch_of(2), ObjectiveConfig(kind=kind, fine_weight=2.0))
    assert torch.allclose(doubled[1], 2 * bad[1])


def test_other_images_of_all_processes_are_negatives(network):
    """Two processes with one pair each: their mean loss is that of one process with both pairs."""
    maps = [Descriptors(unit(2, 24, 8, 8, seed=s).float(), unit(2, 16, 32, 32, seed=s).float()) for s in (1, 2)]
    batch, config = batch_of(2), ObjectiveConfig(others=16)
    together = batch_losses(network, *maps, batch, config)

    def part(d, k):
        return Descriptors(d.coarse[k : k + 1], d.fine[k : k + 1])

    pools = {}  # the first pass collects what the second one "gathers"
    for collecting in (True, False):
        alone = []
        for rank in (0, 1):
            calls = iter(range(2))

            def gather(values, rank=rank, calls=calls):
                level = next(calls)
                if collecting:  # noqa: B023 - called at once
                    pools[level, rank] = values
                    return torch.stack([values, values])
                return torch.stack([pools[level, 0], pools[level, 1]])

            own = {k: v[rank : rank + 1] for k, v in batch.items()}
            alone.append(batch_losses(network, *(part(d, rank) for d in maps), own, config, rank, gather))
    for level in (0, 1):
        assert torch.allclose(0.5 * (alone[0][level] + alone[1][level]), together[level], atol=1e-6)
    without = batch_losses(network, *maps, batch, ObjectiveConfig(others=0))
    assert not torch.allclose(without[0], together[0])


def test_bad_objectives():
    for wrong in ({"margin": -1}, {"radius": 1000}, {"others": -1}, {"fine_weight": -0.1}):
        with pytest.raises(ConfigError, match="objective"):
            ObjectiveConfig(**wrong)
