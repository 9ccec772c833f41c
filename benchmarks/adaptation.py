"""What training on a recording gains on later frames of it: before and after, several seeds.

    python benchmarks/adaptation.py --data RECORDING [--train :20] [--test -12:] [--seeds 0 1 2] [--max-steps 180]
        [--random-backbone] [--json FILE] [--work DIR] [-- OPTIONS OF endomatch train]

The recording must know its camera poses, and its landmarks for PCK (the structure-from-motion layout). Frames of
``--train`` are split once more by the training itself, its last share being the validation frames that choose the
weights; frames of ``--test`` are seen by the evaluation alone. Everything but Ψ (and the fine branch, where there is
one) stays as it was. Each seed trains anew; the table gives mean ± standard deviation over seeds. With
``--random-backbone`` Φ is the compact one with random weights, others for each seed: a backbone that has learnt
nothing.

*Landmark PCK* asks the descriptors alone, without selection or refinement: for every landmark that both frames see, the
nearest neighbour of its descriptor anywhere in the other frame's view, and its distance from the truth.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from endomatch_ros.bench.machine import machine
from endomatch_ros.data.frames import FrameSequence
from endomatch_ros.data.sources import open_sequence
from endomatch_ros.evaluation.methods.interface import NamedMethod
from endomatch_ros.evaluation.run import evaluate, pairs_with_gap
from endomatch_ros.evaluation.score import summarise
from endomatch_ros.evaluation.truth import pair_truth
from endomatch_ros.matching import Matcher
from endomatch_ros.matching.coarse import usable_cells
from endomatch_ros.matching.similarity import sample_descriptors
from endomatch_ros.matching.view import without_rim
from endomatch_ros.models import MatcherNetwork, ModelConfig, save_checkpoint
from endomatch_ros.models.backbones.registry import build_backbone
from endomatch_ros.training import cli
from endomatch_ros.training.start import starting_network

GAPS = (1, 5, 10)
COLUMNS = ("matches", "P@1", "P@3", "PCK@3", "PCK@5", "landmark PCK@5", "landmark PCK@10", "landmark PCK@20")
LANDMARK_PX = (5, 10, 20)


def main() -> None:
    """Train, measure, print; with ``--json`` also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--train", default=":20")
    parser.add_argument("--test", default="-12:")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max-steps", type=int, default=180)
    parser.add_argument("--random-backbone", action="store_true")
    parser.add_argument("--refinement", nargs="+", default=["none", "photometric"])
    parser.add_argument("--work", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("options", nargs="*", help="of endomatch train, behind --")
    args = parser.parse_args()
    base = ["--data", args.data, f"--frames={args.train}", f"--max-steps={args.max_steps}", "--calibrate=false"]
    base += args.options
    models = {}
    for seed in args.seeds:
        output = args.work / f"seed_{seed}"
        torch.manual_seed(seed)
        start = [f"--preset={random_model(output / 'random.safetensors')}"] if args.random_backbone else []
        own = [*base, *start, f"--seed={seed}", f"--output={output}"]
        config, _ = cli.parse(own)
        save_checkpoint(starting_network(config).eval(), output / "before.safetensors", include_backbone=True)
        if not (output / "model.safetensors").exists():
            cli.main([*own, *["--resume"] * (output / "last.ckpt").exists()])
        models[seed] = {"before": output / "before.safetensors", "after": output / "model.safetensors"}
    results = [measure(args, models, refinement) for refinement in args.refinement]
    table = [row for result in results for row in result]
    print(markdown(table))
    if args.json:
        report = {"arguments": {k: str(v) for k, v in vars(args).items()}, "rows": table, "machine": machine()}
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def measure(args: argparse.Namespace, models: dict[int, dict[str, Path]], refinement: str) -> list[dict[str, object]]:
    """Rows of the table for one refinement: each gap, before and after."""
    sequence = open_sequence(args.data, frames=args.test)
    found: dict[tuple[int, str], list[list[float]]] = {}
    for paths in models.values():
        for when, path in paths.items():
            matcher = Matcher.from_pretrained(path, backbone_weights=weights(args.options), refinement=refinement)
            for row in summarise(evaluate(sequence, [NamedMethod(when, matcher.match)], GAPS, max_pairs=12)):
                values = [row.matches, row.precision[1.0], row.precision[3.0], row.pck[3.0], row.pck[5.0]]
                values += landmark_pck(matcher, sequence, row.gap)
                found.setdefault((row.gap, when), []).append([float(v) for v in values])
    return [
        {
            "refinement": refinement,
            "gap": gap,
            "when": when,
            "seeds": len(values),
            "mean": dict(zip(COLUMNS, np.mean(values, axis=0).tolist(), strict=True)),
            "std": dict(zip(COLUMNS, np.std(values, axis=0, ddof=min(1, len(values) - 1)).tolist(), strict=True)),
        }
        for (gap, when), values in sorted(found.items(), key=lambda item: item[0][0])
    ]


def random_model(path: Path) -> Path:
    """The compact architecture with random weights, kept for a resumed run."""
    if not path.exists():
        save_checkpoint(MatcherNetwork(ModelConfig(), build_backbone(ModelConfig())).eval(), path)
    return path


def landmark_pck(matcher: Matcher, sequence: FrameSequence, gap: int) -> list[float]:
    """Shares of all landmarks of all pairs whose nearest neighbour lies within :data:`LANDMARK_PX`."""
    errors = []
    for i, j in pairs_with_gap(len(sequence), gap, 12):
        frames = sequence[i], sequence[j]
        truth = pair_truth(sequence, i, j, *frames)
        assert truth.landmarks is not None
        a, b = (matcher.extract(f.image, None if f.mask is None else without_rim(f.mask)) for f in frames)
        cells = torch.from_numpy(a.window.to_cells(truth.landmarks, a.cell)).to(a.descriptors)
        similarity = sample_descriptors(a.descriptors, cells) @ b.descriptors.flatten(1)
        similarity[:, ~usable_cells(b).flatten()] = -2.0
        best, width = similarity.argmax(1).cpu().numpy(), b.descriptors.shape[-1]
        found = b.window.to_source(np.stack([best % width, best // width], 1).astype(float), b.cell)
        errors.append(np.linalg.norm(found - truth.targets, axis=1))
    every = np.concatenate(errors)
    return [float((every <= px).mean()) for px in LANDMARK_PX]


def weights(options: list[str]) -> Path | None:
    """The backbone's file that the options of the training name."""
    given = [o.partition("=")[2] for o in options if o.startswith(("--backbone_weights=", "--backbone-weights="))]
    return Path(given[0]) if given else None


def markdown(table: list[dict[str, object]]) -> str:
    """The table; mean ± standard deviation."""
    lines = ["| refinement | gap | Ψ | " + " | ".join(COLUMNS) + " |", "|---|---:|---|" + "---:|" * len(COLUMNS)]
    for row in table:
        mean, std = row["mean"], row["std"]
        assert isinstance(mean, dict)
        assert isinstance(std, dict)
        cells = [
            f"{mean[c]:.0f} ± {std[c]:.0f}" if c == "matches" else f"{mean[c]:.3f} ± {std[c]:.3f}" for c in COLUMNS
        ]
        lines.append(f"| {row['refinement']} | {row['gap']} | {row['when']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
