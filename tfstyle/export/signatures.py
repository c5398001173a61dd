"""The signatures of each kind of servable: names, tensors with their units, graph functions.

A new kind of model needs a function like :func:`stylize_signatures` here and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfstyle._private.images import checked_gray

if TYPE_CHECKING:
    import tensorflow as tf

STYLIZE = "stylize"
STYLIZE_WITH_CODE = "stylize_with_code"
ENCODE_STYLE = "encode_style"
SEGMENT = "segment"
#: What the name of a signature ends in that also takes ``strength``.
STRENGTH_SUFFIX = "_strength"


@dataclass(frozen=True)
class Tensor:
    """An input or output of a signature, as its metadata tells it.

    Args:
        sizes: The shape in words and numbers, such as ``("batch", "height", "width", 1)``; a word
            is a size that the caller chooses. A text that tells it, for any rank.
        meaning: What it is, with what holds beyond type and range.
        units: Unit of the values; ``"1"`` for a pure number.
        range: Lowest and highest value; None at an end that is open.
        dtype: Name of the TensorFlow dtype.
    """

    sizes: tuple[str | int, ...] | str
    meaning: str
    units: str
    range: tuple[float | None, float | None] = (0.0, 1.0)
    dtype: str = "float32"

    def spec(self, name: str) -> tf.TensorSpec:
        """The placeholder for tracing: words become unknown sizes."""
        import tensorflow as tf

        shape = None
        if not isinstance(self.sizes, str):
            shape = [size if isinstance(size, int) else None for size in self.sizes]
        return tf.TensorSpec(shape, tf.as_dtype(self.dtype), name=name)

    def describe(self) -> dict[str, Any]:
        """The same as plain types for JSON."""
        return {
            "dtype": self.dtype,
            "shape": self.sizes if isinstance(self.sizes, str) else list(self.sizes),
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
            `outputs`, with assertions that refuse what it cannot use.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    function: Callable[..., dict[str, tf.Tensor]]

    def describe(self) -> dict[str, Any]:
        """The same as plain types for JSON."""
        return {
            "inputs": {name: tensor.describe() for name, tensor in self.inputs.items()},
            "outputs": {name: tensor.describe() for name, tensor in self.outputs.items()},
        }


_GRAY = "display gray level: a scan after its window, 0 black, 1 white"
_IMAGE_SIZES = ("batch", "height", "width", 1)
CONTENT = Tensor(
    _IMAGE_SIZES, "images whose anatomy is kept; any height and width of at least 1", _GRAY
)
STYLE = Tensor(
    ("batch or 1", "style height", "style width", 1),
    "images whose gray-scale style is taken; one for all contents, or one for each",
    _GRAY,
)
GENERATED = Tensor(_IMAGE_SIZES, "the content images in the style's gray scale", _GRAY)
STRENGTH = Tensor(
    "scalar, [1] or [batch]",
    "0 keeps the content's own gray scale as the model sees it, 1 takes the style's in full",
    "1",
)
IMAGE = Tensor(_IMAGE_SIZES, "images to segment; any height and width of at least 1", _GRAY)


def stylize_signatures(model: Any) -> dict[str, Signature]:
    """Signatures by name of any model that stylizes, ``stylize`` first.

    It has ``generate(content, style, strength)``, images (B, H, W, 1) and (B or 1, H', W', 1) and a
    strength or None to images (B, H, W, 1); for the signatures with codes also ``code_shape``,
    ``code_of(style)``, images to an array (B, *code_shape), and
    ``generate_from_code(content, code, strength)``.
    """
    table: dict[str, Signature] = {}

    def add(stem, name, other, function):
        def generate(content, given, strength=None):
            return {"generated": function(*_checked_pair(name, content, given, strength))}

        inputs, outputs = {"content": CONTENT, name: other}, {"generated": GENERATED}
        table[stem] = Signature(inputs, outputs, generate)
        inputs = {**inputs, "strength": STRENGTH}
        table[f"{stem}{STRENGTH_SUFFIX}"] = Signature(inputs, outputs, generate)

    add(STYLIZE, "style", STYLE, model.generate)
    shape = getattr(model, "code_shape", None)
    if shape is None:
        return table
    code = Tensor(
        ("batch or 1", *shape),
        "what the model takes from a style; made by encode_style, only for the same model",
        "as the model defines them",
        range=(None, None),
    )
    table[ENCODE_STYLE] = Signature(
        {"style": STYLE},
        {"code": code},
        lambda style: {"code": model.code_of(_checked_image("style", style))},
    )
    add(STYLIZE_WITH_CODE, "code", code, model.generate_from_code)
    return table


def segment_signature(model: Any) -> Signature:
    """The signature ``segment`` of a model with ``probabilities(images)`` and ``classes``."""
    import tensorflow as tf

    def segment(image: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = model.probabilities(_checked_image("image", image))
        mask = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        return {"mask": tf.expand_dims(mask, -1), "probabilities": probabilities}

    classes = int(model.classes)
    mask = Tensor(
        _IMAGE_SIZES,
        "most probable class of every pixel",
        "class number",
        range=(0, classes - 1),
        dtype="int32",
    )
    sizes = (*_IMAGE_SIZES[:3], classes)
    outputs = {
        "mask": mask,
        "probabilities": Tensor(sizes, "probability of every class; sums to 1", "1"),
    }
    return Signature({"image": IMAGE}, outputs, segment)


# -- what the graph itself refuses, so that every server does ---------------------------------


def _checked_image(name: str, image: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    with tf.control_dependencies([_not_empty(name, image)]):
        return checked_gray(image, name)


def _checked_pair(name: str, content, other, strength) -> tuple[tf.Tensor, tf.Tensor, Any]:
    """Content, a ``"style"`` or ``"code"``, and the strength or None."""
    import tensorflow as tf

    noun = "image" if name == "style" else "code"
    contents, others = tf.shape(content)[0], tf.shape(other)[0]
    checks = [
        _not_empty("content", content),
        _not_empty(name, other),
        _assert(
            tf.logical_or(tf.equal(others, 1), tf.equal(others, contents)),
            f"{name}: must hold one {noun}, or as many as content; batch sizes of {name} and "
            "content",
            others,
            contents,
        ),
    ]
    with tf.control_dependencies(checks):
        content = checked_gray(content, "content")
        check = checked_gray if name == "style" else tf.debugging.check_numerics
        other = check(other, name)
    return content, other, None if strength is None else _checked_strength(strength, contents)


def _checked_strength(strength: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
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


def _not_empty(name: str, tensor: tf.Tensor) -> Any:
    import tensorflow as tf

    sizes = tf.shape(tensor)
    return _assert(tf.reduce_all(sizes > 0), f"{name}: is empty; its shape is", sizes)


def _assert(condition: tf.Tensor, message: str, *values: tf.Tensor) -> Any:
    import tensorflow as tf

    # With text and int32 alone this is a single Assert operation, without a branch around it.
    return tf.debugging.Assert(condition, [message, *values], summarize=4)
