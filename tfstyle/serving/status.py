"""Statuses of the protocol: what ends a request, and the words of it."""

from __future__ import annotations

import re
from typing import NoReturn

# Codes of gRPC, TensorFlow and TensorFlow Serving, which are the same; the HTTP status is the one
# that TensorFlow Serving gives for each.
HTTP_STATUS = {
    "OK": 200,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
#: Code by its number, from 0.
CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
# gRPC sends the message in the trailing metadata, which clients limit to 8 KiB.
_MAX_DETAILS = 1024


class StatusError(Exception):
    """Ends a request with a status.

    Args:
        code: Name of the code, such as ``"NOT_FOUND"``.
        details: What went wrong, for the caller.
    """

    def __init__(self, code: str, details: str):
        super().__init__(details)
        self.code = code
        if len(details) > _MAX_DETAILS:
            details = details[: _MAX_DETAILS - 1] + "…"
        self.details = details


def invalid(details: str) -> NoReturn:
    """Ends a request with INVALID_ARGUMENT."""
    raise StatusError("INVALID_ARGUMENT", details)


def not_found(details: str) -> NoReturn:
    """Ends a request with NOT_FOUND."""
    raise StatusError("NOT_FOUND", details)


def from_exception(error: BaseException) -> StatusError | None:
    """The status that an exception means, None for one that nobody expected."""
    if isinstance(error, StatusError):
        return error
    if isinstance(error, MemoryError):
        return StatusError("RESOURCE_EXHAUSTED", "not enough memory for this request")
    number = getattr(error, "error_code", None)  # of a tf.errors.OpError
    if isinstance(number, int) and 0 < number < len(CODES):
        return StatusError(CODES[number], clean_message(getattr(error, "message", str(error))))
    return None


def clean_message(message: str) -> str:
    """The sentence that matters in a TensorFlow error.

    Args:
        message: The error's message, which may hold several lines and names of graph nodes.

    Returns:
        The first line that says something, without the names of graph nodes.
    """
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and line != "Graph execution error:"]
    # "2 root error(s) found." is followed by "(0) INVALID_ARGUMENT: the message".
    if lines and re.match(r"\d+ root error\(s\) found", lines[0]):
        lines = [re.sub(r"^\(\d+\) [A-Z_]+: ", "", line) for line in lines[1:]]
    text = lines[0] if lines else message
    text = re.sub(r"\{\{[a-z_]*node [^}]*\}\}", "", text)
    text = re.sub(r"\s*\[\[.*?\]\]", "", text)
    text = re.sub(r"^assertion failed: \[([^\]]*)\]", r"\1", text.strip())
    return text.strip() or message.strip()
