"""Options of several commands, each written once: type, check, help, and where help shows it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Annotated, Any, Literal

from cyclopts import ArgumentCollection, Group, Parameter, Token
from cyclopts.validators import Number

from tfstyle.errors import ArgumentError

#: ``tfstyle.presets.DEFAULT``, here so that --help needs no TensorFlow.
DEFAULT_PRESET = "tone_ct"


def _at_most_one(arguments: ArgumentCollection) -> None:
    given = [one.tokens[0].keyword or "" for one in arguments if one.tokens]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)}: leave out one of the two.")


IN_AND_OUT = Group("Input and output", sort_key=0)
STYLE = Group("Style", sort_key=1)
CONTENT = Group("Content", sort_key=2)
MODEL = Group("Model", sort_key=3, validator=_at_most_one)
OPTIONS = Group("Options", sort_key=80)
SPEED = Group("Speed and scale", sort_key=90)
REPORTING = Group("Reporting", sort_key=100)


def unwrapped(docstring: str) -> str:
    """A docstring with each paragraph and each entry in one line, for help of any width."""
    return re.sub(r"(?<=\S)\n(?: {8})?(?=\S)", " ", inspect.cleandoc(docstring))


def flattened(kind: type, hints: Mapping[str, Any]) -> Any:
    """The fields of a dataclass, of the types `hints`, as options with its docstring as help."""
    options = [(one.name, hints[one.name], field(default=one.default)) for one in fields(kind)]
    own = {"__module__": __name__}  # types of the standard library count as values
    made = make_dataclass(kind.__name__, options, frozen=True, namespace=own)
    made.__doc__ = unwrapped(kind.__doc__ or "")
    return Parameter(name="*")(made)


def strip(kind: Any, tokens: Sequence[Token]) -> Any:
    """Words without the space that :func:`tfstyle.cli.parse` puts before a negative center."""
    words = tuple(token.value.strip() for token in tokens)
    return words if "tuple" in str(kind) else words[0]


def pairs(option: str, words: Sequence[str], separator: str) -> dict[str, str]:
    """``["name=value"]`` as ``{"name": "value"}``; an ArgumentError without separator or name."""
    found = {}
    for word in words:
        name, there, value = word.partition(separator)
        if not there or not name.strip():
            raise ArgumentError(f"{option}: must be NAME{separator}VALUE, received {word!r}.")
        found[name.strip()] = value.strip()
    return found


AtLeastOne = Annotated[int, Parameter(validator=Number(gte=1))]
NotNegative = Annotated[int, Parameter(validator=Number(gte=0))]
#: Takes all words up to the next option, as do others of its kind; may also be repeated.
Several = Annotated[tuple[str, ...], Parameter(consume_multiple=1)]

Inputs = Annotated[tuple[str, ...], Parameter(help="DICOM files or folders of series, NIfTI, PNG.")]
Output = Annotated[str, Parameter(alias="-o", group=IN_AND_OUT)]
Overwrite = Annotated[bool, Parameter(group=IN_AND_OUT, help="Begin again where a result exists.")]
Window = Annotated[
    str,
    Parameter(
        converter=strip,
        group=CONTENT,
        help="Window of the scans: a name (bone, soft-tissue, lung, brain, mediastinum, liver, "
        "spine, angio, full, …), header, percentile, percentile:LOW,HIGH, range, CENTER,WIDTH in "
        "the scan's units (HU for CT), or auto: for CT the header's window, else soft-tissue.",
    ),
]
Windows = Annotated[tuple[str, ...], Parameter(converter=strip, consume_multiple=1)]
Deidentify = Annotated[
    Literal["keep", "basic"],
    Parameter(
        group=CONTENT,
        help="Derived DICOM: keep carries patient, study, place and staff of the source; basic "
        "applies the basic profile of DICOM PS3.15 and gives results other names, and needs "
        "tfstyle[deidentify]. Text in the pixels is not removed: images that declare it are "
        "refused.",
    ),
]
BatchSize = Annotated[AtLeastOne, Parameter(group=SPEED, help="Slices a call of the model.")]
Beam = Annotated[
    tuple[str, ...] | None,
    Parameter(
        consume_multiple=True,
        allow_leading_hyphen=True,
        group=SPEED,
        help="Comes last: run as an Apache Beam pipeline, the rest of the line being its options, "
        "such as --direct_num_workers N for N processes of this machine, or --runner with "
        "FlinkRunner, SparkRunner or DataflowRunner. Needs tfstyle[beam].",
    ),
]


@Parameter(name="*", group=MODEL)
@dataclass(frozen=True)
class ModelChoice:
    """Which model a command works with.

    Attributes:
        preset: A released preset; tfstyle info lists them.
        model: Instead: a preset folder, a folder written by tfstyle train, or a .keras file.
    """

    preset: str = DEFAULT_PRESET
    model: str | None = None

    def open(self) -> Any:
        """Loads it."""
        from tfstyle.presets import open_model

        model = open_model(self.model or self.preset)
        if not hasattr(model, "stylize"):
            raise ArgumentError(
                f"--{'model' if self.model else 'preset'}: {self.model or self.preset} holds a "
                f"{type(model).__name__}, which transfers no style; use it with tfstyle segment."
            )
        return model


@Parameter(name="*", group=REPORTING)
@dataclass(frozen=True)
class Reporting:
    """What a command says of its work.

    Attributes:
        json: Print one JSON object to stdout.
        quiet: Show no progress bars and no warnings.
        debug: Show TensorFlow's messages, the log and tracebacks.
    """

    json: bool = False
    quiet: bool = False
    debug: bool = False
