"""Registration of labelled volumes: a pre-trained model beside no registration and SimpleITK, in one run.

    python benchmarks/registration.py --data DIR [--checkpoint FILE] [--split test] [--pairs N] [--json FILE]

DIR holds ``images/`` and ``labels/``. Every method gets the same prepared volumes (isotropic, [0, 1], one size; the
model's grid is the one that it was trained with, SimpleITK's no larger than the volumes) and gives a displacement field
on their grid; the label maps are warped with it in the same way, and Dice, folding and time (from prepared volumes to
the warped label map, one thread each) are taken from that. Without a checkpoint the model is an untrained one, which is
the identity. ``affine only`` is the model's own affine stage, ``deformation only`` the model with that stage switched
off, ``steps on the pair`` are those of ``--refine-steps``; models trained without a stage are added with ``--also
NAME=FILE``.

SimpleITK's settings were chosen on the validation part (``--split validation --tune`` prints them all).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")  # read when SimpleITK is loaded

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its documentation's name
import torch

from endomatch_ros.bench.machine import machine
from endomatch_ros.gvsl import checkpoint as checkpoints
from endomatch_ros.gvsl.config import preset_config
from endomatch_ros.gvsl.evaluate import LabelledPairs, choose_subjects, summarise
from endomatch_ros.gvsl.model import GvslModel
from endomatch_ros.gvsl.registration import (
    FieldFunction,
    Registrar,
    checkpoint_path,
    load_registrar,
    model_field,
    no_field,
)
from endomatch_ros.gvsl.subjects import neighbour_pairs
from endomatch_ros.gvsl.volumes import VolumeConfig

_SHOWN = ("dice", "dice_std", "folding_percent", "seconds_p50", "seconds_p95", "cpu_seconds_per_pair")
_CLASSICAL = "SimpleITK"
REFINED = (2, 5, 10)  # steps of instance optimisation
_SMALLEST = (8, 8, 8)  # grids grow to the larger volume


def main() -> None:
    """Measure and print; with ``--json`` also write."""
    args = parse()
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    methods, config = our_methods(args.checkpoint, args.also)
    classical = CLASSICAL if args.tune else {name: CLASSICAL[name] for name in CHOSEN}
    methods |= {f"{_CLASSICAL} {name}": classical_field(method) for name, method in classical.items()}
    if args.methods:
        methods = {name: field for name, field in methods.items() if any(text in name for text in args.methods)}
    every = neighbour_pairs(choose_subjects(args.data, args.split))
    # Spread over the part, so that a few pairs stand for all.
    chosen = np.unique(np.linspace(0, len(every) - 1, min(args.pairs or len(every), len(every))).round().astype(int))
    pairs = LabelledPairs([every[k] for k in chosen])
    results = {}
    for name, field in methods.items():
        own = replace(config, size=_SMALLEST) if name.startswith(_CLASSICAL) else config
        results[name] = summarise(pairs.score_all(Registrar(field, own)))
        print(f"{name:32} " + "  ".join(f"{key} {results[name][key]:.4f}" for key in _SHOWN), flush=True)
    report = {
        "part": args.split,
        "checkpoint": args.checkpoint,
        "methods": results,
        "machine": machine(SimpleITK=sitk.Version().VersionString()),
    }
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--checkpoint", help="preset or .safetensors (default: an untrained model)")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=FILE", help="one more model")
    parser.add_argument("--split", default="test", help="all, train, validation or test (default: %(default)s)")
    parser.add_argument("--pairs", type=int, metavar="N", help="that many of the pairs, evenly spread (default: all)")
    parser.add_argument("--methods", nargs="+", metavar="TEXT", help="only methods whose name holds one of these")
    parser.add_argument("--tune", action="store_true", help="all of SimpleITK's settings instead of the chosen ones")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def our_methods(checkpoint: str | None, also: list[str]) -> tuple[dict[str, FieldFunction], VolumeConfig]:
    """No registration and the model in parts and as a whole."""
    config = VolumeConfig()
    model = GvslModel(preset_config("volume-small"))
    if checkpoint:
        config = load_registrar(checkpoint)[0].config
        model = checkpoints.load(checkpoint_path(checkpoint))[0]
    methods: dict[str, FieldFunction] = {"no registration": no_field}
    if model.head.global_stage is not None:
        methods["affine only"] = affine_stage(model)
    if model.head.local_stage is not None:
        methods["deformation only"] = model_field(without_affine(model))
    methods["full"] = model_field(model)
    methods |= {f"full, {steps} steps on the pair": model_field(model, refine_steps=steps) for steps in REFINED}
    for text in also:
        name, _, path = text.partition("=")
        methods[name] = load_registrar(path, refine_steps=0)[0].field
    return methods, config


def affine_stage(model: GvslModel) -> FieldFunction:
    """The field of the first stage alone; the second is not computed."""
    first = copy.deepcopy(model).eval()
    first.head.local_stage = None
    return model_field(first)


def without_affine(model: GvslModel) -> GvslModel:
    """The model with its first stage left out."""
    second = copy.deepcopy(model)
    second.head.global_stage = None
    return second


def classical_field(method: Callable[[sitk.Image, sitk.Image], sitk.Transform]) -> FieldFunction:
    """A SimpleITK registration as a field function; its images have spacing 1 and no direction, as the grid has."""

    def field(moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        # SimpleITK's arrays have the last axis first.
        images = [sitk.GetImageFromArray(image[0, 0].numpy().transpose()) for image in (fixed, moving)]
        found = sitk.TransformToDisplacementField(method(*images), sitk.sitkVectorFloat32, images[0].GetSize())
        array = sitk.GetArrayFromImage(found).transpose(3, 2, 1, 0)  # (3, x, y, z), components x, y, z
        return torch.from_numpy(np.ascontiguousarray(array))[None]

    return field


def affine(fixed: sitk.Image, moving: sitk.Image, metric: str = "correlation") -> sitk.Transform:
    """Affine map about the image's centre, two resolutions."""
    centred = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method = registration(metric, (2, 1))
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 100, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(centred, inPlace=False)
    return method.Execute(fixed, moving)


def registration(metric: str, levels: tuple[int, ...], share: float = 1.0) -> sitk.ImageRegistrationMethod:
    """A multi-resolution registration with a metric on a share of the voxels, and no optimiser yet."""
    method = sitk.ImageRegistrationMethod()
    if metric == "correlation":
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(32)
    if share < 1:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(share)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(list(levels))
    method.SetSmoothingSigmasPerLevel([0.5 * (level - 1) for level in levels])
    return method


def bspline(
    fixed: sitk.Image, moving: sitk.Image, metric: str = "correlation", mesh: int = 8, iterations: int = 20
) -> sitk.Transform:
    """Affine, then a cubic B-spline optimised by L-BFGS-B, two resolutions."""
    first = affine(fixed, moving)
    method = registration(metric, (2, 1), 0.25)  # all voxels take four times as long
    method.SetOptimizerAsLBFGSB(gradientConvergenceTolerance=1e-5, numberOfIterations=iterations)
    method.SetMovingInitialTransform(first)
    spline = sitk.BSplineTransformInitializer(fixed, [mesh, mesh, mesh], 3)
    method.SetInitialTransform(spline, inPlace=True)
    method.Execute(fixed, moving)
    return sitk.CompositeTransform([first, spline])


def demons(fixed: sitk.Image, moving: sitk.Image, sigma: float = 1.5, iterations: int = 40) -> sitk.Transform:
    """Affine, then diffeomorphic demons on histogram-matched intensities, two resolutions."""
    first = affine(fixed, moving)
    moved = sitk.Resample(moving, fixed, first, sitk.sitkLinear)
    moved = sitk.HistogramMatching(moved, fixed, 128, 8, False)
    method = sitk.DiffeomorphicDemonsRegistrationFilter()
    method.SetNumberOfIterations(iterations)
    method.SetSmoothDisplacementField(True)
    method.SetStandardDeviations(sigma)
    half = [sitk.SmoothingRecursiveGaussian(image, 1.0) for image in (fixed, moved)]
    half = [sitk.Shrink(image, [2, 2, 2]) for image in half]
    field = method.Execute(*half)
    field = sitk.Resample(field, fixed, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkVectorFloat64)
    field = method.Execute(fixed, moved, field)
    return sitk.CompositeTransform([first, sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))])


CLASSICAL: dict[str, Callable[[sitk.Image, sitk.Image], sitk.Transform]] = {
    "affine": affine,
    "affine (mutual information)": lambda f, m: affine(f, m, "mutual information"),
    **{
        f"B-spline {mesh}³ ({metric})": lambda f, m, mesh=mesh, metric=metric: bspline(f, m, metric, mesh)
        for mesh in (5, 8)
        for metric in ("correlation", "mutual information")
    },
    **{
        f"demons σ {sigma}, {steps} steps": lambda f, m, sigma=sigma, steps=steps: demons(f, m, sigma, steps)
        for sigma in (0.7, 1.0, 1.5, 2.0)
        for steps in (40, 100, 200)
    },
}
CHOSEN = ("affine", "B-spline 5³ (correlation)", "demons σ 1.0, 100 steps")


if __name__ == "__main__":
    main()
