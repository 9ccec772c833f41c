"""What the node sees of a matcher: light to import, and kept by the matcher and by its stand-in in the tests."""

import inspect
import subprocess
import sys

import pytest
from support.fakes import FakeMatcher, FakeStream

from endomatch_ros.matching import Matcher, StreamMatcher
from endomatch_ros.matching.interface import FrameMatcher, FrameStream, PairMatcher


@pytest.mark.parametrize("module", ["endomatch_ros.matching.interface", "endomatch_ros.models"])
def test_importing_it_loads_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_models_package_offers_what_it_names():
    import endomatch_ros.models as models

    assert all(hasattr(models, name) for name in models.__all__)
    with pytest.raises(AttributeError, match="'Modell'"):
        models.Modell  # noqa: B018 - the access is what is tested


@pytest.mark.parametrize(
    ("protocol", "kind"),
    [
        (FrameMatcher, Matcher),
        (PairMatcher, Matcher),
        (FrameStream, StreamMatcher),
        (FrameMatcher, FakeMatcher),
        (FrameStream, FakeStream),
    ],
)
def test_methods_take_what_the_protocol_says(protocol, kind):
    """mypy holds the types together; this holds where only tests run."""
    methods = {name: member for name, member in vars(protocol).items() if inspect.isfunction(member) and name[0] != "_"}
    assert methods
    for name, method in methods.items():
        wanted, found = (inspect.signature(m).parameters for m in (method, getattr(kind, name)))
        assert [(p.name, p.default, p.kind) for p in wanted.values()] == [
            (p.name, p.default, p.kind) for p in found.values()
        ], name


def test_a_stand_in_has_the_attributes_that_the_protocol_names():
    for protocol, made in ((FrameMatcher, FakeMatcher()), (FrameStream, FakeMatcher().stream())):
        assert all(hasattr(made, name) for name in vars(protocol) if not name.startswith("_"))
