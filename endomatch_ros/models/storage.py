"""How weights are written: whole, atomically, readable for others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors to ``path``; a reader sees the old file or the new one, never half of one.

    Args:
        path: the ``.safetensors`` file; its folder is made if need be.
        tensors: by name, on any device.
        metadata: text by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, str(part), dict(metadata))
    # safetensors makes its files private; a model is for the robot's user too.
    umask = os.umask(0)
    os.umask(umask)
    part.chmod(0o666 & ~umask)
    os.replace(part, path)
