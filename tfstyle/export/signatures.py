"""The signatures of each kind of servable: names, tensors with their units, graph functions.

:func:`tfstyle.export.export_servable` writes such a table as a SavedModel. A new kind of
model needs a function like :func:`stylize_signatures` here and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf

    from tfstyle.style_transfer import StyleTransfer

STYLIZE = "stylize"
STYLIZE_STRENGTH = "stylize_strength"
STYLIZE_PLAIN = "stylize_plain"
STYLIZE_PLAIN_STRENGTH = "stylize_plain_strength"
ENCODE_STYLE = "encode_style"
ENCODE_STYLE_PLAIN = "encode_style_plain"
STYLIZE_WITH_CODE = "stylize_with_code"
STYLIZE_WITH_CODE_STRENGTH = "stylize_with_code_strength"
STYLIZE_WITH_CODE_PLAIN = "stylize_with_code_plain"
STYLIZE_WITH_CODE_PLAIN_STRENGTH = "stylize_with_code_plain_strength"
SEGMENT = "segment"

#: By detail: from a style image, without and with strength.
STYLIZE_NAMES = {
    "guided": (STYLIZE, STYLIZE_STRENGTH),
    "plain": (STYLIZE_PLAIN, STYLIZE_PLAIN_STRENGTH),
}
#: By detail: from a stored code, without and with strength.
WITH_CODE_NAMES = {
    "guided": (STYLIZE_WITH_CODE, STYLIZE_WITH_CODE_STRENGTH),
    "plain": (STYLIZE_WITH_CODE_PLAIN, STYLIZE_WITH_CODE_PLAIN_STRENGTH),
}
#: By detail: from a style image to its code.
ENCODE_NAMES = {"guided": ENCODE_STYLE, "plain": ENCODE_STYLE_PLAIN}


@dataclass(frozen=True)
class Tensor:
    """An input or output of a signature, as its metadata tells it.

    Args:
        sizes: The shape in words and numbers, such as ``("batch", "height", "width", 1)``; a word
            is a size that the caller chooses. None for any rank.
        meaning: What it is, with what holds beyond type and range.
        units: Unit of the values; ``"1"`` for a pure number.
        range: Lowest and highest value; None at an end that is open.
        dtype: Name of the TensorFlow dtype.
        shape_note: The shape in words, where `sizes` cannot say it.
    """

    sizes: tuple[str | int, ...] | None
    meaning: str
    units: str
    range: tuple[float | None, float | None] = (0.0, 1.0)
    dtype: str = "float32"
    shape_note: str | None = None

    def spec(self, name: str) -> tf.TensorSpec:
        """The placeholder for tracing: words become unknown sizes."""
        import tensorflow as tf

        shape = None
        if self.sizes is not None:
            shape = [size if isinstance(size, int) else None for size in self.sizes]
        return tf.TensorSpec(shape, tf.as_dtype(self.dtype), name=name)

    def describe(self) -> dict[str, Any]:
        """The same as plain types for JSON."""
        return {
            "dtype": self.dtype,
            "shape": self.shape_note if self.shape_note else list(self.sizes or ()),
            "range": list(self.range),
            "units": self.units,
            "meaning": self.meaning,
        }


@dataclass(frozen=True)
class Signature:
    """One signature of a servable.

    Args:
        inputs: Input name to what it is, in the order of the function's arguments.
        outputs: Output name to what it is.
        function: The graph: tensors in the order of `inputs` to a dict of tensors named as
            `outputs`.
        guard: Runs before it in the exported graph: the same tensors to the same tensors, behind
            assertions that refuse what the function cannot use.
        notes: Further facts for the metadata.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    function: Callable[..., dict[str, tf.Tensor]]
    guard: Callable[..., tuple[tf.Tensor, ...]] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """The same as plain types for JSON."""
        return {
            "inputs": {name: tensor.describe() for name, tensor in self.inputs.items()},
            "outputs": {name: tensor.describe() for name, tensor in self.outputs.items()},
            **self.notes,
        }


GRAY = "display gray level: a scan after its window, 0 black, 1 white"

CONTENT = Tensor(
    ("batch", "height", "width", 1),
    "images whose anatomy is kept; any height and width of at least 1",
    GRAY,
)
STYLE = Tensor(
    ("batch or 1", "style height", "style width", 1),
    "images whose gray-scale style is taken; one for all contents, or one for each",
    GRAY,
)
GENERATED = Tensor(
    ("batch", "height", "width", 1), "the content images in the style's gray scale", GRAY
)
STRENGTH = Tensor(
    None,
    "0 keeps the content's own feature statistics, 1 takes the style's in full",
    "1",
    shape_note="scalar, [1] or [batch]",
)


def style_code(width: int) -> Tensor:
    """The tensor of style codes with this many values in each of two rows."""
    return Tensor(
        ("batch or 1", 2, width),
        "mean and standard deviation of each channel at the model's layer and of the style image "
        "itself, then the image's gray levels; made by encode_style for the signatures with the "
        "same detail, and only for models with the same encoder and layer",
        "activation of the encoder; gray levels for the image's own values",
        range=(None, None),
    )


def stylize_signatures(model: StyleTransfer) -> dict[str, Signature]:
    """Signatures of a style transfer model.

    Args:
        model: A :class:`tfstyle.StyleTransfer`. Of something that has only its ``generate`` there
            are no signatures with codes.

    Returns:
        Signature name to signature, ``stylize`` first.
    """
    table: dict[str, Signature] = {}
    for detail, (name, name_strength) in STYLIZE_NAMES.items():
        notes = {"detail": detail}
        images = {"content": CONTENT, "style": STYLE}
        table[name] = Signature(
            images, {"generated": GENERATED}, _generate(model, detail), _guard_images, notes
        )
        table[name_strength] = Signature(
            {**images, "strength": STRENGTH},
            {"generated": GENERATED},
            _generate(model, detail),
            _with_strength(_guard_images),
            notes,
        )
    if not callable(getattr(model, "code_of", None)):
        return table
    import tensorflow as tf

    for detail, name in ENCODE_NAMES.items():
        encode = _encode(model, detail)
        traced = tf.function(encode, autograph=False, input_signature=[STYLE.spec("style")])
        code = style_code(int(traced.get_concrete_function().structured_outputs["code"].shape[-1]))
        notes = {"detail": detail}
        table[name] = Signature({"style": STYLE}, {"code": code}, encode, _guard_style, notes)
        inputs = {"content": CONTENT, "code": code}
        plain, strong = WITH_CODE_NAMES[detail]
        table[plain] = Signature(
            inputs, {"generated": GENERATED}, _generate_from_code(model, detail), _guard_code, notes
        )
        table[strong] = Signature(
            {**inputs, "strength": STRENGTH},
            {"generated": GENERATED},
            _generate_from_code(model, detail),
            _with_strength(_guard_code),
            notes,
        )
    return table


def _generate(model: StyleTransfer, detail: str) -> Callable:
    def generate(content, style, strength=None):
        return {"generated": model.generate(content, style, strength, detail)}

    return generate


def _encode(model: StyleTransfer, detail: str) -> Callable:
    def encode(style):
        return {"code": model.code_of(style, detail)}

    return encode


def _generate_from_code(model: StyleTransfer, detail: str) -> Callable:
    def generate_from_code(content, code, strength=None):
        return {"generated": model.generate_from_code(content, code, strength, detail)}

    return generate_from_code


# -- what the graph itself refuses, so that every server does ---------------------------------


def _guard_images(content: tf.Tensor, style: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    contents, styles = _sizes(content), _sizes(style)
    checks = [
        _not_empty("content", contents),
        _not_empty("style", styles),
        _one_or_each("style", "image", styles[0], contents[0]),
    ]
    return _finite(checks, content=content, style=style)


def _guard_style(style: tf.Tensor) -> tuple[tf.Tensor]:
    return _finite([_not_empty("style", _sizes(style))], style=style)


def _guard_code(content: tf.Tensor, code: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    import tensorflow as tf

    contents, codes = _sizes(content), _sizes(code)
    checks = [
        _not_empty("content", contents),
        _not_empty("code", codes),
        _one_or_each("code", "code", codes[0], contents[0]),
        # True for NaN, which is told better below.
        _assert(
            tf.logical_not(tf.reduce_any(code[:, 1] < 0.0)),
            "code: standard deviations must be at least 0",
        ),
    ]
    return _finite(checks, content=content, code=code)


def _with_strength(guard: Callable) -> Callable:
    def guard_with_strength(*tensors: tf.Tensor) -> tuple[tf.Tensor, ...]:
        *others, strength = tensors
        others = guard(*others)
        return (*others, checked_strength(strength, _sizes(others[0])[0]))

    return guard_with_strength


def checked_strength(strength: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """One value or one an image, as (1 or B, 1, 1, 1), behind assertions."""
    import tensorflow as tf

    values = tf.reshape(strength, [-1])
    count = tf.size(values)
    fits = tf.logical_or(tf.equal(count, 1), tf.equal(count, images))
    in_range = tf.reduce_all(tf.logical_and(values >= 0.0, values <= 1.0))  # False for NaN
    checks = [
        _assert(fits, "strength: must be one value, or one for each content; values given", count),
        _assert(in_range, "strength: must lie in [0, 1]"),
    ]
    with tf.control_dependencies(checks):
        return tf.reshape(values, [-1, 1, 1, 1])


def _sizes(tensor: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    return tf.shape(tensor)


def _not_empty(name: str, sizes: tf.Tensor) -> Any:
    import tensorflow as tf

    return _assert(tf.reduce_all(sizes > 0), f"{name}: is empty; its shape is", sizes)


def _one_or_each(name: str, what: str, count: tf.Tensor, contents: tf.Tensor) -> Any:
    import tensorflow as tf

    return _assert(
        tf.logical_or(tf.equal(count, 1), tf.equal(count, contents)),
        f"{name}: must hold one {what}, or as many as content; batch sizes of {name} and content",
        count,
        contents,
    )


def _finite(checks: list, **tensors: tf.Tensor) -> tuple[tf.Tensor, ...]:
    import tensorflow as tf

    with tf.control_dependencies(checks):
        return tuple(tf.debugging.check_numerics(t, name) for name, t in tensors.items())


def _assert(condition: tf.Tensor, message: str, *values: tf.Tensor) -> Any:
    import tensorflow as tf

    # With text and int32 alone this is a single Assert operation, without a branch around it.
    return tf.debugging.Assert(condition, [message, *values], summarize=4)
