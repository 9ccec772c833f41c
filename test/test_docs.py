"""The documentation agrees with the repository: links, files, examples, tables, parameters, quoted messages."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from endomatch_ros.data.clouds import CLOUD_DTYPE, STEREO_DTYPE
from endomatch_ros.ros.monitoring.causes import MATCH_DROPS, Drop, Keyframe, Reset
from endomatch_ros.ros.monitoring.stages import Stage

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONSUMING, TROUBLES = ROOT / "docs" / "consuming.md", ROOT / "docs" / "troubleshooting.md"
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# What a command leaves behind, or what lies beside the repository.
ELSEWHERE = re.compile(r"^(demo_output|results|runs|\.\.|build|install|log|src|\$|~|/)")


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}; {file.name} has {anchors(file)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_quoted_files_exist(page):
    folders = "benchmarks|config|docker|docs|endomatch_ros|examples|launch|scripts|test"
    quoted = re.findall(
        rf"(?<![\w/.])((?:{folders})/[\w./-]+\.(?:py|md|yaml|xml|json|rviz|cpp|sh|txt))", page.read_text()
    )
    missing = sorted({path for path in quoted if not (ROOT / path).exists() and not ELSEWHERE.match(path)})
    assert not missing


def test_examples_in_the_text_are_the_files():
    shown = re.findall(r"<!-- (examples/\S+) -->\n```\w+\n(.*?)^```$", CONSUMING.read_text(), re.MULTILINE | re.DOTALL)
    assert len(shown) == 3
    for path, text in shown:
        assert text == (ROOT / path).read_text(), f"docs/consuming.md shows another {path}"


@pytest.mark.parametrize(
    ("dtype", "title"), [(CLOUD_DTYPE, "`~/correspondences`"), (STEREO_DTYPE, "`~/stereo/points`")]
)
def test_cloud_tables_are_the_layout(dtype, title):
    layout = CONSUMING.read_text().split("## Layout of the clouds")[1].split("\n## ")[0]
    table = layout[layout.index(title) :].split("|\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\d+) \|", table, re.MULTILINE)
    assert [(name, np.dtype(kind), int(offset)) for name, kind, offset in rows] == [
        (name, dtype[name], dtype.fields[name][1]) for name in dtype.names
    ]


def test_values_of_the_epipolar_error_are_all_told():
    verdict = pytest.importorskip("endomatch_ros.ros.messages.verdict", reason="rclpy's messages are not installed")
    section = CONSUMING.read_text().split("## Values of the epipolar error")[1].split("\n## ")[0]
    keys = [key for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)]
    assert keys == list(verdict.failure_values())


def test_qos_table_is_what_the_node_asks_and_offers():
    outputs = pytest.importorskip("endomatch_ros.ros.outputs", reason="rclpy is not installed")
    rows = CONSUMING.read_text().split("## Quality of service")[1].split("\n## ")[0].splitlines()
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


@pytest.mark.parametrize("page", [CONSUMING, TROUBLES, ROOT / "docs" / "install.md"], ids=lambda page: page.name)
def test_parameters_exist(page):
    parameters = pytest.importorskip("endomatch_ros.ros.parameters.settings", reason="rclpy is not installed")
    named = set(parameters_named(page.read_text())) - NOT_PARAMETERS
    assert named, "the search finds nothing"
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
