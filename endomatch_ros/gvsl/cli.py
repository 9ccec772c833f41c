"""The command line of ``endomatch pretrain``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from endomatch_ros.errors import ConfigError
from endomatch_ros.fitting.command import is_first_process, run_training, say, with_kept
from endomatch_ros.gvsl.pretraining.damage import DamageConfig
from endomatch_ros.gvsl.transfer import cli as transfer_cli

_EPILOG = """\
examples:
  endomatch pretrain volume --data hippocampus --output runs/hippocampus
  endomatch pretrain volume --data ct --spacing 2 --size 160 160 160 --preset volume-paper --output runs/ct
  endomatch pretrain volume --output runs/ct --resume
  torchrun --nproc-per-node 4 -m endomatch_ros.cli pretrain volume --data ct --output runs/four_gpus
  endomatch pretrain frames --data case_1.mp4 case_2.mp4 --output runs/frames
  endomatch pretrain evaluate --data hippocampus --checkpoint hippocampus --split test --json result.json
  endomatch pretrain transfer --data hippocampus --checkpoint scratch=none full=hippocampus --shots 2 5 10

`endomatch pretrain KIND --help` tells more."""
_ARGUMENTS = "arguments.json"
_REFINE_STEPS = 5  # registration.REFINE_STEPS, which MONAI's import comes with
_DAMAGE = ("curve", "inversion", "shuffling", "painting")
_VOLUME = """\
Learn from unlabelled CT or MR volumes (NIfTI): register random pairs of subjects and mend damaged images. Label maps,
where there are any, serve for figures that are printed, and for nothing else unless --choose dice asks for it.

DIR holds images/ (or volumes itself) and, if wanted, labels/ with the same names. Writes model.safetensors, which
`endomatch register --checkpoint` takes."""
_FRAMES = """\
Learn from an endoscope's frames: register frames of the same recording that lie close in time, and mend damaged ones.
Frames' own masks, or --mask, keep what is out of the view out of the losses. The last tenth of each recording is for
validation."""
_EVALUATE = """\
Register all ordered neighbour pairs of the sorted subjects and measure the overlap of their label maps. DIR holds
images/ and labels/. The JSON file holds dice, dice_identity (no registration but centre on centre), folding_percent,
seconds_per_pair, their spread, and Dice by label."""


def main(argv: Sequence[str] | None = None) -> int:
    """``endomatch pretrain``; errors are left to the caller."""
    args = parse(list(sys.argv[1:] if argv is None else argv))
    try:
        import endomatch_ros.gvsl.pretraining.pretrain  # noqa: F401 - what is missing is missing here
    except ImportError as error:
        raise ConfigError(f'pre-training needs more packages ({error}): pip install "endomatch_ros[gvsl]"') from error
    runs = {"volume": _run_volume, "frames": _run_frames, "evaluate": _run_evaluate, "transfer": transfer_cli.run}
    return runs[args.kind](args)


def parse(argv: list[str]) -> argparse.Namespace:
    """Values of the command line; in a resumed run, behind those that the run was started with.

    Raises:
        ConfigError: no data, or a run of another kind.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if args.kind in ("evaluate", "transfer"):
        return args
    args = parser.parse_args([args.kind, *with_kept(argv[1:], partial(_kept, args.kind))])
    if args.data is None:
        raise ConfigError("--data is missing: name what to train on")
    args.argv = argv
    return args


def _kept(kind: str, output: Path) -> list[str]:
    """The options that the run in a folder was begun with; raises :class:`ConfigError` if it is of another kind."""
    file = output / _ARGUMENTS
    if not file.is_file():
        return []
    begun, *options = json.loads(file.read_text())
    if begun != kind:
        raise ConfigError(f"{output} holds a run of `pretrain {begun}`: resume it with that")
    return options


def _run_volume(args: argparse.Namespace) -> int:
    from endomatch_ros.gvsl import subjects
    from endomatch_ros.gvsl.pretraining import data
    from endomatch_ros.gvsl.registration import VOLUMES_NOTE
    from endomatch_ros.gvsl.volumes import VolumeConfig

    volumes = VolumeConfig(args.spacing, tuple(args.size), *args.percentiles)
    parts = subjects.divide(subjects.find_subjects(args.data), args.split)
    train, held = parts["train"], parts["validation"]
    say(f"{args.data}: {len(train)} volumes for training, {len(held)} for validation, {len(parts['test'])} kept back")
    draw = data.VolumeDraw(train, volumes)
    validation = data.VolumeValidation(held, volumes) if len(held) > 1 else None
    notes = {
        VOLUMES_NOTE: json.dumps(volumes.to_dict()),
        "data": args.data.name,
        "subjects": " ".join(subject.name for subject in train),
    }
    return _train(args, 3, 1, draw, validation, notes)


def _run_frames(args: argparse.Namespace) -> int:
    from endomatch_ros.data.sources import SubSequence, open_sources, source_options
    from endomatch_ros.gvsl.pretraining import data

    config = data.FrameConfig(tuple(args.size), args.gap)
    sequences = [s for name in args.data for s in open_sources(name, source_options(args), args.frames)]
    long = [s for s in sequences if len(s) >= 20]  # a tenth of fewer gives no pair
    held = [SubSequence(s, -(len(s) // 10)) for s in long]
    train = [SubSequence(s, 0, -(len(s) // 10)) if s in long else s for s in sequences]
    say(f"{sum(map(len, train))} frames for training, {sum(map(len, held))} for validation")
    draw = data.FrameDraw(train, config)
    validation = data.FrameValidation(data.FrameDraw(held, config), 20) if held else None
    names = " ".join(Path(name).name for name in args.data)
    return _train(args, 2, 3, draw, validation, {"frames": json.dumps({"size": args.size}), "data": names})


def _train(
    args: argparse.Namespace, dims: int, channels: int, draw: Any, validation: Any, notes: dict[str, str]
) -> int:
    from endomatch_ros.gvsl.config import preset_config
    from endomatch_ros.gvsl.losses import LossConfig
    from endomatch_ros.gvsl.pretraining.data import DamagedPairs
    from endomatch_ros.gvsl.pretraining.module import OptimiserConfig
    from endomatch_ros.gvsl.pretraining.pretrain import PretrainConfig, pretrain

    changes: dict[str, Any] = {"spatial_dims": dims, "in_channels": channels, "affine": args.affine}
    changes["deformable"] = args.deformable
    given = {name: getattr(args, name) for name in ("integration_steps", "shrink", "levels")}
    given["channels"] = args.channels and tuple(args.channels)
    changes |= {name: value for name, value in given.items() if value is not None}
    loss = {name: getattr(args, name) for name in ("similarity", "smoothness", "restoration", "window")}
    names = ("output", "steps", "batch_size", "seed", "workers", "precision", "device", "validate_every", "choose")
    config = PretrainConfig(
        **{name: getattr(args, name) for name in names},
        model=preset_config(args.preset, **changes),
        loss=LossConfig(**loss),
        damage=DamageConfig(**{name: getattr(args, name) for name in _DAMAGE}),
        optimiser=OptimiserConfig(args.learning_rate, args.decay, args.clip, args.warmup),
    )
    pairs = DamagedPairs(draw, config.seed, config.damage)
    if is_first_process() and not (args.output / "last.ckpt").exists():
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / _ARGUMENTS).write_text(json.dumps(args.argv) + "\n")
    run = partial(pretrain, config, pairs, validation, notes, args.resume)
    return run_training(f"endomatch pretrain {args.kind}", args.output, run)


def _run_evaluate(args: argparse.Namespace) -> int:
    from endomatch_ros.gvsl.evaluate import evaluate

    report = evaluate(args.data, args.checkpoint, args.split, args.device, refine_steps=args.refine_steps)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    print(
        f"{report['pairs']} pairs of {report['subjects']} subjects: Dice {report['dice']:.4f} ± "
        f"{report['dice_std']:.4f} ({report['dice_identity']:.4f} without registration); folding "
        f"{report['folding_percent']:.4f}%; {report['seconds_per_pair']:.3f} s a pair"
    )
    if args.json:
        print(f"wrote {args.json}")
    return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    text = "Geometric visual similarity learning: pre-train on volumes or frames, measure the result."
    parser = argparse.ArgumentParser(prog="endomatch pretrain", description=text, epilog=_EPILOG, formatter_class=raw)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    volume = kinds.add_parser("volume", help="CT or MR volumes", description=_VOLUME, formatter_class=raw)
    volume.add_argument("--data", type=Path, metavar="DIR", help="folder with images/ of .nii or .nii.gz volumes")
    volume.add_argument(
        "--split",
        default="auto",
        help="hippocampus, a JSON file, none, or auto: that of known data (default: %(default)s)",
    )
    volume.add_argument("--spacing", type=float, default=1.0, help="of the isotropic grid, mm (default: %(default)s)")
    volume.add_argument(
        "--size", type=int, nargs=3, default=[48, 64, 48], metavar="N", help="voxels right, front, up (48 64 48)"
    )
    volume.add_argument(
        "--percentiles", type=float, nargs=2, default=[0.5, 99.5], metavar="P", help="that become 0 and 1 (0.5 99.5)"
    )
    frames = kinds.add_parser("frames", help="endoscope frames", description=_FRAMES, formatter_class=raw)
    frames.add_argument("--data", nargs="+", metavar="SOURCE", help="recordings, as for `endomatch evaluate`")
    frames.add_argument("--frames", default="", metavar="START:STOP", help="part of each recording")
    frames.add_argument("--size", type=int, nargs=2, default=[192, 256], metavar="N", help="height, width (192 256)")
    frames.add_argument("--gap", type=int, default=10, help="most frames between both of a pair (default: %(default)s)")
    from endomatch_ros.data.sources import add_source_arguments

    add_source_arguments(frames)
    for command, preset in ((volume, "volume-small"), (frames, "frames-small")):
        _add_training(command, preset)
    measured = kinds.add_parser("evaluate", help="measure registration", description=_EVALUATE, formatter_class=raw)
    measured.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with images/ and labels/")
    measured.add_argument("--checkpoint", default="hippocampus", help="preset or .safetensors (default: %(default)s)")
    measured.add_argument("--json", type=Path, metavar="OUT", help="file for the figures")
    measured.add_argument(
        "--split", default="all", help="all of DIR, or the part train, validation or test (default: %(default)s)"
    )
    measured.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add_refinement(measured)
    transfer_cli.add_parser(kinds)
    return parser


def add_refinement(parser: argparse.ArgumentParser) -> None:
    """Add the option of instance optimisation."""
    text = "gradient steps on the pair itself that improve its field; 0: the network's own (default: %(default)s)"
    parser.add_argument("--refine-steps", type=int, default=_REFINE_STEPS, metavar="N", help=text)


def _add_training(parser: argparse.ArgumentParser, preset: str) -> None:
    add = parser.add_argument
    switch = argparse.BooleanOptionalAction
    add("--output", type=Path, required=True, metavar="DIR", help="for model.safetensors, last.ckpt and the log")
    add("--resume", action="store_true", help="go on with the run in --output; its values are kept")
    add("--steps", type=int, default=20_000, help="optimiser steps (default: %(default)s)")
    add("--batch-size", type=int, default=2, help="pairs per step and process (default: %(default)s)")
    add("--learning-rate", type=float, default=1e-4, help="of Adam (default: %(default)s)")
    add("--decay", choices=("none", "cosine"), default="none", help="of the learning rate (default: %(default)s)")
    add("--warmup", type=int, default=0, help="steps of linear warm-up (default: %(default)s)")
    add("--clip", type=float, default=0.0, help="largest norm of the gradient, 0: any (default: %(default)s)")
    add("--preset", default=preset, help="shape of the network (default: %(default)s)")
    add("--channels", type=int, nargs="+", metavar="N", help="of its levels, the finest first")
    add("--shrink", type=int, help="the network sees images this many times smaller; its field is enlarged")
    add("--levels", type=int, help="resolutions at which the local stage compares the images' features")
    add("--integration-steps", type=int, help="squarings of the velocity field, 0: displacement")
    add("--affine", action=switch, default=True, help="the global stage")
    add("--deformable", action=switch, default=True, help="the local stage")
    for name in _DAMAGE:
        rate = getattr(DamageConfig, name)
        add(f"--{name}", type=float, default=rate, metavar="P", help="probability in image A (default: %(default)s)")
    for name in ("similarity", "smoothness", "restoration"):
        add(f"--{name}", type=float, default=1.0, metavar="WEIGHT", help="weight of the loss (default: %(default)s)")
    add("--window", type=int, default=9, help="side of the local correlation's window (default: %(default)s)")
    add("--seed", type=int, default=0, help="of weights and data (default: %(default)s)")
    add("--workers", type=int, default=0, help="data-loading processes (default: %(default)s)")
    add("--precision", default="32-true", help="32-true, bf16-mixed, ... (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--validate-every", type=int, default=500, metavar="STEPS", help="also writes last.ckpt (default: %(default)s)")
    add(
        "--choose",
        choices=("last", "similarity", "dice"),
        default="last",
        help="weights to keep (default: %(default)s)",
    )
