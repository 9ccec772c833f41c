"""Everything that a training run depends on, with defaults that serve."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from endomatch_ros.errors import ConfigError
from endomatch_ros.training.module import OptimiserConfig
from endomatch_ros.training.novel_view.pairs import NovelViewConfig
from endomatch_ros.training.objectives.config import ObjectiveConfig
from endomatch_ros.training.pairs.crop import CropConfig
from endomatch_ros.training.pairs.photometric import PhotometricConfig
from endomatch_ros.training.pairs.prepare import RecordingConfig

# Seeds of the synthetic scenes. Test scenes are never rendered here.
TRAIN_SEEDS = range(1000, 10000)
VALIDATION_SEEDS = range(10000, 20000)
TEST_SEEDS = range(20000, 30000)


@dataclass(frozen=True)
class SyntheticConfig:
    """The source ``synthetic``: true pairs of frames of rendered scenes.

    Attributes:
        scenes: training scenes, rendered on first use (about 2 s per scene).
        validation_scenes: validation scenes, of other seeds.
    """

    scenes: int = 360
    validation_scenes: int = 10

    def __post_init__(self) -> None:
        for name, seeds in (("scenes", TRAIN_SEEDS), ("validation_scenes", VALIDATION_SEEDS)):
            if not 1 <= getattr(self, name) <= len(seeds):
                raise ConfigError(f"synthetic.{name} is {getattr(self, name)}: 1 to {len(seeds)} scenes exist")


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        data: recordings (a folder of pictures, a video, a rosbag2, SCARED, a structure-from-motion folder), or
            'synthetic'; several are drawn from equally often, one named twice twice as often.
        output: folder for model.safetensors, the resumable last.ckpt, config.yaml and the logs.
        preset: what training starts from: the name of a preset or a .safetensors file.
        backbone_weights: local file with the backbone's published weights.
        init: 'pretrained' starts from the preset's weights; 'random' from none (needs unfreeze).
        adapter: 'keep' goes on with the adapter of the weights; 'new' starts it anew as an untrained one.
        fine: 'keep' leaves the architecture; 'add' gives a model without fine branch a new one; 'drop' leaves tokens
            only.
        unfreeze: train the backbone, too; otherwise only the adapter and the fine branch move.
        max_steps: optimiser steps.
        batch_size: pairs per step in each process.
        accumulate: batches whose gradients are added up before a step.
        points: correspondences per pair.
        seed: of weights and data.
        workers: data-loading processes.
        precision: Lightning's: 'auto' is 16-mixed on CUDA and 32-true on a CPU; bf16-mixed, 32-true, ...
        device: auto, cpu or cuda; under torchrun each process takes its own.
        validate_every: steps between validations; each writes last.ckpt.
        validation_pairs: pairs of the validation.
        patience: validations without improvement after which training stops; 0 never stops early.
        calibrate: choose the model's similarity threshold on the validation pairs at the end.
        cache: folder for rendered scenes and prepared frames, shared by runs.
        objective: the loss.
        optimiser: step size and schedule.
        recording: how recordings are read.
        novel_view: motion and light of the novel views.
        crop: what of a frame the network sees.
        photometric: what happens to the colours.
        synthetic: the source 'synthetic'.
    """

    data: list[str]
    output: Path
    preset: str = "embedded"
    backbone_weights: Path | None = None
    init: Literal["pretrained", "random"] = "pretrained"
    adapter: Literal["keep", "new"] = "keep"
    fine: Literal["keep", "add", "drop"] = "keep"
    unfreeze: bool = False
    max_steps: int = 2000
    batch_size: int = 8
    accumulate: int = 1
    points: int = 512
    seed: int = 0
    workers: int = 1
    precision: str = "auto"
    device: str = "auto"
    validate_every: int = 250
    validation_pairs: int = 64
    patience: int = 10
    calibrate: bool = True
    cache: Path = Path(".cache")
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    recording: RecordingConfig = field(default_factory=RecordingConfig)
    novel_view: NovelViewConfig = field(default_factory=NovelViewConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    photometric: PhotometricConfig = field(default_factory=PhotometricConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("data is empty: name at least one recording, or 'synthetic'")
        least = {"workers": 0, "patience": 0, "points": 8}
        names = ("max_steps", "batch_size", "accumulate", "points", "validate_every", "validation_pairs")
        for name in (*names, "workers", "patience"):
            value, low = getattr(self, name), least.get(name, 1)
            if value < low:
                raise ConfigError(f"{name} is {value}: it must be at least {low}")
        if self.init == "random" and not self.unfreeze:
            raise ConfigError("init is 'random', but the backbone is frozen: it would stay random; add --unfreeze")
        if self.objective.make().keeps_descriptors and (self.unfreeze or self.adapter != "keep" or self.fine != "keep"):
            raise ConfigError(
                "the objective leaves the descriptors as they are (objective.dense.head_only): drop that, or unfreeze, "
                "adapter and fine"
            )


def to_plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as what YAML and JSON can hold."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: to_plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
