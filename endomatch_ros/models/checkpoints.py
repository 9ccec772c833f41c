"""Weights on disk: safetensors with the configuration in the metadata, never a pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from endomatch_ros.errors import CheckpointError
from endomatch_ros.models.backbones.registry import build_backbone
from endomatch_ros.models.config import PRESETS, ModelConfig, preset_config
from endomatch_ros.models.info import ModelInfo
from endomatch_ros.models.network import MatcherNetwork
from endomatch_ros.models.storage import write_safetensors

FORMAT = "endomatch-1"
_WEIGHTS = Path(__file__).parent / "weights"


def save_checkpoint(
    network: MatcherNetwork,
    path: Path,
    notes: dict[str, str] | None = None,
    half: bool = False,
    include_backbone: bool = False,
) -> None:
    """Write ``network`` to ``path`` atomically.

    Φ is left out where its weights are published, unless asked for: they have a home of their own, and Ψ is all that
    training moves.

    Args:
        network: the model.
        path: the ``.safetensors`` file.
        notes: free metadata (recipe, data, seed), kept in the file.
        half: store float16.
        include_backbone: store Φ in any case: it was trained, too.
    """
    keep_all = include_backbone or not network.backbone.published
    tensors = {
        name: value.half() if half and value.is_floating_point() else value
        for name, value in network.state_dict().items()
        if keep_all or not name.startswith("backbone.")
    }
    metadata = {
        "format": FORMAT,
        "config": json.dumps(network.config.to_dict()),
        "backbone_included": json.dumps(keep_all),
        "notes": json.dumps(notes or {}),
    }
    write_safetensors(path, tensors, metadata)


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a checkpoint file; raises :class:`CheckpointError` if it is not one."""
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}: give an existing .safetensors file or one of {', '.join(PRESETS)}"
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}): copy it again or retrain"
        ) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {metadata.get('format')!r}, not {FORMAT!r}: it was not made by `endomatch train`"
        )
    return metadata


def load_checkpoint(path: Path, backbone_weights: Path | None = None) -> MatcherNetwork:
    """Network of a checkpoint file, in float32 on the CPU, in eval mode.

    Raises:
        CheckpointError: the file is missing, damaged, of another format, or its tensors do not fit its config.
    """
    metadata = read_metadata(path)
    try:
        config = ModelConfig.from_dict(json.loads(metadata["config"]))
        included = bool(json.loads(metadata["backbone_included"]))
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (KeyError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): copy it again or retrain") from error
    network = MatcherNetwork(config, build_backbone(config, pretrained=not included, weights=backbone_weights))
    missing, unexpected = _load_state(network, tensors, path)
    missing = [name for name in missing if included or not name.startswith("backbone.")]
    if missing or unexpected:
        raise CheckpointError(
            f"{path} does not fit its own config: {len(missing)} tensors missing ({missing[:3]}), "
            f"{len(unexpected)} unknown ({unexpected[:3]}); it is damaged or from another version"
        )
    bad = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise CheckpointError(
            f"{path} holds values that are not finite in {bad[:3]}: the training diverged, use an earlier one"
        )
    return network.eval()


def _load_state(network: MatcherNetwork, tensors: dict[str, torch.Tensor], path: Path) -> tuple[list[str], list[str]]:
    try:
        result = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(
            f"{path} does not fit its own config ({first}): it is damaged or from another version"
        ) from error
    return list(result.missing_keys), list(result.unexpected_keys)


def checkpoint_file(model: str | Path) -> Path | None:
    """The file of a preset in the package, or the path that ``model`` is; ``None`` for presets without a file here."""
    name = str(model)
    shipped, path = _WEIGHTS / f"{name}.safetensors", Path(name).expanduser()
    if name in PRESETS and shipped.is_file():
        return shipped
    return path if name.endswith(".safetensors") or path.is_file() else None


def load_model(model: str | Path, backbone_weights: str | Path | None = None) -> tuple[MatcherNetwork, ModelInfo]:
    """Network and description of a preset or a checkpoint file.

    Args:
        model: one of :data:`~endomatch_ros.models.config.PRESETS`, or the path of a checkpoint.
        backbone_weights: file with the backbone's published weights, for presets and checkpoints that do not hold them.

    Raises:
        ConfigError: the preset is unknown.
        CheckpointError: weights are missing or do not fit.
    """
    weights = Path(backbone_weights).expanduser() if backbone_weights else None
    if weights is not None and not weights.is_file():
        raise CheckpointError(f"backbone_weights: there is no file {weights}")
    name, path = str(model), checkpoint_file(model)
    if path is not None:
        network = load_checkpoint(path, weights)
        source, digest = str(path), hashlib.sha256(path.read_bytes()).hexdigest()
    else:
        config = preset_config(name)
        network = MatcherNetwork(config, build_backbone(config, pretrained=True, weights=weights)).eval()
        source, digest = str(weights) if weights else f"timm {config.backbone}", state_digest(network)
    parameters = sum(p.numel() for p in network.parameters())
    return network, ModelInfo(name, source, digest, parameters, "cpu")


def state_digest(network: MatcherNetwork) -> str:
    """SHA-256 over all weights, for a model that is not one file."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
