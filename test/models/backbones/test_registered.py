"""What every registered backbone must do."""

from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file
from support.backbones import example_config, lively_backbone

from endomatch_ros.errors import ConfigError, ImageError
from endomatch_ros.models import PRESETS, MatcherNetwork, load_checkpoint, save_checkpoint
from endomatch_ros.models.adapter import Adapter
from endomatch_ros.models.backbones.registry import BACKBONES, build_backbone

ROWS, COLUMNS = 3, 5


@pytest.fixture(scope="module", params=BACKBONES, ids=lambda kind: kind.__name__)
def config(request):
    return example_config(request.param)


@pytest.fixture(scope="module")
def shared(config):
    return lively_backbone(config)


@pytest.fixture
def backbone(shared):
    yield shared.requires_grad_(True)
    shared.eval().zero_grad()


def images(config, count=2, rows=ROWS, columns=COLUMNS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, rows * config.patch_size, columns * config.patch_size, generator=generator)


def test_every_preset_has_exactly_one_backbone_that_serves_it():
    for name, config in PRESETS.items():
        assert sum(kind.serves(config.backbone) for kind in BACKBONES) == 1, name
    assert not any(kind.serves(name) for kind in BACKBONES for name in ("", "convnext_atto", "vit_of_nobody"))


def test_one_token_per_patch_and_the_stems_map(config, backbone):
    with torch.inference_mode():
        found = backbone(images(config))
    assert found.values.shape == (2, ROWS * COLUMNS, backbone.embed_dim)
    assert found.grid == (ROWS, COLUMNS)
    assert found.values.isfinite().all()
    if backbone.has_stem:
        assert found.stem.shape == (2, config.stem_channels, 4 * ROWS, 4 * COLUMNS)
    else:
        assert found.stem is None


def test_patch_size_and_width_are_those_of_the_model_and_of_the_preset(config, backbone):
    assert backbone.patch_size == config.patch_size
    assert backbone.embed_dim == config.embed_dim
    if hasattr(backbone, "vit"):
        assert backbone.last_block().norm1.weight.numel() == backbone.embed_dim


def test_tokens_lie_row_by_row_where_their_patches_are(config, backbone):
    image = images(config, 32)
    other = image.clone()
    patch = config.patch_size
    other[..., patch : 2 * patch, 3 * patch : 4 * patch] += 3  # row 1, column 3
    with torch.inference_mode():
        moved = (backbone(other).values - backbone(image).values).norm(dim=2).mean(dim=0)
    assert moved.argmax() == COLUMNS + 3


def test_images_of_a_batch_do_not_see_each_other(config, backbone):
    both = images(config)
    with torch.inference_mode():
        together = backbone(both).values
        apart = torch.cat([backbone(image[None]).values for image in both])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_the_same_image_gives_the_same_tokens_in_training_too(config, backbone):
    image = images(config)
    with torch.inference_mode():
        first = backbone(image).values
        assert torch.equal(backbone(image).values, first)
        assert torch.equal(backbone.train()(image).values, first)


def test_last_block_is_a_copy_of_the_models_last(backbone):
    if not hasattr(backbone, "vit"):
        pytest.skip("no Transformer's block to compare with")
    mine, theirs = backbone.last_block().state_dict(), backbone.vit.blocks[len(backbone.vit.blocks) - 1].state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name])
        assert value.data_ptr() != theirs[name].data_ptr()


def test_last_block_shares_nothing_with_the_model(config, backbone):
    block, image = backbone.last_block(), images(config)
    with torch.no_grad():
        before = backbone(image).values
        for value in block.parameters():
            value.zero_()
        assert torch.equal(backbone(image).values, before)


def test_an_untrained_adapter_changes_nothing_and_a_trained_one_is_the_last_block(config, backbone):
    adapter = Adapter(backbone)
    with torch.inference_mode():
        found = backbone(images(config))
        assert torch.equal(adapter(found.values, found.rope), found.values)
        adapter.gate.fill_(1.0)
        place = {} if found.rope is None else {"rope": found.rope}
        expected = backbone.last_block()(found.values, **place)
        torch.testing.assert_close(adapter(found.values, found.rope), expected, atol=1e-5, rtol=1e-5)
    assert (expected - found.values).abs().max() > 0.01


def test_gradients_reach_the_adapter_of_a_frozen_backbone(config, backbone):
    backbone.requires_grad_(False)
    network = MatcherNetwork(replace(config, fine_dim=0, dense_levels=0), backbone)
    network.adapter.requires_grad_(True)
    wanted = torch.randn(network.config.embed_dim, ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))
    image = images(config).sigmoid()
    (network(image).coarse * wanted).sum().backward()
    assert network.adapter.gate.grad.abs() > 0
    assert all(value.grad is None for value in backbone.parameters())
    with torch.no_grad():
        network.adapter.gate.fill_(0.5)
    (network(image).coarse * wanted).sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in network.adapter.parameters())


def test_gradients_reach_all_of_an_unfrozen_backbone_that_tokens_depend_on(config, backbone):
    wanted = torch.randn(backbone.embed_dim, generator=torch.Generator().manual_seed(1))
    (backbone(images(config)).values * wanted).sum().backward()
    assert not [name for name, value in backbone.named_parameters() if value.grad is None]
    first = next(value for name, value in backbone.named_parameters() if name.endswith("weight"))
    assert (backbone.vit.patch_embed.proj.weight if hasattr(backbone, "vit") else first).grad.any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-3), (torch.bfloat16, 0.2)])
def test_tokens_have_the_models_type(config, dtype, tolerance):
    image = images(config)
    with torch.inference_mode():
        backbone = lively_backbone(config)
        expected = backbone(image).values
        assert expected.dtype == torch.float32
        found = backbone.to(dtype)(image.to(dtype))
        adapted = Adapter(backbone)(found.values, found.rope)
    assert found.values.dtype == adapted.dtype == dtype
    # Relative to a token's size; layer norm makes it √C.
    assert (found.values.float() - expected).norm(dim=2).max() < tolerance * backbone.embed_dim**0.5


@pytest.mark.parametrize(("height", "width"), [(1, 0), (0, 1), (-1, 3)])
def test_images_without_a_whole_number_of_patches_are_refused(config, backbone, height, width):
    patch = config.patch_size
    image = torch.zeros(1, 3, 4 * patch + height, 4 * patch + width)
    with pytest.raises(ImageError, match=rf"{4 * patch + width}x{4 * patch + height} .* patches of {patch}: resize"):
        backbone(image)


def test_a_config_with_another_patch_size_is_refused(config):
    with pytest.raises(ConfigError, match=rf"patches of {config.patch_size} pixels, but patch_size is 8"):
        build_backbone(replace(config, patch_size=8))


def test_a_fine_branch_has_four_cells_a_token_side(config, backbone):
    network = MatcherNetwork(replace(config, fine_dim=16, dense_levels=0), backbone).eval()
    with torch.inference_mode():
        out = network(images(config))
    assert out.coarse.shape == (2, backbone.embed_dim, ROWS, COLUMNS)
    assert out.fine.shape == (2, 16, 4 * ROWS, 4 * COLUMNS)


@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_brings_the_backbone_where_it_has_no_home_of_its_own(
    config, backbone, whole, tmp_path, monkeypatch
):
    network = MatcherNetwork(replace(config, dense_levels=0), backbone).eval()
    with torch.no_grad():
        network.adapter.gate.fill_(0.3)
    path = tmp_path / "model.safetensors"
    save_checkpoint(network, path, include_backbone=whole)
    if backbone.published and not whole:
        import endomatch_ros.models.checkpoints as module

        asked = []
        monkeypatch.setattr(module, "build_backbone", lambda *a, **options: asked.append(options) or backbone)
    restored = load_checkpoint(path)
    if backbone.published and not whole:
        assert asked == [{"pretrained": True, "weights": None}]
    assert restored.config == network.config
    image = images(config).sigmoid()
    with torch.inference_mode():
        assert torch.equal(restored(image).coarse, network(image).coarse)


@pytest.mark.parametrize("name", ["dinov2-small", "dinov2-small-reg", "dinov3-small"])
def test_tensors_in_a_checkpoint_keep_timms_names(name, tmp_path):
    config, path = PRESETS[name], tmp_path / "model.safetensors"
    network = MatcherNetwork(config, build_backbone(config))
    model = timm.create_model(config.backbone, pretrained=False)
    adapter = {f"adapter.block.{part}" for part in model.blocks[11].state_dict()}
    own = {"adapter.gate", "log_scale_coarse", "log_scale_fine"} | adapter
    save_checkpoint(network, path)
    assert set(load_file(path)) == own
    save_checkpoint(network, path, include_backbone=True)
    assert set(load_file(path)) == own | {f"backbone.vit.{part}" for part in model.state_dict()}
