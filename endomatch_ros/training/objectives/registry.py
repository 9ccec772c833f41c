"""The objectives that a user can name: a new one is a file with a class, and its line here."""

from __future__ import annotations

from endomatch_ros.training.objectives.infonce import InfoNce
from endomatch_ros.training.objectives.interface import Objective
from endomatch_ros.training.objectives.registration import Registration
from endomatch_ros.training.objectives.triplet import Triplet

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (
        Triplet,
        InfoNce,
        Registration,
    )
}
"""Every objective by name."""
