"""The documentation agrees with the repository: links, files, examples, tables, parameters, quoted messages."""

import ast
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from endomatch_ros import __version__
from endomatch_ros.data.clouds import CLOUD_DTYPE, STEREO_DTYPE
from endomatch_ros.ros.monitoring.causes import MATCH_DROPS, Drop, Keyframe, Reset
from endomatch_ros.ros.monitoring.stages import Stage

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
CONSUMING = sorted((DOCS / "consuming").glob("*.md"))
MESSAGES, TROUBLES = DOCS / "consuming" / "messages.md", DOCS / "troubleshooting.md"
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# What a command leaves behind, or what lies beside the repository.
ELSEWHERE = re.compile(r"^(demo_output|results|runs|\.\.|build|install|log|src|\$|~|/)")


def name_of(page):
    return str(page.relative_to(ROOT))


def prose(page):
    return FENCE.sub("", page.read_text())


def anchors(page):
    """GitHub's: lower case, spaces to hyphens, everything else but letters, digits, - and _ left out."""
    found = []
    for title in re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.append(anchor if anchor not in found else f"{anchor}-{found.count(anchor)}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}; {file.name} has {anchors(file)}"


# What the changelog says of earlier versions may name files that are gone.
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_quoted_files_exist(page):
    folders = "benchmarks|config|docker|docs|endomatch_ros|examples|launch|scripts|test"
    quoted = re.findall(
        rf"(?<![\w/.])((?:{folders})/[\w./-]+\.(?:py|md|yaml|xml|json|rviz|cpp|sh|txt))", page.read_text()
    )
    missing = sorted({path for path in quoted if not (ROOT / path).exists() and not ELSEWHERE.match(path)})
    assert not missing


def test_readme_is_one_screen_and_shows_what_python_runs():
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= 120
    for code in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)


def test_readme_s_figures_are_those_of_the_results():
    rows = json.loads((ROOT / "benchmarks" / "results" / "second_sinus_test.json").read_text())["rows"]
    found = {row["method"]: row for row in rows if row["gap"] == 5}
    names = {"**endomatch**": "endomatch", "KLT on normalised intensities": "klt-normalised"}
    table = (ROOT / "README.md").read_text().split("| ms per pair |")[1].split("\n\n")[0]
    shown = re.findall(r"^\| (.+?) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| (\d+) \|$", table, re.MULTILINE)
    assert len(shown) == 3
    for name, *figures in shown:
        row = found[names.get(name, "sift")]
        exact = row["matches"], row["precision"]["3"], row["pck"]["5"], row["time_p50"]
        assert figures == [f"{value:.{digits}f}" for value, digits in zip(exact, (0, 3, 3, 0), strict=True)]


def test_citation_names_this_version_and_both_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    papers = {identifier["value"] for paper in citation["references"] for identifier in paper["identifiers"]}
    assert papers == {"10.48550/arXiv.2512.10379", "10.48550/arXiv.2303.00874"}


def test_examples_in_the_text_are_the_files():
    example = re.compile(r"<!-- (examples/\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    shown = [(page, *found) for page in CONSUMING for found in example.findall(page.read_text())]
    assert len(shown) == 3
    for page, path, text in shown:
        assert text == (ROOT / path).read_text(), f"{name_of(page)} shows another {path}"


@pytest.mark.parametrize(
    ("dtype", "title"), [(CLOUD_DTYPE, "`~/correspondences`"), (STEREO_DTYPE, "`~/stereo/points`")]
)
def test_cloud_tables_are_the_layout(dtype, title):
    layout = MESSAGES.read_text().split("## Layout of the clouds")[1].split("\n## ")[0]
    table = layout[layout.index(title) :].split("|\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\d+) \|", table, re.MULTILINE)
    assert [(name, np.dtype(kind), int(offset)) for name, kind, offset in rows] == [
        (name, dtype[name], dtype.fields[name][1]) for name in dtype.names
    ]


def test_values_of_the_epipolar_error_are_all_told():
    verdict = pytest.importorskip("endomatch_ros.ros.messages.verdict", reason="rclpy's messages are not installed")
    section = MESSAGES.read_text().split("## Values of the epipolar error")[1].split("\n## ")[0]
    keys = [key for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)]
    assert keys == list(verdict.failure_values())


def test_qos_table_is_what_the_node_asks_and_offers():
    outputs = pytest.importorskip("endomatch_ros.ros.outputs", reason="rclpy is not installed")
    rows = MESSAGES.read_text().split("## Quality of service")[1].split("\n## ")[0].splitlines()
    for start, profile in (("| inputs", outputs.INPUT_QOS), ("| outputs", outputs.OUTPUT_QOS)):
        row = next(row for row in rows if row.startswith(start))
        assert profile.reliability.name.lower().replace("_", " ") in row
        assert profile.history.name.lower().replace("_", " ") + f" {profile.depth}" in row
        assert profile.durability.name in ("VOLATILE", "SYSTEM_DEFAULT")


def parameters_named(text):
    """Names that a text gives values to, in the ways that a parameter of the node gets one."""
    yield from re.findall(r"-p (?:\w+\.)?(\w+):=", text)
    yield from re.findall(r"ros2 param (?:set|get|describe) /\w+ ([a-z]\w*)", text)
    own = r"model|device|cameras|mode|reference|roi|mask|rectified|refinement|resolution|image_transport"
    yield from re.findall(rf"`((?:{own}|\w+_(?:s|px|ratio|max|min|frames|threshold)))(?:: [^`]*)?`", text)


# Values of messages, and fields, which are written alike.
NOT_PARAMETERS = {"mean_px", "median_px", "p95_px", "rms_px", "inlier_ratio", "received_s", "age_s"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_parameters_exist(page):
    parameters = pytest.importorskip("endomatch_ros.ros.parameters.settings", reason="rclpy is not installed")
    named = set(parameters_named(page.read_text())) - NOT_PARAMETERS
    speaks_of_them = {MESSAGES, TROUBLES, DOCS / "node.md", DOCS / "install.md"}
    assert named or page not in speaks_of_them, "the search finds nothing"
    assert named <= parameters.SPECS.keys()


def spoken():
    """Every text in the sources, with a line break where a value is filled in."""
    for path in [*(ROOT / "endomatch_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "\n" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def quoted_messages():
    """Messages that troubleshooting.md quotes: block quotes, and the first cells of tables of messages."""
    text = prose(TROUBLES)
    yield from re.findall(r"^> (.+)$", text, re.MULTILINE)
    for table in re.split(r"\n\n", text):
        if re.match(r"\| (message|what follows) \|", table):
            for row in table.splitlines()[2:]:
                yield from re.findall(r"`([^`]+)`", row.split(" | ")[0])


def test_quoted_messages_are_those_of_the_sources():
    texts, quoted = list(spoken()), list(quoted_messages())
    assert len(quoted) > 20
    for message in quoted:
        pattern = re.compile(
            ".*".join(re.escape(part.strip()) for part in message.split("…") if part.strip()), re.DOTALL
        )
        assert any(pattern.search(text) for text in texts), f"nothing in the sources says: {message}"


@pytest.mark.parametrize(
    ("prefix", "causes"), [("dropped", Drop), ("reset", Reset), ("keyframe", Keyframe), ("stage", Stage)]
)
def test_every_cause_and_stage_is_explained_in_the_words_of_the_node(prefix, causes):
    rows = re.findall(rf"^\| `{prefix}_(\w+)` \| (.+?) \|", TROUBLES.read_text(), re.MULTILINE)
    assert [(name, meaning.replace("`", "")) for name, meaning in rows] == [(c, c.meaning) for c in causes]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_cause_is_named_that_does_not_exist(page):
    causes = {f"dropped_{cause}" for cause in Drop} | {f"reset_{cause}" for cause in Reset}
    causes |= {f"matches_dropped_{check}" for check in MATCH_DROPS}
    assert set(re.findall(r"`((?:dropped|reset|matches_dropped)_\w+)`", page.read_text())) <= causes


def test_container_copies_what_exists_and_installs_what_setup_requires():
    text = (ROOT / "docker" / "Containerfile").read_text()
    for source in re.findall(r"^COPY (?:--\S+ )*(\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert not {"launch", "config", "resource", "scripts", "docker", "endomatch_ros"} & set(ignored)
    required = re.findall(r'"([\w-]+)>=', (ROOT / "setup.py").read_text().split("install_requires")[1].split("]")[0])
    from_apt = {"numpy", "pyyaml", "rich", "setuptools", "torch"}  # torch and numpy are named without a bound
    for page in (text, (ROOT / "docs" / "install.md").read_text()):
        assert set(required) - from_apt <= set(re.findall(r'"([\w-]+)>=[\d.]+"', page))
