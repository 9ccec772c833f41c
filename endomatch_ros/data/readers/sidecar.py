"""The JSON file that the dVRK's recorder writes beside each video: when each frame was taken, how stereo lies in it.

Read are ``dvrk_data:video_sidecar@1.0.0`` (github.com/jhu-dvrk/dvrk_data, share/schemas/video_sidecar.schema.json,
written by src/record/video_stream.cpp) and its predecessor ``dc::sidecar@1.0.0`` (github.com/jhu-dvrk/data_collection,
share/schemas/sidecar.schema.json). Neither holds a calibration.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import DataError

TYPES = ("dvrk_data:video_sidecar@1.0.0", "dc::sidecar@1.0.0")
Stereo = Literal["none", "left-right", "right-left", "top-bottom"]
_LAYOUTS: dict[str, Stereo] = {"undefined": "none", "LR": "left-right", "RL": "right-left"}


@dataclass(frozen=True, eq=False)
class Sidecar:
    """What the recorder tells of a video.

    Attributes:
        stamps: ``(N,)`` seconds since 1970, one per frame.
        stereo: how the two images lie in a frame.
    """

    stamps: NDArray[np.float64]
    stereo: Stereo


def read_sidecar(video: Path) -> Sidecar | None:
    """The sidecar of a video file: same folder, same name, ``.json``; None where there is none.

    Stamps are chosen as the recorder's own tools do: when the source took the frame (the mean of both eyes), else when
    it reached the recorder. The estimated latency that the file also tells is not subtracted.

    Raises:
        DataError: the file is damaged or of another kind.
    """
    path = video.with_suffix(".json")
    if not path.is_file():
        return None
    remedy = f"mend or rename it; without it, the stamps of {video.name} come from the video itself"
    try:
        content = json.loads(path.read_bytes())
        kind = content.get("type", TYPES[1])  # the predecessor's schema makes it optional
        if kind not in TYPES:
            raise ValueError(f"its type is {kind!r}, not {' or '.join(TYPES)}")
        stamps = [_nanoseconds(frame) for frame in content["frames"]]
        layout = content.get("side_by_side", "undefined")
        if layout not in _LAYOUTS:
            raise ValueError(f"side_by_side is {layout!r}, not one of {', '.join(_LAYOUTS)}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no sidecar of the dVRK's recorder that can be read: {error!r}; {remedy}") from error
    return Sidecar(np.array(stamps, np.float64) * 1e-9, _LAYOUTS[layout])


def _nanoseconds(frame: dict[str, Any]) -> int:
    """When a frame was taken, on the clock that counts from 1970."""
    if "cpu_ts" in frame:
        return _integer(frame["cpu_ts"])
    clock = frame["cpu"]["realtime"]
    mono, left, right = (clock.get(f"{source}_source_ns") for source in ("mono", "left", "right"))
    if mono is not None:
        return _integer(mono)
    eyes = [_integer(eye) for eye in (left, right) if eye is not None]
    return sum(eyes) // len(eyes) if eyes else _integer(clock["recorder_reception_ns"])


def _integer(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"a time is {value!r}, not a number of nanoseconds")
    return value
