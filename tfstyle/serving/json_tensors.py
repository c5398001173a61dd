"""Tensors as JSON, as TensorFlow Serving's REST API writes and reads them.

Reference: TensorFlow Serving, "RESTful API", sections "Predict API" and "JSON mapping".
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfstyle.serving.status import StatusError, invalid

#: Largest whole numbers that a float of this width holds exactly.
_LARGEST_WHOLE = {4: 2**24 - 1, 8: 2**53 - 1}


def parse(text: bytes, values: int | None = None) -> dict[str, Any]:
    """The JSON object of a request; ``NaN`` and ``Infinity`` are numbers, as in the protocol.

    Args:
        text: The document.
        values: Most numbers and lists in it, since ``[]`` takes 3 bytes of text and 64 of memory;
            None for any number.

    Raises:
        StatusError: INVALID_ARGUMENT for anything else.
    """
    if not text:
        invalid("JSON Parse error: The document is empty")
    if values is not None:
        found = text.count(b",") + text.count(b"[") + text.count(b"{")
        if found > values:
            invalid(f"JSON Value: more than {values} numbers and lists; use gRPC for larger images")
    try:
        value = json.loads(text)
    except RecursionError:
        invalid("JSON Parse error: nested too deeply")
    except ValueError as error:  # also bytes that are no UTF-8
        raise StatusError("INVALID_ARGUMENT", f"JSON Parse error: {error}") from None
    if not isinstance(value, dict):
        invalid("JSON Value: Is not object")
    return value


def read_inputs(
    body: Mapping[str, Any], dtypes: Mapping[str, np.dtype]
) -> tuple[dict[str, np.ndarray], bool]:
    """The inputs of a predict request.

    Args:
        body: The JSON object, with ``"instances"`` (row format) or ``"inputs"`` (column format).
        dtypes: Input name to the dtype that the signature wants.

    Returns:
        Input name to array, and whether the request was in row format.

    Raises:
        StatusError: INVALID_ARGUMENT.
    """
    if "instances" in body and "inputs" in body:
        invalid(
            "JSON Value: Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist"
        )
    if "instances" in body:
        return _read_rows(body["instances"], dtypes), True
    if "inputs" in body:
        return _read_columns(body["inputs"], dtypes), False
    return invalid("Missing 'inputs' or 'instances' key")


def _read_rows(rows: Any, dtypes: Mapping[str, np.dtype]) -> dict[str, np.ndarray]:
    if not isinstance(rows, list):
        invalid("JSON Value: Excepting 'instances' to be an list/array")
    if not rows:
        invalid("JSON Value: No values in 'instances' array")
    named = _is_named(rows[0])
    if not named and len(dtypes) > 1:
        invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    if not named:
        for number, row in enumerate(rows):
            if _is_named(row):
                invalid(f"Expecting value/list but got object at item {number} of input list")
        (name,) = dtypes
        return {name: to_array(name, rows, dtypes[name])}
    columns: dict[str, list] = {name: [] for name in dtypes}
    for number, row in enumerate(rows):
        if not _is_named(row):
            invalid(f"Expecting object but got list at item {number} of input list")
        if set(row) != set(dtypes):
            invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object must only "
                f"have keys: {','.join(sorted(dtypes))}"
            )
        for name, value in row.items():
            columns[name].append(value)
    return {name: to_array(name, values, dtypes[name]) for name, values in columns.items()}


def _read_columns(inputs: Any, dtypes: Mapping[str, np.dtype]) -> dict[str, np.ndarray]:
    if not _is_named(inputs):
        if len(dtypes) > 1:
            invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        (name,) = dtypes
        return {name: to_array(name, inputs, dtypes[name])}
    for name in dtypes:
        if name not in inputs:
            invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: to_array(name, inputs[name], dtype) for name, dtype in dtypes.items()}


def _is_named(value: Any) -> bool:
    """Whether a JSON value maps names to tensors; ``{"b64": …}`` is a binary value."""
    return isinstance(value, dict) and not _is_binary(value)


def _is_binary(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def to_array(name: str, value: Any, dtype: np.dtype) -> np.ndarray:
    """A nested list as an array of a dtype.

    Args:
        name: Name of the tensor, for messages.
        value: Number, text, boolean, or (nested) list of them.
        dtype: The dtype wanted; ``object`` for text and binary values.

    Raises:
        StatusError: INVALID_ARGUMENT for lists of unequal sizes, values of another kind and
            numbers that the dtype cannot hold.
    """
    dtype = np.dtype(dtype)
    try:
        if dtype.kind == "O":
            return np.array(_binary(name, value), dtype=object)
        array = np.array(value)
    except (ValueError, OverflowError) as error:
        raise StatusError(
            "INVALID_ARGUMENT", f"{name}: lists have unequal sizes, or a number is too large"
        ) from error
    except RecursionError:
        invalid(f"{name}: nested too deeply")
    if array.size == 0:
        return np.zeros(array.shape, dtype)
    kinds = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}.get(dtype.kind)
    if kinds is None:
        raise StatusError("UNIMPLEMENTED", f"{name}: JSON has no form for {dtype.name}")
    if array.dtype.kind not in kinds:
        invalid(f"{name}: a JSON value is not of expected type: {dtype.name}")
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            result = array.astype(dtype)
        lossy = np.isinf(result) & np.isfinite(array)
        if array.dtype.kind in "iu":
            lossy |= np.abs(array) > _LARGEST_WHOLE.get(dtype.itemsize, 2**8)
        if lossy.any():
            invalid(f"{name}: Cannot convert JSON value to {dtype.name} without loss of precision.")
        return result
    result = array.astype(dtype)
    if dtype.kind in "iu" and (result != array).any():
        invalid(f"{name}: a JSON value is not of expected type: {dtype.name}")
    return result


def _binary(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_binary(name, item) for item in value]
    if isinstance(value, str):
        return value.encode()
    if _is_binary(value):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError):
            invalid("Unable to base64 decode")
    return invalid(f"{name}: a JSON value is not of expected type: string")


def write_outputs(outputs: Mapping[str, np.ndarray], rows: bool) -> dict[str, Any]:
    """The JSON object of a predict answer.

    Args:
        outputs: Output name to array.
        rows: Row format (``"predictions"``) instead of column format (``"outputs"``).

    Raises:
        StatusError: INVALID_ARGUMENT where outputs have no common batch size, in row format.
    """
    values = {name: to_json(name, outputs[name]) for name in sorted(outputs)}
    if not rows:
        return {"outputs": values if len(values) > 1 else next(iter(values.values()))}
    sizes = set()
    for name, array in outputs.items():
        if array.ndim == 0:
            invalid(f"Tensor name: {name} has no shape information ")
        if len(array) < 1:
            invalid(f"Tensor name: {name} has invalid batch size: {len(array)}")
        sizes.add(len(array))
    if len(sizes) > 1:
        invalid(f"output tensors have inconsistent batch sizes: {sorted(sizes)}")
    if len(values) == 1:
        return {"predictions": next(iter(values.values()))}
    return {"predictions": [dict(zip(values, row)) for row in zip(*values.values())]}


def to_json(name: str, array: np.ndarray) -> Any:
    """An array as nested lists; text whose name ends in ``_bytes`` as ``{"b64": …}``."""
    if array.dtype.kind == "f":
        return shortest(array).tolist()
    if array.dtype.kind in "iub":
        return array.tolist()
    if array.dtype.kind != "O" or not all(isinstance(v, bytes) for v in array.ravel()):
        return invalid(f"Failed to write JSON value for tensor type: {array.dtype.name}")
    if name.endswith("_bytes"):
        flat = [{"b64": base64.b64encode(value).decode()} for value in array.ravel()]
    else:
        flat = [value.decode("utf-8", "replace") for value in array.ravel()]
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(array.shape).tolist()


def shortest(array: np.ndarray) -> np.ndarray:
    """Doubles that print as few digits as bring the array's own values back.

    A float32 of 0.1 is 0.10000000149011612 as a double. TensorFlow Serving writes six significant
    digits where they suffice, otherwise nine; this gives the doubles that print so.
    """
    if array.dtype != np.float32:
        return array
    exact = array.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exponent = np.floor(np.log10(np.abs(exact)))
        result = exact
        for digits in (9, 6):
            # Powers of ten up to 22 are exact doubles, so the quotient is the nearest double.
            shift = digits - 1 - exponent
            power = 10.0 ** np.abs(np.clip(shift, -22, 22))
            rounded = np.where(
                shift >= 0, np.rint(exact * power) / power, np.rint(exact / power) * power
            )
            same = (rounded.astype(np.float32) == array) & (np.abs(shift) <= 22)
            result = np.where(same, rounded, result)
    return result


def dumps(value: Any) -> bytes:
    """JSON text, with ``NaN`` and ``Infinity`` as the protocol has them."""
    return json.dumps(value, separators=(",", ":")).encode()


def error_body(message: str) -> bytes:
    """The JSON object that says what went wrong."""
    return json.dumps({"error": message}).encode()
