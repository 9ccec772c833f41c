"""Damage: what changes, what stays, and that a seed decides it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from endomatch_ros.errors import ConfigError, ImageError
from endomatch_ros.gvsl.pretraining.damage import (
    DamageConfig,
    bend_intensities,
    damage,
    paint_blocks,
    sample_blocks,
    shuffle_blocks,
)

SHAPES = [(1, 40, 50), (3, 33, 47), (1, 24, 20, 31)]
OFF = {"curve": 0.0, "shuffling": 0.0, "painting": 0.0}


def picture(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def covered(shape: tuple[int, ...], blocks: list[tuple[slice, ...]]) -> np.ndarray:
    inside = np.zeros(shape[1:], bool)
    for block in blocks:
        inside[block] = True
    return inside


@pytest.mark.parametrize("shape", SHAPES)
def test_the_seed_decides(shape: tuple[int, ...]) -> None:
    image = picture(shape)
    before = image.copy()
    first, again, other = (damage(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(image, before)
    assert first.dtype == np.float32
    assert first.shape == shape


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fill", ["noise", "constant"])
def test_the_range_stays(shape: tuple[int, ...], fill: str) -> None:
    config = DamageConfig(curve=1, shuffling=1, painting=1, fill=fill)
    for seed in range(8):
        damaged = damage(picture(shape, seed), np.random.default_rng(seed), config)
        assert damaged.min() >= 0
        assert damaged.max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("only", ["curve", "shuffling", "painting"])
def test_nothing_changes_outside_the_mask(shape: tuple[int, ...], only: str) -> None:
    image, mask = picture(shape), np.zeros(shape[1:], bool)
    mask[8:-6, 5:-9] = True
    config = DamageConfig(**{**OFF, only: 1.0}, paint_blocks=20, shuffle_coverage=2)
    damaged = damage(image, np.random.default_rng(0), config, mask)
    assert np.array_equal(damaged[:, ~mask], image[:, ~mask])
    assert (damaged[:, mask] != image[:, mask]).mean() > 0.05


def test_with_all_rates_zero_nothing_changes_and_a_copy_comes_back() -> None:
    image = picture(SHAPES[0])
    result = damage(image, np.random.default_rng(0), DamageConfig(**OFF))
    assert np.array_equal(result, image)
    assert not np.shares_memory(result, image)


@pytest.mark.parametrize(("only", "rate"), [("curve", 0.9), ("shuffling", 0.5), ("painting", 0.9)])
def test_default_rates(only: str, rate: float) -> None:
    image, rng = picture((1, 12, 12)), np.random.default_rng(0)
    config = DamageConfig(**{**OFF, only: getattr(DamageConfig(), only)}, shuffle_size=0.5)
    changed = [not np.array_equal(damage(image, rng, config), image) for _ in range(400)]
    assert np.mean(changed) == pytest.approx(rate, abs=0.06)


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_lie_inside_and_have_the_sizes_asked_for(shape: tuple[int, ...]) -> None:
    blocks = sample_blocks(shape[1:], 2000, (1 / 6, 1 / 3), np.random.default_rng(0))
    assert len(blocks) == 2000
    for axis, size in enumerate(shape[1:]):
        sides = [block[axis].stop - block[axis].start for block in blocks]
        assert (min(sides), max(sides)) == (size // 6, size // 3)
        assert (min(b[axis].start for b in blocks), max(b[axis].stop for b in blocks)) == (0, size)


def test_blocks_have_one_voxel_at_least() -> None:
    blocks = sample_blocks((3, 2), 50, (0.0, 0.1), np.random.default_rng(0))
    assert all(s.stop - s.start == 1 for block in blocks for s in block)


@pytest.mark.parametrize("shape", SHAPES)
def test_painting_changes_the_blocks_and_nothing_else(shape: tuple[int, ...]) -> None:
    image, rng = picture(shape), np.random.default_rng(0)
    blocks = sample_blocks(shape[1:], 3, (1 / 6, 1 / 3), rng)
    inside = covered(shape, blocks)
    noise = paint_blocks(image, blocks, rng)
    assert np.array_equal(noise[:, ~inside], image[:, ~inside])
    assert (noise[:, inside] != image[:, inside]).mean() > 0.99
    constant = paint_blocks(image, blocks[:1], rng, "constant")
    values = constant[(slice(None), *blocks[0])].reshape(len(image), -1)
    assert np.array_equal(values, np.repeat(values[:, :1], values.shape[1], axis=1))


@pytest.mark.parametrize("shape", SHAPES)
def test_shuffling_only_moves_whole_voxels_within_their_block(shape: tuple[int, ...]) -> None:
    image, rng = picture(shape), np.random.default_rng(0)
    blocks = sample_blocks(shape[1:], 1, (0.2, 0.3), rng)
    shuffled = shuffle_blocks(image, blocks, rng)
    inside = covered(shape, blocks)
    assert np.array_equal(shuffled[:, ~inside], image[:, ~inside])
    before, after = (sorted(map(tuple, x[:, inside].T)) for x in (image, shuffled))
    assert before == after
    assert (shuffled[:, inside] != image[:, inside]).any(axis=0).mean() > 0.9


def test_shuffling_covers_what_was_asked_for() -> None:
    image = np.linspace(0, 1, 40 * 50, dtype=np.float32).reshape(1, 40, 50)
    shares = []
    for coverage in (0.2, 3.0):
        config = DamageConfig(**{**OFF, "shuffling": 1.0}, shuffle_coverage=coverage)
        shares.append((damage(image, np.random.default_rng(0), config) != image).mean())
    assert 0.1 < shares[0] < 0.2  # overlaps, and voxels that stay by chance
    assert shares[1] > 0.8


@pytest.mark.parametrize("seed", range(6))
def test_curves_are_monotone_and_hit_the_ends(seed: int) -> None:
    controls = np.random.default_rng(seed).random((2, 2))
    ramp = np.linspace(0, 1, 201, dtype=np.float32).reshape(1, 3, 67)
    rising = bend_intensities(ramp, controls).ravel()
    falling = bend_intensities(ramp, controls, falling=True).ravel()
    assert (rising[0], rising[-1], falling[0], falling[-1]) == (0, 1, 1, 0)
    assert (np.diff(rising) >= 0).all()
    np.testing.assert_allclose(falling, 1 - rising, atol=1e-6)


def test_the_curve_is_the_bezier_curve() -> None:
    """The point at t = 0.3 of the curve with control points (0, 0), (0.2, 0.9), (0.7, 0.4), (1, 1)."""
    points = np.array([[0, 0], [0.2, 0.9], [0.7, 0.4], [1, 1]])
    while len(points) > 1:  # de Casteljau
        points = 0.7 * points[:-1] + 0.3 * points[1:]
    image = np.full((1, 2, 2), points[0, 0])
    bent = bend_intensities(image, np.array([[0.2, 0.9], [0.7, 0.4]]))
    np.testing.assert_allclose(bent, points[0, 1], atol=1e-5)


def test_inversion_has_its_own_rate() -> None:
    ramp = np.linspace(0, 1, 36).reshape(1, 6, 6)
    for inversion, expected in ((0.0, 0.0), (1.0, 1.0), (0.5, 0.5)):
        config = DamageConfig(**{**OFF, "curve": 1.0}, inversion=inversion)
        rng = np.random.default_rng(0)
        falls = [damage(ramp, rng, config)[0, 0, 0] == 1 for _ in range(200)]
        assert np.mean(falls) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (np.zeros((1, 8, 8), np.uint8), None, "give floats"),
        (np.zeros((8, 8)), None, "give floats"),
        (np.full((1, 8, 8), 1.5), None, r"scale the image to \[0, 1\]"),
        (np.full((1, 8, 8), np.nan), None, "scale the image"),
        (np.zeros((1, 8, 8)), np.ones((8, 9), bool), "needs a bool mask"),
        (np.zeros((1, 8, 8)), np.ones((8, 8)), "needs a bool mask"),
    ],
)
def test_wrong_images_are_refused(image: Any, mask: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        damage(image, np.random.default_rng(0), mask=mask)


@pytest.mark.parametrize(
    "wrong",
    [{"curve": 1.1}, {"paint_blocks": 0}, {"paint_blocks": 2.5}, {"paint_size": (0.5, 0.2)}, {"fill": "blur"}],
)
def test_wrong_configurations_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DamageConfig(**wrong)
