"""What a machine with a GPU says of this package: tests, times, memory and accuracy, in one run of six minutes at most.

    benchmarks/gpu.sh [--output gpu_output] [--data ../shared/data/sinus] [--minutes 6]
    benchmarks/gpu.sh --device cpu --quick                  whether all of it would run, on any machine

Each part is a process of its own with a limit of its own; what fails or takes too long is said in the result and stops
nothing else. ``gpu.json`` in the output folder is written anew after each part.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch

from endomatch_ros.bench.figures import clock
from endomatch_ros.bench.machine import machine
from endomatch_ros.bench.matcher import measure_matcher, push_all
from endomatch_ros.bench.scaling import measure_cameras
from endomatch_ros.bench.soak import measure_soak
from endomatch_ros.bench.stream import synthetic_stream
from endomatch_ros.matching import Matcher, MatcherConfig
from endomatch_ros.models import MatcherNetwork, ModelInfo
from endomatch_ros.models.backbones.registry import build_backbone
from endomatch_ros.models.config import preset_config

SOAK, SOAK_SECONDS = 2000, 60.0
TESTS = {
    "cuda": ("test/matching", "test/models/test_dense.py", "test/gvsl/test_device.py"),
    "cpu": ("test/matching/test_graphs.py",),
}
MADE = "random weights of the architecture: times are those of the published ones, matches are not"
PYTHON = sys.executable


def main() -> int:
    """Run all parts, or the one that this process is for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu_output"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data/sinus"), help="the sinus recording")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=6.0, help="for all parts together")
    parser.add_argument("--quick", action="store_true", help="hardly anything of each part")
    parser.add_argument("--part", choices=MEASURES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if args.part:
        figures = MEASURES[args.part](args)
        (args.output / f"{args.part}.json").write_text(json.dumps(figures))
        return 1 if figures.get("failed") else 0
    return run_all(args)


def run_all(args: argparse.Namespace) -> int:
    """All parts, each within its limit and what is left of the whole; 1 if one of them failed."""
    start, end = time.monotonic(), time.monotonic() + 60 * args.minutes
    report: dict[str, Any] = {"command": sys.argv[1:], "parts": {}, "failed": {}}
    for name, (limit, command) in parts(args).items():
        result = args.output / f"{name}.json"
        result.unlink(missing_ok=True)
        began = time.monotonic()
        fault = run(command, min(limit, end - began), args.output / f"{name}.log")
        if result.is_file():
            report["parts"][name] = json.loads(result.read_text())
        elif not fault:
            fault = "it left no figures"
        if fault:
            report["failed"][name] = fault
        took = round(time.monotonic() - began, 1)
        report["seconds"] = {**report.get("seconds", {}), name: took, "all": round(time.monotonic() - start, 1)}
        (args.output / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
        print(f"{name}: {took} s {fault.splitlines()[0] if fault else ''}", flush=True)
    return 1 if report["failed"] else 0


def parts(args: argparse.Namespace) -> dict[str, tuple[float, list[str]]]:
    """Seconds and command of each part, the most important first."""
    own = [PYTHON, __file__, *("--quick",) * args.quick, f"--output={args.output}", f"--device={args.device}"]
    own += [f"--data={args.data}", "--part"]
    limits = {"frames": 60, "embedded": 50, "tests": 120, "cameras": 40, "dinov2-small": 50, "soak": 90}
    limits |= {"training": 60, "accuracy": 90}
    return {name: (limit, [*own, name]) for name, limit in limits.items()}


def run(command: list[str], seconds: float, log: Path) -> str:
    """Run a command and whatever it starts, its words in ``log``; what went wrong with its last words, or nothing."""
    if seconds < 1:
        return "no time was left"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(seconds)
            why = f"exit status {code}" if code else ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            why = f"took longer than {seconds:.0f} s"
    return why and f"{why}\n{log.read_text(errors='replace')[-3000:]}"


def images(args: argparse.Namespace) -> list[np.ndarray]:
    """The frames of the synthetic endoscope, rendered by the first part that asks."""
    file = args.output / "frames.npy"
    if not file.is_file():
        stream = synthetic_stream((640, 512) if args.quick else (1280, 1024), 5 if args.quick else 24)
        np.save(file, np.stack(stream.images))
    return list(np.load(file))


def frames(args: argparse.Namespace) -> dict[str, Any]:
    """Where it runs, and what on."""
    (args.output / "frames.npy").unlink(missing_ok=True)
    about = machine(args.device, cuda=str(torch.version.cuda), cudnn=str(torch.backends.cudnn.version()))
    if args.device != "cpu":
        about["device_mib"] = torch.cuda.get_device_properties(args.device).total_memory >> 20
    return {"machine": about, "frames": [len(images(args)), *images(args)[0].shape]}


def latency(args: argparse.Namespace, matcher: Matcher) -> dict[str, Any]:
    """Times of a push per engine, after one round over all frames, in which graphs are captured."""
    found = {}
    for engine in ("auto", "opencv", "torch")[: 1 if args.quick else 3]:
        if engine == "auto" or engine != matcher.config.engine_on(matcher.device.type):
            chosen = matcher.with_config(engine=engine)
            chosen.warmup(images(args)[0].shape[1::-1])
            push_all(chosen, images(args))
            found[engine] = {**asdict(measure_matcher(chosen, images(args), [])), "steps_ms": steps(args, chosen)}
    flows = getattr(matcher._engines.get("torch"), "flows", None)
    return {"model": asdict(matcher.info), "engines": found, "graphs": dict(flows.counts) if flows else {}}


def steps(args: argparse.Namespace, matcher: Matcher) -> dict[str, float]:
    """Median milliseconds of preparation, network and matching of a pair, the device waited for after each."""
    before, rows = None, []
    for image in images(args):
        prepared, preparation = clock(partial(matcher.prepare, image), matcher.device)
        (features,), network = clock(partial(matcher.describe, [prepared]), matcher.device)
        if before is not None:
            _, matching = clock(partial(matcher.match_features, before, features), matcher.device)
            rows.append([preparation.ms, network.ms, matching.ms])
        before = features
    return dict(zip(("prepare", "network", "match"), np.round(np.median(rows, axis=0), 3).tolist(), strict=True))


def embedded(args: argparse.Namespace) -> dict[str, Any]:
    return latency(args, Matcher.from_pretrained("embedded", args.device))


def dinov2_small(args: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    config = preset_config("dinov2-small")
    network = MatcherNetwork(config, build_backbone(config))
    info = ModelInfo("dinov2-small", MADE, "", sum(p.numel() for p in network.parameters()), "")
    settings = MatcherConfig(resolution=224 if args.quick else config.resolution, similarity_threshold=0.0)
    return {"weights": MADE, **latency(args, Matcher(network, info, settings, args.device))}


def cameras(args: argparse.Namespace) -> dict[str, Any]:
    matcher = Matcher.from_pretrained("embedded", args.device)
    push_all(matcher, images(args))
    return {
        "cameras": [
            asdict(each) for each in measure_cameras(matcher, images(args), (1, 2) if args.quick else (1, 2, 4, 8))
        ]
    }


def soak(args: argparse.Namespace) -> dict[str, Any]:
    """As many frames as fit its time."""
    matcher = Matcher.from_pretrained("embedded", args.device)
    push_all(matcher, images(args))
    seconds = float(np.median([took.ms for _, took in push_all(matcher, images(args))])) / 1e3
    count = 20 if args.quick else max(100, min(SOAK, int(SOAK_SECONDS / seconds)))
    return {"wanted": SOAK, **asdict(measure_soak(matcher, images(args), count))}


def training(args: argparse.Namespace) -> dict[str, Any]:
    """What a step costs."""
    file = args.output / "training_steps.json"
    count, batch, some = (1, 2, "0:6") if args.quick else (8, 8, "0:24")
    # Few frames and scenes: what takes a step is the same, what prepares them runs on the processor.
    options = [
        f"--device={args.device}",
        f"--batch_size={batch}",
        f"--frames={some}",
        f"--cache={args.output / 'cache'}",
    ]
    options += ["--synthetic.validation_scenes=1", "--validation_pairs=8"]
    command = [PYTHON, "benchmarks/training.py", f"--steps={count}", "--workers=2", f"--json={file}", "--", *options]
    subprocess.run(command, check=True)
    figures: dict[str, Any] = json.loads(file.read_text())
    return figures


def tests(args: argparse.Namespace) -> dict[str, Any]:
    """The tests that need the device."""
    file, where = args.output / "tests.xml", TESTS["cpu" if args.device == "cpu" else "cuda"]
    only = ["-k", "cuda"] if args.device != "cpu" else []
    subprocess.run([PYTHON, "-m", "pytest", "-q", "-m", "not slow", *only, f"--junitxml={file}", *where], check=False)
    cases = list(ElementTree.parse(file).iter("testcase"))
    wrong = {
        case.get("name"): part.get("message", "")[:500]
        for case in cases
        for part in case
        if part.tag in ("failure", "error")
    }
    skipped = sum(part.tag == "skipped" for case in cases for part in case)
    return {"run": len(cases) - skipped, "skipped": skipped, "failed": wrong}


def accuracy(args: argparse.Namespace) -> dict[str, Any]:
    """The table of the last twelve frames of the sinus recording, by both engines."""
    if not args.data.is_dir():
        return {"left_out": f"there is no {args.data}"}
    some = ["--frames", "23:26", "--gaps", "1"] if args.quick else ["--frames", "23:35", "--gaps", "1", "5", "10"]
    methods = ["endomatch:engine=opencv", "endomatch:engine=torch", "klt"]
    command = [PYTHON, "-m", "endomatch_ros.cli", "evaluate", "--data", str(args.data), *some, "--max-pairs", "9"]
    command += ["--methods", *methods, "--device", args.device, "--fresh", "--output", str(args.output / "accuracy")]
    subprocess.run([*command, "--cache", str(args.output / "cache")], check=True)
    figures: dict[str, Any] = json.loads((args.output / "accuracy" / "evaluation.json").read_text())
    return figures


MEASURES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "frames": frames,
    "embedded": embedded,
    "tests": tests,
    "cameras": cameras,
    "dinov2-small": dinov2_small,
    "soak": soak,
    "training": training,
    "accuracy": accuracy,
}


if __name__ == "__main__":
    sys.exit(main())
