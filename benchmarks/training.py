"""What a training step costs: data, forward, backward and optimiser, and pairs a second.

    python benchmarks/training.py [--data synthetic:20500] [--steps 20] [--json FILE] [-- OPTIONS OF endomatch train]

Two measurements on the same pairs. In the first, all is done by one process in turn, so that each part's share of the
work is seen. In the second, ``--workers`` processes make the pairs while the network computes, as in training: what is
left of the data's time is the wait that the overlap could not hide, and the pairs a second are those of training. On a
GPU each part ends with a synchronisation.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import lightning
import numpy as np
import torch

from endomatch_ros.bench.machine import machine
from endomatch_ros.device import resolve_device
from endomatch_ros.training import cli
from endomatch_ros.training.config import TrainConfig
from endomatch_ros.training.data import TrainingData
from endomatch_ros.training.module import MatcherModule
from endomatch_ros.training.objectives.interface import Processes
from endomatch_ros.training.start import starting_network

PARTS = ("data", "forward", "backward", "optimiser")
WARM_UP = 3  # steps: threads, caches and the allocator settle


def main() -> None:
    """Measure and print; with ``--json`` also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic:20500")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("options", nargs="*", help="of endomatch train, behind --")
    args = parser.parse_args()
    report = {
        "data": args.data,
        "options": args.options,
        "machine": machine("cuda" if torch.cuda.is_available() else "cpu"),
    }
    for name, workers in (("in_turn", 0), ("overlapped", args.workers)):
        options = ["--data", args.data, "--output=unused", f"--workers={workers}", *args.options]
        config, _ = cli.parse([*options, f"--max-steps={args.steps + WARM_UP}"])
        report[name] = measure(config)
        print_table(name, report[name])
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def measure(config: TrainConfig) -> dict[str, object]:
    """Seconds of each part of each step, summed up."""
    lightning.seed_everything(config.seed, verbose=False)
    device = torch.device(resolve_device(config.device))
    network = starting_network(config).to(device)
    objective = config.objective.make()
    module = MatcherModule(network, config.optimiser, config.max_steps, objective, config.unfreeze)
    optimiser = module.configure_optimizers()["optimizer"]
    data = TrainingData(config, network.config.resolution, patch=network.config.patch_size)
    data.setup("fit")
    times: list[list[float]] = []
    batches = iter(data.train_dataloader())
    for _ in range(config.max_steps):
        marks = [time.perf_counter()]
        batch = {k: v.to(device) for k, v in next(batches).items()}
        mark(marks, device)
        first, second = module.descriptors(batch)
        parts = objective.losses(network, first, second, batch, Processes())
        mark(marks, device)
        torch.stack(list(parts.values())).sum().backward()
        mark(marks, device)
        optimiser.step()
        optimiser.zero_grad()
        mark(marks, device)
        times.append(np.diff(marks).tolist())
    steps = np.array(times[WARM_UP:])
    whole = steps.sum(axis=1)
    return {
        "share": dict(zip(PARTS, (steps.sum(axis=0) / whole.sum()).tolist(), strict=True)),
        "ms": dict(zip(PARTS, (1e3 * np.median(steps, axis=0)).tolist(), strict=True)),
        "step_ms": {f"p{q}": float(np.percentile(1e3 * whole, q)) for q in (50, 95, 99)},
        "pairs_per_second": config.batch_size * len(whole) / float(whole.sum()),
        "batch_size": config.batch_size,
        "workers": config.workers,
    }


def mark(marks: list[float], device: torch.device) -> None:
    """The time, once the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    marks.append(time.perf_counter())


def print_table(name: str, result: dict[str, object]) -> None:
    """One measurement."""
    share, ms, step = result["share"], result["ms"], result["step_ms"]
    assert isinstance(share, dict)
    assert isinstance(ms, dict)
    assert isinstance(step, dict)
    parts = ", ".join(f"{part} {ms[part]:.0f} ms ({share[part]:.0%})" for part in PARTS)
    print(f"{name}: {parts}")
    print(
        f"  step p50 {step['p50']:.0f}, p95 {step['p95']:.0f}, p99 {step['p99']:.0f} ms with {result['batch_size']} "
        f"pairs; {result['pairs_per_second']:.2f} pairs/s, {result['workers']} workers"
    )


if __name__ == "__main__":
    main()
