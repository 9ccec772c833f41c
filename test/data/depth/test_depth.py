"""Depth providers: their names, the given depth, the photometric one against closed forms, the benchmark's measures."""

import importlib.util
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import ROOT
from support.depth import EVERYWHERE, GREY, HEIGHT, WIDTH, pinhole, rays_of, scene_frame, translation

from endomatch_ros.data.depth import PROVIDERS, make_provider
from endomatch_ros.data.depth.mono import MonoConfig
from endomatch_ros.data.depth.photometric import PhotometricConfig, PhotometricDepth
from endomatch_ros.data.depth.stereo import StereoConfig
from endomatch_ros.data.frames import Frame, StereoPartner
from endomatch_ros.errors import ConfigError, DataError


def test_names_and_what_they_promise():
    found = {name: make_provider(name) for name in PROVIDERS if name != "mono"}
    assert {name: p.name for name, p in found.items()} == {n: n for n in ("given", "stereo", "photometric")}
    assert [found[n].metric for n in ("given", "stereo", "photometric")] == [True, True, False]
    with pytest.raises(ConfigError, match=r"'lidar' is unknown: use one of given, stereo, mono, photometric"):
        make_provider("lidar")
    with pytest.raises(ConfigError, match=r"stereo takes no weights \(x.safetensors\)"):
        make_provider("stereo", weights="x.safetensors")


def test_given_depth_knows_what_is_unknown():
    depth = np.full((HEIGHT, WIDTH), 2.5, np.float32)
    depth[0, :5] = [0.0, -1.0, np.inf, -np.inf, np.nan]
    out = make_provider("given")(Frame(GREY, 0.0, 0, depth=depth))
    assert out.dtype == np.float32
    assert np.isnan(out[0, :5]).all()
    assert (out[1:] == 2.5).all()
    assert depth[0, 1] == -1.0  # the frame's own is left alone


@pytest.mark.parametrize(
    ("name", "lacks"), [("given", "carries no depth"), ("stereo", "no stereo partner"), ("stereo", "no camera")]
)
def test_a_frame_that_lacks_something_is_named_with_the_remedy(name, lacks):
    frame = Frame(GREY, 0.0, 17)
    if lacks == "no camera":
        frame = replace(frame, partner=StereoPartner(GREY, pinhole(), translation(-1.0)))
    with pytest.raises(DataError, match=rf"frame 17 .*{lacks}.*choose the depth provider .*photometric"):
        make_provider(name)(frame)


def load_benchmark():
    path = ROOT / "benchmarks" / "depth.py"
    spec = importlib.util.spec_from_file_location("benchmark_depth", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- photometric -----------------------------------------------------------------------------------------------------


def lit(distance, cosine=1.0, camera=None, gain=0.5, falloff=4.0):
    """A grey Lambertian surface lit from the lens, seen through a lens with cos^falloff; float64 until the display."""
    norm = np.linalg.norm(rays_of(camera or pinhole()), axis=2)
    linear = gain * cosine / distance**2 / norm**falloff
    assert linear.max() < 0.8  # no highlights
    shown = np.clip(linear, 0, 1) ** (1 / 2.2) * 255
    return np.repeat(np.round(shown)[:, :, None], 3, axis=2).astype(np.uint8)


INNER = np.s_[20:-20, 20:-20]


def test_photometric_depth_of_two_shells_around_the_lens():
    """Facing the light everywhere: brightness ratio 4 is distance ratio 2, and depth is distance times the cosine."""
    distance = np.where(np.arange(WIDTH) < WIDTH // 2, 1.0, 2.0) * np.ones((HEIGHT, 1))
    frame = Frame(lit(distance), 0.0, 0, mask=EVERYWHERE, camera=pinhole())
    depth = PhotometricDepth()(frame)
    truth = distance / np.linalg.norm(rays_of(pinhole()), axis=2)
    away = np.abs(np.arange(WIDTH) - WIDTH // 2) > 60
    ratio = (depth / truth)[20:-20, away]
    assert np.abs(ratio / np.median(ratio) - 1).max() < 0.06
    assert np.median(depth) == pytest.approx(1.0, abs=1e-4)


def test_photometric_depth_of_a_plane_is_its_closed_form():
    """A plane across the axis at z: I = cos³/z² · cos⁴, so that taking it as facing the light gives z / √cos."""
    norm = np.linalg.norm(rays_of(pinhole()), axis=2)
    frame = Frame(lit(norm, 1 / norm), 0.0, 0, mask=EVERYWHERE, camera=pinhole())
    facing = PhotometricDepth(PhotometricConfig(slant_steps=0, smoothing=0.005))(frame)[INNER]
    expected = np.sqrt(norm)[INNER]
    assert np.abs(facing / expected / np.median(facing / expected) - 1).max() < 0.02
    # The correction for slant brings the plane nearer to one depth.
    corrected = PhotometricDepth()(frame)[INNER]
    assert corrected.std() < 0.75 * facing.std()


def test_photometric_depth_does_not_depend_on_exposure_vessels_or_gloss():
    norm = np.linalg.norm(rays_of(pinhole()), axis=2)
    distance = 1.0 + 0.5 * np.sin(np.arange(WIDTH) / 40) * np.ones((HEIGHT, 1))
    bright = lit(distance, 1 / norm, gain=0.18)
    dark = Frame(lit(distance, 1 / norm, gain=0.045), 0.0, 0, mask=EVERYWHERE, camera=pinhole())
    frame = replace(dark, image=bright)
    depth = PhotometricDepth()(frame)
    assert np.abs(PhotometricDepth()(dark) / depth - 1).max() < 0.03
    vessels = bright.copy()
    vessels[:, 100:110, 1:] //= 3
    assert np.array_equal(PhotometricDepth()(replace(frame, image=vessels)), depth)
    gloss = bright.copy()
    for centre in ((60, 60), (160, 130), (250, 200)):
        cv2.circle(gloss, centre, 7, (255, 255, 255), -1)
    change = np.abs(PhotometricDepth()(replace(frame, image=gloss)) / depth - 1)
    assert change.max() < 0.12
    assert change.mean() < 0.01


def test_photometric_depth_only_in_the_view():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    cv2.circle(np_view := mask.astype(np.uint8), (160, 128), 100, 1, -1)
    mask = np_view.astype(bool)
    image = np.where(mask[:, :, None], lit(np.ones((HEIGHT, WIDTH))), 0).astype(np.uint8)
    depth = PhotometricDepth()(Frame(image, 0.0, 0, mask=mask))
    assert np.array_equal(np.isfinite(depth), mask)
    assert (depth[mask] > 0).all()
    # The black surround must not bleed in: the shell has one distance up to the rim.
    assert depth[mask].max() / depth[mask].min() < 1.5
    found = np.isfinite(PhotometricDepth()(Frame(image, 0.0, 0)))
    assert (found & mask).sum() > 0.85 * mask.sum()
    assert not found[~mask].any()
    assert np.isnan(PhotometricDepth()(Frame(np.zeros_like(image), 0.0, 0))).all()


def test_photometric_depth_without_a_camera_assumes_one():
    frame = Frame(lit(np.ones((HEIGHT, WIDTH))), 0.0, 0, mask=EVERYWHERE)
    focal = WIDTH / 2 / np.tan(np.radians(70 / 2))
    provider = PhotometricDepth(PhotometricConfig(field_of_view=70))
    assert np.allclose(provider(frame), provider(replace(frame, camera=pinhole(focal))), rtol=1e-5)
    assert not np.allclose(provider(frame), provider(replace(frame, camera=pinhole(2 * focal))), rtol=1e-2)


@pytest.mark.parametrize("kind", ["tunnel", "cavity"])
def test_photometric_depth_of_a_scene_tells_near_from_far(kind):
    frame = scene_frame(kind)
    depth, known = PhotometricDepth()(frame), frame.mask & np.isfinite(frame.depth)
    benchmark = load_benchmark()
    found = benchmark.errors(depth[known].astype(float), frame.depth[known].astype(float))
    flat = benchmark.errors(np.ones(known.sum()), frame.depth[known].astype(float))
    assert found["spearman"] > 0.8
    assert found["coverage"] == 1.0
    assert found["rmse_log"] < 0.7 * flat["rmse_log"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PhotometricConfig(gamma=0.1), r"gamma=0.1 is outside its range \[0.5, 4\]"),
        (lambda: PhotometricConfig(percentiles=(60, 40)), r"percentiles=\(60, 40\) do not rise"),
        (lambda: StereoConfig(reach=0.0), r"reach=0.0 is outside"),
        (lambda: StereoConfig(block=4), r"block=4 is even"),
        (lambda: MonoConfig(ratio=1.0), r"ratio=1.0 is outside"),
        (lambda: MonoConfig(percentiles=(-1, 50)), r"percentiles=\(-1, 50\) do not rise"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# --- the benchmark's own measures ------------------------------------------------------------------------------------


def test_errors_of_the_benchmark_are_what_they_say():
    from scipy.stats import spearmanr

    errors = load_benchmark().errors
    truth = np.random.default_rng(0).uniform(1, 5, 500)
    scaled = errors(3.0 * truth, truth)
    assert scaled["abs_rel"] == pytest.approx(0, abs=1e-12)
    assert scaled["abs_rel_unaligned"] == pytest.approx(2.0)
    assert errors(truth**2, truth)["abs_rel_log_affine"] == pytest.approx(0, abs=1e-12)
    noisy = np.round(truth * np.exp(np.random.default_rng(1).normal(0, 0.2, 500)), 1)
    noisy[:50] = np.nan
    found = errors(noisy, truth)
    aligned = noisy[50:] * np.median(truth[50:] / noisy[50:])
    assert found["coverage"] == 0.9
    assert found["spearman"] == pytest.approx(spearmanr(noisy[50:], truth[50:])[0])
    assert found["rmse_log"] == pytest.approx(np.sqrt(np.mean((np.log(aligned) - np.log(truth[50:])) ** 2)))
    ratio = np.maximum(aligned / truth[50:], truth[50:] / aligned)
    assert found["delta_1_25"] == pytest.approx((ratio < 1.25).mean())
    assert np.isnan(errors(np.full(500, np.nan), truth)["abs_rel"])
    assert np.isnan(errors(np.ones(500), truth)["spearman"])
