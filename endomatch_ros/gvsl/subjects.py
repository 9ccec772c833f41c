"""Data sets of volumes: a folder with ``images/`` and, if wanted, ``labels/``, and which subjects serve for what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from endomatch_ros.errors import ConfigError, DataError

SUFFIXES = (".nii.gz", ".nii")
PARTS = ("train", "validation", "test")
_SPLITS = Path(__file__).parent / "splits"


@dataclass(frozen=True)
class Subject:
    """A volume and its label map.

    Attributes:
        name: the file's name without its suffix, the same for image and labels.
        image: the volume.
        labels: the label map, None where there is none.
    """

    name: str
    image: Path
    labels: Path | None = None


def find_subjects(folder: Path, need_labels: bool = False) -> list[Subject]:
    """Subjects of a data set, sorted by name.

    Args:
        folder: holds ``images/`` (.nii, .nii.gz) and, under the same names, ``labels/``. Volumes may also lie in the
            folder itself, then without labels. Hidden files do not count.
        need_labels: every subject must have a label map.

    Raises:
        DataError: no such folder, no volume in it, one name twice, or a label map that is missing but needed.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: give one that holds images/ with .nii or .nii.gz volumes")
    nested = (folder / "images").is_dir()
    images = _volumes(folder / "images" if nested else folder)
    if not images:
        where = folder / "images" if nested else folder
        raise DataError(f"{where} holds no .nii or .nii.gz volume: give a folder with images/ (and labels/)")
    labels = _volumes(folder / "labels") if nested and (folder / "labels").is_dir() else {}
    subjects = [Subject(name, images[name], labels.get(name)) for name in sorted(images)]
    missing = [subject.name for subject in subjects if subject.labels is None]
    if need_labels and missing:
        raise DataError(
            f"{folder / 'labels'} has no label map for {len(missing)} of {len(subjects)} volumes "
            f"({', '.join(missing[:3])}): labels need the names of their images"
        )
    return subjects


def _volumes(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
        if suffix is None or path.name.startswith(".") or not path.is_file():
            continue
        name = path.name[: -len(suffix)]
        if name in found:
            raise DataError(f"{folder} holds {name} twice ({found[name].name}, {path.name}): remove one")
        found[name] = path
    return found


def neighbour_pairs(subjects: Sequence[Subject]) -> list[tuple[Subject, Subject]]:
    """All ordered neighbour pairs (moving, fixed): (s₀, s₁), (s₁, s₀), (s₁, s₂), … of subjects sorted by name.

    Raises:
        DataError: fewer than two subjects.
    """
    if len(subjects) < 2:
        raise DataError(f"{len(subjects)} subject: registration needs pairs, so at least two volumes")
    ordered = sorted(subjects, key=lambda subject: subject.name)
    steps = pairwise(ordered)
    return [pair for first, second in steps for pair in ((first, second), (second, first))]


def read_split(name: str) -> dict[str, frozenset[str]]:
    """Names of the subjects of each part (train, validation, test).

    Args:
        name: a split of the package (``hippocampus``) or the path of such a JSON file.

    Raises:
        ConfigError: there is no such split.
        DataError: the file is damaged, or a subject is in two parts.
    """
    path = _SPLITS / f"{name}.json"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in _SPLITS.glob("*.json")))
        raise ConfigError(f"there is no split {name!r}: use one of {known}, or the path of a JSON file like them")
    return _read_split(path)


@cache
def _read_split(path: Path) -> dict[str, frozenset[str]]:
    try:
        parts = json.loads(path.read_text())["parts"]
        split = {part: frozenset(map(str, parts[part])) for part in PARTS}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{path} is no split ({error!r}): it needs "parts" with {", ".join(PARTS)}') from error
    if sum(map(len, split.values())) != len(frozenset.union(*split.values())):
        raise DataError(f"{path}: a subject is in two parts; every subject may be in one only")
    return split


def known_split(subjects: Sequence[Subject]) -> str | None:
    """The package's split that knows all of ``subjects``, if there is one."""
    names = {subject.name for subject in subjects}
    for path in sorted(_SPLITS.glob("*.json")):
        if names and names <= frozenset.union(*_read_split(path).values()):
            return path.stem
    return None


def divide(subjects: Sequence[Subject], split: str = "auto") -> dict[str, list[Subject]]:
    """Subjects by part.

    Args:
        subjects: of a data set, sorted.
        split: a split's name or file; ``auto``: the package's split if it knows all subjects, otherwise every tenth
            one, beginning with the fifth, for validation and none for testing; ``none``: all for training.

    Raises:
        ConfigError: there is no such split.
        DataError: the split does not know any of the subjects.
    """
    if split == "auto":
        split = known_split(subjects) or ""
        if not split:
            held = list(subjects[4::10])
            return {"train": [s for s in subjects if s not in held], "validation": held, "test": []}
    if split == "none":
        return {"train": list(subjects), "validation": [], "test": []}
    parts = read_split(split)
    divided = {part: [subject for subject in subjects if subject.name in names] for part, names in parts.items()}
    if not any(divided.values()):
        raise DataError(
            f"split {split!r} knows none of the {len(subjects)} subjects ({subjects[0].name}, ...): name another one"
        )
    return divided
