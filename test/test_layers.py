"""The house stands: imports go downward only, ROS stays under ros/, and importing the package loads nothing heavy."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from conftest import ROOT

# From the ground up; what stands on one line may import each other.
LAYERS = """errors device settings processes openmp
geometry
models
matching
drawing
data
fitting
gvsl
training
evaluation
ros
bench
cli"""
RANK = {name: rank for rank, line in enumerate(LAYERS.splitlines()) for name in line.split()}
PACKAGE = ROOT / "endomatch_ros"
FILES = sorted(PACKAGE.rglob("*.py"))
ONLINE = ("geometry", "models", "matching", "drawing", "data", "ros")
OFFLINE = ("fitting", "gvsl", "training")


def imports(file, types=True):
    """Dotted names of what a module imports, of ``from a import b`` ``a.b``; without ``types`` not for types alone."""
    tree = ast.parse(file.read_text())
    checking = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    for_types = set() if types else {inner for node in checking for inner in ast.walk(node)}
    for node in set(ast.walk(tree)) - for_types:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: write the whole name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_downward(file):
    own = file.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imports(file):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if top == "endomatch_ros" and target != "__version__" and own != "__init__":
            assert RANK[target] <= RANK[own], f"{own} imports {name} from above"
            assert not (own in ONLINE and target in OFFLINE), f"{own} runs online and imports {name}"
        assert top not in ("rclpy", "launch_ros") or own == "ros", f"{own} imports {name}"


def test_no_module_imports_itself_by_way_of_others():
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}

    def home(name):  # of a function or class the module that holds it
        return name if name in modules else name.rpartition(".")[0]

    graph = {
        name: {home(other) for other in imports(file, types=False)} & modules.keys() for name, file in modules.items()
    }
    list(TopologicalSorter({name: others - {name} for name, others in graph.items()}).static_order())


def test_every_module_has_a_layer():
    own = {file.relative_to(PACKAGE).with_suffix("").parts[0] for file in FILES} - {"__init__"}
    assert own <= RANK.keys()


def test_the_package_s_door_is_light():
    code = "import sys, endomatch_ros, endomatch_ros.matching; print(sorted({'torch', 'rclpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
