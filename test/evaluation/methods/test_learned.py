"""Learned matchers, on the real architectures with weights made here; nothing here says how good real weights are."""

from __future__ import annotations

import builtins
import pickle
import shutil
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from endomatch_ros.errors import CheckpointError, ConfigError, ImageError
from endomatch_ros.evaluation.methods import kornia_networks
from endomatch_ros.evaluation.methods.learned import (
    LEARNED,
    RECIPES,
    LearnedMethod,
    Recipe,
    learned_method,
    network_size,
)

feature = pytest.importorskip("kornia.feature", reason='kornia is not installed: pip install "endomatch_ros[evaluate]"')


def lightglue(kind: str) -> dict[str, torch.Tensor]:
    """Weights under the published files' names that match equal descriptors: no layer changes a token."""
    settings = {k: v for k, v in feature.LightGlue.features[kind].items() if k != "weights"}
    state = feature.LightGlue(None, **settings).state_dict()
    del state["confidence_thresholds"]
    for name, value in state.items():
        if ".ffn.3." in name or ("matchability" in name and name.endswith("weight")):
            value.zero_()
        elif name.endswith("final_proj.weight"):
            value.copy_(40.0 * torch.eye(len(value)))
        elif name.endswith("final_proj.bias"):
            value.zero_()
        elif "matchability" in name:
            value.fill_(8.0)
        elif name.startswith("token_confidence"):
            value.fill_(-1.0 if name.endswith("bias") else 0.0)
    return {
        f"{parts[2]}.{parts[1]}.{parts[3]}" if (parts := name.split(".", 3))[0] == "transformers" else name: value
        for name, value in state.items()
    }


def centred(network: nn.Module, part: nn.Module, channels: int = 3) -> nn.Module:
    """The network with batch norms that fit an image: at random ones, all descriptors are alike."""
    image = torch.from_numpy(texture(192, 128)).permute(2, 0, 1)[None, :channels].float() / 255
    for module in part.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    part.train()(image)
    return network.eval()


def aliked() -> nn.Module:
    network = feature.ALIKED()
    network.forward = network.extract_dense_map
    network.desc_head.agg_weights -= 0.5
    return centred(network, network)


def loftr() -> nn.Module:
    network = feature.LoFTR(None)
    return centred(network, network.backbone, channels=1)


def xfeat() -> nn.Module:
    network = feature.XFeat().net
    network.keypoint_head[3].weight *= 10
    return centred(network, network)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with all files, wrapped and named as they are published."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    with torch.no_grad():
        dense = {"state_dict": {f"matcher.{name}": value for name, value in loftr().state_dict().items()}}
        sparse = {name: value for name, value in aliked().state_dict().items() if name != "dkd.hw_grid"}
        corners = xfeat().state_dict()
    contents = {
        "loftr_outdoor.ckpt": dense,
        "loftr_indoor_ds_new.ckpt": dense,
        "depth-save.pth": {"extractor": feature.DISK().state_dict()},
        "aliked-n16.pth": sparse,
        "xfeat.pt": corners,
        "disk_lightglue_v0-1_arxiv-pth": lightglue("disk"),
        "aliked_lightglue_v0-1_arxiv-pth": lightglue("aliked"),
        "xfeat-lighterglue.pt": {f"matcher.{name}": value for name, value in lightglue("xfeat").items()},
    }
    for name, content in contents.items():
        torch.save(content, folder / name)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network: an attempt to reach it fails the test."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a connection was opened")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def texture(width: int, height: int) -> np.ndarray:
    noise = np.random.default_rng(0).uniform(0, 255, (height, width, 3))
    return cv2.normalize(cv2.GaussianBlur(noise, None, 2.5), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


@pytest.mark.parametrize("name", LEARNED)
def test_an_image_matches_itself_inside_the_masks(name: str, weights: Path, cache: Path) -> None:
    """Equal images give equal descriptors, whatever the weights; LoFTR's fine stage may add up to 4 px."""
    image = texture(160, 128)
    ys, xs = np.mgrid[:128, :160]
    mask0, mask1 = (xs - 80) ** 2 + (ys - 64) ** 2 < 50**2, xs < 100
    method = learned_method(name, weights, "cpu")
    matches = method(image, image, mask0, mask1)
    assert len(matches) > 30
    for points, mask in ((matches.keypoints0, mask0), (matches.keypoints1, mask1)):
        columns, rows = points.round().astype(int).T
        assert mask[rows, columns].all()
    error = np.abs(matches.keypoints1 - matches.keypoints0).max(axis=1)
    if name.startswith("loftr"):
        assert error.max() <= 4.001
        np.testing.assert_allclose((matches.keypoints0 + 0.5) % 8, 0, atol=1e-4)
    else:
        columns, rows = matches.keypoints0.round().astype(int).T
        assert (error[mask1[rows, columns]] < 1e-4).mean() > 0.95
    assert matches.keypoints0.dtype == matches.keypoints1.dtype == matches.similarity.dtype == np.float32
    assert (matches.similarity >= 0).all()
    assert (matches.similarity <= 1).all()
    assert 0.1 < matches.coverage <= 1


@pytest.mark.parametrize("name", LEARNED)
def test_any_sizes_and_empty_images(name: str, weights: Path, cache: Path) -> None:
    method = learned_method(name, weights, "cpu")
    for first, second in ((texture(133, 67), texture(45, 91)), (texture(32, 32), texture(33, 110))):
        matches = method(first, second)
        assert matches.size0 == first.shape[1::-1]
        assert matches.size1 == second.shape[1::-1]
        assert np.isfinite(matches.keypoints1).all()
    black = np.zeros((97, 141, 3), np.uint8)
    assert len(method(black, black, np.zeros((97, 141), bool))) == 0
    assert np.isfinite(method(black, black).keypoints0).all()
    with pytest.raises(ImageError, match="mask of image1"):
        method(black, black, None, np.zeros((141, 97), bool))
    with pytest.raises(ImageError, match="uint8"):
        method(black.astype(float), black)


class Centroid(nn.Module):
    """Finds a bright spot: its position in the network's pixels, as a match with itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.size = (0, 0)

    def forward(self, image0: torch.Tensor, image1: torch.Tensor, view0: torch.Tensor, view1: torch.Tensor) -> object:
        for image, view in ((image0, view0), (image1, view1)):
            assert image.shape[:2] == (1, self.channels)
            assert image.shape[-2:] == view.shape
            assert float(image.max()) <= 1.0
        self.size = image0.shape[-1], image0.shape[-2]
        return self.spot(image0), self.spot(image1), torch.ones(1)

    @staticmethod
    def spot(image: torch.Tensor) -> torch.Tensor:
        light = image[0].double().mean(0)
        ys, xs = (torch.arange(n, dtype=torch.float64) for n in light.shape)
        return torch.stack([light.sum(0) @ xs, light.sum(1) @ ys])[None] / light.sum()


@pytest.mark.parametrize("size", [(1920, 1080), (1280, 1024), (640, 512), (333, 777)])
@pytest.mark.parametrize("name", ["loftr", "lightglue", "xfeat"])
def test_positions_are_source_pixels(name: str, size: tuple[int, int]) -> None:
    """Light spots at known places, found in what the network sees: closed form, no formula of the convention."""
    sizes = size, size[::-1]
    places = [np.array([0.31 * w + 0.4, 0.62 * h]) for w, h in sizes]
    images = []
    for (w, h), (x, y) in zip(sizes, places, strict=True):
        ys, xs = np.mgrid[:h, :w]
        light = np.rint(250 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 2 / 20**2)).astype(np.uint8)
        images.append(np.repeat(light[..., None], 3, 2))
    recipe = RECIPES[name]
    network = Centroid(1 if recipe.grey else 3)
    matches = LearnedMethod(network, recipe, "cpu", {})(*images)
    np.testing.assert_allclose(matches.keypoints0, places[:1], atol=0.1)
    np.testing.assert_allclose(matches.keypoints1, places[1:], atol=0.1)
    assert max(network.size) <= max(recipe.long_side, max(size)) + recipe.multiple / 2
    assert all(side % recipe.multiple == 0 for side in network.size)


def test_images_are_shrunk_to_multiples_and_never_enlarged() -> None:
    assert network_size(1920, 1080, 1024, 16) == (1024, 576)
    assert network_size(1080, 1920, 840, 8) == (472, 840)
    assert network_size(640, 512, 1024, 32) == (640, 512)
    assert network_size(32, 40, 1024, 32) == (32, 32)


class Listed(nn.Module):
    """Keypoints that are given, whose descriptors are their own numbers."""

    def __init__(self, points: list[list[float]], scores: list[float]) -> None:
        super().__init__()
        self.points, self.scores = torch.tensor(points).reshape(-1, 2), torch.tensor(scores)

    def forward(self, _: torch.Tensor) -> object:
        return self.points, self.scores, torch.eye(max(len(self.points), 1))[: len(self.points)]


def test_the_strongest_keypoints_are_chosen_inside_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kornia_networks, "MAX_KEYPOINTS", 2)
    points = [[10.0, 5.0], [50.0, 5.0], [60.0, 6.0], [70.0, 7.0]]
    network = kornia_networks.Sparse(Listed(points, [9.0, 1.0, 3.0, 2.0]), kornia_networks.MutualNeighbours(0.5))
    recipe = Recipe((), lambda: network, 1024, 32)
    method = LearnedMethod(network, recipe, "cpu", {})
    image, mask = np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96), bool)
    mask[:, 40:] = True
    assert method(image, image, mask, mask).keypoints0.tolist() == [[60.0, 6.0], [70.0, 7.0]]
    assert method(image, image).keypoints0.tolist() == [[10.0, 5.0], [60.0, 6.0]]
    for few in (0, 1):
        network.extractor = Listed(points[:few], [1.0] * few)
        assert len(method(image, image)) == 0


def test_neighbours_must_be_mutual_and_near() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    second = torch.tensor([[1.0, 0.0], [-0.9, 0.19**0.5]])  # the third of the first set has no mutual neighbour
    for least, expected in ((0.5, [[0, 0]]), (0.4, [[0, 0], [1, 1]])):
        index0, index1, cosine = kornia_networks.MutualNeighbours(least)(first, second, first, second, None)
        assert torch.stack([index0, index1], 1).tolist() == expected
        np.testing.assert_allclose(cosine, [1.0, 0.19**0.5][: len(expected)], rtol=1e-5)


@pytest.mark.parametrize(("name", "build"), [
    ("loftr", lambda: feature.LoFTR("outdoor")),
    ("loftr-indoor", lambda: feature.LoFTR("indoor_new")),
    ("lightglue", lambda: (feature.DISK.from_pretrained("depth"), feature.LightGlue("disk"))),
    ("lightglue-aliked", lambda: (feature.ALIKED.from_pretrained("aliked-n16"), feature.LightGlue("aliked"))),
    ("lighterglue", lambda: (feature.XFeat.from_pretrained(), feature.LightGlue("xfeat"))),
    ("xfeat", lambda: feature.XFeat.from_pretrained()),
])  # fmt: skip
def test_files_and_networks_are_kornias_own(
    name: str, build: object, weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kornia's loaders ask for the same files, and make networks of the same tensors from them."""
    asked = []

    def load(url: str | list[str], file_name: str | None = None, **_: object) -> dict[str, object]:
        first = url if isinstance(url, str) else url[0]
        asked.append((file_name or first.rpartition("/")[2], first))
        return torch.load(weights / asked[-1][0], weights_only=True)

    for module in ("aliked.aliked", "disk.disk", "lightglue", "loftr.loftr", "xfeat"):
        monkeypatch.setattr(f"kornia.feature.{module}.load_state_dict_from_url", load)
    built = build()
    assert asked == [(part.file, part.url) for part in RECIPES[name].parts]
    theirs = nn.ModuleList(built if isinstance(built, tuple) else [built]).state_dict()
    ours = learned_method(name, weights, "cpu")._network.state_dict()
    assert len(theirs) == len(ours)
    for (ours_name, a), (theirs_name, b) in zip(ours.items(), theirs.items(), strict=True):
        assert ours_name.rpartition(".")[2] == theirs_name.rpartition(".")[2]
        assert torch.equal(a, b)
    if name.startswith("loftr"):  # the two differ in a setting, not in tensors
        image = torch.from_numpy(texture(192, 128)[..., 0])[None, None].float() / 255
        with torch.no_grad():
            expected = built({"image0": image, "image1": image})
            points0, _, scores = learned_method(name, weights, "cpu")._network(image, image, image[0, 0], image[0, 0])
        assert torch.equal(points0 + 0.5, expected["keypoints0"])
        assert torch.equal(scores, expected["confidence"])


def test_weights_are_found_in_a_folder_beside_a_file_and_in_the_cache(
    weights: Path, cache: Path, tmp_path: Path
) -> None:
    matcher, keypoints = "xfeat-lighterglue.pt", "xfeat.pt"
    with pytest.raises(CheckpointError) as error:
        learned_method("lighterglue", None, "cpu")
    for told in (keypoints, str(cache), RECIPES["xfeat"].parts[0].url):
        assert told in str(error.value)
    shutil.copy(weights / keypoints, cache)
    with pytest.raises(CheckpointError, match=matcher):
        learned_method("lighterglue", None, "cpu")
    mine = tmp_path / "mine" / "trained.pth"
    mine.parent.mkdir()
    shutil.copy(weights / matcher, mine)
    about = learned_method("lighterglue", mine, "cpu").about  # keypoints' weights from the cache
    assert list(about["weights"]) == [keypoints, matcher]
    (cache / keypoints).unlink()
    with pytest.raises(CheckpointError, match=keypoints):
        learned_method("lighterglue", mine, "cpu")
    shutil.copy(weights / keypoints, mine.parent)  # beside the file
    assert learned_method("lighterglue", mine, "cpu").about == about
    mine.rename(mine.with_name(matcher))
    assert learned_method("lighterglue", mine.parent, "cpu").about == about
    shutil.copytree(mine.parent, cache, dirs_exist_ok=True)
    assert learned_method("lighterglue", None, "cpu").about == about
    torch.save(feature.XFeat().net.state_dict(), cache / keypoints)
    assert learned_method("lighterglue", None, "cpu").about != about


def test_files_may_have_their_sources_names(weights: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copy(weights / "disk_lightglue_v0-1_arxiv-pth", tmp_path / "disk_lightglue.pth")
    shutil.copy(weights / "depth-save.pth", tmp_path)
    expected = learned_method("lightglue", weights, "cpu").about
    assert learned_method("lightglue", tmp_path, "cpu").about == expected


def test_safetensors_serve_too(weights: Path, cache: Path, tmp_path: Path) -> None:
    state = torch.load(weights / "xfeat.pt", weights_only=True)
    save_file(state, tmp_path / "mine.safetensors")
    image = texture(96, 96)
    expected = learned_method("xfeat", weights / "xfeat.pt", "cpu")(image, image)
    found = learned_method("xfeat", tmp_path / "mine.safetensors", "cpu")(image, image)
    np.testing.assert_array_equal(found.keypoints1, expected.keypoints1)


class Harmful:
    """A pickle that would make a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


def test_weights_that_do_not_serve(weights: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file or folder.*absent\.pt"):
        learned_method("xfeat", tmp_path / "absent.pt", "cpu")
    harmful = tmp_path / "harmful.pt"
    harmful.write_bytes(pickle.dumps({"weight": Harmful(tmp_path / "harm")}, protocol=2))
    with pytest.raises(CheckpointError, match=r"harmful\.pt cannot be read"):
        learned_method("xfeat", harmful, "cpu")
    torch.save({"weight": Harmful(tmp_path / "harm")}, harmful)
    with pytest.raises(CheckpointError, match=r"harmful\.pt cannot be read"):
        learned_method("xfeat", harmful, "cpu")
    assert not (tmp_path / "harm").exists()
    for other in ("loftr_outdoor.ckpt", "depth-save.pth"):
        with pytest.raises(CheckpointError, match=f"{other} are not those of .*xfeat"):
            learned_method("xfeat", weights / other, "cpu")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match=r"list\.pt are not those"):
        learned_method("loftr", tmp_path / "list.pt", "cpu")
    state = torch.load(weights / "xfeat.pt", weights_only=True)
    state["heatmap_head.2.weight"] = torch.zeros(2, 64, 1, 1)
    torch.save(state, tmp_path / "shape.pt")
    with pytest.raises(CheckpointError, match=r"shape\.pt are not those of .*heatmap_head\.2\.weight"):
        learned_method("xfeat", tmp_path / "shape.pt", "cpu")


def test_names_devices_and_a_missing_kornia(weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'superglue'.*loftr"):
        learned_method("superglue", weights, "cpu")
    with pytest.raises(ConfigError, match="tpu"):
        learned_method("xfeat", weights, "tpu")
    import_module = builtins.__import__

    def without_kornia(name: str, *args: object, **kwargs: object) -> object:
        if name.partition(".")[0] == "kornia":
            raise ImportError("No module named 'kornia'")
        return import_module(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_kornia)
    with pytest.raises(ConfigError, match=r"'xfeat' needs kornia 0\.9.*endomatch_ros\[evaluate\]"):
        learned_method("xfeat", weights, "cpu")
