"""The head for dense fields of a matcher network: its convention, its checkpoints, models without one."""

import json
import math
from dataclasses import replace

import pytest
import torch
from conftest import ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.errors import CheckpointError, ConfigError, ImageError
from endomatch_ros.geometry.fields import warp
from endomatch_ros.models import Descriptors, MatcherNetwork, ModelConfig, load_checkpoint, load_model, save_checkpoint
from endomatch_ros.models.backbones.registry import build_backbone

SMALL = ModelConfig(embed_dim=32, depth=1, heads=2, stem_channels=16, fine_dim=8, dense_levels=2)
EMBEDDED = ROOT / "endomatch_ros" / "models" / "weights" / "embedded.safetensors"


def make(config: ModelConfig = SMALL, spoilt: float = 0.0) -> MatcherNetwork:
    """A network; its head's parameters moved by noise of deviation ``spoilt``."""
    torch.manual_seed(0)
    network = MatcherNetwork(config, build_backbone(config)).eval()
    if network.dense is not None:
        with torch.no_grad():
            for parameter in network.dense.parameters():
                parameter += spoilt * torch.randn_like(parameter)
    return network


def descriptors(network: MatcherNetwork, seed: int, size: tuple[int, int] = (64, 96)) -> Descriptors:
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return network(image)


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason=""))]
)
def device(request):
    return request.param


@pytest.mark.parametrize("fine_dim", [8, 0])
def test_an_untrained_head_gives_the_exact_identity_on_the_finest_map(fine_dim):
    network = make(replace(SMALL, fine_dim=fine_dim))
    a, b = descriptors(network, 0), descriptors(network, 1)
    with torch.inference_mode():
        field = network.register(a, b).field
    assert field.shape == (2, 2, *a.finest.shape[-2:])
    assert not field.any()


def test_the_field_leads_from_the_reference_to_the_current_image_in_rows_and_columns():
    """A head that always shifts by 2 rows and −3 columns fits an image that has moved so."""
    network = make()
    a = descriptors(network, 0)
    h, w = a.finest.shape[-2:]
    with torch.no_grad():  # the shift is tanh(x) · a quarter of the size
        network.dense.global_stage.last.bias[-2:] = torch.tensor([math.atanh(8 / h), math.atanh(-12 / w)])
    b = Descriptors(a.coarse, torch.roll(a.finest, (2, -3), dims=(2, 3)))
    with torch.inference_mode():
        field = network.register(a, b).field
    torch.testing.assert_close(field[0, :, 5, 7], torch.tensor([2.0, -3.0]))
    found = warp(b.finest, field)
    torch.testing.assert_close(found[..., :-2, 3:], a.finest[..., :-2, 3:], atol=1e-4, rtol=0)


def test_the_reference_is_the_fixed_image_and_coarse_and_fine_maps_have_their_places():
    network = make(spoilt=0.3)
    a, b = descriptors(network, 0), descriptors(network, 1)
    with torch.inference_mode():
        expected = network.dense(coarse_moving=b.coarse, coarse_fixed=a.coarse, fine_moving=b.fine, fine_fixed=a.fine)
        found = network.register(a, b)
    assert expected.displacement.abs().max() > 0.1
    assert expected.affine.abs().max() > 0.1
    torch.testing.assert_close(found.field, expected.field)


def test_half_precision_maps_give_float32_fields_close_to_those_of_float32(device):
    network = make(spoilt=0.1).to(device)
    a, b = descriptors(make(), 0), descriptors(make(), 1)
    halves = [Descriptors(d.coarse.half().to(device), d.fine.half().to(device)) for d in (a, b)]
    wholes = [Descriptors(d.coarse.to(device), d.fine.to(device)) for d in (a, b)]
    with torch.inference_mode():
        found = network.register(*halves).field
        expected = network.register(*wholes).field
        with torch.autocast(device, torch.bfloat16):
            rough = network.register(*wholes).field
    assert found.dtype == rough.dtype == torch.float32
    assert expected.abs().max() > 0.3
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    torch.testing.assert_close(rough, expected, atol=0.2, rtol=0)


def test_a_model_without_a_head_says_how_to_get_one():
    network = make(replace(SMALL, dense_levels=0))
    assert network.dense is None
    a = descriptors(network, 0)
    with pytest.raises(ConfigError, match="endomatch train --objective gvsl"):
        network.register(a, a)


def test_images_of_different_sizes_are_refused():
    network = make()
    with pytest.raises(ImageError, match="the same size"):
        network.register(descriptors(network, 0), descriptors(network, 0, (64, 80)))


@pytest.mark.parametrize("half", [False, True])
def test_a_checkpoint_keeps_the_head(tmp_path, half):
    network = make(spoilt=0.3)
    save_checkpoint(network, tmp_path / "model.safetensors", half=half)
    assert any(name.startswith("dense.") for name in load_file(tmp_path / "model.safetensors"))
    restored = load_checkpoint(tmp_path / "model.safetensors")
    assert restored.config == network.config
    for name, value in network.state_dict().items():
        torch.testing.assert_close(restored.state_dict()[name], value.half().float() if half else value, atol=0, rtol=0)
    assert restored.dense.integration_steps == network.dense.integration_steps > 0


def test_a_checkpoint_with_a_backbone_of_its_own_home_keeps_the_head(tmp_path):
    config = replace(SMALL, backbone="test_vit", patch_size=16, embed_dim=64, fine_dim=0)
    network = make(config, spoilt=0.3)
    save_checkpoint(network, tmp_path / "model.safetensors")
    names = load_file(tmp_path / "model.safetensors")
    assert not [name for name in names if name.startswith("backbone.")]
    assert {name for name in names if name.startswith("dense.")} == {f"dense.{k}" for k in network.dense.state_dict()}


def test_a_file_without_the_head_that_its_config_names_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(make(), path)
    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
    save_file({k: v for k, v in load_file(path).items() if not k.startswith("dense.")}, path, metadata)
    with pytest.raises(CheckpointError, match=r"missing .*dense\."):
        load_checkpoint(path)


def test_older_files_have_no_head_and_load_bit_for_bit():
    with safe_open(str(EMBEDDED), "pt") as file:
        values = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    values.pop("dense_levels", None)
    assert ModelConfig.from_dict(values).dense_levels == 0
    state = load_model("embedded")[0].state_dict()
    for name, value in tensors.items():
        assert torch.equal(state[name], value.float())


def test_the_package_s_head_leaves_the_descriptors_as_they_are() -> None:
    plain, dense = (load_model(name)[0] for name in ("embedded", "embedded-dense"))
    values = dense.state_dict()
    assert all(torch.equal(value, values[name]) for name, value in plain.state_dict().items())
    assert {name.split(".")[0] for name in set(values) - set(plain.state_dict())} == {"dense"}
    assert plain.config == replace(dense.config, dense_levels=0)


def test_the_package_s_head_finds_a_shift() -> None:
    network, _ = load_model("embedded-dense")
    scene = SyntheticEndoscope(SceneConfig(seed=10011, kind="tunnel", width=256, height=192)).render(0.0).image
    image = torch.from_numpy(scene).permute(2, 0, 1)[None].float() / 255
    shift = 8  # px, 2 cells
    with torch.no_grad():
        reference, current = network(image), network(image.roll(shift, 3))
        field = network.register(reference, current).field
    middle = field[0, :, 10:-10, 12:-12]
    assert middle[1].mean() == pytest.approx(2.0, abs=0.5)
    assert middle[0].abs().mean() < 0.5
