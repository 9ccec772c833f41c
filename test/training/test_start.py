"""What a run starts from: notes of its file, and published backbones with and without a fine branch."""

import json

import pytest
import torch
from safetensors.torch import save_file
from support.backbones import lively_backbone

from endomatch_ros.models import PRESETS, save_checkpoint
from endomatch_ros.models.checkpoints import checkpoint_file, read_metadata
from endomatch_ros.training.config import TrainConfig
from endomatch_ros.training.start import starting_network, starting_notes


@pytest.fixture(scope="module", params=["dinov2-small", "dinov3-small"])
def published(request, tmp_path_factory):
    """Name of a preset, its backbone, the file of its weights."""
    backbone = lively_backbone(PRESETS[request.param])
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(backbone.vit.state_dict(), path)
    return request.param, backbone, path


def config_of(tmp_path, **changes):
    return TrainConfig(data=["x"], output=tmp_path, **changes)


def test_the_embedded_model_brings_its_notes(tmp_path):
    file = checkpoint_file("embedded")
    notes = starting_notes(config_of(tmp_path))
    assert notes == read_metadata(file)["notes"]
    assert json.loads(notes)
    assert starting_notes(config_of(tmp_path, init="random", unfreeze=True)) == ""


def test_a_file_of_backbone_weights_is_no_model_with_notes(tmp_path, published):
    name, _, weights = published
    assert starting_notes(config_of(tmp_path, preset=name, backbone_weights=weights)) == ""
    assert checkpoint_file(name) is None


@pytest.mark.parametrize("fine", ["keep", "add"])
def test_a_published_backbone_starts_with_its_weights_and_an_untrained_adapter(tmp_path, published, fine):
    name, backbone, weights = published
    network = starting_network(config_of(tmp_path, preset=name, backbone_weights=weights, fine=fine)).eval()
    assert (network.config.fine_dim > 0) is (fine == "add")
    patch = network.config.patch_size
    image = torch.rand(1, 3, 2 * patch, 3 * patch)
    with torch.inference_mode():
        out = network(image)
        tokens = backbone(network.normalise(image, torch.ones_like(image[:, :1]))).values
        expected = torch.nn.functional.normalize(tokens, dim=2).transpose(1, 2).unflatten(2, (2, 3))
        torch.testing.assert_close(out.coarse, expected, atol=1e-5, rtol=1e-5)
    assert out.finest.shape[-2:] == ((8, 12) if fine == "add" else (2, 3))
    path = tmp_path / "model.safetensors"
    save_checkpoint(network, path)
    again = starting_network(config_of(tmp_path, preset=str(path), backbone_weights=weights)).eval()
    with torch.inference_mode():
        assert torch.equal(again(image).finest, out.finest)
