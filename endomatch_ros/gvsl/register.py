"""The command line of ``endomatch register``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from endomatch_ros.errors import ConfigError
from endomatch_ros.gvsl.cli import add_refinement

_EPILOG = """\
writes into DIR:
  warped.nii.gz         the moving volume on the fixed one's voxels, resampled once
  warped_labels.nii.gz  with --labels, likewise (nearest voxel)
  field.nii.gz          displacement in mm, as ITK stores it: SimpleITK's DisplacementFieldTransform and ANTs take it
  report.json           Jacobian determinants: smallest, mean, largest, share of folded voxels
  overlay.png, grid.png before and after; the deformed grid

examples:
  endomatch register --fixed patient_b.nii.gz --moving patient_a.nii.gz --checkpoint hippocampus --output registered
  endomatch register --fixed b.nii.gz --moving a.nii.gz --labels a_labels.nii.gz --output registered \\
      --checkpoint runs/ct/model.safetensors

The volumes' centres are laid on each other first: their positions in the scanner do not matter."""


def main(argv: Sequence[str] | None = None) -> int:
    """``endomatch register``; errors are left to the caller."""
    args = _parser().parse_args(argv)
    try:
        from endomatch_ros.gvsl import pictures, registration, volumes
    except ImportError as error:
        raise ConfigError(f'registration needs more packages ({error}): pip install "endomatch_ros[gvsl]"') from error
    registrar, _ = registration.load_registrar(args.checkpoint, args.device, args.refine_steps)
    fixed, moving = volumes.read_volume(args.fixed), volumes.read_volume(args.moving)
    labels = volumes.read_labels(args.labels, moving) if args.labels else None
    result = registrar.register(fixed, moving)
    report = registration.jacobian_report(result)
    args.output.mkdir(parents=True, exist_ok=True)
    volumes.write_volume(args.output / "warped.nii.gz", registration.warp_stored(moving, fixed, result), fixed)
    if labels is not None:
        warped = registration.warp_stored(labels, fixed, result, "nearest")
        volumes.write_volume(args.output / "warped_labels.nii.gz", warped, fixed)
    field = registration.physical_displacement(fixed, moving, result)
    volumes.write_volume(args.output / "field.nii.gz", field, fixed)
    facts = {"jacobian": asdict(report), "fixed": str(args.fixed), "moving": str(args.moving)}
    (args.output / "report.json").write_text(json.dumps({**facts, "checkpoint": args.checkpoint}, indent=2) + "\n")
    pictures.write_pictures(args.output, result, labels)
    print(
        f"Jacobian determinant {report.minimum:.3f} to {report.maximum:.3f}, mean {report.mean:.3f}; "
        f"{report.folding_percent:.4f}% of the voxels fold"
    )
    print(f"wrote {args.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="endomatch register",
        description="Register two volumes with a model pre-trained by geometric visual similarity learning.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--fixed", type=Path, required=True, metavar="FILE", help="volume whose voxels are kept")
    parser.add_argument("--moving", type=Path, required=True, metavar="FILE", help="volume that is warped")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="label map of the moving volume, warped with it")
    parser.add_argument("--checkpoint", default="hippocampus", help="preset or .safetensors (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add_refinement(parser)
    return parser
