"""The command line of training."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from endomatch_ros.errors import ConfigError, EndomatchError
from endomatch_ros.fitting.command import run_training, with_kept

if TYPE_CHECKING:
    from endomatch_ros.training.config import TrainConfig

_SHORT = {
    "--learning_rate": "--optimiser.learning_rate",
    "--objective": "--objective.kind",
    "--head_only": "--objective.dense.head_only",
    **{f"--{name}": f"--recording.{name}" for name in ("depth", "depth_weights", "frames")},
    **{
        f"--{name}": f"--recording.source.{name}"
        for name in ("image_topic", "camera_info_topic", "partner_topic", "calibration", "mask", "rate", "stereo")
    },
}
_SWITCHES = ("--unfreeze", "--novel_view.relight", "--objective.dense.head_only")

_TEXT = """\
Train a matcher on recordings, without labels: novel views of single frames give the correspondences. Writes
DIR/model.safetensors, which the node's parameter `model` and Matcher.from_pretrained take.

  endomatch train --data recordings/bag_1 --output runs/mine
  endomatch train --data case1.mp4 case2.mp4 --preset dinov2-small --output runs/dinov2 --max-steps 5000
  endomatch train --output runs/mine --resume
  endomatch train --data case1.mp4 --depth photometric --frames 100:2000 --output runs/part
  endomatch train --data case1.mp4 --objective gvsl --head-only --output runs/with_head
  endomatch train --config my.yaml --optimiser.learning_rate 3e-4 --print_config
  torchrun --nproc-per-node 4 -m endomatch_ros.cli train --data recordings --output runs/four_gpus

Values come from the defaults, then from --config, then from the options. Dashes and underscores are the same. Short for
--recording.X: --depth, --depth-weights, --frames; for --recording.source.X: --image-topic, --camera-info-topic,
--partner-topic, --calibration, --mask, --rate, --stereo; for --optimiser.learning_rate: --learning-rate;
for --objective.kind: --objective; for --objective.dense.head_only: --head-only."""


def main(argv: Sequence[str] | None = None) -> int:
    """``endomatch train``; returns the exit status, errors are left to the caller."""
    config, resume = parse(list(sys.argv[1:] if argv is None else argv))
    from endomatch_ros.training.train import train

    return run_training("endomatch train", config.output, lambda: train(config, resume))


def executable() -> int:
    """``ros2 run endomatch_ros train_matcher``: the same, with errors in one line and ROS's own arguments left out."""
    arguments = sys.argv[1:]
    if "--ros-args" in arguments:
        arguments = arguments[: arguments.index("--ros-args")]
    try:
        return main(arguments)
    except EndomatchError as error:
        print(f"train_matcher: error: {error}", file=sys.stderr)
        return 2


def parse(arguments: Sequence[str]) -> tuple[TrainConfig, bool]:
    """The run that command-line arguments describe, and whether it is to be resumed.

    Raises:
        ConfigError: an unknown option, or a value of the wrong kind or out of range.
    """
    try:  # here, since they are slow to import and `endomatch --help` must not wait for them
        from jsonargparse import ArgumentError, ArgumentParser

        from endomatch_ros.models.config import PRESETS
        from endomatch_ros.training.config import TrainConfig
    except ImportError as error:
        raise ConfigError(f'training needs more packages ({error}): pip install "endomatch_ros[train]"') from error
    parser = ArgumentParser(
        prog="endomatch train",
        usage="endomatch train --data PATH [PATH ...] --output DIR [--preset NAME] [--max-steps N] [--resume] ...",
        description=f"{_TEXT}\n\nPresets: {', '.join(PRESETS)}.",
        formatter_class=_formatter(),
        exit_on_error=False,
        default_env=False,
    )
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML file with any of these values")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output; its values are kept")
    parser.add_class_arguments(TrainConfig, as_group=False)
    try:
        namespace = parser.parse_args(with_kept(normalised(arguments), _kept))
        resume = bool(namespace.pop("resume"))
        namespace.pop("config", None)
        values = parser.instantiate(namespace)
        return TrainConfig(**vars(values)), resume
    except ArgumentError as error:
        # Wrapped by jsonargparse where a value's own check has refused it.
        raise ConfigError(f"{' '.join(str(error).split())}; see endomatch train --help") from error


def normalised(arguments: Sequence[str]) -> list[str]:
    """Options as jsonargparse wants them: underscores, lists in brackets, ``=true`` behind a bare switch."""
    out: list[str] = []
    position = 0
    while position < len(arguments):
        word = arguments[position]
        position += 1
        if not word.startswith("--"):
            out.append(word)
            continue
        name, equals, value = word.partition("=")
        name = name.replace("-", "_").replace("__", "--", 1)
        name = _SHORT.get(name, name)
        if name == "--data" and not equals:
            values = []
            while position < len(arguments) and not arguments[position].startswith("--"):
                values.append(arguments[position])
                position += 1
            out.append(f"--data={json.dumps(values)}")
        elif name in _SWITCHES and not equals and not _is_truth(arguments[position : position + 1]):
            out.append(f"{name}=true")
        else:
            out.append(name + equals + value)
    return out


def _kept(output: Path) -> list[str]:
    """The values of the run in a folder."""
    file = output / "config.yaml"
    return ["--config", str(file)] if file.is_file() else []


def _is_truth(words: Sequence[str]) -> bool:
    return bool(words) and words[0].lower() in ("true", "false")


def _formatter() -> type[argparse.HelpFormatter]:
    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    return Formatter
