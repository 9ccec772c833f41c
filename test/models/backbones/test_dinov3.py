"""DINOv3: its rotary position embedding, its prefix tokens, its weights; against timm and against formulas."""

import math

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from support.backbones import lively_backbone
from torch.nn import functional

from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.errors import CheckpointError, ConfigError
from endomatch_ros.matching import Matcher
from endomatch_ros.models import PRESETS, MatcherNetwork, ModelConfig, load_checkpoint, load_model, save_checkpoint
from endomatch_ros.models.backbones.registry import build_backbone

CONFIG = PRESETS["dinov3-small"]
SIZES = [(256, 256), (48, 80), (272, 112)]  # of pre-training; others, not square


@pytest.fixture(scope="module")
def backbone():
    return lively_backbone(CONFIG).requires_grad_(False)


@pytest.fixture(scope="module")
def reference(backbone):
    """timm's own model with the same weights."""
    model = timm.create_model(CONFIG.backbone, pretrained=False, num_classes=0).eval().requires_grad_(False)
    model.load_state_dict(backbone.vit.state_dict())
    return model


@pytest.fixture(scope="module")
def weights(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "dinov3.safetensors"
    save_file(backbone.vit.state_dict(), path)
    return path


def places(rows, columns, head=64, temperature=100.0):
    """Sines and cosines ``(rows·columns, head)`` of patches' centres, -1 to 1 a side, at head/4 wavelengths."""
    centres = [[(2 * y + 1) / rows - 1, (2 * x + 1) / columns - 1] for y in range(rows) for x in range(columns)]
    wavelengths = temperature ** (torch.arange(head // 4, dtype=torch.float64) / (head // 4))
    angles = (2 * math.pi * torch.tensor(centres, dtype=torch.float64)[:, :, None] / wavelengths).flatten(1)
    angles = angles.repeat(1, 2)  # the second half of a head's channels turns with the first
    return angles.sin().float(), angles.cos().float()


def block_by_hand(block, tokens, rows, columns, heads=6):
    """A DINOv3 block on patch tokens alone ``(B, rows·columns, C)``, from the block's weights."""
    sines, cosines = places(rows, columns)

    def turned(x):
        first, second = x.chunk(2, dim=-1)
        return x * cosines + torch.cat([-second, first], dim=-1) * sines

    x = functional.layer_norm(tokens, tokens.shape[-1:], block.norm1.weight, block.norm1.bias, 1e-5)
    parts = (x @ block.attn.qkv.weight.T).chunk(3, dim=-1)
    query, key, value = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in parts)  # (B, heads, N, d)
    attention = (turned(query) @ turned(key).transpose(2, 3) / query.shape[-1] ** 0.5).softmax(dim=-1)
    mixed = (attention @ value).transpose(1, 2).flatten(2)
    tokens = tokens + block.gamma_1 * (mixed @ block.attn.proj.weight.T + block.attn.proj.bias)
    x = functional.layer_norm(tokens, tokens.shape[-1:], block.norm2.weight, block.norm2.bias, 1e-5)
    x = functional.gelu(x @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
    return tokens + block.gamma_2 * (x @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tokens_are_timms_own(backbone, reference, height, width):
    torch.manual_seed(1)
    image = torch.randn(2, 3, height, width)
    with torch.inference_mode():
        found = backbone(image)
        features = reference.forward_features(image)
        (last,) = reference.forward_intermediates(image, 1, norm=True, intermediates_only=True)
    assert features.shape[1] == height * width // 256 + 5  # class token and four registers
    torch.testing.assert_close(found.values, features[:, 5:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.values.transpose(1, 2).unflatten(2, found.grid), last, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (17, 7)])
def test_rope_is_the_formula(backbone, rows, columns):
    with torch.inference_mode():
        rope = backbone(torch.zeros(1, 3, 16 * rows, 16 * columns)).rope
    torch.testing.assert_close(rope, torch.cat(places(rows, columns), dim=1), atol=1e-5, rtol=0)


def test_last_block_is_the_formula_on_patches_alone_and_heeds_their_places(backbone):
    block = backbone.last_block().requires_grad_(False)
    torch.manual_seed(2)
    tokens = torch.randn(2, 15, 384)
    rope = torch.cat(places(3, 5), dim=1)
    found = block(tokens, rope=rope)
    torch.testing.assert_close(found, block_by_hand(block, tokens, 3, 5), atol=1e-4, rtol=1e-4)
    assert (found - block(tokens)).abs().max() > 0.01
    assert backbone.vit.blocks[-1].attn.num_prefix_tokens == 5


def test_the_network_gives_the_adapter_its_place_in_the_image(backbone):
    network = MatcherNetwork(CONFIG, backbone).eval()
    torch.manual_seed(3)
    image, view = torch.rand(1, 3, 48, 80), torch.ones(1, 1, 48, 80)
    with torch.inference_mode():
        untrained = network(image).coarse
        tokens = backbone(network.normalise(image, view)).values
        network.adapter.gate.fill_(1.0)
        trained = network(image).coarse
        expected = block_by_hand(network.adapter.block, tokens, 3, 5)
    for found, values in ((untrained, tokens), (trained, expected)):
        maps = functional.normalize(values, dim=2).transpose(1, 2).unflatten(2, (3, 5))
        torch.testing.assert_close(found, maps, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(400, 320), (333, 251)])
def test_a_preset_matches_a_scene_from_a_file_of_weights(weights, size):
    scene = SyntheticEndoscope(SceneConfig(seed=20100, kind="tunnel", width=size[0], height=size[1]))
    first, second = scene.render(0.0).image, scene.render(0.2).image
    matcher = Matcher.from_pretrained("dinov3-small", "cpu", weights, resolution=330, similarity_threshold=0.0)
    seen = []
    matcher.network.backbone.register_forward_hook(lambda _, args, out: seen.append((args[0].shape[-2:], out.grid)))
    same, moved = matcher.match(first, first), matcher.match(first, second)
    for (height, width), (rows, columns) in seen:
        assert (height, width) == (16 * rows, 16 * columns)
    assert max(seen[0][0]) in (320, 336)  # 330 rounded to whole patches
    assert len(same) > 300
    assert np.percentile(np.linalg.norm(same.keypoints1 - same.keypoints0, axis=1), 99) < 0.15
    assert len(moved) > 0
    for points in (moved.keypoints0, moved.keypoints1):
        assert np.isfinite(points).all()
        assert (points >= -0.5).all()
        assert (points <= np.array(size) - 0.5).all()


def test_a_checkpoint_leaves_the_backbone_at_home_and_comes_back(backbone, weights, tmp_path):
    network = MatcherNetwork(CONFIG, backbone).eval()
    with torch.no_grad():
        network.adapter.gate.fill_(0.3)
    path = tmp_path / "psi.safetensors"
    save_checkpoint(network, path)
    assert all(name.startswith(("adapter.", "log_scale_")) for name in load_file(path))
    image = torch.rand(1, 3, 48, 80)
    with torch.inference_mode():
        assert torch.equal(load_checkpoint(path, weights)(image).coarse, network(image).coarse)
    assert Matcher.from_pretrained(path, "cpu", weights).config.resolution == CONFIG.resolution


def test_weights_of_dinov2_and_missing_ones_are_refused(tmp_path, monkeypatch):
    other = build_backbone(PRESETS["dinov2-small"])
    path = tmp_path / "dinov2.safetensors"
    save_file(other.state_dict(), path)
    with pytest.raises(CheckpointError, match="could not be loaded from"):
        load_model("dinov3-small", path)
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(CheckpointError, match=r"vit_base_patch16_dinov3\.lvd1689m .*offline.* backbone_weights"):
        load_model("dinov3-base")


@pytest.mark.parametrize("name", ["eva_giant_patch14_224", "vit_small_patch16_rope_mixed_224"])
def test_transformers_of_the_kind_with_other_embeddings_are_refused(name):
    with pytest.raises(ConfigError, match="does not serve: it needs one token per patch"):
        build_backbone(ModelConfig(backbone=name))


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("dinov")])
def test_published_presets_say_what_timm_says_of_their_models(name):
    config, published = PRESETS[name], timm.get_pretrained_cfg(PRESETS[name].backbone)
    assert published.hf_hub_id == f"timm/{config.backbone}"
    assert config.normalisation == "imagenet"
    assert published.mean == (0.485, 0.456, 0.406)
    assert published.std == (0.229, 0.224, 0.225)
    assert config.resolution % config.patch_size == 0
    model = timm.create_model(config.backbone, pretrained=False)
    assert (config.patch_size,) * 2 == model.patch_embed.patch_size
    assert (config.embed_dim, config.depth) == (model.embed_dim, len(model.blocks))
    assert config.heads == model.blocks[0].attn.num_heads
