"""All parts of a benchmark, one after another: the work behind ``endomatch bench``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.status import Status

from endomatch_ros import __version__
from endomatch_ros.bench.machine import machine
from endomatch_ros.bench.matcher import measure_matcher, push_all
from endomatch_ros.bench.node import measure_node
from endomatch_ros.bench.report import print_report, write_report
from endomatch_ros.bench.scaling import measure_cameras, measure_points
from endomatch_ros.bench.soak import measure_soak
from endomatch_ros.bench.stream import Stream, recorded_stream, synthetic_stream
from endomatch_ros.data.synthetic import parse_size
from endomatch_ros.evaluation.methods.interface import NamedMethod
from endomatch_ros.evaluation.methods.registry import named_methods
from endomatch_ros.evaluation.options import chosen_settings, load_matcher
from endomatch_ros.matching import Matcher
from endomatch_ros.matching.graphs import PLAIN_CALLS

_QUICK_GRID = (256, 512), (1000, 6000)


def run_bench(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what is asked for, print it, and write it into ``args.output``.

    Args:
        args: of the parser of :mod:`endomatch_ros.bench.cli`; ``only``: the parts to measure, ``options``: what the
            source does not tell of itself.

    Returns:
        The content of ``bench.json``.

    Raises:
        EndomatchError: what cannot be measured, and why.
    """
    console = Console()
    peers = named_methods(args.peers, device=args.device)  # what is missing is said before minutes of work
    matcher = load_matcher(args)
    with console.status("preparing frames") as status:
        stream = _stream(args, status)
        matcher.warmup(stream.size)
        if matcher.device.type == "cuda":  # graphs are captured for views as they come
            push_all(matcher, stream.images[: PLAIN_CALLS + 2])
        report = _about(args, matcher, stream)
        for part, measure in _MEASURES.items():
            if part in args.only:
                status.update(f"measuring: {part}")
                report[part] = measure(args, matcher, stream, peers)
    print_report(report, console)
    for path in write_report(args.output, report):
        console.print(f"wrote {path}", highlight=False)
    return report


def _stream(args: argparse.Namespace, status: Status) -> Stream:
    if args.data is not None:
        return recorded_stream(args.data, args.frames, args.options)

    def tell(count: int) -> None:
        status.update(f"rendering frame {count} of {args.frames}")

    return synthetic_stream(parse_size(args.size), args.frames, tell)


def _about(args: argparse.Namespace, matcher: Matcher, stream: Stream) -> dict[str, Any]:
    """What was measured on what, with what."""
    given = {name: value for name, value in vars(args).items() if isinstance(value, bool | int | float | str | list)}
    versions = {"endomatch_ros": __version__, "numpy": np.__version__, "opencv": cv2.__version__}
    return {
        "arguments": given,
        "machine": machine(str(matcher.device), **versions),
        "model": asdict(matcher.info),
        "settings": asdict(matcher.config),
        "source": {"name": stream.name, "size": list(stream.size), "frames": len(stream.frames)},
    }


def _measure_matcher(
    args: argparse.Namespace, matcher: Matcher, stream: Stream, peers: list[NamedMethod]
) -> dict[str, Any]:
    return asdict(measure_matcher(matcher, stream.images, peers))


def _measure_node(
    args: argparse.Namespace, matcher: Matcher, stream: Stream, peers: list[NamedMethod]
) -> dict[str, Any]:
    parameters: dict[str, object] = {"model": args.model, "device": args.device, **chosen_settings(args)}
    if args.backbone_weights is not None:
        parameters["backbone_weights"] = args.backbone_weights
    return asdict(measure_node(matcher, stream, parameters, args.rates, args.seconds, args.beside))


def _measure_scaling(
    args: argparse.Namespace, matcher: Matcher, stream: Stream, peers: list[NamedMethod]
) -> dict[str, Any]:
    points = partial(measure_points, matcher, stream)
    return {
        "points": [asdict(point) for point in (points(*_QUICK_GRID) if args.quick else points())],
        "cameras": [asdict(each) for each in measure_cameras(matcher, stream.images)],
    }


def _measure_soak(
    args: argparse.Namespace, matcher: Matcher, stream: Stream, peers: list[NamedMethod]
) -> dict[str, Any]:
    return asdict(measure_soak(matcher, stream.images, args.soak))


_Measure = Callable[[argparse.Namespace, Matcher, Stream, list[NamedMethod]], dict[str, Any]]
_MEASURES: dict[str, _Measure] = {
    "matcher": _measure_matcher,
    "node": _measure_node,
    "scaling": _measure_scaling,
    "soak": _measure_soak,
}
