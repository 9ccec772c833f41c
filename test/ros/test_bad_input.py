"""Bad input of every kind: a clear error or a counted drop, and the node still matches afterwards."""

import array

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException, ParameterException
from sensor_msgs.msg import CompressedImage
from support.fakes import FakeMatcher
from support.ros import bench, texture, wait_until

from endomatch_ros.errors import CheckpointError, ConfigError
from endomatch_ros.matching.config import MatcherConfig
from endomatch_ros.ros.messages.clouds import ns_to_stamp, unpack_values
from endomatch_ros.ros.messages.images import to_compressed_message
from endomatch_ros.ros.parameters.table import SPECS


@pytest.fixture
def running():
    with bench() as current:
        yield current


def value_message(value):
    kinds = {
        bool: (ParameterType.PARAMETER_BOOL, "bool_value"),
        int: (ParameterType.PARAMETER_INTEGER, "integer_value"),
        float: (ParameterType.PARAMETER_DOUBLE, "double_value"),
        str: (ParameterType.PARAMETER_STRING, "string_value"),
        list: (ParameterType.PARAMETER_INTEGER_ARRAY, "integer_array_value"),
    }
    kind, field = kinds[type(value)]
    return ParameterValue(type=kind, **{field: value})


def set_parameter(client, name, value):
    request = SetParameters.Request(parameters=[ParameterMessage(name=name, value=value_message(value))])
    return client.call(SetParameters, "endomatch/set_parameters", request).results[0]


BAD_IMAGES = {
    "unknown encoding": ({"encoding": "rgb10"}, "bad_encoding", "'rgb10'"),
    "empty encoding": ({"encoding": ""}, "bad_encoding", "''"),
    "step smaller than a row": ({"step": 479}, "bad_image", "step 479 is smaller"),
    "data shorter than height x step": ({"data": array.array("B", bytes(100))}, "bad_image", "100 bytes of data"),
    "no data": ({"data": array.array("B")}, "bad_image", "0 bytes of data"),
    "zero width": ({"width": 0}, "bad_image", "0 x 120"),
    "zero height": ({"height": 0}, "bad_image", "160 x 0"),
    "huge size": ({"width": 2**31, "step": 2**32 - 1}, "bad_image", "smaller than a row"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_a_bad_image_is_counted_reported_and_survived(running, kind):
    changes, cause, text = BAD_IMAGES[kind]
    running.matched()
    status = running.client.answer(running.client.send(**changes))
    assert status.level == DiagnosticStatus.ERROR
    assert cause in status.message
    assert text in status.message
    assert unpack_values(status)["matches"] == "0"
    running.client.wait_diagnostics("processing", lambda _, v: v[f"dropped_{cause}"] == "1", "the drop's count")
    assert running.client.answer(running.client.send()).level == DiagnosticStatus.OK


@pytest.mark.parametrize("damage", ["empty", "noise", "truncated"])
def test_damaged_compressed_images(damage):
    with bench({"image_transport": "compressed"}) as current:
        stamp = ns_to_stamp(5_000_000_000)
        message = to_compressed_message(texture(), stamp, "scope_optical")
        data = {"empty": b"", "noise": bytes(range(256)), "truncated": bytes(message.data[:-500])}[damage]
        broken = CompressedImage(header=message.header, format="jpeg", data=array.array("B", data))
        current.client.jpegs.publish(broken)
        status = current.client.answer(5_000_000_000)
        assert "damaged" in status.message
        current.client.jpegs.publish(message)
        wait_until(lambda: current.stream.done == 1, "the good image")


def test_a_failing_matcher_is_reported_and_survived(running):
    running.matched()
    running.stream.fail_with = RuntimeError("CUDA out of memory")
    status = running.client.answer(running.client.send())
    assert "matching_failed: CUDA out of memory" in status.message
    running.client.wait_diagnostics("processing", lambda _, v: v["dropped_matching_failed"] == "1", "the count")
    assert running.matched()[1].level == DiagnosticStatus.OK


@pytest.mark.parametrize(
    "error", [ConfigError("unknown preset 'nonsense'"), CheckpointError("m.safetensors is damaged"), KeyError("odd")]
)
def test_a_model_that_fails_leaves_an_unconfigured_node_that_can_be_mended(error):
    outcomes = [error]

    def load(settings):
        if outcomes:
            raise outcomes.pop()
        return FakeMatcher()

    with bench({"model": "nonsense"}, load=load, wait_active=False) as current:
        client = current.client
        status, _ = client.wait_diagnostics("model", lambda s, _: s.level == DiagnosticStatus.ERROR, "an ERROR")
        assert str(error) in status.message
        assert current.state == "unconfigured"
        assert set_parameter(client, "model", "embedded").successful
        for code in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request(transition=Transition(id=code))
            assert client.call(ChangeState, "endomatch/change_state", request).success
        current.wait_connected()
        assert current.matched()[1].level == DiagnosticStatus.OK
        client.wait_diagnostics("model", lambda s, _: s.level == DiagnosticStatus.OK, "the fault to be gone")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("image_transport", "theora", "raw, compressed"),
        ("device", "gpu", "cuda:N"),
        ("model", " ", "empty"),
        ("mask", "/nowhere/mask.png", "/nowhere/mask.png"),
        ("similarity_threshold", 1.5, "similarity_threshold"),
        ("similarity_threshold", -0.5, "-0.5"),
        ("min_inlier_ratio", -1.0, "min_inlier_ratio"),
        ("ransac_threshold_px", 0.0, "ransac_threshold_px"),
        ("max_keypoints", -3, "max_keypoints"),
        ("warn_median_px", 9.0, "error_median_px"),
    ],
)
def test_a_bad_value_at_start_names_parameter_and_reason(name, value, reason):
    with pytest.raises(InvalidParameterValueException) as caught, bench({name: value}, wait_active=False):
        pass
    assert name in str(caught.value)
    assert reason in str(caught.value)


def test_a_wrong_type_at_start_is_refused():
    with pytest.raises(InvalidParameterTypeException, match="markers_max"), bench({"markers_max": "many"}):
        pass


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        # What stood for the model's own value before.
        ("resolution", 0, "[64, 4096]"),
        ("max_keypoints", 0, "[1, 100000]"),
        ("similarity_threshold", -1.0, "[0, 1]"),
        ("forward_backward_px", -1.0, "[0.01, 100]"),
        # Numbers outside the range, whatever their type; wrong types; unknown words.
        ("similarity_threshold", 2, "[0, 1]"),
        ("similarity_threshold", float("nan"), "[0, 1]"),
        ("resolution", 320.5, "whole number"),
        ("resolution", True, "[64, 4096]"),
        ("max_keypoints", "many", "'many'"),
        ("similarity_threshold", "own", "'own'"),
        ("refinement", "magic", "photometric, dense, none"),
    ],
)
def test_what_is_no_value_of_a_setting_of_the_model_says_what_to_write(name, value, reason):
    with pytest.raises(InvalidParameterValueException) as caught, bench({name: value}, wait_active=False):
        pass
    assert f"{name}={value!r}" in str(caught.value)
    assert reason in str(caught.value)
    assert "write model for the model's own value" in str(caught.value)


def test_settings_of_the_model_come_as_numbers_or_the_word_from_command_line_and_file(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("/**: {ros__parameters: {resolution: model, max_keypoints: 123, forward_backward_px: 2}}")
    arguments = ["--params-file", str(file), "-p", "resolution:=320", "-p", "similarity_threshold:=1"]
    with bench(cli_args=[*arguments, "-p", "refinement:=none"]) as current:
        current.matched()
        config = current.node._session.in_force.config
        assert config == MatcherConfig(320, 1.0, 123, "none", forward_backward_px=2.0)
        assert isinstance(config.similarity_threshold, float)
    with bench({"max_keypoints": 50}, cli_args=["-p", "resolution:=model", "-p", "refinement:=model"]) as current:
        current.matched()
        assert current.node._session.in_force.config == MatcherConfig(max_keypoints=50)


def test_a_setting_of_the_model_cannot_be_undeclared(running):
    request = SetParameters.Request(parameters=[ParameterMessage(name="resolution", value=ParameterValue())])
    result = running.client.call(SetParameters, "endomatch/set_parameters", request).results[0]
    assert not result.successful
    assert "resolution" in result.reason
    assert running.node.get_parameter("resolution").value == "model"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("similarity_threshold", 2.0, ""),
        ("similarity_threshold", -0.2, "the model's own"),
        ("resolution", 10, "resolution"),
        ("warn_median_px", 7.0, "must not be above error_median_px 5"),
        ("model", "dinov2-small", "only be changed while the node is unconfigured"),
        ("image_transport", "compressed", "only be changed while the node is unconfigured"),
        ("refinement", "magic", "photometric"),
        ("refinement", "dense", "no head"),
        ("dense_consistency_cells", 2.0, "no head"),
        ("dense_consistency_cells", 200.0, ""),
        ("autostart", False, ""),
        ("max_keypoints", 3.5, "whole number"),
        ("markers_max", 3.5, ""),
        ("roi", [0, -1, 64, 64], "roi=-1 is outside its range"),
    ],
)
def test_a_bad_value_at_run_time_is_refused_and_nothing_changes(running, name, value, reason):
    before = running.node.get_parameter(name).value
    result = set_parameter(running.client, name, value)
    assert not result.successful
    assert result.reason
    assert reason in result.reason
    assert running.node.get_parameter(name).value == before
    assert running.matched()[1].level == DiagnosticStatus.OK


def test_thresholds_change_at_run_time(running):
    running.matched()
    own = running.node._session.in_force.config
    assert set_parameter(running.client, "min_matches", 100).successful
    assert "fewer than min_matches 100" in running.matched()[1].message
    assert set_parameter(running.client, "similarity_threshold", 0.7).successful
    running.matched()
    assert running.node._session.in_force.config.similarity_threshold == 0.7
    assert set_parameter(running.client, "similarity_threshold", "model").successful
    running.matched()
    assert running.node._session.in_force.config == own


def test_a_mask_file_that_is_no_image_is_a_clear_error(tmp_path):
    path = tmp_path / "mask.png"
    path.write_text("not an image")
    with bench({"mask": str(path)}, wait_active=False) as current:
        status, _ = current.client.wait_diagnostics("model", lambda s, _: s.level == DiagnosticStatus.ERROR, "an ERROR")
        assert "mask.png" in status.message


def test_a_missing_topic_is_named_with_what_to_do():
    with bench({"input_timeout_s": 0.1}, cli_args=["-r", "image_raw:=/elsewhere"], wait_active=False) as current:
        current.wait_state("active")
        status, _ = current.client.wait_diagnostics(
            "input", lambda s, _: s.level == DiagnosticStatus.WARN and "/image_raw" in s.message, "a WARN with a hint"
        )
        assert "no images on /elsewhere" in status.message
        assert "remap image_raw" in status.message
        assert "/image_raw" in status.message  # the topic that does carry images


def test_raw_topic_missing_but_compressed_there_says_so():
    cli_args = ["-r", "image_raw:=/scope/image_raw"]
    with bench({"input_timeout_s": 0.1}, cli_args=cli_args, wait_active=False) as current:
        current.wait_state("active")
        current.client.node.create_publisher(CompressedImage, "/scope/image_raw/compressed", 1)
        current.client.wait_diagnostics(
            "input", lambda s, _: "set image_transport to compressed" in s.message, "the hint at image_transport"
        )


def test_every_parameter_is_described(running):
    names = list(SPECS)
    answer = running.client.call(
        DescribeParameters, "endomatch/describe_parameters", DescribeParameters.Request(names=names)
    )
    for name, descriptor in zip(names, answer.descriptors, strict=True):
        spec = SPECS[name]
        assert len(descriptor.description) > 20, name
        if isinstance(spec.default, int | float) and not isinstance(spec.default, bool):
            ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
            told = [f"{end.from_value:g} to {end.to_value:g}" for end in ranges] or [descriptor.additional_constraints]
            # A number that can be left to the model is text, too: rclpy would hold only the number against a range.
            assert told == [f"model or {spec.low:g} to {spec.high:g}" if spec.own else f"{spec.low:g} to {spec.high:g}"]
        assert descriptor.dynamic_typing == (spec.own and not isinstance(spec.default, str))


def test_exceptions_at_start_are_of_the_kind_that_main_reports():
    assert issubclass(InvalidParameterValueException, ParameterException)
    assert issubclass(InvalidParameterTypeException, ParameterException)
