"""Stereo depth against planes traced through every kind of rig, exact scenes and OpenCV."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from support.depth import BASELINE, EVERYWHERE, HEIGHT, WIDTH, pinhole, rays_of, scene_frame, translation

from endomatch_ros.data.depth import make_provider
from endomatch_ros.data.depth.rectification import Rectification
from endomatch_ros.data.depth.stereo import StereoConfig, StereoDepth
from endomatch_ros.data.frames import Frame, StereoPartner
from endomatch_ros.errors import CalibrationError
from endomatch_ros.geometry.camera import Camera

PLANE = np.array([0.15, -0.1, 1.0])  # points X with PLANE · X = 50, in the left camera's frame


def texture():
    noise = np.random.default_rng(5).standard_normal((512, 512))
    layers = [cv2.GaussianBlur(noise, (0, 0), s, borderType=cv2.BORDER_REFLECT) * s for s in (1.5, 4.0, 9.0)]
    total = sum(layers)
    return (120 + 40 * total / total.std()).astype(np.float32)


def see_plane(camera, pose, offset=50.0):
    """Image of a textured plane and its depth, traced pixel by pixel for any lens: no rectification anywhere."""
    normal = pose[:3, :3] @ PLANE
    rays = rays_of(camera)
    depth = (offset + normal @ pose[:3, 3]) / (rays @ normal)
    world = (rays * depth[:, :, None] - pose[:3, 3]) @ pose[:3, :3]  # the left camera's frame
    where = (256 + 4.5 * world[:, :, :2]).astype(np.float32)
    image = cv2.remap(texture(), where[..., 0], where[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return np.repeat(np.clip(image, 20, 220)[:, :, None], 3, axis=2).astype(np.uint8), depth


BARREL = (-0.18, 0.05, 0.002, -0.001, 0.0)
RATIONAL = (0.2, -0.05, 0.001, 0.0005, 0.01, 0.35, -0.02, 0.015)
RIGS = {
    "rectified": (pinhole(), pinhole(), translation(-5.0)),
    "principal points apart": (pinhole(), pinhole(centre=(135.0, 131.0)), translation(-5.0)),
    "turned and distorted": (
        pinhole(235.0, distortion=BARREL),
        pinhole(250.0, (165.0, 120.0), distortion=BARREL),
        translation(-4.9, 0.3, -0.2, turn=(0.02, 0.07, -0.03)),
    ),
    "rational": (
        pinhole(distortion=RATIONAL, model="rational_polynomial"),
        pinhole(distortion=RATIONAL, model="rational_polynomial"),
        translation(-5.0, turn=(0.0, -0.03, 0.02)),
    ),
    "fisheye": (
        pinhole(200.0, distortion=(0.05, -0.01, 0.0, 0.0), model="equidistant"),
        pinhole(205.0, distortion=(0.04, -0.01, 0.0, 0.0), model="equidistant"),
        translation(-5.0, turn=(0.01, 0.04, 0.02)),
    ),
    "unlike cameras": (
        pinhole(),
        pinhole(300.0, (190.0, 160.0), (400, 330), (0.05, -0.01, 0.0, 0.0), "equidistant"),
        translation(-5.0, turn=(0.01, 0.02, 0.0)),
    ),
    "partner on the left": (pinhole(), pinhole(), translation(5.0)),
    "vertical": (pinhole(), pinhole(), translation(0.0, -5.0, turn=(0.02, 0.0, 0.0))),
}


@pytest.mark.parametrize("rig", RIGS.values(), ids=RIGS)
def test_stereo_depth_of_a_plane_through_any_rig(rig):
    camera, partner, pose = rig
    image, truth = see_plane(camera, np.eye(4))
    frame = Frame(image, 0.0, 0, mask=EVERYWHERE, camera=camera)
    frame = replace(frame, partner=StereoPartner(see_plane(partner, pose)[0], partner, pose))
    depth = StereoDepth(StereoConfig(reach=0.2, scale=1.0))(frame)
    known = np.isfinite(depth)
    assert depth.dtype == np.float32
    assert known.mean() > 0.6
    error = np.abs(depth / truth - 1)[known]
    # A disparity of about 24 px: 1 % is a quarter of a pixel.
    assert np.median(error) < 0.008
    assert np.percentile(error, 95) < 0.03


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("rig", RIGS.values(), ids=RIGS)
def test_rectified_disparity_comes_back_as_the_left_cameras_depth(rig, share):
    """Exact disparities of the plane in the rectified pair, from its definition, against the traced depth."""
    camera, partner, pose = rig
    rectification = Rectification(camera, partner, pose)
    size = tuple(round(side * share) for side in rectification.size)
    sx, sy = np.array(size) / rectification.size  # on a coarser grid: x' = (x + 1/2) s - 1/2
    resize = np.array([[sx, 0, sx / 2 - 0.5], [0, sy, sy / 2 - 0.5], [0, 0, 1]])
    ideal = Camera(resize @ rectification.matrix, np.zeros(5), "plumb_bob", size)
    normal = rectification.rotation @ PLANE
    depth = 50.0 / (rays_of(ideal) @ normal)
    baseline = np.linalg.norm(pose[:3, 3])
    back = rectification.depth(rectification.focal * baseline / depth, EVERYWHERE)
    truth = see_plane(camera, np.eye(4))[1]
    known = np.isfinite(back)
    assert known.mean() > 0.96
    error = np.abs(back / truth - 1)[known]
    assert np.median(error) < 1e-6  # disparity is linear in the pixels of a plane: interpolation is exact
    assert np.percentile(error, 99) < 1e-3


@pytest.mark.parametrize("rig", ["turned and distorted", "rational", "vertical"])
def test_rectified_axes_are_opencvs_but_for_roll(rig):
    camera, partner, pose = RIGS[rig]
    ours = Rectification(camera, partner, pose).rotation
    lenses = (camera.matrix, camera.distortion, partner.matrix, partner.distortion)
    theirs = cv2.stereoRectify(*lenses, camera.size, pose[:3, :3], pose[:3, 3:])[0]
    along = 1 if rig == "vertical" else 0
    assert np.allclose(np.abs(theirs[along] @ ours[0]), 1.0, atol=1e-9)
    assert theirs[2] @ ours[2] > np.cos(np.radians(1.5))


def test_a_rectified_pair_is_not_resampled():
    image, _ = see_plane(pinhole(), np.eye(4))
    left, right = Rectification(*RIGS["rectified"]).warp(image, image[:, ::-1].copy())
    assert np.array_equal(left, image)
    assert np.array_equal(right, image[:, ::-1])


def test_a_lens_model_that_folds_shows_nothing_twice():
    """Beyond its turning point a polynomial brings rays back into the image; what lies there is not in it."""
    partner = pinhole(240.0, distortion=(-0.5, 0.0, 0.0, 0.0))  # r(1 − r²/2) turns at r = 0.82
    rectification = Rectification(pinhole(120.0), partner, translation(-5.0))
    seen = rectification.warp_mask(EVERYWHERE)
    ideal = Camera(rectification.matrix, np.zeros(5), "plumb_bob", rectification.size)
    radius = np.linalg.norm(rays_of(ideal)[:, :, :2], axis=2)
    assert partner.project([[1.3, 0.0, 1.0]])[0, 0] < WIDTH  # such a ray falls into the image, were one to believe it
    assert not seen[radius > 0.83].any()
    assert seen[radius < 0.5].all()


@pytest.mark.parametrize("kind", ["tunnel", "cavity"])
def test_stereo_depth_of_a_scene(kind):
    frame = scene_frame(kind)
    depth = make_provider("stereo")(frame)
    known = np.isfinite(depth) & np.isfinite(frame.depth)
    disparity = frame.camera.matrix[0, 0] * BASELINE / frame.depth[known]
    error = np.abs(disparity * (frame.depth[known] / depth[known] - 1))
    assert known.sum() > 0.35 * frame.mask.sum()
    assert np.median(disparity) > 8
    assert np.median(error) < 0.4
    assert (error < 1.5).mean() > 0.92
    assert np.isnan(depth[~frame.mask]).all()
    assert np.array_equal(depth, make_provider("stereo")(frame), equal_nan=True)


def rectified_frame(**parts):
    camera, partner, pose = RIGS["rectified"]
    image, right = see_plane(camera, np.eye(4))[0], see_plane(partner, pose)[0]
    frame = Frame(image, 0.0, 0, mask=EVERYWHERE, camera=camera, partner=StereoPartner(right, partner, pose))
    return replace(frame, **parts)


def test_highlights_and_what_a_view_does_not_show_stay_unknown():
    frame = rectified_frame()
    provider = StereoDepth(StereoConfig(reach=0.2))
    plain = np.isfinite(provider(frame))
    glossy = frame.image.copy()
    cv2.circle(glossy, (200, 120), 6, (255, 255, 255), -1)
    blob = cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), (200, 120), 6, 1, -1) > 0
    assert plain[blob].all()
    assert np.isnan(provider(replace(frame, image=glossy))[blob]).all()
    # A highlight in the partner hides what it lies on there: about 24 px further right here.
    shiny = frame.partner.image.copy()
    cv2.circle(shiny, (200, 120), 6, (255, 255, 255), -1)
    disparity = 240 * 5 / see_plane(pinhole(), np.eye(4))[1]
    ys, xs = np.nonzero(plain)
    hidden = np.hypot(xs - disparity[ys, xs] - 200, ys - 120) < 5
    depth = provider(replace(frame, partner=replace(frame.partner, image=shiny)))
    assert hidden.sum() > 50
    assert np.isnan(depth[ys[hidden], xs[hidden]]).all()
    # So does the black around the partner's view.
    dark = frame.partner.image.copy()
    dark[:, 200:] = 0
    depth = provider(replace(frame, partner=replace(frame.partner, image=dark)))
    outside = xs - disparity[ys, xs] > 200
    assert outside.sum() > 5000
    assert np.isnan(depth[ys[outside], xs[outside]]).all()
    half = EVERYWHERE.copy()
    half[:, :100] = False
    assert np.isnan(provider(replace(frame, mask=half))[:, :100]).all()


def test_matching_back_removes_what_only_one_camera_sees():
    """A near strip before the plane hides a band of it from the partner."""
    frame = rectified_frame()
    far = see_plane(pinhole(), np.eye(4))[1]
    right = frame.partner.image.copy()
    strip = np.random.default_rng(2).integers(60, 190, (HEIGHT // 2, 30, 1)).astype(np.uint8)
    strip = np.repeat(cv2.resize(strip, (60, HEIGHT)).reshape(HEIGHT, 60, 1), 3, axis=2)
    image = frame.image.copy()
    image[:, 150:210] = strip
    right[:, 100:160] = strip  # disparity 50: nearer
    frame = replace(frame, image=image, partner=replace(frame.partner, image=right))
    xs = np.arange(WIDTH) - 240 * 5 / far
    hidden = (xs > 102) & (xs < 158) & (np.arange(WIDTH) < 148) & EVERYWHERE
    settings = StereoConfig(reach=0.22, speckle=0.0)
    checked = np.isfinite(StereoDepth(settings)(frame))[hidden].mean()
    unchecked = np.isfinite(StereoDepth(replace(settings, consistency=100.0))(frame))[hidden].mean()
    assert hidden.sum() > 3000
    assert checked < 0.4 * unchecked


def test_one_calibration_after_another():
    """The rectification is kept between frames, and made anew when the calibration changes."""
    provider = StereoDepth(StereoConfig(reach=0.2))
    first = provider(rectified_frame())
    wider = rectified_frame()
    wider = replace(wider, partner=replace(wider.partner, pose=translation(-10.0)))
    assert np.nanmedian(provider(wider) / first) == pytest.approx(2.0, rel=0.01)
    assert np.array_equal(provider(rectified_frame()), first, equal_nan=True)


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        (translation(0.0), "at the frame's own place"),
        (translation(-0.5, 0.0, -5.0), "before or behind the frame's camera"),
        (translation(-5.0, turn=(0.0, 2.0, 0.0)), "looks elsewhere"),
    ],
)
def test_rigs_that_cannot_be_rectified_are_refused(pose, message):
    frame = rectified_frame()
    with pytest.raises(CalibrationError, match=message):
        StereoDepth()(replace(frame, partner=replace(frame.partner, pose=pose)))
