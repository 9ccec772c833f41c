"""GVSL models on disk: safetensors with the configuration in the metadata, never a pickle."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from endomatch_ros.errors import CheckpointError, ConfigError
from endomatch_ros.gvsl.config import GvslConfig
from endomatch_ros.gvsl.model import GvslModel
from endomatch_ros.models.storage import write_safetensors

FORMAT = "endomatch-gvsl-1"


def save(model: GvslModel, path: Path, notes: dict[str, str] | None = None, half: bool = False) -> None:
    """Write ``model`` to ``path`` atomically.

    Args:
        model: the model.
        path: the ``.safetensors`` file; its folder is made if need be.
        notes: free metadata (recipe, data, seed), kept in the file.
        half: store float16.
    """
    tensors = {name: value.half() if half else value for name, value in model.state_dict().items()}
    metadata = {"format": FORMAT, "config": json.dumps(model.config.to_dict()), "notes": json.dumps(notes or {})}
    write_safetensors(path, tensors, metadata)


def load(path: Path) -> tuple[GvslModel, dict[str, str]]:
    """Model of a file, in float32 on the CPU, in eval mode, and the notes kept with it.

    Raises:
        CheckpointError: the file is missing, damaged, of another format, or its tensors do not fit its config.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no GVSL checkpoint {path}: give an existing .safetensors file")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no readable safetensors file ({error}): copy it again or retrain") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {metadata.get('format')!r}, not {FORMAT!r}: it was not made by `endomatch pretrain`"
        )
    bad = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise CheckpointError(f"{path} holds values that are not finite in {bad[:3]}: the training diverged")
    try:
        model = GvslModel(GvslConfig.from_dict(json.loads(metadata["config"])))
        model.load_state_dict(tensors)
        notes = {str(name): str(value) for name, value in json.loads(metadata.get("notes", "{}")).items()}
    except (KeyError, ValueError, RuntimeError, AttributeError, ConfigError) as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(
            f"{path} does not fit its own config ({first}): it is damaged or from another version"
        ) from error
    return model.eval(), notes
