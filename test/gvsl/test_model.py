"""The backbone, the whole model and its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from endomatch_ros.errors import CheckpointError, ConfigError, ImageError
from endomatch_ros.geometry import fields
from endomatch_ros.gvsl import checkpoint
from endomatch_ros.gvsl import model as model_module
from endomatch_ros.gvsl.config import PRESETS, GvslConfig, preset_config
from endomatch_ros.gvsl.model import GvslModel
from endomatch_ros.gvsl.networks import UNet
from endomatch_ros.models import storage

SMALL = {
    2: GvslConfig(spatial_dims=2, channels=(8, 16, 16), integration_steps=0),
    3: GvslConfig(spatial_dims=3, channels=(4, 8, 16), integration_steps=2),
}
SPATIAL = {2: (21, 30), 3: (10, 13, 9)}


def images(dims: int, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 1, *SPATIAL[dims])
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


def make_model(dims: int, trained: bool = False) -> GvslModel:
    torch.manual_seed(0)
    model = GvslModel(SMALL[dims])
    if trained:
        assert model.head.global_stage is not None
        assert model.head.local_stage is not None
        for layer in (model.head.global_stage.last, *(level[-1] for level in model.head.local_stage.levels)):
            for parameter in layer.parameters():
                nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize("spatial", [(16, 16), (17, 31), (3, 5), (1, 1), (8, 12, 5), (7, 9, 4)])
def test_any_size_goes_through_the_unet(spatial: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    unet = UNet(len(spatial), 1, (4, 8, 16))
    coarse, fine = unet(torch.rand(2, 1, *spatial))
    assert fine.shape == (2, 4, *spatial)
    assert coarse.shape == (2, 16, *[-(-size // 4) for size in spatial])


def test_padding_keeps_the_image_where_it_was() -> None:
    """An image that is padded by hand, as replication pads it, gives the same features."""
    torch.manual_seed(0)
    unet = UNet(2, 1, (8, 16, 16)).eval()
    image = torch.rand(1, 1, 13, 18)
    padded = nn.functional.pad(image, (1, 1, 1, 2), mode="replicate")
    torch.testing.assert_close(unet(image)[1], unet(padded)[1][..., 1:14, 1:19])


def test_the_paper_network_has_its_levels_and_norms() -> None:
    with torch.device("meta"):
        model = GvslModel(PRESETS["volume-paper"])
    norms = {m.num_channels: m.num_groups for m in model.backbone.modules() if isinstance(m, nn.GroupNorm)}
    assert norms == {32: 4, 64: 8, 128: 16, 256: 32, 512: 64}
    slopes = {m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.2}
    assert not [m for m in model.modules() if isinstance(m, nn.ConvTranspose3d)]


@pytest.mark.parametrize("dims", [2, 3])
def test_an_untrained_model_returns_the_moving_image_bit_for_bit(dims: int) -> None:
    moving, fixed = images(dims)
    output = make_model(dims)(moving, fixed)
    assert torch.equal(output.warped, moving)
    assert output.restored.shape == moving.shape
    assert not output.field.any()


@pytest.mark.parametrize("dims", [2, 3])
def test_a_batch_gives_what_each_pair_gives_alone(dims: int) -> None:
    model, (moving, fixed) = make_model(dims, trained=True), images(dims, batch=3)
    together = model(moving, fixed)
    assert together.field[0].sub(together.field[1]).abs().max() > 0.01
    for i in range(3):
        alone = model(moving[i : i + 1], fixed[i : i + 1])
        for name in ("field", "warped", "restored"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(together, name)[i], atol=1e-4, rtol=1e-4)


def test_the_image_is_sampled_once_with_the_fused_field(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def counted(image: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
        calls.append((image, field))
        return fields.warp(image, field)

    monkeypatch.setattr(model_module, "warp", counted)
    damaged, fixed = images(2)
    clean = images(2, seed=7)[0]
    output = make_model(2, trained=True)(damaged, fixed, clean)
    assert len(calls) == 1
    assert calls[0][0] is clean
    assert calls[0][1] is output.field
    twice = fields.warp(fields.warp(clean, output.affine), output.displacement)
    inside = (..., slice(4, -4), slice(4, -4))
    # Interpolating twice blurs the noise.
    assert output.warped[inside].var() > 1.1 * twice[inside].var()


def test_the_clean_image_does_not_change_the_field() -> None:
    model, (damaged, fixed) = make_model(2, trained=True), images(2)
    with_clean = model(damaged, fixed, images(2, seed=7)[0])
    assert torch.equal(with_clean.field, model(damaged, fixed).field)


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_reach_the_whole_model(dims: int) -> None:
    model, (moving, fixed) = make_model(dims, trained=True).train(), images(dims)
    output = model(moving, fixed)
    (((output.warped - fixed) ** 2).mean() + ((output.restored - moving) ** 2).mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_images_that_do_not_fit_are_refused() -> None:
    model = make_model(2)
    with pytest.raises(ImageError, match="shapes must be equal"):
        model(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 17))
    with pytest.raises(ImageError, match="spatial dimensions"):
        model(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_json(name: str) -> None:
    config = preset_config(name, pool=3)
    assert config.pool == 3
    assert GvslConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "wrong",
    [{"spatial_dims": 4}, {"channels": (8,)}, {"channels": (8, 20)}, {"pool": 0}, {"integration_steps": 2.5}, {"x": 1}],
)
def test_wrong_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        preset_config("volume-small", **wrong)
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        GvslConfig.from_dict(wrong)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="volume-small"):
        preset_config("huge")


@pytest.mark.parametrize("half", [False, True])
def test_a_checkpoint_brings_the_model_back(tmp_path: Path, half: bool) -> None:
    model, path = make_model(3, trained=True), tmp_path / "new" / "model.safetensors"
    checkpoint.save(model, path, {"seed": "3"}, half=half)
    loaded, notes = checkpoint.load(path)
    assert loaded.config == model.config
    assert notes == {"seed": "3"}
    assert not loaded.training
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]
    pair = images(3)
    tolerance = {"atol": 0.05, "rtol": 0.05} if half else {"atol": 0.0, "rtol": 0.0}
    torch.testing.assert_close(loaded(*pair).field, model(*pair).field, **tolerance)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(make_model(2), path)
    before = path.read_bytes()

    def broken(tensors: object, name: str, metadata: object) -> None:
        Path(name).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(storage, "save_file", broken)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(make_model(2), path)
    assert path.read_bytes() == before


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="there is no"):
        checkpoint.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="copy it again"):
        checkpoint.load(path)
    save_file({"x": torch.zeros(1)}, str(path), metadata={"format": "endomatch-1"})
    with pytest.raises(CheckpointError, match="endomatch pretrain"):
        checkpoint.load(path)


@pytest.mark.parametrize("config", ["{}", "{", "[]", '{"channels": 3}', '{"limits": {"rotation": 9}}'])
def test_a_checkpoint_that_contradicts_its_config_is_refused(tmp_path: Path, config: str) -> None:
    path = tmp_path / "model.safetensors"
    metadata = {"format": checkpoint.FORMAT, "config": config}
    save_file(make_model(2).state_dict(), str(path), metadata=metadata)
    with pytest.raises(CheckpointError, match="does not fit its own config"):
        checkpoint.load(path)


def test_a_diverged_checkpoint_is_refused(tmp_path: Path) -> None:
    model, path = make_model(2), tmp_path / "model.safetensors"
    with torch.no_grad():
        model.restoration.conv.weight[0, 0] = torch.nan
    checkpoint.save(model, path)
    with pytest.raises(CheckpointError, match="diverged"):
        checkpoint.load(path)


@pytest.mark.parametrize("spatial", [(20, 26), (13, 18), (12, 15, 17)])
def test_a_field_of_the_small_grid_is_the_same_map_on_the_images(spatial: tuple[int, ...]) -> None:
    """Shrinking takes x to (x + ½) / s − ½; a linear map of the image, found there, must come back as itself."""
    factor, dims = 2, len(spatial)
    small = [-(-size // factor) for size in spatial]
    generator = torch.Generator().manual_seed(0)
    slope = 0.1 * torch.randn(dims, dims, generator=generator)
    shift = torch.randn(dims, generator=generator)

    def linear(sizes: list[int], scale: float) -> torch.Tensor:
        axes = [(torch.arange(size) + 0.5) * scale - 0.5 for size in sizes]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        moved = torch.einsum("ij,j...->i...", slope, grid) + shift.view(-1, *[1] * dims)
        return moved[None] / scale

    found = model_module.enlarged_field(linear(small, factor), factor, spatial)
    inside = (slice(None), slice(None), *[slice(1, size - 2) for size in spatial])  # the border cannot be interpolated
    torch.testing.assert_close(found[inside], linear(list(spatial), 1.0)[inside], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_shrunk_model_keeps_the_images_size_and_starts_as_the_identity(dims: int) -> None:
    model = GvslModel(GvslConfig(spatial_dims=dims, channels=(4, 8), shrink=2, pool=2))
    image, other = torch.rand(2, 1, *(17, 20, 13)[:dims]), torch.rand(2, 1, *(17, 20, 13)[:dims])
    output = model(image, other)
    assert torch.equal(output.warped, image)
    assert output.restored.shape == image.shape
    assert output.field.shape == (2, dims, *image.shape[2:])
