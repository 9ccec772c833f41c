"""The command line of ``endomatch evaluate``."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

from endomatch_ros.data.sources import KINDS, add_source_arguments, source_options
from endomatch_ros.evaluation.methods.registry import METHODS, usable_methods
from endomatch_ros.evaluation.options import add_model_options
from endomatch_ros.evaluation.protocols import PROTOCOLS
from endomatch_ros.evaluation.run import run_evaluation
from endomatch_ros.matching import MatcherConfig
from endomatch_ros.settings import declared

_SETTINGS = ", ".join(declared(MatcherConfig))
_BY_HELP: dict[str, list[str]] = {}
for _entry in METHODS.values():
    _BY_HELP.setdefault("" if _entry.by_default else _entry.help, []).append(_entry.name)
_METHODS = (
    f"METHOD is one of {', '.join(_BY_HELP[''])}, which need nothing, or of "
    + "; ".join(f"{', '.join(names)} ({text})" for text, names in _BY_HELP.items() if text)
    + ". Several models or settings in one run: endomatch:[MODEL][,SETTING=VALUE]..., MODEL a preset or a "
    f".safetensors file (left out: --model), SETTING one of {_SETTINGS}."
)
_PROTOCOLS = "\n".join(
    textwrap.fill(
        f"{name}: {protocol.description}; gaps {' '.join(map(str, protocol.gaps))}, {protocol.max_pairs} pairs",
        width=100,
        initial_indent="  ",
        subsequent_indent="    ",
    )
    for name, protocol in PROTOCOLS.items()
)
_EPILOG = f"""\
{textwrap.fill(f"SOURCE is {KINDS}.", 100)}
Epipolar and pose errors need recordings with camera poses; end-point errors need synthetic scenes, SfM
recordings or frames with depth and pose; counts and times need nothing.

{textwrap.fill(_METHODS, 100)}

protocols:
{_PROTOCOLS}

examples:
  endomatch evaluate --data synthetic:1001 synthetic:1002,cavity --gaps 1 5 --output results
  endomatch evaluate --data SCARED --protocol scared --output results
  endomatch evaluate --data case_2 --methods endomatch:runs/mine/model.safetensors endomatch sift
  endomatch evaluate --data case_2 --methods endomatch endomatch:embedded,refinement=none,max_keypoints=4000
  endomatch evaluate --data case_2 --methods endomatch loftr xfeat:weights/xfeat.pt --device cuda
  endomatch evaluate --data case_1.mp4 case_2.mp4 --unrelated 20
"""


def main(argv: Sequence[str] | None = None) -> int:
    """``endomatch evaluate``; errors are left to the caller."""
    args = _parser().parse_args(argv)
    protocol = PROTOCOLS[args.protocol]
    protocol.check(args.data)
    run_evaluation(
        args.data,
        args.methods or usable_methods(),
        protocol.gaps if args.gaps is None else args.gaps,
        args.output,
        args.model,
        args.device,
        protocol.max_pairs if args.max_pairs is None else args.max_pairs,
        frames=args.frames,
        backbone_weights=args.backbone_weights,
        options=source_options(args),
        cache=args.cache,
        fresh=args.fresh,
        unrelated=args.unrelated,
        facts={"protocol": f"{args.protocol}: {protocol.description}", "published": protocol.published or None},
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="endomatch evaluate",
        description="Measure matchers on recordings with known camera motion.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", nargs="+", required=True, metavar="SOURCE", help="recordings, see below")
    parser.add_argument(
        "--frames", default="", metavar="START:STOP", help="part of each recording: 0:20, or --frames=-50:"
    )
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="see below (default: all that need no weights)")
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, default="default", help="gaps and pairs, see below (default: %(default)s)"
    )
    parser.add_argument("--gaps", nargs="+", type=int, metavar="N", help="in frames (default: the protocol's)")
    parser.add_argument(
        "--max-pairs", type=int, metavar="N", help="for each gap and recording (default: the protocol's)"
    )
    parser.add_argument(
        "--unrelated",
        type=int,
        default=0,
        metavar="N",
        help="also N pairs of frames of different recordings, which must show different scenes: every match is wrong",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="for evaluation.md, evaluation.json and pictures")
    model = parser.add_argument_group("networks", "of endomatch, unless METHOD names others; device: of all")
    add_model_options(model)
    cache = parser.add_argument_group("cache", "predictions are kept, and made once for the same images and method")
    cache.add_argument(
        "--cache", type=Path, default=Path(".cache/predictions"), metavar="DIR", help="default: %(default)s"
    )
    cache.add_argument("--fresh", action="store_true", help="make all predictions anew, with new times")
    add_source_arguments(parser)
    return parser
