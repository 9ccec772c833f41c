"""The files that people look through: RViz's against RViz's property names, Foxglove's layout, the driver profiles.

The tables were read from the programs' sources: RViz from ros2/rviz, rolling at f7112b1a (14.3.1), with the same names
in jazzy at 591594ee (14.1.5) and humble at 9b354826 (11.2.13); the layout from Lichtblick-Suite/lichtblick, the open
fork of Foxglove, at 9554e1e4 (1.10.8).
"""

import json
import re

import numpy as np
import pytest
import yaml
from conftest import ROOT
from rclpy.parameter import parameter_dict_from_yaml_file, parameter_value_to_python
from rclpy.qos import (
    QoSCompatibility,
    QoSDurabilityPolicy,
    QoSLivelinessPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.validate_topic_name import validate_topic_name

from endomatch_ros.drawing import error_colours
from endomatch_ros.ros.messages.clouds import CLOUD_DTYPE
from endomatch_ros.ros.messages.markers import NAMESPACES
from endomatch_ros.ros.messages.verdict import failure_values
from endomatch_ros.ros.outputs import INPUT_QOS, OUTPUT_QOS
from endomatch_ros.ros.parameters.table import SPECS

CONFIG = ROOT / "config"
PROFILES = sorted(path.stem for path in (CONFIG / "profiles").glob("*.yaml") if path.stem != "topics")

DISPLAY = {"Class", "Name", "Enabled", "Value"}  # rviz_common/display.cpp
TOPIC = {"Value", "Depth", "History Policy", "Reliability Policy", "Durability Policy", "Filter size"}
POLICIES = {  # rviz_common/properties/qos_profile_property.cpp
    "History Policy": {"System Default", "Keep Last", "Keep All"},
    "Reliability Policy": {"System Default", "Reliable", "Best Effort"},
    "Durability Policy": {"System Default", "Transient Local", "Volatile"},
}
DISPLAYS = {  # rviz_default_plugins/displays
    "rviz_default_plugins/Axes": {"Reference Frame", "Length", "Radius"},
    "rviz_default_plugins/Image": {"Topic", "Normalize Range", "Min Value", "Max Value", "Median window"},
    "rviz_default_plugins/MarkerArray": {"Topic", "Namespaces"},
    "rviz_default_plugins/PointCloud2": {
        *("Topic", "Selectable", "Style", "Size (m)", "Size (Pixels)", "Alpha", "Decay Time"),
        *("Position Transformer", "Color Transformer"),
        *("Channel Name", "Use rainbow", "Invert Rainbow", "Min Color", "Max Color"),
        *("Autocompute Intensity Bounds", "Min Intensity", "Max Intensity"),
    },
    "rviz_common/Group": {"Displays"},
}
TYPES = {  # what each display subscribes to
    "rviz_default_plugins/Image": {"visualization", "image_raw"},
    "rviz_default_plugins/MarkerArray": {"markers"},
    "rviz_default_plugins/PointCloud2": {"correspondences", "points"},
}
VIEW = {  # rviz_common/view_controller.cpp, frame_position_tracking_view_controller.cpp, orbit_view_controller.cpp
    *("Class", "Name", "Value", "Near Clip Distance", "Enable Stereo Rendering", "Invert Z Axis", "Target Frame"),
    *("Distance", "Focal Shape Size", "Focal Shape Fixed Size", "Yaw", "Pitch", "Focal Point"),
}
TOOLS = {  # rviz_default_plugins/tools
    "rviz_default_plugins/Interact": {"Hide Inactive Objects"},
    "rviz_default_plugins/MoveCamera": set(),
    "rviz_default_plugins/Select": set(),
    "rviz_default_plugins/FocusCamera": set(),
    "rviz_default_plugins/Measure": {"Line color"},
}
PANELS = {"Displays", "Help", "Selection", "Time", "Tool Properties", "Transformation", "Views"}  # panel_factory.cpp
TRANSFORMERS = {"rviz_common/Identity", "rviz_default_plugins/TF"}

RVIZ = yaml.safe_load((CONFIG / "endomatch.rviz").read_text())
MANAGER = RVIZ["Visualization Manager"]
LAYOUT = json.loads((CONFIG / "foxglove_layout.json").read_text())


def all_displays(displays):
    for display in displays:
        yield display
        yield from all_displays(display.get("Displays", []))


def quality(reliability, durability=QoSDurabilityPolicy.VOLATILE):
    """A profile with nothing left to the middleware, so that compatible means compatible."""
    liveliness = QoSLivelinessPolicy.AUTOMATIC
    return QoSProfile(depth=1, reliability=reliability, durability=durability, liveliness=liveliness)


DISPLAYED = list(all_displays(MANAGER["Displays"]))
WITH_TOPIC = [display for display in DISPLAYED if "Topic" in display]


class TestRviz:
    @pytest.mark.parametrize("display", DISPLAYED, ids=lambda display: display["Name"])
    def test_displays_and_their_properties_exist(self, display):
        assert display.keys() <= DISPLAY | DISPLAYS[display["Class"]]
        assert display["Enabled"] == display["Value"]  # Display::load reads both, the last one wins

    def test_names_tell_the_displays_apart(self):
        names = [display["Name"] for display in DISPLAYED]
        assert len(set(names)) == len(names)

    @pytest.mark.parametrize("display", WITH_TOPIC, ids=lambda display: display["Name"])
    def test_topics_are_the_node_s_and_of_the_display_s_type(self, display):
        topic = display["Topic"]
        assert topic.keys() <= TOPIC
        assert validate_topic_name(topic["Value"])
        assert re.fullmatch(r"/image_raw|/endomatch/((left|right|stereo)/)?[a-z_]+", topic["Value"])
        assert topic["Value"].rpartition("/")[2] in TYPES[display["Class"]]

    @pytest.mark.parametrize("display", WITH_TOPIC, ids=lambda display: display["Name"])
    def test_subscriptions_fit_what_is_published(self, display):
        topic = display["Topic"]
        for name, allowed in POLICIES.items():
            assert topic[name] in allowed
        names = [topic[policy].upper().replace(" ", "_") for policy in ("Reliability Policy", "Durability Policy")]
        wanted = quality(QoSReliabilityPolicy[names[0]], QoSDurabilityPolicy[names[1]])
        published = QoSReliabilityPolicy.BEST_EFFORT if topic["Value"] == "/image_raw" else OUTPUT_QOS.reliability
        assert qos_check_compatible(quality(published), wanted)[0] == QoSCompatibility.OK
        assert topic["Depth"] >= 1

    def test_what_an_enabled_file_asks_for_comes_from_a_node_with_one_camera(self):
        """A subscriber makes the node draw: what a single camera does not have is switched off."""
        shown = [d for d in all_displays(d for d in MANAGER["Displays"] if d["Enabled"]) if d in WITH_TOPIC]
        assert {d["Topic"]["Value"] for d in shown if d["Enabled"]} == {
            "/endomatch/visualization",
            "/endomatch/markers",
            "/endomatch/correspondences",
        }

    def test_markers_namespaces_are_those_of_the_node(self):
        markers = [d for d in DISPLAYED if d["Class"] == "rviz_default_plugins/MarkerArray"]
        assert markers
        for display in markers:
            assert set(display["Namespaces"]) == set(NAMESPACES)

    def test_points_are_coloured_by_their_error_on_the_overlay_s_scale(self):
        display = next(d for d in DISPLAYED if d["Name"] == "Correspondences")
        assert display["Color Transformer"] == "Intensity"
        assert display["Channel Name"] in CLOUD_DTYPE.names
        assert not display["Use rainbow"]
        assert not display["Autocompute Intensity Bounds"]
        top = float(display["Max Intensity"])
        assert (display["Min Intensity"], top) == (0, SPECS["ransac_threshold_px"].default)
        ends = [[int(v) for v in display[key].split(";")] for key in ("Min Color", "Max Color")]
        assert ends == error_colours(np.array([0.0, top]), top).tolist()

    def test_views_look_along_the_optical_axis_with_the_image_s_top_on_top(self):
        """OrbitViewController::updateCamera: the camera at the focal point + distance * (yaw, pitch), z fixed as up."""
        for view in [MANAGER["Views"]["Current"], *MANAGER["Views"]["Saved"]]:
            assert view["Class"] == "rviz_default_plugins/Orbit"
            assert view.keys() <= VIEW
            yaw, pitch = view["Yaw"], view["Pitch"]
            assert abs(pitch) <= np.pi / 2 - 0.001 + 1e-6  # the controller's own limit
            direction = -np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
            up = np.array([0.0, 0.0, 1.0]) - direction[2] * direction
            np.testing.assert_allclose(direction, [0, 0, 1], atol=2e-3)
            np.testing.assert_allclose(up / np.linalg.norm(up), [0, -1, 0], atol=2e-3)
            eye = np.array([view["Focal Point"][axis] for axis in "XYZ"]) - view["Distance"] * direction
            assert eye[2] < 0  # behind the camera

    def test_panels_tools_and_transformation_exist(self):
        assert {panel["Class"].removeprefix("rviz_common/") for panel in RVIZ["Panels"]} <= PANELS
        for tool in MANAGER["Tools"]:
            assert tool.keys() - {"Class"} <= TOOLS[tool["Class"]]
        assert MANAGER["Transformation"]["Current"]["Class"] in TRANSFORMERS
        assert MANAGER["Global Options"].keys() == {"Background Color", "Fixed Frame", "Frame Rate"}
        assert MANAGER["Global Options"]["Fixed Frame"]


PANEL_KEYS = {  # panels/*/types.ts, ThreeDeeRender/IRenderer.ts, diagnostics/util.ts
    "Image": {"imageMode"},
    "3D": {"cameraState", "followTf", "followMode", "scene", "publish", "transforms", "topics", "layers", "imageMode"},
    "Plot": {
        *("paths", "minXValue", "maxXValue", "minYValue", "maxYValue", "showLegend", "legendDisplay", "isSynced"),
        *("showPlotValuesInLegend", "showXAxisLabels", "showYAxisLabels", "xAxisVal", "xAxisPath"),
        *("followingViewWidth", "sidebarDimension"),
    },
    "DiagnosticSummary": {
        *("minLevel", "pinnedIds", "topicToRender", "hardwareIdFilter", "sortByLevel", "secondsUntilStale"),
    },
}
CAMERA_STATE = {
    *("distance", "perspective", "phi", "target", "targetOffset", "targetOrientation", "thetaOffset", "fovy"),
    *("near", "far"),
}
PLOT_PATH = {"value", "enabled", "color", "label", "timestampMethod", "showLine", "lineSize"}
POINT_SETTINGS = {
    *("visible", "frameLocked", "pointSize", "pointShape", "decayTime", "colorMode", "flatColor", "colorField"),
    *("gradient", "colorMap", "explicitAlpha", "minValue", "maxValue"),
}
MARKER_SETTINGS = {"visible", "frameLocked", "color", "showOutlines", "selectedIdVariable", "namespaces"}


def leaves(tree):
    return [tree] if isinstance(tree, str) else [*leaves(tree["first"]), *leaves(tree["second"])]


def panels(kind):
    return [config for name, config in LAYOUT["configById"].items() if name.split("!")[0] == kind]


class TestFoxglove:
    def test_panels_and_their_settings_exist_and_each_is_placed_once(self):
        assert LAYOUT.keys() == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
        for name, config in LAYOUT["configById"].items():
            assert config.keys() <= PANEL_KEYS[name.split("!")[0]] | {"foxglovePanelTitle"}
        assert sorted(leaves(LAYOUT["layout"])) == sorted(LAYOUT["configById"])

    def test_the_picture_is_the_compressed_overlay(self):
        assert [config["imageMode"] for config in panels("Image")] == [
            {"imageTopic": "/endomatch/visualization/compressed"}
        ]

    def test_plots_read_figures_that_are_published(self):
        form = re.compile(r'/endomatch/epipolar_error\.status\[0\]\.values\[:\]\{key=="(\w+)"\}\.value')
        keys = []
        for config in panels("Plot"):
            for path in config["paths"]:
                assert path.keys() <= PLOT_PATH
                keys.append(form.fullmatch(path["value"])[1])
        assert set(keys) <= failure_values().keys()
        assert {"median_px", "inliers"} <= set(keys)

    def test_the_scene_shows_markers_and_points_on_the_overlay_s_scale(self):
        topics = panels("3D")[0]["topics"]
        assert topics["/endomatch/markers"].keys() <= MARKER_SETTINGS
        assert set(topics["/endomatch/markers"]["namespaces"]) == set(NAMESPACES)
        points = topics["/endomatch/correspondences"]
        assert points.keys() <= POINT_SETTINGS
        assert points["colorField"] in CLOUD_DTYPE.names
        ends = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in points["gradient"]]
        assert ends == error_colours(np.array([0.0, points["maxValue"]]), points["maxValue"]).tolist()
        assert topics["/endomatch/stereo/points"].keys() <= POINT_SETTINGS

    def test_the_scene_is_seen_along_the_optical_axis(self):
        """CameraStateSettings: Euler angles (phi, 0, -theta) in the order ZYX turn a camera that looks along -z."""
        state = panels("3D")[0]["cameraState"]
        assert state.keys() == CAMERA_STATE
        phi, theta = np.deg2rad([state["phi"], -state["thetaOffset"]])
        about_x = np.array([[1, 0, 0], [0, np.cos(phi), -np.sin(phi)], [0, np.sin(phi), np.cos(phi)]])
        about_z = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
        rotation = about_z @ about_x
        np.testing.assert_allclose(rotation @ [0, 0, -1], [0, 0, 1], atol=5e-3)
        np.testing.assert_allclose(rotation @ [0, 1, 0], [0, -1, 0], atol=5e-3)

    def test_diagnostics_are_those_of_the_node(self):
        shown = {config["topicToRender"] for config in panels("DiagnosticSummary")}
        assert shown == {"/diagnostics", "/endomatch/epipolar_error"}


TOPICS = yaml.safe_load((CONFIG / "profiles" / "topics.yaml").read_text())


class TestProfiles:
    def test_every_profile_has_topics_and_the_other_way_round(self):
        assert sorted(TOPICS) == PROFILES
        assert set(PROFILES) == {"ambf", "decklink", "dvrk", "dvrk_data", "usb_cam", "v4l2"}

    @pytest.mark.parametrize("name", PROFILES)
    def test_rclpy_reads_parameters_that_the_node_has_and_accepts(self, name):
        values = parameter_dict_from_yaml_file(str(CONFIG / "profiles" / f"{name}.yaml"), use_wildcard=True)
        assert values
        for key, message in values.items():
            value = parameter_value_to_python(message.value)
            spec = SPECS[key]
            assert type(value) is type(spec.default) or (isinstance(spec.default, tuple) and list(value))
            assert not spec.choices or value in spec.choices
            assert spec.low is None or spec.low <= value <= spec.high

    @pytest.mark.parametrize("name", PROFILES)
    def test_topics_are_one_a_camera_with_valid_names(self, name):
        values = yaml.safe_load((CONFIG / "profiles" / f"{name}.yaml").read_text())["/**"]["ros__parameters"]
        cameras = values.get("cameras", [""])
        assert values["mode"] == "temporal" or len(cameras) == 2
        assert TOPICS[name].keys() == {"image", "camera_info"}
        for pattern in TOPICS[name].values():
            topics = {pattern.replace("{camera}", camera) for camera in cameras}
            assert len(topics) == len(cameras)
            for topic in topics:
                assert topic.startswith("/")
                assert validate_topic_name(topic)

    @pytest.mark.parametrize("name", PROFILES)
    def test_the_header_says_where_the_topics_come_from_and_how_they_are_published(self, name):
        text = (CONFIG / "profiles" / f"{name}.yaml").read_text()
        header = text[: text.index("/**:")]
        assert all(line.startswith("#") for line in header.splitlines())
        assert re.search(r"https://(github|gitlab)\.com/[\w.-]+/[\w.-]+", header)
        assert "Quality of service:" in header
        assert f"profile:={name}" in header
        first = next(iter(yaml.safe_load(text)["/**"]["ros__parameters"].get("cameras", [""])))
        named = {topic.replace("/RIG", "/jhu_daVinci") for topic in re.findall(r"(?<![\w.:/])/[\w/]+", header)}
        assert TOPICS[name]["image"].replace("{camera}", first) in named

    def test_the_node_s_inputs_fit_reliable_and_best_effort_drivers(self):
        for reliability in (QoSReliabilityPolicy.RELIABLE, QoSReliabilityPolicy.BEST_EFFORT):
            assert qos_check_compatible(quality(reliability), quality(INPUT_QOS.reliability))[0] == QoSCompatibility.OK
