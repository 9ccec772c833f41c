"""Backbone, adapter, fine branch, checkpoints and presets."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from endomatch_ros.errors import CheckpointError, ConfigError
from endomatch_ros.models import PRESETS, MatcherNetwork, ModelConfig, load_checkpoint, load_model, save_checkpoint
from endomatch_ros.models.backbones.registry import build_backbone
from endomatch_ros.models.network import standardise

SMALL = ModelConfig(embed_dim=32, depth=1, heads=2, stem_channels=16, fine_dim=8)


def make(config: ModelConfig = SMALL, seed: int = 0) -> MatcherNetwork:
    torch.manual_seed(seed)
    return MatcherNetwork(config, build_backbone(config)).eval()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(make(), path, {"recipe": "none"})
    return path


@pytest.mark.parametrize("name", ["compact", "dinov2-small", "dinov2-small-reg"])
def test_descriptor_maps_have_unit_length_and_the_grid_of_the_input(name):
    config = SMALL if name == "compact" else PRESETS[name]
    network = make(config)
    patch = config.patch_size
    with torch.inference_mode():
        out = network(torch.rand(2, 3, 4 * patch, 6 * patch))
    assert out.coarse.shape[0] == 2
    assert out.coarse.shape[-2:] == (4, 6)
    assert torch.allclose(out.coarse.norm(dim=1), torch.ones(2, 4, 6), atol=1e-5)
    if config.fine_dim:
        assert out.fine.shape == (2, config.fine_dim, 16, 24)
        assert torch.allclose(out.fine.norm(dim=1), torch.ones(2, 16, 24), atol=1e-5)
    else:
        assert out.fine is None
        assert out.finest is out.coarse


def test_a_fine_branch_on_dinov2_has_four_cells_a_token_side():
    from dataclasses import replace

    network = make(replace(PRESETS["dinov2-small"], fine_dim=16))
    with torch.inference_mode():
        out = network(torch.rand(1, 3, 42, 56))
    assert out.coarse.shape[-2:] == (3, 4)
    assert out.fine.shape == (1, 16, 12, 16)


def test_tokens_of_a_dinov2_preset_are_timms_own():
    config = PRESETS["dinov2-small-reg"]
    network = make(config)
    reference = timm.create_model(config.backbone, pretrained=False, num_classes=0, dynamic_img_size=True).eval()
    reference.load_state_dict(network.backbone.vit.state_dict())
    image = torch.rand(1, 3, 42, 56)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        tokens = reference.forward_features((image - mean[:, None, None]) / std[:, None, None])[:, 5:]
        expected = torch.nn.functional.normalize(tokens, dim=2).transpose(1, 2).unflatten(2, (3, 4))
        out = network(image).coarse
    assert torch.allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["compact", "dinov2-small"])
def test_an_untrained_adapter_is_the_identity_bit_for_bit(name):
    network = make(SMALL if name == "compact" else PRESETS[name])
    tokens = torch.randn(1, 12, network.backbone.embed_dim)
    with torch.inference_mode():
        assert torch.equal(network.adapter(tokens), tokens)


def test_the_adapter_starts_as_a_copy_of_the_last_block_and_its_gate_learns():
    network = make()
    last = network.backbone.vit.blocks[-1]
    for name, value in network.adapter.block.state_dict().items():
        assert torch.equal(value, last.state_dict()[name])
    assert network.adapter.block is not last
    network.adapter(torch.randn(1, 12, 32)).square().sum().backward()
    assert network.adapter.gate.grad.abs() > 0


def test_shifting_the_image_by_a_patch_shifts_the_inner_descriptors():
    # Without position embedding a descriptor must not depend on where in the view its patch lies. The stem and the
    # Transformer see the border, so only similarity, not equality, can be asked of the inner cells.
    network = make()
    image = torch.rand(1, 3, 160, 160)
    moved = torch.roll(image, 16, dims=3)
    with torch.inference_mode():
        a, b = network(image).coarse, network(moved).coarse
    same = (a[..., 2:-3] * b[..., 3:-2]).sum(1)
    other = (a[..., 2:-3] * b[..., 2:-3]).sum(1)
    assert same.mean() > other.mean()
    assert same.mean() > 0.95


def test_standardise_against_numpy_over_the_view_only():
    torch.manual_seed(0)
    image, view = torch.rand(1, 3, 8, 9) * 0.5 + 0.2, (torch.rand(1, 1, 8, 9) > 0.4).float()
    out = standardise(image, view)[0].numpy()
    inside = view[0, 0].numpy() > 0
    values = image[0].numpy()[:, inside].astype("float64")
    expected = (values - values.mean(1, keepdims=True)) / (values - values.mean(1, keepdims=True)).std()
    assert abs(out[:, inside] - expected).max() < 1e-4
    assert (out[:, ~inside] == 0).all()
    # Exposure does not matter.
    assert torch.allclose(standardise(image * 0.5, view), standardise(image, view), atol=1e-3)


def test_pixels_outside_the_view_do_not_matter():
    network = make()
    image, view = torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    view[..., :16] = 0
    other = image.clone()
    other[..., :16] = torch.rand(1, 3, 64, 16)
    with torch.inference_mode():
        assert torch.equal(network(image, view).finest, network(other, view).finest)


def test_a_checkpoint_comes_back_as_it_was(checkpoint):
    network, restored = make(), load_checkpoint(checkpoint)
    assert restored.config == network.config
    for name, value in network.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value)
    assert not list(checkpoint.parent.glob("*.part"))


def test_half_precision_checkpoints_are_half_the_size_and_close(tmp_path):
    network = make()
    save_checkpoint(network, tmp_path / "a.safetensors")
    save_checkpoint(network, tmp_path / "b.safetensors", half=True)
    full, half = (load_file(tmp_path / f"{n}.safetensors") for n in "ab")
    assert all(value.dtype == torch.float16 for value in half.values())
    assert sum(v.nbytes for v in half.values()) * 2 == sum(v.nbytes for v in full.values())
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        similarity = (load_checkpoint(tmp_path / "b.safetensors")(image).finest * network(image).finest).sum(1)
    assert similarity.min() > 0.999


def test_a_dinov2_checkpoint_leaves_the_backbone_at_home(tmp_path):
    config = PRESETS["dinov2-small"]
    network = make(config)
    with torch.no_grad():
        network.adapter.gate.fill_(0.3)
    path, weights = tmp_path / "psi.safetensors", tmp_path / "dinov2.safetensors"
    save_checkpoint(network, path)
    save_file(network.backbone.vit.state_dict(), weights)
    assert not any(name.startswith("backbone.") for name in load_file(path))
    assert path.stat().st_size < 0.2 * weights.stat().st_size
    restored, info = load_model(path, backbone_weights=weights)
    image = torch.rand(1, 3, 42, 42)
    with torch.inference_mode():
        assert torch.allclose(restored(image).coarse, network(image).coarse, atol=1e-6)
    assert info.name == str(path)


def test_a_dinov2_preset_loads_from_a_local_file(tmp_path):
    network = make(PRESETS["dinov2-small"])
    weights = tmp_path / "dinov2.safetensors"
    save_file(network.backbone.vit.state_dict(), weights)
    restored, info = load_model("dinov2-small", backbone_weights=weights)
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(restored.backbone.state_dict()[name], value)
    assert len(info.sha256) == 64
    assert info.source == str(weights)


def test_weights_in_the_hubs_cache_are_used_without_asking_the_hub(tmp_path, monkeypatch):
    config = PRESETS["dinov2-small"]
    network = make(config)
    snapshot = tmp_path / f"models--timm--{config.backbone}" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    save_file(network.backbone.vit.state_dict(), snapshot / "model.safetensors")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: pytest.fail("asked the hub"))
    restored, _ = load_model("dinov2-small")
    assert torch.equal(restored.backbone.vit.norm.weight, network.backbone.vit.norm.weight)
    assert torch.equal(restored.backbone.vit.pos_embed, network.backbone.vit.pos_embed)


def test_missing_dinov2_weights_name_the_remedy(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(CheckpointError, match="backbone_weights") as error:
        load_model("dinov2-small")
    assert "offline" in str(error.value)


def test_backbone_weights_of_another_architecture_are_refused(tmp_path):
    weights = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(3)}, weights)
    with pytest.raises(CheckpointError, match="could not be loaded"):
        load_model("dinov2-small", backbone_weights=weights)


def test_unknown_names_and_missing_files():
    with pytest.raises(ConfigError, match=r"unknown model 'dinov9'.*embedded"):
        load_model("dinov9")
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nothing\.safetensors"):
        load_model("nothing.safetensors")
    with pytest.raises(CheckpointError, match="there is no file"):
        load_model("dinov2-small", backbone_weights="nowhere.bin")
    with pytest.raises(ConfigError, match=r"timm .* has no backbone 'vit_of_nobody'"):
        build_backbone(ModelConfig(backbone="vit_of_nobody"))
    with pytest.raises(ConfigError, match="does not serve: it needs one token per patch"):
        build_backbone(ModelConfig(backbone="convnext_atto"))


def test_damaged_files_are_refused(checkpoint, tmp_path):
    whole = checkpoint.read_bytes()
    cases = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "garbage": b"not a checkpoint at all" * 100,
    }
    for name, data in cases.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            load_checkpoint(path)


def test_foreign_or_inconsistent_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {k: v.contiguous() for k, v in make().state_dict().items()}
    good = {"format": "endomatch-1", "config": json.dumps(SMALL.to_dict()), "backbone_included": "true"}

    def expect(message, tensors, metadata):
        save_file(tensors, path, metadata)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path)

    expect("was not made by", tensors, None)
    expect("damaged", tensors, {"format": "endomatch-1"})
    expect("differs from this version", tensors, good | {"config": json.dumps({"depth": 3})})
    expect("tensors missing", {k: v for k, v in tensors.items() if "fine" not in k}, good)
    expect("does not fit its own config", tensors | {"fine.lift.bias": torch.zeros(3)}, good)
    expect("not finite", tensors | {"fine.lift.bias": torch.full((16,), float("nan"))}, good)


def test_an_interrupted_save_leaves_the_old_checkpoint(checkpoint, monkeypatch):
    import endomatch_ros.models.storage as module

    before = checkpoint.read_bytes()

    def die(*args, **kwargs):
        Path(args[1]).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_file", die)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(make(seed=1), checkpoint)
    assert checkpoint.read_bytes() == before
