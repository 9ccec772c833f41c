"""Depth by a network, on a tiny one of the real architecture; nothing here says how good real weights are."""

import builtins

import cv2
import numpy as np
import pytest

from endomatch_ros.data.depth import make_provider
from endomatch_ros.data.depth.mono import MonoConfig, MonoDepth, relative_depth
from endomatch_ros.data.frames import Frame
from endomatch_ros.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """Folder with a Depth Anything of the real architecture, tiny and with random weights, by its estimation type."""
    transformers = pytest.importorskip("transformers")
    import torch

    def make(kind):
        torch.manual_seed(3)
        backbone = transformers.Dinov2Config(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
            out_indices=[1, 2, 3, 4],
            reshape_hidden_states=False,
            apply_layernorm=True,
        )
        config = transformers.DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=32,
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=8,
            head_hidden_size=8,
            initializer_range=0.1,
            depth_estimation_type=kind,
            max_depth=20 if kind == "metric" else 1,
        )
        folder = tmp_path_factory.mktemp(kind)
        transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
        transformers.DPTImageProcessor(
            size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14
        ).save_pretrained(folder)
        return folder

    return {kind: make(kind) for kind in ("relative", "metric")}


@pytest.mark.parametrize("size", [(56, 56), (141, 100), (97, 203)])
def test_mono_depth_has_the_images_size_and_is_repeatable(tiny_model, size):
    image = np.random.default_rng(1).integers(30, 200, (size[1], size[0], 3)).astype(np.uint8)
    mask = np.ones(image.shape[:2], bool)
    mask[:, : size[0] // 3] = False
    frame = Frame(image, 0.0, 0, mask=mask)
    provider = make_provider("mono", tiny_model["relative"])
    depth = provider(frame)
    assert (provider.name, provider.metric) == ("mono", False)
    assert depth.dtype == np.float32
    assert np.array_equal(np.isfinite(depth), mask)
    assert depth[mask].max() / depth[mask].min() == pytest.approx(5.0, rel=1e-3)
    assert np.median(depth[mask]) == pytest.approx(1.0, abs=1e-5)
    assert np.array_equal(make_provider("mono", str(tiny_model["relative"]))(frame), depth, equal_nan=True)
    assert np.isnan(provider(Frame(np.zeros_like(image), 0.0, 0))).all()


def test_mono_depth_is_the_networks_own_output(tiny_model):
    """The metric network by hand: the processor's pixels, one pass, resized to the image; and it inverts a relative
    one."""
    transformers = pytest.importorskip("transformers")
    import torch

    image = np.random.default_rng(1).integers(30, 200, (100, 141, 3)).astype(np.uint8)
    frame = Frame(image, 0.0, 0, mask=np.ones((100, 141), bool))
    raw = {}
    for kind, folder in tiny_model.items():
        model = transformers.AutoModelForDepthEstimation.from_pretrained(folder).eval()
        pixels = transformers.DPTImageProcessor.from_pretrained(folder)(images=image, return_tensors="pt")
        with torch.no_grad():
            out = model(**pixels).predicted_depth.numpy()[0]
        raw[kind] = cv2.resize(out, (141, 100), interpolation=cv2.INTER_LINEAR)
    provider = make_provider("mono", tiny_model["metric"])
    assert provider.metric
    assert np.allclose(provider(frame), raw["metric"], rtol=1e-3, atol=1e-5)
    relative = make_provider("mono", tiny_model["relative"])(frame)
    assert raw["relative"].std() > 0
    assert np.corrcoef(1 / relative.ravel(), raw["relative"].ravel())[0, 1] > 0.98


def test_relative_depth_undoes_scale_and_shift_within_its_convention():
    truth = np.random.default_rng(0).uniform(10.0, 50.0, 5000)
    truth[:2] = 10.0, 50.0
    config = MonoConfig(ratio=5.0, percentiles=(0.0, 100.0))
    depth = relative_depth(7.0 / truth + 3.0, config)
    assert np.allclose(depth / truth, depth[0] / truth[0], rtol=1e-9)
    assert np.ptp(relative_depth(np.full(9, 0.4), config)) == 0


def test_missing_weights_say_what_to_do(tiny_model, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    with pytest.raises(CheckpointError, match=r"there is no folder /nowhere/at/all"):
        make_provider("mono", "/nowhere/at/all")
    with pytest.raises(CheckpointError, match=r"cannot be loaded.*save_pretrained"):
        make_provider("mono", tmp_path)
    with pytest.raises(ConfigError, match=r"device 'abacus' is unknown"):
        MonoDepth(tiny_model["relative"], "abacus")
    asked = []

    def absent(source, local_files_only, **_):
        asked.append((source, local_files_only))
        raise OSError("not in the cache, no network")

    monkeypatch.setattr(transformers.AutoModelForDepthEstimation, "from_pretrained", absent)
    with pytest.raises(CheckpointError, match=r"not in the cache.*hf download depth-anything/Depth-Anything-V2-Small"):
        make_provider("mono")
    # The cache first; the hub is asked only for what is not there.
    assert [local for _, local in asked] == [True, False]


def test_incomplete_or_damaged_weights_are_not_filled_with_random_numbers(tiny_model, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_model["relative"], tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("head.conv1.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks head.conv1.weight"):
        make_provider("mono", folder)
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        make_provider("mono", folder)


def test_without_transformers_mono_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "transformers":
            raise ImportError("No module named 'transformers'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CheckpointError, match=r'pip install "endomatch_ros\[mono\]"'):
        make_provider("mono")
