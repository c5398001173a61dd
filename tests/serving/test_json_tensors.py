"""Cases of "Predict API" and "JSON mapping" in TensorFlow Serving's REST documentation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfstyle.serving import json_tensors
from tfstyle.serving.status import StatusError

FLOAT, TEXT = np.dtype("float32"), np.dtype("object")


def refused(function, *arguments) -> str:
    with pytest.raises(StatusError) as caught:
        function(*arguments)
    assert caught.value.code == "INVALID_ARGUMENT"
    return caught.value.details


class TestParse:
    def test_nan_and_infinity_are_numbers(self):
        body = json_tensors.parse(b'{"x": [NaN, Infinity, -Infinity, 1e-3]}')
        assert math.isnan(body["x"][0])
        assert body["x"][1:] == [math.inf, -math.inf, 1e-3]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"", "The document is empty"),
            (b"{", "JSON Parse error"),
            (b"[1]", "Is not object"),
            (b"\xff\xfe\x00garbage", "JSON Parse error"),
            (b"[" * 100_000, "JSON Parse error"),
            (b'{"x": ' + b"9" * 10_000 + b"}", "JSON Parse error"),
        ],
    )
    def test_what_is_no_json_object(self, text, message):
        assert message in refused(json_tensors.parse, text)

    def test_more_lists_than_memory_is_meant_for(self):
        text = b'{"inputs": [' + b"[]," * 999 + b"[]]}"
        assert len(json_tensors.parse(text, values=2001)["inputs"]) == 1000
        assert "more than 2000 numbers" in refused(json_tensors.parse, text, 2000)


class TestRowFormat:
    def test_one_input_is_given_without_its_name(self):
        for rows, dtype in (
            (["foo", "bar", "baz"], TEXT),
            ([[[1, 2]], [[3, 4]]], FLOAT),
            ([1.0, 2.0, 5.0], FLOAT),
        ):
            inputs, is_rows = json_tensors.read_inputs({"instances": rows}, {"x": dtype})
            assert is_rows
            assert inputs["x"].dtype == dtype
            assert inputs["x"].shape == np.shape(rows)

    def test_several_inputs_are_named(self):
        rows = [
            {"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},
            {"tag": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]},
        ]
        dtypes = {"tag": TEXT, "signal": np.dtype("int64"), "sensor": FLOAT}
        inputs, _ = json_tensors.read_inputs({"instances": rows}, dtypes)
        assert inputs["tag"].tolist() == [b"foo", b"bar"]
        np.testing.assert_array_equal(inputs["signal"], [[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]])
        np.testing.assert_array_equal(inputs["sensor"], [[[1, 2], [3, 4]], [[4, 5], [6, 8]]])

    @pytest.mark.parametrize(
        ("rows", "dtypes", "message"),
        [
            ("text", {"x": FLOAT}, "to be an list/array"),
            ([], {"x": FLOAT}, "No values in 'instances'"),
            ([1.0], {"x": FLOAT, "y": FLOAT}, "expecting list of objects"),
            ([1.0, {"x": 1.0}], {"x": FLOAT}, "got object at item 1"),
            ([{"x": 1.0}, 1.0], {"x": FLOAT}, "got list at item 1"),
            ([{"x": 1.0}], {"x": FLOAT, "y": FLOAT}, "must only have keys: x,y"),
            ([{"x": 1.0, "z": 1.0}], {"x": FLOAT}, "must only have keys: x"),
            ([[1.0], [1.0, 2.0]], {"x": FLOAT}, "unequal sizes"),
        ],
    )
    def test_bad_rows(self, rows, dtypes, message):
        assert message in refused(json_tensors.read_inputs, {"instances": rows}, dtypes)

    def test_answers(self):
        y = np.float32([[1, 2], [3, 4]])
        one = json_tensors.write_outputs({"y": y}, rows=True)
        assert one == {"predictions": [[1.0, 2.0], [3.0, 4.0]]}
        two = json_tensors.write_outputs({"y": y, "label": np.int64([7, 8])}, rows=True)
        assert two == {
            "predictions": [{"label": 7, "y": [1.0, 2.0]}, {"label": 8, "y": [3.0, 4.0]}]
        }

    @pytest.mark.parametrize(
        ("outputs", "message"),
        [
            ({"y": np.float32(1)}, "has no shape information"),
            ({"y": np.zeros((0, 2), np.float32)}, "invalid batch size: 0"),
            ({"y": np.zeros(2, np.float32), "z": np.zeros(3, np.float32)}, "inconsistent"),
        ],
    )
    def test_answers_without_rows(self, outputs, message):
        assert message in refused(json_tensors.write_outputs, outputs, True)


class TestColumnFormat:
    def test_a_single_input_may_go_without_its_name(self):
        for value in ([1.0, 2.0], {"x": [1.0, 2.0]}):
            inputs, is_rows = json_tensors.read_inputs({"inputs": value}, {"x": FLOAT})
            assert not is_rows
            np.testing.assert_array_equal(inputs["x"], [1, 2])
        inputs, _ = json_tensors.read_inputs({"inputs": 3.0}, {"x": FLOAT})
        assert inputs["x"].shape == ()

    def test_inputs_need_not_share_their_first_size(self):
        value = {"content": [[[[0.5]]], [[[0.25]]]], "style": [[[[1]]]], "more": [9]}
        inputs, _ = json_tensors.read_inputs({"inputs": value}, {"content": FLOAT, "style": FLOAT})
        assert {name: array.shape for name, array in inputs.items()} == {
            "content": (2, 1, 1, 1),
            "style": (1, 1, 1, 1),
        }

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({}, "Missing 'inputs' or 'instances' key"),
            ({"inputs": [1.0], "instances": [1.0]}, "expecting only one of"),
            ({"inputs": [1.0]}, "inputs is a plain value/list"),
            ({"inputs": {"x": [1.0]}}, "Missing named input: y"),
        ],
    )
    def test_bad_bodies(self, body, message):
        dtypes = {"x": FLOAT, "y": FLOAT}
        assert message in refused(json_tensors.read_inputs, body, dtypes)

    def test_answers(self):
        y = np.float32([[1, 2]])
        assert json_tensors.write_outputs({"y": y}, rows=False) == {"outputs": [[1.0, 2.0]]}
        both = json_tensors.write_outputs({"y": y, "n": np.int32(3)}, rows=False)
        assert both == {"outputs": {"n": 3, "y": [[1.0, 2.0]]}}


class TestValues:
    @pytest.mark.parametrize(
        ("value", "dtype"),
        [
            ([True, False], "bool"),
            ([1, -10, 0], "int8"),
            ([255], "uint8"),
            ([2**40], "int64"),
            ([1.1, -10.0, 0], "float32"),
            ([0.1], "float64"),
        ],
    )
    def test_kinds_of_the_documentation(self, value, dtype):
        array = json_tensors.to_array("x", value, np.dtype(dtype))
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, np.array(value, dtype))

    @pytest.mark.parametrize(
        ("value", "dtype", "message"),
        [
            (["a"], "float32", "not of expected type"),
            ([True], "float32", "not of expected type"),
            ([None], "float32", "not of expected type"),
            ([{"a": 1}], "float32", "not of expected type"),
            ([1.5], "int32", "not of expected type"),
            ([300], "uint8", "not of expected type"),
            ([1], "bool", "not of expected type"),
            ([1], "object", "expected type: string"),
            ([2**24], "float32", "without loss of precision"),
            ([1e39], "float32", "without loss of precision"),
            ([10**400], "float64", "not of expected type"),
            ([{"b64": "*"}], "object", "Unable to base64 decode"),
        ],
    )
    def test_other_values_are_refused(self, value, dtype, message):
        assert message in refused(json_tensors.to_array, "x", value, np.dtype(dtype))

    def test_not_numbers(self):
        array = json_tensors.to_array("x", [math.nan, math.inf], FLOAT)
        assert np.isnan(array[0])
        assert np.isinf(array[1])

    def test_empty_lists_keep_their_shape(self):
        assert json_tensors.to_array("x", [[], []], FLOAT).shape == (2, 0)

    def test_binary(self):
        value = [{"b64": "aW1hZ2UgYnl0ZXM="}, "seaside"]
        array = json_tensors.to_array("x", value, TEXT)
        assert array.tolist() == [b"image bytes", b"seaside"]
        assert json_tensors.to_json("x_bytes", array)[0] == {"b64": "aW1hZ2UgYnl0ZXM="}
        assert json_tensors.to_json("x", array)[1] == "seaside"

    @given(
        arrays.arrays(
            np.float32,
            st.integers(0, 5),
            elements=st.floats(width=32, allow_nan=False, allow_infinity=True),
        )
    )
    def test_floats_come_back_exactly(self, array):
        text = json_tensors.dumps(json_tensors.to_json("x", array))
        back = json_tensors.to_array("x", json.loads(text), FLOAT)
        np.testing.assert_array_equal(back, array)

    def test_floats_are_short(self):
        values = np.float32([0.1, 0.2, 1 / 3, 1e-9, 123.456, 0.0, 1.0])
        text = json_tensors.dumps(json_tensors.to_json("x", values)).decode()
        assert text == "[0.1,0.2,0.333333343,1e-09,123.456,0.0,1.0]"
