"""Which figure of the validation a run goes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Monitor:
    """The figure that chooses the best weights and stops a run early.

    Attributes:
        figure: its name among what validation logs.
        mode: which end of it is better.
    """

    figure: str
    mode: Literal["min", "max"]
