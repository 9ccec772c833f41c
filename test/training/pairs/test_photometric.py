"""Photometric augmentation: each effect alone against its closed form, and what no effect may ever do."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from endomatch_ros.errors import ConfigError
from endomatch_ros.training.pairs.photometric import PhotometricConfig, jitter

Image = NDArray[np.uint8]
OFF = PhotometricConfig.off()
HARD = PhotometricConfig(
    noise=10.0,
    motion_blur_probability=1.0,
    compression=(30, 60),
    compression_probability=1.0,
    specular=6.0,
    specular_probability=1.0,
    smoke_probability=1.0,
)
EFFECTS = {
    "gamma": {"gamma": (1.4, 1.4)},
    "gain": {"log_gain": 0.3},
    "white balance": {"white_balance": 0.1},
    "blur": {"blur": 2.0},
    "motion": {"motion_blur": 8.0, "motion_blur_probability": 1.0},
    "noise": {"noise": 8.0},
    "compression": {"compression": (40, 40), "compression_probability": 1.0},
    "highlights": {"specular": 5.0, "specular_probability": 1.0},
    "smoke": {"smoke_probability": 1.0, "smoke_opacity": 0.7},
    "vignette": {"vignette": 0.6},
}


def only(name: str) -> PhotometricConfig:
    return dataclasses.replace(OFF, **EFFECTS[name])


def draw(image: Image, config: PhotometricConfig, seed: int = 0, **options: object) -> tuple[Image, NDArray[np.bool_]]:
    return jitter(image, config, np.random.default_rng(seed), **options)


def grey(level: int, size: tuple[int, int] = (96, 128)) -> Image:
    return np.full((*size, 3), level, np.uint8)


@pytest.fixture(scope="module")
def tissue() -> Image:
    """Smooth reddish texture without structure at the borders, levels 25 to 220."""
    rng = np.random.default_rng(5)
    texture = cv2.GaussianBlur(rng.standard_normal((192, 256)).astype(np.float32), (0, 0), 2.5)
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    return (25 + texture[..., None] * np.array([195.0, 130.0, 110.0])).round().astype(np.uint8)


def test_off_changes_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    before = noise.copy()
    out, spoiled = draw(noise, OFF)
    np.testing.assert_array_equal(out, before)
    assert not spoiled.any()
    draw(noise, HARD)
    np.testing.assert_array_equal(noise, before)


def test_the_draw_depends_on_the_generator_alone(tissue: Image) -> None:
    a, b = draw(tissue, HARD, 3), draw(tissue, HARD, 3)
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])
    assert (draw(tissue, HARD, 4)[0] != a[0]).any()


@pytest.mark.parametrize("name", EFFECTS)
def test_every_effect_changes_the_picture_and_moves_nothing(tissue: Image, name: str) -> None:
    window = cv2.createHanningWindow((256, 192), cv2.CV_64F)
    changed = 0
    for seed in range(8):
        out, _ = draw(tissue, only(name), seed)
        changed += int((out != tissue).any())
        shift, _ = cv2.phaseCorrelate(tissue[..., 0].astype(float), out[..., 0].astype(float), window)
        assert np.hypot(*shift) < 0.1
    # A weak draw may come to nothing.
    assert changed >= 5


@pytest.mark.parametrize("shape", [(33, 57, 3), (192, 256, 3)])
def test_everything_at_once_keeps_type_and_shape(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    for seed in range(10):
        out, spoiled = draw(image, HARD, seed)
        assert (out.dtype, out.shape) == (np.uint8, shape)
        assert (spoiled.dtype, spoiled.shape) == (bool, shape[:2])


@pytest.mark.parametrize("gamma", [0.5, 0.7, 1.45, 3.0])
def test_the_tone_curve_is_a_power(gamma: float) -> None:
    ramp = np.tile(np.arange(225, dtype=np.uint8)[None, :, None], (8, 1, 3))
    out, _ = draw(ramp, dataclasses.replace(OFF, gamma=(gamma, gamma)))
    exact = 255 * (ramp.astype(np.float64) / 255) ** gamma
    assert np.abs(out - exact).max() < 0.501


def test_exposure_is_log_normal_and_common_to_the_channels() -> None:
    # Dark enough that none of these draws reaches white.
    logs = np.array([np.log(draw(grey(80), only("gain"), seed)[0][0, 0] / 80.0) for seed in range(600)])
    assert (logs[:, 0] == logs[:, 1]).all()
    assert logs[:, 0].std() == pytest.approx(0.3, rel=0.08)
    assert abs(logs[:, 0].mean()) < 0.04


def test_exposure_and_tone_in_one_table() -> None:
    """One gain for all levels after the power: solved from one level, it must explain the others."""
    ramp = np.tile(np.arange(0, 225, 3, dtype=np.uint8)[None, :, None], (8, 1, 3))
    out, _ = draw(ramp, dataclasses.replace(OFF, gamma=(1.3, 1.3), log_gain=0.3), 7)
    table = 255 * (ramp[0, :, 0] / 255.0) ** 1.3
    gain = out[0, 60, 0] / table[60]
    assert gain != pytest.approx(1.0, abs=0.02)
    assert np.abs(out[0, :, 0] - np.minimum(table * gain, 255)).max() < 1.5


def test_white_balance_is_drawn_for_each_channel() -> None:
    logs = np.log(np.array([draw(grey(120), only("white balance"), seed)[0][3, 3] / 120.0 for seed in range(600)]))
    np.testing.assert_allclose(logs.std(axis=0), 0.1, rtol=0.1)
    assert np.abs(np.corrcoef(logs.T)[np.triu_indices(3, 1)]).max() < 0.15


def test_noise_has_the_deviation_that_is_asked_for() -> None:
    deviations = []
    for seed in range(200):
        out = draw(grey(128), only("noise"), seed)[0].astype(float)
        deviations.append(out.std())
        assert abs(out.mean() - 128) < 0.35
    # Uniform between 0 and 8: mean 4, deviation 8 / √12; rounding adds 1/12 to the variance.
    assert max(deviations) < 8.2
    assert np.mean(deviations) == pytest.approx(4.0, rel=0.1)
    assert np.std(deviations) == pytest.approx(8 / np.sqrt(12), rel=0.12)


def spread(image: Image) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Sum, centre ``(2,)`` and covariance ``(2, 2)`` of the light in the first channel."""
    light = image[..., 0].astype(float)
    y, x = np.mgrid[: light.shape[0], : light.shape[1]]
    points = np.stack([x.ravel(), y.ravel()])
    centre = points @ light.ravel() / light.sum()
    offset = points - centre[:, None]
    return light.sum(), centre, (offset * light.ravel()) @ offset.T / light.sum()


@pytest.mark.parametrize("name", ["blur", "motion"])
def test_blur_keeps_the_light_and_its_centre(name: str) -> None:
    """A bright disc: its light's variance grows by that of the kernel, its sum and centre stay."""
    disc = np.asarray(cv2.circle(grey(0, (97, 97)), (48, 48), 12, (220, 220, 220), cv2.FILLED), np.uint8)
    before = spread(disc)
    grown = []
    for seed in range(40):
        after = spread(draw(disc, only(name), seed)[0])
        assert after[0] == pytest.approx(before[0], rel=0.004)
        np.testing.assert_allclose(after[1], before[1], atol=0.02)
        grown.append(np.linalg.eigvalsh(after[2] - before[2]))
    along, across = np.array(grown)[:, 1], np.array(grown)[:, 0]
    if name == "blur":
        np.testing.assert_allclose(along, across, atol=0.15)
        assert 3.0 < along.max() < 2.0**2 + 0.1
    else:
        # A uniform streak of length L has variance L²/12; interpolation adds about a sixth of a pixel² to either side.
        assert 4.0 < along.max() < 8.0**2 / 12 + 0.4
        assert across.max() < 0.4


def test_compression_is_that_of_the_codec(tissue: Image) -> None:
    out, _ = draw(tissue, only("compression"))
    bgr = np.ascontiguousarray(tissue[..., ::-1])
    coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
    np.testing.assert_array_equal(out, cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])
    half = dataclasses.replace(OFF, compression=(40, 40), compression_probability=0.5)
    changed = np.mean([(draw(tissue, half, seed)[0] != tissue).any() for seed in range(100)])
    assert 0.35 < changed < 0.65


def test_highlights_saturate_exactly_where_the_tissue_is_spoiled(tissue: Image) -> None:
    found = 0
    for seed in range(20):
        out, spoiled = draw(tissue, only("highlights"), seed)
        np.testing.assert_array_equal((out == 255).all(axis=2), spoiled)
        # A highlight only ever adds light, and not to the whole picture.
        assert (out >= tissue).all()
        assert (out > tissue).any(axis=2).mean() < 0.5
        found += int(spoiled.sum())
    assert 20 * 30 < found < 0.1 * 20 * spoiled.size


def test_spoiled_tissue_is_white_through_the_whole_camera(tissue: Image) -> None:
    config = dataclasses.replace(HARD, compression_probability=0.0, log_gain=0.8)
    total = 0
    for seed in range(20):
        out, spoiled = draw(tissue, config, seed)
        total += int(spoiled.sum())
        if spoiled.any():
            assert (out[spoiled] == 255).mean() > 0.9
            assert out[spoiled].min() > 200
    assert total > 500


def test_more_and_larger_highlights_cover_more(tissue: Image) -> None:
    def covered(**changes: object) -> float:
        config = dataclasses.replace(only("highlights"), **changes)
        return float(np.mean([draw(tissue, config, seed)[1].mean() for seed in range(30)]))

    few = covered(specular=2.0)
    assert covered(specular=10.0) > 2.5 * few
    assert covered(specular=2.0, specular_size=(0.06, 0.06)) > 1.5 * few
    assert covered(specular=2.0, specular_probability=0.3) < 0.7 * few
    assert covered(specular=0.0) == 0


def test_smoke_lifts_the_dark_and_takes_contrast(tissue: Image) -> None:
    def contrast(image: Image) -> float:
        light = image[..., 0].astype(np.float32)
        return float((light - cv2.GaussianBlur(light, (0, 0), 6.0)).std())

    for seed in range(10):
        out, spoiled = draw(tissue, only("smoke"), seed)
        assert contrast(out) < 0.97 * contrast(tissue)
        assert np.percentile(out[..., 2], 2) > np.percentile(tissue[..., 2], 2) + 3
        assert draw(grey(0), only("smoke"), seed)[0].max() < 0.7 * 210 + 1
        # Everywhere the veil takes away less light than it may.
        assert contrast(out) > (1 - 0.7) * contrast(tissue)
        assert not spoiled.any()


def test_smoke_and_highlights_stay_inside_the_view(tissue: Image) -> None:
    view = np.zeros(tissue.shape[:2], bool)
    view[:, :100] = True
    image = tissue * view[..., None]
    config = dataclasses.replace(OFF, **EFFECTS["highlights"], **EFFECTS["smoke"])
    for seed in range(5):
        out, spoiled = draw(image, config, seed, view=view)
        assert not out[~view].any()
        assert not spoiled[~view].any()
        assert (out[view] != image[view]).any()


def test_the_corners_are_darker_and_the_middle_is_not() -> None:
    for seed in range(10):
        out = draw(grey(200), only("vignette"), seed)[0][..., 0].astype(int)
        corners = out[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert out.max() >= 198
        assert corners.min() >= 200 * (1 - 0.6) - 1
        assert corners.mean() <= out[40:56, 56:72].mean()
        assert (np.diff(out[:, out.max(axis=0).argmax()], 2) <= 1).all()


def test_nothing_wraps_around() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (64, 1, 3))
    config = dataclasses.replace(OFF, log_gain=1.5)
    for seed in range(20):
        out = draw(ramp, config, seed)[0].astype(int)
        assert (np.diff(out[0, :, 0]) >= 0).all()
        assert out[0, 0, 0] == 0
        assert out[0, 255, 0] == 255
    loud = dataclasses.replace(OFF, noise=100.0)
    for level in (0, 255):
        out = draw(grey(level), loud, 11)[0].astype(int)
        assert abs(np.median(out) - level) <= 1
        assert out.std() > 3


def test_a_highlight_of_the_picture_itself_stays_white() -> None:
    image = grey(120)
    image[20:30, 20:30] = 255
    darker = dataclasses.replace(OFF, gamma=(2.0, 2.0), white_balance=0.2)
    out, spoiled = draw(image, darker)
    assert (out[22:28, 22:28] == 255).all()
    assert out[60, 60].max() < 100
    assert not spoiled.any()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gamma", (0.1, 1.0)),
        ("gamma", (1.2, 0.8)),
        ("gamma", 1.0),
        ("log_gain", -0.1),
        ("log_gain", float("nan")),
        ("white_balance", 1.5),
        ("blur", 30.0),
        ("noise", (0.0, 5.0)),
        ("noise", True),
        ("motion_blur", -1.0),
        ("motion_blur_probability", 1.1),
        ("compression", (0, 50)),
        ("compression", (80, 40)),
        ("compression", (40, 50, 60)),
        ("specular", -1.0),
        ("specular_size", (0.0, 0.1)),
        ("smoke_probability", -0.5),
        ("smoke_opacity", 1.0),
        ("vignette", "strong"),
    ],
)
def test_settings_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        PhotometricConfig(**{name: value})
