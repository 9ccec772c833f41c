"""Choosing usable frames: known blur, repeats, darkness and damage put into a synthetic recording, and found again."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame
from endomatch_ros.data.quality import look_at, mean_motion, sharpness
from endomatch_ros.data.readers.sfm import SfmSequence
from endomatch_ros.data.selection import SelectionConfig, SelectionReport, select_frames
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.errors import ConfigError, DataError, ImageError

Image = NDArray[np.uint8]
SIZE = (320, 256)
STEP = 1 / 30


class Recording:
    """Frames, images, or errors that reading them raises."""

    def __init__(self, items: list[Frame | Image | Exception]) -> None:
        self.items = items
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> Frame:
        self.asked.append(position)
        item = self.items[position]
        if isinstance(item, Exception):
            raise item
        return replace(item, index=position) if isinstance(item, Frame) else Frame(item, position * STEP, position)

    def __iter__(self) -> Iterator[Frame]:
        return (self[position] for position in range(len(self)))


SCENE = SyntheticEndoscope(SceneConfig(seed=10_000, width=SIZE[0], height=SIZE[1], noise=0.0))


@pytest.fixture(scope="module")
def clean() -> Iterator[list[Frame]]:
    """Consecutive frames before the sensor adds its noise; blur belongs before it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield [SCENE.render(k * STEP, k) for k in range(14)]
    torch.set_num_threads(threads)


def sense(image: Image, seed: int, deviation: float = 1.5) -> Image:
    noise = np.random.default_rng(seed).normal(0, deviation, image.shape)
    return np.clip(image + noise + 0.5, 0, 255).astype(np.uint8)


def gaussian(sigma: float) -> Callable[[Image], Image]:
    return lambda image: np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def streak(length: int, angle: float) -> Callable[[Image], Image]:
    kernel = np.zeros((2 * length + 1, 2 * length + 1), np.float32)
    for along in np.linspace(-length / 2, length / 2, 8 * length):
        kernel[round(length + along * np.sin(angle)), round(length + along * np.cos(angle))] = 1.0
    return lambda image: np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.uint8)


def squeezed(image: Image, quality: int) -> Image:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1), np.uint8)


def chosen(items: list[Frame | Image | Exception], **config: object) -> tuple[list[int], SelectionReport]:
    report = SelectionReport()
    frames = list(select_frames(Recording(items), SelectionConfig(**config), report))
    assert report.kept == len(frames)
    assert report.read + report.skipped == len(items)
    return [frame.index for frame in frames], report


BLUR = [gaussian(1.5), gaussian(3.0), gaussian(6.0), streak(7, 0.0), streak(7, 1.2), streak(14, 2.3), streak(24, 0.7)]


def test_blurred_frames_are_found(clean: list[Frame]) -> None:
    """Every other frame is followed by a blurred one, of every kind and strength, with the sensor's noise on it."""
    items: list[Frame | Image | Exception] = []
    sharp = []
    for k, frame in enumerate(clean):
        sharp.append(len(items))
        items.append(replace(frame, image=sense(frame.image, k)))
        if k % 2 == 1:
            items.append(replace(frame, image=sense(BLUR[k // 2](frame.image), 100 + k)))
    kept, report = chosen(items, motion=0.0)
    assert kept == sharp
    assert report.blurred == len(BLUR) == 7
    assert report.duplicate == report.dark == 0


def test_a_recording_that_begins_blurred_knows_what_is_sharp(clean: list[Frame]) -> None:
    items = [replace(f, image=sense(gaussian(3.0)(f.image) if k < 5 else f.image, k)) for k, f in enumerate(clean)]
    assert chosen(items, motion=0.0)[0] == list(range(5, 14))


def test_a_pause_on_a_blurred_frame_does_not_decide_what_is_sharp(clean: list[Frame]) -> None:
    paused = replace(clean[3], image=sense(gaussian(3.0)(clean[3].image), 0))
    items = [*clean[:10], *[replace(paused, image=squeezed(paused.image, 70 + k)) for k in range(28)], *clean[10:]]
    kept, report = chosen(items)
    assert kept == [*range(10), *range(38, 42)]
    assert report.blurred == 28


@pytest.mark.parametrize("noise", [0.5, 4.0])
def test_sharpness_falls_with_blur_whatever_the_noise(clean: list[Frame], noise: float) -> None:
    def measure(filtered: Callable[[Image], Image]) -> float:
        return sharpness(look_at(replace(clean[0], image=sense(filtered(clean[0].image), 3, noise))))

    values = [measure(f) for f in (gaussian(0.3), gaussian(0.7), gaussian(1.0), gaussian(1.5), gaussian(3.0))]
    assert all(blurred < 0.9 * sharper for sharper, blurred in itertools.pairwise(values))
    # The same as without any noise.
    quiet = sharpness(look_at(clean[0]))
    assert values[0] == pytest.approx(quiet, rel=0.12)
    assert values[3] < 0.4 * quiet


def test_weak_light_and_faint_texture_are_not_blur(clean: list[Frame]) -> None:
    """The variance of the Laplacian falls to a ninth and less in each of these; sharpness must hardly notice."""
    frame = clean[4]
    plain = sharpness(look_at(replace(frame, image=sense(frame.image, 0))))
    dim = (frame.image * 0.3).astype(np.uint8)
    faint = cv2.addWeighted(frame.image, 0.3, cv2.GaussianBlur(frame.image, (0, 0), 12.0), 0.7, 0)
    for image in (dim, np.asarray(faint, np.uint8)):
        inside = frame.mask
        assert (
            cv2.Laplacian(image, cv2.CV_32F)[inside].var() < 0.2 * cv2.Laplacian(frame.image, cv2.CV_32F)[inside].var()
        )
        assert sharpness(look_at(replace(frame, image=sense(image, 0, 0.6)))) > 0.75 * plain


def test_another_kind_of_tissue_is_not_thrown_away(clean: list[Frame]) -> None:
    """Half of the recording is smooth: its texture is a third as strong, and slightly softer."""
    smooth = [
        np.asarray(cv2.addWeighted(f.image, 0.3, cv2.GaussianBlur(f.image, (0, 0), 12.0), 0.7, 0), np.uint8)
        for f in clean[7:]
    ]
    items = [replace(f, image=sense(f.image, k)) for k, f in enumerate(clean[:7])]
    items += [
        replace(f, image=sense(gaussian(0.4)(s), k)) for k, (f, s) in enumerate(zip(clean[7:], smooth, strict=True))
    ]
    assert chosen(items, motion=0.0)[0] == list(range(14))


@pytest.mark.parametrize("quality", [70, 95])
def test_a_paused_recording_is_one_frame(clean: list[Frame], quality: int) -> None:
    items: list[Frame | Image | Exception] = []
    moving = []
    for k in range(0, 14, 4):
        image = sense(clean[k].image, k)
        moving.append(len(items))
        items += [replace(clean[k], image=i) for i in (image, squeezed(image, quality), squeezed(image, quality - 3))]
    kept, report = chosen(items)
    assert kept == moving
    assert report.duplicate == 8
    assert report.blurred == 0


def test_mean_motion_is_the_true_motion(clean: list[Frame]) -> None:
    """Against the scene's own correspondences, and against shifts of known length."""
    grid = np.stack(np.meshgrid(np.arange(20.0, 300, 8), np.arange(8.0, 250, 8)), axis=-1).reshape(-1, 2)
    for k, other in ((0, 1), (6, 8)):
        targets, visible = SCENE.correspondence(k * STEP, other * STEP, grid)
        true = np.linalg.norm(targets - grid, axis=1)[visible].mean() / SIZE[0]
        measured = mean_motion(look_at(clean[k]), look_at(clean[other]))
        assert measured == pytest.approx(true, rel=0.25)
    frame = clean[0]
    for shift in ((0.5, 0.0), (0.0, 1.0), (1.2, -1.6)):
        matrix = np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]])
        moved = np.asarray(cv2.warpAffine(frame.image, matrix, SIZE, flags=cv2.INTER_CUBIC), np.uint8)
        measured = mean_motion(look_at(frame), look_at(replace(frame, image=moved)))
        assert measured * SIZE[0] == pytest.approx(np.hypot(*shift), rel=0.3)
    assert mean_motion(look_at(frame), look_at(frame)) == 0


def test_slow_motion_is_thinned_and_not_lost(clean: list[Frame]) -> None:
    """0.25 px a frame: the least motion, 0.64 px, is reached at every third frame; none passes for blurred."""
    items: list[Frame | Image | Exception] = []
    for k in range(25):
        matrix = np.array([[1.0, 0.0, 0.2 * k], [0.0, 1.0, 0.15 * k]])
        moved = np.asarray(cv2.warpAffine(clean[0].image, matrix, SIZE, flags=cv2.INTER_LANCZOS4), np.uint8)
        mask = cv2.warpAffine(clean[0].mask.astype(np.uint8), matrix, SIZE) > 0
        items.append(Frame(sense(moved, k, 0.7), k * STEP, k, mask=mask))
    kept, report = chosen(items)
    assert report.blurred == 0
    assert kept[-1] >= 22
    assert set(np.diff(kept)) <= {2, 3}
    assert chosen(items, motion=0.0)[0] == list(range(25))


def test_frames_of_another_size_are_no_repeats(clean: list[Frame]) -> None:
    large = np.asarray(cv2.resize(clean[0].image, (300, 256)), np.uint8)
    assert chosen([clean[0].image, large, clean[0].image], sharpness=0.0)[0] == [0, 1, 2]


def test_broken_frames_are_named_and_skipped(clean: list[Frame], caplog: pytest.LogCaptureFixture) -> None:
    items: list[Frame | Image | Exception] = list(clean[:8])
    items[0] = ImageError("a.png is not a picture")
    items[3] = DataError("b.png has no pose")
    with caplog.at_level(logging.WARNING):
        kept, report = chosen(items, motion=0.0)
    assert kept == [1, 2, 4, 5, 6, 7]
    assert report.broken == [(0, "a.png is not a picture"), (3, "b.png has no pose")]
    assert [r.getMessage() for r in caplog.records] == [
        "frame 0 cannot be used: a.png is not a picture",
        "frame 3 cannot be used: b.png has no pose",
    ]
    assert report.describe() == (
        "6 of 8 frames kept, 2 broken (frame 0: a.png is not a picture; frame 3: b.png has no pose)"
    )
    restored = json.loads(json.dumps(report.to_dict()))
    assert restored["broken"][1] == {"position": 3, "reason": "b.png has no pose"}
    assert (restored["read"], restored["kept"], restored["blurred"]) == (8, 6, 0)


def test_other_errors_are_not_swallowed(clean: list[Frame]) -> None:
    with pytest.raises(MemoryError):
        chosen([clean[0], MemoryError()])


def test_a_long_list_of_broken_frames_is_cut_short_in_words_only() -> None:
    report = SelectionReport(broken=[(k, "gone") for k in range(9)])
    assert report.describe().endswith("frame 2: gone; and 6 more)")
    assert len(report.to_dict()["broken"]) == 9


BLACK = np.zeros((64, 80, 3), np.uint8)
FLAT = np.full((64, 80, 3), 120, np.uint8)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "0 of 0 frames kept; give a recording"),
        ([ImageError("x.png is empty")] * 5, r"5 broken \(frame 0: x\.png is empty.*2 more\); check the files"),
        ([BLACK, BLACK], "2 dark or without a view; lower the least share"),
        ([FLAT, FLAT, FLAT], "3 blurred; lower the least sharpness"),
    ],
)
def test_nothing_usable_is_a_clear_error(items: list[Frame | Image | Exception], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(select_frames(Recording(items)))


def test_dark_frames_are_dropped_with_and_without_a_mask(clean: list[Frame]) -> None:
    dark = (clean[2].image * 0.03).astype(np.uint8)
    white = np.full_like(dark, 250)
    items = [clean[0], replace(clean[2], image=dark), dark, replace(clean[2], image=white), clean[4]]
    kept, report = chosen(items, motion=0.0)
    assert kept == [0, 4]
    assert report.dark == 3


@pytest.mark.parametrize("level", [0, 12])
def test_black_borders_are_masked(clean: list[Frame], level: int) -> None:
    """Letterbox of a wide recording, with compression; the scope's circle inside borders is found as well."""
    rectangle = np.asarray(cv2.resize(clean[0].image[70:186, 90:230], (280, 232)), np.uint8)
    circle, view = clean[0].image, clean[0].mask
    assert view is not None
    for content, shown in ((rectangle, np.ones(rectangle.shape[:2], bool)), (circle, view)):
        border = ((24, 24), (60, 60))
        image = np.full((*np.add(shown.shape, np.sum(border, axis=1)), 3), level, np.uint8)
        image[24:-24, 60:-60] = np.maximum(content, level)
        truth = np.pad(shown, border)
        (frame,) = select_frames(Recording([squeezed(image, 85)]))
        assert frame.mask is not None
        assert not (frame.mask & ~truth).any()
        inside = cv2.erode(truth.astype(np.uint8), np.ones((21, 21), np.uint8)) > 0
        assert (frame.mask[inside]).mean() > 0.99


def test_a_mask_that_a_frame_has_is_left_alone(clean: list[Frame]) -> None:
    (frame,) = select_frames(Recording([clean[0]]))
    np.testing.assert_array_equal(frame.mask, clean[0].mask)
    assert frame.pose is clean[0].pose


def test_stride_and_number(clean: list[Frame]) -> None:
    items: list[Frame | Image | Exception] = [clean[k % 14] for k in range(24)]
    off = {"motion": 0.0, "sharpness": 0.0}
    kept, report = chosen(items, stride=5, **off)
    assert kept == [0, 5, 10, 15, 20]
    assert report.skipped == 19
    assert chosen(items, max_frames=4, **off)[0] == [0, 6, 12, 18]
    assert chosen(items, max_frames=100, **off)[0] == list(range(24))
    assert chosen(items, stride=2, max_frames=3, **off)[0] == [0, 8, 16]
    # A frame that cannot be used is replaced by the next one that can.
    items[6] = ImageError("gone")
    kept, report = chosen(items, max_frames=4, **off)
    assert kept == [0, 7, 12, 18]
    assert (len(report.broken), report.skipped, report.read) == (1, 19, 5)


def test_frames_come_one_by_one(clean: list[Frame]) -> None:
    """The first frame comes after the short look ahead, not after the whole recording."""
    recording = Recording([clean[k % 14] for k in range(500)])
    frames = select_frames(recording, SelectionConfig(motion=0.0))
    next(frames)
    assert max(recording.asked) < 40
    next(frames)
    assert recording.asked[-1] == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sharpness", -0.1),
        ("sharpness", 1.5),
        ("sharpness", float("nan")),
        ("motion", 0.6),
        ("view", 0.95),
        ("stride", 0),
        ("stride", 1.5),
        ("stride", True),
        ("max_frames", -1),
    ],
)
def test_settings_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        SelectionConfig(**{name: value})


def test_a_real_recording_is_kept_but_for_its_pauses(sinus: Path) -> None:
    report = SelectionReport()
    list(select_frames(SfmSequence(sinus), SelectionConfig(), report))
    assert report.kept >= 24
    assert report.blurred == report.dark == 0
