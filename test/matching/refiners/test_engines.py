"""The engines of the refinement: both give the same matches, and PyTorch's never makes the host wait for a GPU."""

import traceback
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tissue import deformed, tissue
from torch.utils._python_dispatch import TorchDispatchMode

from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.matching import Matcher, MatcherConfig
from endomatch_ros.matching.coarse import match_coarse
from endomatch_ros.matching.keypoints import detect
from endomatch_ros.models import MatcherNetwork
from endomatch_ros.models.backbones.registry import build_backbone
from endomatch_ros.models.config import preset_config

SIZE = 640, 512


@pytest.fixture(scope="module")
def matchers():
    opencv = Matcher.from_pretrained("embedded", "cpu", max_keypoints=1500, engine="opencv")
    return opencv, opencv.with_config(engine="torch")


@pytest.fixture(scope="module", params=["cavity", "tunnel"])
def scene(request):
    return SyntheticEndoscope(SceneConfig(seed=10_012, kind=request.param, width=SIZE[0], height=SIZE[1]))


@pytest.fixture(scope="module")
def frames(matchers, scene):
    rendered = (scene.render(t) for t in (0.0, 0.3))
    return [matchers[0].extract(frame.image, frame.mask) for frame in rendered]


def precision(scene, matches):
    """Shares of the matches whose targets are right to 1 and to 3 px."""
    expected, visible = scene.correspondence(0.0, 0.3, matches.keypoints0.astype(np.float64))
    error = np.linalg.norm(matches.keypoints1 - expected, axis=1)[visible]
    return np.array([(error < limit).mean() for limit in (1.0, 3.0)])


def test_both_engines_give_the_same_matches(matchers, scene, frames):
    points = detect(frames[0], 1500)
    opencv, torch_ = (matcher.match_features(*frames, points) for matcher in matchers)
    assert abs(len(torch_) / len(opencv) - 1) < 0.05
    assert np.abs(precision(scene, torch_) - precision(scene, opencv)).max() < 0.005
    _, ours, theirs = np.intersect1d(opencv.track_ids, torch_.track_ids, return_indices=True)
    apart = np.linalg.norm(opencv.keypoints1[ours] - torch_.keypoints1[theirs], axis=1)
    assert np.median(apart) < 0.05


def test_auto_takes_torch_on_a_gpu_alone():
    names = [
        MatcherConfig(engine=name).engine_on(device)
        for name in ("auto", "opencv", "torch")
        for device in ("cpu", "cuda")
    ]
    assert names == ["opencv", "torch", "opencv", "opencv", "torch", "torch"]


def test_matches_in_fixed_shapes_are_those_that_are_found_one_by_one(frames):
    found, fixed = (match_coarse(*frames, 0.5, fixed) for fixed in (False, True))
    assert len(fixed.points0) > len(found.points0)
    for name in ("points0", "points1", "similarity"):
        assert torch.allclose(getattr(fixed.compact(), name), getattr(found, name), atol=1e-3)


@pytest.mark.parametrize("size", [(96, 80), (300, 700)])
def test_small_and_high_images_do_not_upset_the_torch_engine(matchers, size):
    image = tissue()
    image = np.tile(image, (3, 3, 1))[: size[1], : size[0]]
    matches = matchers[1].match(image, image)
    assert len(matches) > 20
    assert np.abs(matches.keypoints1 - matches.keypoints0).max() < 0.1


class Copies(TorchDispatchMode):
    """Counts copies of host memory to the device (here: meta) that would wait for it, unlike those of ``upload``."""

    def __init__(self):
        super().__init__()
        self.waiting, self.uploads = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {part.device.type for part in args if isinstance(part, torch.Tensor) and part.dim()}
        made = func is torch.ops.aten.lift_fresh.default  # of Python numbers
        if ("cpu" in given or made) and isinstance(out, torch.Tensor) and out.is_meta:
            names = [frame.name for frame in traceback.extract_stack()]
            self.uploads += "upload" in names
            if "upload" not in names:
                self.waiting.append(names)
        return out


def test_the_host_reads_one_tensor_per_pair_and_copies_only_by_uploads(matchers, monkeypatch):
    matcher = matchers[1]
    # A meta tensor has a shape but no values: whatever would look at a value, or at how many there are, raises.
    features = [matcher.extract(image) for image in (tissue(), deformed(tissue()))]
    features = [replace(f, descriptors=f.descriptors.to("meta"), tokens=f.tokens.to("meta")) for f in features]
    read = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: read.append(self.shape) or torch.zeros(self.shape))
    points = detect(features[0], 300)
    matcher.match_features(*features, points)  # makes the constants
    assert read == [(len(points), 6)]
    fresh = [replace(f) for f in features]
    with Copies() as copies:
        matcher.match_features(*fresh, points)
        assert copies.uploads > 0
        before = copies.uploads
        matcher.match_features(fresh[1], fresh[0], points)
        assert copies.uploads - before <= 5  # points and usable cells: pictures are there already
    assert copies.waiting == []
    assert len(read) == 3


@pytest.mark.parametrize("preset", ["embedded", "dinov2-small"])  # timm makes the places of DINOv3 anew each time
def test_the_network_does_not_wait_for_the_device(preset):
    config = preset_config(preset)
    with torch.device("meta"), torch.inference_mode():
        network = MatcherNetwork(config, build_backbone(config)).eval()
    images, view = (torch.empty(1, c, 20 * config.patch_size, 16 * config.patch_size, device="meta") for c in (3, 1))
    with torch.inference_mode():
        network(images, view)
        with Copies() as copies:
            network(images, view)
    assert copies.waiting == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("engine", ["auto", "opencv"])
def test_a_pushed_frame_makes_the_host_wait_for_cuda_once(scene, engine):
    stream = Matcher.from_pretrained("embedded", "cuda", max_keypoints=1500, engine=engine).stream()
    frames = [scene.render(0.1 * k) for k in range(7)]
    for frame in frames[:6]:  # graphs are captured on the way
        matches = stream.push(frame.image, mask=frame.mask)
    assert len(matches) > 700
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            stream.push(frames[6].image, mask=frames[6].mask)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [str(warning.message) for warning in caught if "synchronizing" in str(warning.message)]
    assert (len(waits) == 1) == (engine == "auto"), waits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_cuda_gives_the_matches_of_the_cpu(matchers, scene, frames):
    points = detect(frames[0], 1500)
    rendered = [scene.render(t) for t in (0.0, 0.3)]
    cuda = Matcher.from_pretrained("embedded", "cuda", max_keypoints=1500, half=False)
    for engine in ("auto", "opencv"):
        there = cuda.with_config(engine=engine)
        moved = [there.extract(frame.image, frame.mask) for frame in rendered]
        first, *again = (there.match_features(*moved, points) for _ in range(4))  # the later ones by graphs
        assert all(np.array_equal(first.keypoints1, other.keypoints1) for other in again)
        expected = matchers[engine == "auto"].match_features(*frames, points)
        assert abs(len(first) / len(expected) - 1) < 0.02
        _, ours, theirs = np.intersect1d(first.track_ids, expected.track_ids, return_indices=True)
        assert np.median(np.linalg.norm(first.keypoints1[ours] - expected.keypoints1[theirs], axis=1)) < 0.02
