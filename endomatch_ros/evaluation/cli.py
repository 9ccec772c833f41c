"""The command line of ``endomatch evaluate``."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

from endomatch_ros.data.sources import KINDS, add_source_arguments, source_options
from endomatch_ros.evaluation.baselines import BASELINES
from endomatch_ros.evaluation.run import run_evaluation

_EPILOG = f"""\
{textwrap.fill(f"SOURCE is {KINDS}.", 100)}
Epipolar errors need recordings with camera poses, end-point errors synthetic or SfM ones; counts and times none.

examples:
  endomatch evaluate --data synthetic:1001 synthetic:1002,cavity --gaps 1 5 --output results
  endomatch evaluate --data SCARED/dataset_1/keyframe_1 --frames 0:100 --gaps 1 5
"""


def main(argv: Sequence[str] | None = None) -> int:
    """``endomatch evaluate``; errors are left to the caller."""
    parser = argparse.ArgumentParser(
        prog="endomatch evaluate",
        description="Measure matchers on recordings with known camera motion.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", nargs="+", required=True, metavar="SOURCE", help="recordings, see below")
    parser.add_argument(
        "--frames",
        default="",
        metavar="START:STOP",
        help="part of each recording: 0:20, or --frames=-50:",
    )
    known = ["endomatch", *BASELINES]
    parser.add_argument("--methods", nargs="+", default=known, metavar="METHOD", help=f"of {', '.join(known)}")
    parser.add_argument("--gaps", nargs="+", type=int, default=[1, 5, 10, 20], help="in frames (default: 1 5 10 20)")
    parser.add_argument("--max-pairs", type=int, default=10, help="for each gap and recording (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="folder for evaluation.md and evaluation.json")
    parser.add_argument("--model", default="embedded", help="preset or .safetensors file (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument(
        "--backbone-weights", type=Path, metavar="FILE", help="weights for a dinov2 preset, timm's format"
    )
    add_source_arguments(parser)
    args = parser.parse_args(argv)
    run_evaluation(
        args.data,
        args.methods,
        args.gaps,
        args.output,
        args.model,
        args.device,
        args.max_pairs,
        frames=args.frames,
        backbone_weights=args.backbone_weights,
        options=source_options(args),
    )
    return 0
