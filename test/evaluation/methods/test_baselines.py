"""Baselines on images whose true motion is known, and against references that do not use OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import ndimage

from endomatch_ros.errors import ConfigError, ImageError
from endomatch_ros.evaluation.methods import baselines
from endomatch_ros.evaluation.methods.baselines import BASELINES, akaze, identity, klt
from endomatch_ros.evaluation.methods.lucas_kanade import klt_normalised, normalise

SHIFT = (9.0, -5.0)
HAS_AKAZE = hasattr(cv2, "AKAZE") or hasattr(getattr(cv2, "xfeatures2d", None), "AKAZE")
DESCRIPTORS = [
    pytest.param("akaze", marks=pytest.mark.skipif(not HAS_AKAZE, reason=f"OpenCV {cv2.__version__} without AKAZE")),
    "orb",
    "sift",
]
Pair = tuple[np.ndarray, np.ndarray, np.ndarray]


def texture(width: int, height: int, sigma: float = 2.5) -> np.ndarray:
    noise = np.random.default_rng(0).uniform(0, 255, (height, width, 3)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, None, sigma), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def shifted(image: np.ndarray, x: float, y: float) -> np.ndarray:
    return cv2.warpAffine(image, np.float32([[1, 0, x], [0, 1, y]]), image.shape[1::-1])


@pytest.fixture(scope="module")
def pair() -> Pair:
    """Two views of one texture, shifted, and a round mask."""
    image = texture(500, 400)
    ys, xs = np.mgrid[:400, :500]
    return image, shifted(image, *SHIFT), (xs - 250) ** 2 + (ys - 200) ** 2 < 150**2


@pytest.mark.parametrize("name", ["klt", "klt-normalised", *DESCRIPTORS])
def test_motion_is_found_inside_the_masks(name: str, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MAX_FEATURES", 1500)  # for speed
    image0, image1, mask = pair
    matches = BASELINES[name](image0, image1, mask, mask)
    assert len(matches) > 100
    error = np.linalg.norm(matches.keypoints1 - matches.keypoints0 - SHIFT, axis=1)
    assert np.median(error) < 1
    assert (error < 3).mean() > 0.95
    for points in (matches.keypoints0, matches.keypoints1):
        columns, rows = points.round().astype(int).T
        assert mask[rows, columns].all()
    assert matches.keypoints0.dtype == matches.keypoints1.dtype == matches.similarity.dtype == np.float32
    assert (np.abs(matches.similarity) <= 1).all()
    assert 0.3 < matches.coverage <= 1
    assert matches.size0 == matches.size1 == (500, 400)
    np.testing.assert_array_equal(matches.track_ids, np.arange(len(matches)))


def test_identity_does_not_move(pair: Pair) -> None:
    matches = identity(*pair[:2], pair[2], pair[2])
    assert len(matches) > 100
    np.testing.assert_array_equal(matches.keypoints0, matches.keypoints1)


@pytest.mark.parametrize("name", ["identity", "klt", "klt-normalised", *DESCRIPTORS])
def test_nothing_to_see_gives_no_matches(name: str) -> None:
    black = np.zeros((120, 160, 3), np.uint8)
    assert len(BASELINES[name](black, black, None, None)) == 0
    noise = np.random.default_rng(0).integers(0, 255, black.shape, np.uint8)
    for mask0, mask1 in ((np.zeros((120, 160), bool), None), (None, np.zeros((120, 160), bool))):
        assert len(BASELINES[name](noise, noise, mask0, mask1)) == 0
    # A match needs both images; without corners in the first there are none to track either.
    assert len(BASELINES[name](black, noise, None, None)) == 0


@pytest.mark.parametrize("method", [identity, klt, klt_normalised])
def test_motion_in_pixels_needs_equal_sizes(method: object) -> None:
    with pytest.raises(ImageError, match="size"):
        method(np.zeros((120, 160, 3), np.uint8), np.zeros((160, 120, 3), np.uint8))


@pytest.mark.parametrize("name", DESCRIPTORS)
@pytest.mark.parametrize(("count0", "count1"), [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (0, 9), (9, 0)])
def test_hardly_any_features(name: str, count0: int, count1: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first feature can be matched if there are two to choose from; OpenCV's answer for none is None."""
    counts = iter((count0, count1))
    detect = getattr(baselines, "_features")  # noqa: B009 - private, and that is what is replaced

    def few(*args: object) -> object:
        points, descriptors = detect(*args)
        count = next(counts)
        return points[:count], descriptors[:count]

    monkeypatch.setattr(baselines, "_features", few)
    image = texture(160, 120)
    assert len(BASELINES[name](image, image, None, None)) == (min(count0, count1) if count1 > 1 else 0)


def brute_force(descriptors0: np.ndarray, descriptors1: np.ndarray, binary: bool) -> list[tuple[int, int]]:
    """Mutual nearest neighbours that pass the ratio test, from all distances."""
    if binary:
        bits0, bits1 = (np.unpackbits(d, axis=1).astype(np.int64) for d in (descriptors0, descriptors1))
        distance = np.abs(bits0[:, None] - bits1[None]).sum(2).astype(float)
    else:
        distance = np.linalg.norm(descriptors0[:, None].astype(float) - descriptors1[None], axis=2)
    first, second = np.sort(distance, axis=1)[:, :2].T
    best = distance.argmin(1)
    back = distance.argmin(0)
    return [(i, j) for i, j in enumerate(best) if back[j] == i and first[i] < 0.75 * second[i]]


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_matches_are_the_mutual_ones_that_pass_the_ratio_test(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    detect = getattr(baselines, "_features")  # noqa: B009

    def recorded(*args: object) -> object:
        seen.append(detect(*args))
        return seen[-1]

    monkeypatch.setattr(baselines, "_features", recorded)
    monkeypatch.setattr(baselines, "MAX_FEATURES", 150)
    image = texture(240, 180)
    noise = np.random.default_rng(1).normal(0, 12, image.shape)
    other = np.clip(shifted(image, 3, 2) + noise, 0, 255).astype(np.uint8)
    matches = BASELINES[name](image, other, None, None)
    (points0, descriptors0), (points1, descriptors1) = seen
    assert 20 < len(points0) <= 150
    expected = brute_force(descriptors0, descriptors1, binary=name != "sift")
    found = {(*a, *b) for a, b in zip(matches.keypoints0.tolist(), matches.keypoints1.tolist(), strict=True)}
    assert found == {(*points0[i].tolist(), *points1[j].tolist()) for i, j in expected}
    assert 10 < len(matches) < len(points0)
    used = {"akaze": 486, "orb": 256}  # bits
    signs = [
        np.unpackbits(d, axis=1)[:, : used[name]] * 2.0 - 1 if name in used else d for d in (descriptors0, descriptors1)
    ]
    unit0, unit1 = (s / np.linalg.norm(s, axis=1, keepdims=True) for s in signs)
    cosines = sorted(float(unit0[i] @ unit1[j]) for i, j in expected)
    np.testing.assert_allclose(
        np.sort(matches.similarity), cosines, atol=0.005
    )  # SIFT's lengths are 512 but for rounding


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_the_strongest_features_are_kept(name: str, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the picture at a tenth of the contrast: what is left of a few features is in the other half."""
    image = pair[0].copy()
    image[:, 250:] = 120 + image[:, 250:] // 10
    image = image[100:300, 100:]
    assert (BASELINES[name](image, image, None, None).keypoints0[:, 0] > 160).any()
    monkeypatch.setattr(baselines, "MAX_FEATURES", 40)
    matches = BASELINES[name](image, image, None, None)
    assert 0 < len(matches) <= 40
    assert (matches.keypoints0[:, 0] < 160).all()


def test_akaze_says_what_is_missing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "AKAZE", raising=False)
    monkeypatch.delattr(cv2, "xfeatures2d", raising=False)
    with pytest.raises(ConfigError, match=r"akaze.*pip install opencv-contrib-python-headless"):
        akaze(*pair[:2])


def reference_normalised(image: np.ndarray, view: np.ndarray, box: int, sigma: float, points: np.ndarray) -> np.ndarray:
    """(I - mean) / (deviation + 4) at pixels, over the view's pixels of a box, in float64 from the definition."""
    levels = ndimage.gaussian_filter(image @ np.array([0.299, 0.587, 0.114]), sigma, mode="mirror")
    half = box // 2
    out = []
    for x, y in points:
        area = slice(y - half, y + half + 1), slice(x - half, x + half + 1)
        values = levels[area][view[area]]
        out.append((levels[y, x] - values.mean()) / (values.std() + 4.0))
    return np.array(out)


@pytest.mark.parametrize(("width", "box"), [(400, 33), (1500, 39), (1920, 49)])
def test_normalised_images_are_what_their_definition_says(width: int, box: int) -> None:
    image = texture(width, 300)
    image[:] = image[..., :1]  # grey: no rounding on the way
    ys, xs = np.mgrid[:300, :width]
    image[:, 100:] //= 3
    view = (xs - 150) ** 2 + (ys - 150) ** 2 < 110**2
    image[~view] = 0
    points = np.array([[150, 150], [99, 151], [60, 120], [150, 45], [231, 190], [100, 75]])
    assert view[points[:, 1], points[:, 0]].all()
    levels = normalise(image, view)
    assert levels.dtype == np.uint8
    assert levels.shape == (300, width)
    assert (levels[~view] == 128).all()
    found = (levels[points[:, 1], points[:, 0]].astype(float) - 128) / 40
    expected = reference_normalised(image, view, box, width / 1920, points)
    np.testing.assert_allclose(found, expected, atol=0.014)  # whole levels
    np.testing.assert_array_equal(normalise(image), normalise(image, np.ones_like(view)))


def test_normalised_tracking_leaves_the_dark_surround_out() -> None:
    """Only the second frame has a surround: without its mask, that would be the contrast of all that is near it."""
    image = texture(640, 480, 3.0)
    ys, xs = np.mgrid[:480, :640]
    radius = np.hypot(xs - 320, ys - 240)
    other = shifted(image, 6, 4)
    other[radius > 200] = 0

    def at_the_rim(mask: np.ndarray | None) -> int:
        matches = klt_normalised(image, other, None, mask)
        columns, rows = matches.keypoints1.round().astype(int).T
        right = np.linalg.norm(matches.keypoints1 - matches.keypoints0 - (6, 4), axis=1) < 0.5
        return int((right & (radius[rows, columns] > 185) & (radius[rows, columns] <= 200)).sum())

    assert at_the_rim(radius <= 200) > 1.5 * at_the_rim(None)


def test_normalised_tracking_withstands_a_light_that_moves() -> None:
    """The light falls off from left to right in one frame and from right to left in the next."""
    image = texture(640, 480, 3.0).astype(np.float32)
    ramp = np.linspace(0.15, 1.0, 640, dtype=np.float32)[None, :, None]
    pair = (image * ramp).astype(np.uint8), (shifted(image, 14, -6) * ramp[:, ::-1]).astype(np.uint8)
    errors = {}
    for name in ("klt", "klt-normalised"):
        matches = BASELINES[name](*pair, None, None)
        errors[name] = np.linalg.norm(matches.keypoints1 - matches.keypoints0 - (14, -6), axis=1)
    right = {name: int((error < 1).sum()) for name, error in errors.items()}
    assert right["klt-normalised"] > 2 * right["klt"]
    assert right["klt-normalised"] > 1000
    assert (errors["klt-normalised"] < 1).mean() > 0.95
    assert np.median(errors["klt-normalised"]) < 0.15


def test_tracking_uses_all_levels_that_the_image_has_room_for() -> None:
    """90 px at 1280 with structures of some 10 px: with fewer levels, half of the few corners left go astray."""
    image = cv2.resize(texture(320, 180, 2.0), (1280, 720), interpolation=cv2.INTER_CUBIC)
    matches = klt(image, shifted(image, 90, 40))
    error = np.linalg.norm(matches.keypoints1 - matches.keypoints0 - (90, 40), axis=1)
    assert len(matches) > 700
    assert (error < 1).mean() > 0.98


def test_forward_and_back_must_end_where_it_began(pair: Pair) -> None:
    """What is covered in the second image has no partner, and is not tracked to another place."""
    image0, image1 = pair[0], pair[1].copy()
    image1[:, 250:] = texture(400, 500)[:400, :250][::-1, ::-1]
    for method in (klt, klt_normalised):
        matches = method(image0, image1)
        gone = matches.keypoints0[:, 0] + SHIFT[0] > 280
        assert gone.mean() < 0.2
        assert (~gone).sum() > 80
