"""The synthetic endoscope as a source: ``synthetic``, ``synthetic:SEED`` or ``synthetic:SEED,KIND``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, cast

from endomatch_ros.data.frames import FrameSequence
from endomatch_ros.data.readers.interface import Fit, Reader, SourceOptions
from endomatch_ros.errors import ConfigError

_NAME = re.compile(r"synthetic(?::(?P<seed>\d+)(?:,(?P<kind>\w+))?)?")


def _accepts(name: str) -> Fit:
    return Fit.LAYOUT if name.startswith("synthetic") and not Path(name).exists() else Fit.NO


def _open(name: str, options: SourceOptions) -> list[FrameSequence]:
    from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope, SyntheticSequence  # needs PyTorch

    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f"{name!r} names no scene; write synthetic:SEED or synthetic:SEED,KIND")
    kind = cast(Literal["tunnel", "cavity"], match["kind"] or "tunnel")  # SceneConfig refuses others
    return [SyntheticSequence(SyntheticEndoscope(SceneConfig(seed=int(match["seed"] or 0), kind=kind)))]


READER = Reader("synthetic", "synthetic scenes", _accepts, _open, "synthetic[:SEED[,tunnel|cavity]]")
