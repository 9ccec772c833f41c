"""What each part of the matcher is worth: matches, precision and milliseconds with and without it.

    python benchmarks/ablation.py --data RECORDING [--frames 23:35] [--gaps 1 5 10] [--max-pairs 6]
        [--objective NAME=FILE …] [--json FILE]

Rows, each with all of the ones before it:

* *tokens, Ψ untrained*: the token grid alone, the adapter's gate closed, so that tokens are the backbone's own;
* *tokens*: with the trained adapter;
* *fine map, Ψ untrained* and *fine map*: mutual nearest neighbours on the map of four cells per token side;
* *refined, Ψ untrained* and *refined*: targets found at source resolution: what `endomatch` does.

Each ``--objective`` adds a model that was trained with that loss, on its fine map and refined; train them alike
(``endomatch train … --objective.kind triplet`` and ``infonce``, the same start, steps and seed).
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import replace
from pathlib import Path

import torch

from endomatch_ros.data.sources import open_sequence
from endomatch_ros.evaluation.methods.interface import NamedMethod
from endomatch_ros.evaluation.run import evaluate
from endomatch_ros.evaluation.score import summarise
from endomatch_ros.matching import Matcher
from endomatch_ros.models import MatcherNetwork

COLUMNS = ("matches", "cover", "P@1", "P@3", "PCK@3", "PCK@10", "3D", "ms p50")


def main() -> None:
    """Measure, print; with ``--json`` also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--frames", default="")
    parser.add_argument("--gaps", nargs="+", type=int, default=[1, 5, 10])
    parser.add_argument("--max-pairs", type=int, default=6)
    parser.add_argument("--model", default="embedded", help="preset or checkpoint with a fine branch")
    parser.add_argument("--objective", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    methods = [
        method(f"{shown}{', Ψ untrained' if untrained else ''}", args.model, tokens, untrained, refinement)
        for shown, tokens, refinement in (
            ("tokens", True, "none"),
            ("fine map", False, "none"),
            ("refined", False, "photometric"),
        )
        for untrained in (True, False)
    ]
    for name, _, file in (entry.partition("=") for entry in args.objective):
        methods += [method(f"{name}, fine map", file, False, False, "none")]
        methods += [method(f"{name}, refined", file, False, False, "photometric")]
    scores = evaluate(open_sequence(args.data, frames=args.frames), methods, args.gaps, args.max_pairs)
    table = [
        {
            "gap": row.gap,
            "variant": row.method,
            "matches": row.matches,
            "cover": row.coverage,
            "P@1": row.precision[1.0],
            "P@3": row.precision[3.0],
            "PCK@3": row.pck[3.0],
            "PCK@10": row.pck[10.0],
            "3D": row.landmarks_measured / max(1, row.landmarks),
            "ms p50": row.time_p50,
        }
        for row in summarise(scores)
    ]
    print(markdown(table))
    if args.json:
        about = {"python": platform.python_version(), "machine": platform.platform(), "torch": torch.__version__}
        report = {"arguments": {k: str(v) for k, v in vars(args).items()}, "rows": table, "machine": about}
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def method(name: str, model: str, tokens: bool, untrained: bool, refinement: str) -> NamedMethod:
    """A variant of a model as a method of the evaluation; its answers are never cached."""
    matcher = Matcher.from_pretrained(model, device="cpu", refinement=refinement)
    if untrained:
        with torch.no_grad():
            matcher.network.adapter.gate.zero_()
    if tokens:
        matcher = Matcher(without_fine(matcher.network), matcher.info, matcher.config)
    return NamedMethod(name, matcher.match)


def without_fine(network: MatcherNetwork) -> MatcherNetwork:
    """The same backbone and adapter, tokens only."""
    out = MatcherNetwork(replace(network.config, fine_dim=0), network.backbone)
    out.adapter = network.adapter
    return out.eval()


def markdown(table: list[dict[str, float | str]]) -> str:
    """The table."""
    lines = ["| gap | variant | " + " | ".join(COLUMNS) + " |", "|---:|---|" + "---:|" * len(COLUMNS)]
    for row in table:
        cells = [f"{row[c]:.0f}" if c in ("matches", "ms p50") else f"{row[c]:.3f}" for c in COLUMNS]
        lines.append(f"| {row['gap']} | {row['variant']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
