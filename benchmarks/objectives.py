"""What each training objective makes of the same descriptors at the same cost, on later frames of a recording.

    python benchmarks/objectives.py --data RECORDING [--train :20] [--test -12:] [--seeds 0 1 2] [--seconds 60]
        [--objectives triplet infonce gvsl] [--random-backbone] [--json FILE] [--work DIR]
        [-- OPTIONS OF endomatch train]

As ``benchmarks/adaptation.py``, whose columns these are, before refinement, so that the descriptors alone decide. Cost
is processor time: the seconds of one step of each objective (data, forward, backward, optimiser; the median of some
steps) are measured first, and each then trains for as many steps as fit into ``--seconds``. Start, data, batch size and
schedule are common to all; the last weights are measured, not the best validated ones, for each objective would choose
by another figure. Leave the machine alone meanwhile, or the measured cost is that of its other work, too.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import lightning
import numpy as np
import torch
from adaptation import machine, markdown, measure, random_model

from endomatch_ros.models import save_checkpoint
from endomatch_ros.training import cli
from endomatch_ros.training.config import TrainConfig
from endomatch_ros.training.data import TrainingData
from endomatch_ros.training.module import MatcherModule
from endomatch_ros.training.objectives.registry import OBJECTIVES
from endomatch_ros.training.start import starting_network

WARM_UP, TIMED = 6, 7  # steps that fill the caches, and steps whose cost counts


def main() -> None:
    """Train, measure, print; with ``--json`` also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--train", default=":20")
    parser.add_argument("--test", default="-12:")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=60.0, help="processor time of the training steps of a run")
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    parser.add_argument("--random-backbone", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("options", nargs="*", help="of endomatch train, behind --")
    args = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other would count as cost
    models: dict[int, dict[str, Path]] = {}
    steps: dict[str, int] = {}
    for seed in args.seeds:
        models[seed] = {}
        for kind in args.objectives:
            config, options = run_of(args, seed, kind)
            if kind not in steps:
                steps[kind] = max(1, round(args.seconds / step_seconds(config)))
            models[seed][kind] = trained(config, [*options, f"--max-steps={steps[kind]}"], steps[kind])
        before = args.work / f"seed_{seed}" / "before.safetensors"
        save_checkpoint(starting_network(run_of(args, seed, "triplet")[0]).eval(), before, include_backbone=True)
        models[seed] = {"before": before, **models[seed]}
    table = measure(args, models, "none")
    print(", ".join(f"{kind}: {count} steps" for kind, count in steps.items()))
    print(markdown(table))
    if args.json:
        report = {"arguments": {k: str(v) for k, v in vars(args).items()}, "steps": steps, "rows": table}
        args.json.write_text(json.dumps(report | {"machine": machine()}, indent=2) + "\n")


def run_of(args: argparse.Namespace, seed: int, kind: str) -> tuple[TrainConfig, list[str]]:
    """A run's configuration and the options that give it; the number of steps comes later."""
    torch.manual_seed(seed)
    folder = args.work / f"seed_{seed}"
    start = [f"--preset={random_model(folder / 'random.safetensors')}"] if args.random_backbone else []
    options = ["--data", args.data, f"--frames={args.train}", f"--seed={seed}", f"--output={folder / kind}", *start]
    options += ["--workers=0", "--patience=0", "--calibrate=false", f"--objective={kind}", *args.options]
    return cli.parse(options)[0], options


def trained(config: TrainConfig, options: list[str], steps: int) -> Path:
    """The model of a run, trained unless it was before, validated at its end alone."""
    path = config.output / "model.safetensors"
    if not path.exists():
        cli.main([*options, f"--validate-every={steps}", *["--resume"] * (config.output / "last.ckpt").exists()])
    return path


def step_seconds(config: TrainConfig) -> float:
    """Processor time of one optimiser step, the data's share included."""
    lightning.seed_everything(config.seed, verbose=False)
    network = starting_network(config)
    module = MatcherModule(network, config.optimiser, config.max_steps, config.objective.make(), config.unfreeze)
    optimiser = module.configure_optimizers()["optimizer"]
    data = TrainingData(config, network.config.resolution, patch=network.config.patch_size)
    data.setup("fit")
    batches, marks = iter(data.train_dataloader()), [time.process_time()]
    for _ in range(WARM_UP + TIMED):
        torch.stack(list(module.losses(next(batches)).values())).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        marks.append(time.process_time())
    return float(np.median(np.diff(marks)[WARM_UP:]))


if __name__ == "__main__":
    main()
