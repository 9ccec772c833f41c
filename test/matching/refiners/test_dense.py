"""The dense field in the matcher: as the refinement's prior and as a check, against fields that are known exactly."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from support.flow import at, coarse_matches, tensor
from support.tissue import HEIGHT, WIDTH, deformation, deformed
from support.tissue import tissue as picture

from endomatch_ros.errors import ConfigError
from endomatch_ros.matching import Matcher, MatcherConfig, StreamMatcher
from endomatch_ros.matching import matcher as matcher_module
from endomatch_ros.matching.features import FrameFeatures, Window
from endomatch_ros.matching.refiners import REFINERS
from endomatch_ros.matching.refiners.dense_consistency import consistent
from endomatch_ros.matching.refiners.dense_field import dense_field
from endomatch_ros.matching.refiners.field import Field
from endomatch_ros.models.network import dense_head
from endomatch_ros.models.z_matching import Matching

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"))]
CELL_PX = 8.0  # of the images below, at the matcher's resolution


@pytest.fixture(scope="module", params=DEVICES)
def matcher(request):
    """The embedded model with an untrained head: exactly the identity field."""
    matcher = Matcher.from_pretrained(device=request.param, resolution=160, mask="none", max_keypoints=600)
    network = matcher.network
    head = dense_head(replace(network.config, dense_levels=2), network.backbone.embed_dim)
    network.dense = head.eval().requires_grad_(False).to(matcher.device)
    return matcher


@pytest.fixture(scope="module")
def tissue():
    return picture()


def knows(flow, cell_px=CELL_PX):
    """A stand-in for the head's ``register`` whose field is ``flow``, for frames that fill their window."""

    def register(reference, current):
        h, w = reference.finest.shape[-2:]
        assert current.finest.shape == reference.finest.shape
        assert current.coarse.shape == reference.coarse.shape
        rows, columns = np.mgrid[:h, :w] + 0.5
        moved = flow(np.stack([columns.ravel(), rows.ravel()], 1) * cell_px - 0.5) / cell_px
        field = torch.from_numpy(moved[:, ::-1].T.reshape(1, 2, h, w).astype(np.float32)).to(reference.finest.device)
        return Matching(torch.zeros(1, 2, 3), field, field, field)

    return register


def features(window, cells, size=(400, 300)):
    """A frame of given window and map size; only geometry counts."""
    width, height = size
    everywhere = np.ones((height, width), bool)
    blank = np.zeros((height, width, 3), np.uint8)
    maps = torch.nn.functional.normalize(torch.rand(8, *cells), dim=0)
    coarse = torch.nn.functional.normalize(torch.rand(8, cells[0] // 4, cells[1] // 4), dim=0)
    cell = window.net_width / cells[1]
    return FrameFeatures(blank, everywhere, everywhere, window, maps, cell, 0.05, coarse)


class Network:
    """A network whose head knows an affine motion of the source pixels of two windows."""

    def __init__(self, matrix, window0, window1):
        self.matrix, self.windows = matrix, (window0, window1)

    def register(self, reference, current):
        h, w = reference.finest.shape[-2:]
        (a, b), grid = self.windows, np.array([w, h])
        assert current.finest.shape == reference.finest.shape
        rows, columns = np.mgrid[:h, :w]
        cells = np.stack([columns.ravel(), rows.ravel()], 1).astype(np.float64)
        # A window's top-left corner, not its first pixel's centre, is the map's corner.
        source = (cells + 0.5) / grid * [a.width, a.height] + [a.x, a.y] - 0.5
        moved = source @ self.matrix[:, :2].T + self.matrix[:, 2]
        there = (moved + 0.5 - [b.x, b.y]) / [b.width, b.height] * grid - 0.5
        field = torch.from_numpy((there - cells)[:, ::-1].T.reshape(1, 2, h, w).astype(np.float32))
        return Matching(torch.zeros(1, 2, 3), field, field, field)


WINDOWS = {
    "one": (Window(0, 0, 320, 256, 320, 256), (64, 80), Window(0, 0, 320, 256, 320, 256), (64, 80)),
    "cropped": (Window(30, 17, 311, 251, 160, 128), (32, 40), Window(22, 40, 318, 240, 160, 128), (32, 40)),
    "other grid": (Window(11, 5, 300, 280, 160, 144), (36, 40), Window(40, 0, 333, 201, 160, 96), (24, 40)),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_an_affine_motion_comes_out_in_source_pixels(name):
    """Cells to pixels and back, axes in order, and windows that differ: exact, since interpolation is bilinear."""
    window0, cells0, window1, cells1 = WINDOWS[name]
    matrix = np.array([[1.04, -0.06, 7.25], [0.03, 0.97, -11.5]])
    field = dense_field(Network(matrix, window0, window1), features(window0, cells0), features(window1, cells1))
    # 5 px are more than half a cell: beyond the outermost cells' centres nothing is known.
    inner = np.random.default_rng(0).uniform([5, 5], [window0.width - 5, window0.height - 5], (300, 2))
    source = inner + np.array([window0.x, window0.y])
    expected = source @ matrix[:, :2].T + matrix[:, 2] - source
    assert np.abs(at(field, inner) - expected).max() < 2e-3


@pytest.mark.parametrize("grid", [(7, 9), (31, 40), (64, 80)])
def test_the_field_at_every_pixel_is_the_field_at_points(grid):
    rng = np.random.default_rng(1)
    field = Field(tensor(rng.normal(0, 9, (2, *grid))), (201, 155))
    y, x = np.mgrid[:155, :201]
    points = np.stack([x.ravel(), y.ravel()], 1)
    everywhere = field.over(201, 155).numpy()
    assert np.abs(everywhere.reshape(2, -1).T - at(field, points)).max() < 1e-3  # of noise of 9 px, float32
    half = field.over(67, 31).numpy().reshape(2, -1).T  # the centres of cells of 3 × 5 px
    y, x = np.mgrid[2:155:5, 1:201:3]
    assert np.abs(half - at(field, np.stack([x.ravel(), y.ravel()], 1))).max() < 1e-3


def test_an_untrained_head_says_that_nothing_moves(matcher, tissue):
    a, b = matcher.extract(tissue), matcher.extract(deformed(tissue))
    field = dense_field(matcher.network, a, b)
    assert field.nodes.shape == (2, *a.descriptors.shape[1:])
    assert field.nodes.abs().max() < 1e-4


def useless(reference, *_):
    """Coarse matches at random."""
    rng = np.random.default_rng(2)
    spread = rng.uniform(0, [WIDTH, HEIGHT], (2, 400, 2))
    return coarse_matches(*spread, reference.descriptors.device)


def test_the_prior_is_the_heads_field_and_not_the_coarse_matches(matcher, tissue, monkeypatch):
    monkeypatch.setattr(matcher.network, "register", knows(deformation))
    monkeypatch.setattr(matcher_module, "match_coarse", useless)
    frames = [matcher.extract(image) for image in (tissue, deformed(tissue))]
    found = matcher.with_config(refinement="dense").match_features(*frames)
    lost = matcher.with_config(refinement="photometric").match_features(*frames)
    error = np.linalg.norm(found.keypoints1 - found.keypoints0 - deformation(found.keypoints0), axis=1)
    assert len(found) > 300
    assert len(found) > 3 * len(lost)
    assert np.median(error) < 0.1
    assert np.percentile(error, 95) < 0.5
    assert set(found.timings) == {"matching", "dense", "refinement"}
    assert set(lost.timings) == {"matching", "refinement"}


def test_the_check_drops_what_was_planted_and_nothing_else():
    rng = np.random.default_rng(3)
    window = Window(12, 8, 320, 256, 160, 128)
    frame = features(window, (32, 40))
    assert frame.cell_px == 8.0
    # Over the window's 40 cells a flow that is linear, and so exact between them.
    columns = (np.arange(40) + 0.5) * 8 - 0.5
    nodes = np.zeros((2, 32, 40), np.float32)
    nodes[0] = 10 + 0.05 * columns
    field = Field(tensor(nodes), (320, 256))
    points = rng.uniform([30, 20], [320, 250], (500, 2))
    direction = rng.normal(0, 1, (500, 2))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    planted = np.arange(500) % 3 == 0
    off = np.where(planted, rng.uniform(1.55, 9, 500), rng.uniform(0, 1.45, 500))[:, None] * 8
    flow = np.stack([10 + 0.05 * (points[:, 0] - 12), np.zeros(500)], 1)
    kept = consistent(field, frame, tensor(points), tensor(points + flow + off * direction), 1.5)
    assert np.array_equal(kept.numpy(), ~planted)


@pytest.mark.parametrize("refinement", REFINERS)
def test_matches_against_the_tissue_are_dropped_and_counted(matcher, tissue, monkeypatch, refinement):
    monkeypatch.setattr(matcher.network, "register", knows(deformation))
    # What the frames show: the left part follows the field, the right part stays where it was.
    moved = deformed(tissue)
    moved[:, 200:] = tissue[:, 200:]
    loose = matcher.with_config(refinement=refinement, dense_consistency_cells=100.0)
    frames = [matcher.extract(image) for image in (tissue, moved)]
    before = loose.match_features(*frames)
    assert before.dropped["dense_consistency"] == 0
    after = loose.with_config(dense_consistency_cells=0.75).match_features(*frames)
    apart = np.linalg.norm(before.keypoints1 - before.keypoints0 - deformation(before.keypoints0), axis=1)
    clear = np.abs(apart - 0.75 * CELL_PX) > 0.1  # between cells the field is off by less
    right = apart < 0.75 * CELL_PX
    assert 20 < right.sum() < len(before) - 20
    kept = np.isin(before.track_ids, after.track_ids)
    assert np.array_equal(kept[clear], right[clear])
    assert clear.mean() > 0.9
    assert np.array_equal(after.keypoints1, before.keypoints1[kept])
    assert after.dropped["dense_consistency"] == len(before) - len(after)
    assert "dense_consistency" not in matcher.match_features(*frames).dropped


@pytest.mark.parametrize("setting", [{"refinement": "dense"}, {"dense_consistency_cells": 2.0}])
def test_a_model_without_head_says_what_to_do(setting):
    name = next(iter(setting))
    with pytest.raises(ConfigError, match=rf"{name}=.*endomatch train --objective gvsl"):
        Matcher.from_pretrained(device="cpu", **setting)
    plain = Matcher.from_pretrained(device="cpu")
    before = plain.config
    with pytest.raises(ConfigError, match="head"):
        plain.with_config(**setting)
    assert plain.config == before
    with pytest.raises(ConfigError, match="head"):
        Matcher(plain.network, plain.info, MatcherConfig(**setting))


@pytest.mark.parametrize("value", [-0.5, 100.5, float("nan"), "2"])
def test_a_bad_limit_is_named(value):
    with pytest.raises(ConfigError, match="dense_consistency_cells="):
        MatcherConfig(dense_consistency_cells=value)


def test_a_frame_is_described_the_same_whatever_the_settings(matcher, tissue):
    plain = matcher.extract(tissue)
    # Half the size, patches of 16.
    assert plain.tokens.shape == (matcher.network.backbone.embed_dim, HEIGHT // 32, WIDTH // 32)
    assert plain.tokens.dtype == torch.float32
    for setting in ({"refinement": "dense"}, {"refinement": "none"}, {"dense_consistency_cells": 3.0}):
        other = matcher.with_config(**setting).extract(tissue)
        assert torch.equal(other.tokens, plain.tokens)
        assert torch.equal(other.descriptors, plain.descriptors)


def test_a_switch_while_a_stream_runs_keeps_its_keyframe_and_tracks(matcher, tissue):
    images = [tissue, np.roll(tissue, 2, 1), np.roll(tissue, 4, 1), np.roll(tissue, 6, 1)]
    stream = StreamMatcher(matcher, "keyframe")
    calls = []
    handle = matcher.network.backbone.register_forward_hook(lambda *_: calls.append(1))
    try:
        stream.push(images[0])
        first = stream.push(images[1])
        stream.matcher = matcher.with_config(refinement="dense", dense_consistency_cells=50.0)
        results = [stream.push(image) for image in images[2:]]
    finally:
        handle.remove()
    assert len(calls) == len(images)
    assert all(len(result) > 100 for result in results)
    assert np.isin(results[1].track_ids, results[0].track_ids).mean() > 0.5
    assert np.isin(results[0].track_ids, first.track_ids).mean() > 0.5


def test_old_features_give_what_new_ones_give(matcher, tissue, monkeypatch):
    monkeypatch.setattr(matcher.network, "register", knows(deformation))
    images = tissue, deformed(tissue)
    old = [matcher.extract(image) for image in images]
    dense = matcher.with_config(refinement="dense")
    a, b = dense.match_features(*old), dense.match_features(*(dense.extract(image) for image in images))
    assert len(a) > 100
    assert np.array_equal(a.keypoints1, b.keypoints1)


def test_sizes_cameras_and_streams_work_with_a_head(matcher, tissue):
    """The head wants maps of one size: frames of other shapes are brought to it."""
    matcher = matcher.with_config(refinement="dense", dense_consistency_cells=50.0)
    other = cv2.resize(tissue, (300, 280))
    assert np.isfinite(matcher.match(tissue, other).keypoints1).all()
    assert np.isfinite(matcher.match(other, tissue).keypoints1).all()
    stream = StreamMatcher(matcher)
    pair = matcher.describe([matcher.prepare(tissue), matcher.prepare(np.roll(tissue, 2, 1))])
    assert stream.push_features(pair[0]) is None
    tracked = stream.push_features(pair[1])
    assert len(tracked) > 100
    assert np.median(tracked.keypoints1 - tracked.keypoints0, axis=0) == pytest.approx([2, 0], abs=0.1)
    across = stream.match_newest(pair[0])
    assert np.isin(across.track_ids, tracked.track_ids).mean() > 0.3
