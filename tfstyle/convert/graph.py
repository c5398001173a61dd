"""One signature of a SavedModel as a plain graph, which is what every converter starts from.

Variables become constants, functions are inlined, and the checks that make a server refuse bad
input (``Assert``, ``CheckNumerics``) are taken out: the runtimes converted to cannot run them.
Whoever runs a converted model checks its input, as :func:`tfstyle._private.images.as_batch` does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfstyle._private.images import checked_whole
from tfstyle._private.logs import quiet_tensorflow
from tfstyle.errors import ArgumentError, InputFileError, first_line
from tfstyle.export.servable import (
    DEFAULT_SIGNATURE,
    INIT_SIGNATURE,
    SERVE_TAG,
    read_meta_graph,
)
from tfstyle.export.signatures import STYLIZE

if TYPE_CHECKING:
    import tensorflow as tf

#: Operations that are left out of converted models.
CHECKS = ("Assert", "CheckNumerics")


@dataclass(frozen=True)
class PlainGraph:
    """A frozen graph without checks, of one signature.

    `function` is a ``ConcreteFunction`` from the inputs by name, in the order of `inputs`, to a
    dict by name; `inputs` have None where a size is free; `dropped` counts what of ``CHECKS`` was
    taken out.
    """

    signature: str
    function: Any
    inputs: dict[str, tf.TensorSpec]
    outputs: tuple[str, ...]
    dropped: dict[str, int]

    def save(self, folder: str | Path) -> None:
        """Writes a SavedModel with this one signature."""
        import tensorflow as tf

        module = tf.Module(name=self.signature)
        tf.saved_model.save(module, str(folder), signatures={self.signature: self.function})


def chosen_signature(folder: Path) -> str:
    """The signature that is meant where none is named: ``"stylize"``, or the only one.

    Raises an InputFileError if the SavedModel cannot be read, an ArgumentError if it has several
    others.
    """
    given = set(read_meta_graph(folder).signature_def) - {INIT_SIGNATURE}
    names = sorted(given - {DEFAULT_SIGNATURE}) or sorted(given)
    if STYLIZE in names:
        return STYLIZE
    if len(names) != 1:
        raise ArgumentError(
            f"signature: must be one of those of {folder}: {', '.join(names) or 'it has none'}; "
            "received None."
        )
    return names[0]


def plain_graph(folder: Path, signature: str, size: int | None = None) -> PlainGraph:
    """Reads one signature of a SavedModel as a plain graph.

    With `size` every image is one of ``size`` x ``size`` pixels and every batch one of 1; else
    sizes are free. An input of unknown rank, such as ``strength``, is a vector of 1 in either case.
    Raises an InputFileError if it is not a SavedModel, an ArgumentError for another signature.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    if size is not None:
        size = checked_whole("size", size, 1)
    try:
        with quiet_tensorflow():
            loaded = tf.saved_model.load(str(folder), tags=[SERVE_TAG])  # holds the variables
    except Exception as error:
        raise InputFileError(
            folder,
            f"cannot be loaded as a SavedModel ({first_line(error)}); export the model again.",
        ) from error
    if signature not in loaded.signatures:
        raise ArgumentError(
            f"signature: {folder} has no {signature!r}; it has "
            f"{', '.join(sorted(loaded.signatures)) or 'none'}."
        )
    served = loaded.signatures[signature]
    frozen = convert_variables_to_constants_v2(served)
    outputs = tuple(sorted(served.structured_outputs))  # the order of a flattened dict
    names = [tensor.name for tensor in frozen.outputs]
    ends = [tensor.op.name for tensor in (*frozen.inputs, *frozen.outputs)]
    graph_def, dropped = _without_checks(frozen.graph.as_graph_def())
    with quiet_tensorflow():
        graph_def = tf.compat.v1.graph_util.extract_sub_graph(graph_def, ends)
    given = served.structured_input_signature[1]
    specs = {
        name: tf.TensorSpec(_shape(given[name].shape, size), given[name].dtype, name=name)
        for name in sorted(given)
    }
    placeholders = dict(zip(specs, (tensor.name for tensor in frozen.inputs)))

    def generate(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        # Shapes are inferred again from the inputs' while the nodes come in.
        found = tf.graph_util.import_graph_def(
            graph_def,
            input_map={placeholders[name]: tensor for name, tensor in inputs.items()},
            return_elements=names,
            name="model",
        )
        return {name: tf.identity(tensor, name) for name, tensor in zip(outputs, found)}

    function = tf.function(generate, autograph=False).get_concrete_function(**specs)
    return PlainGraph(signature, function, specs, outputs, dropped)


def _shape(shape: tf.TensorShape, size: int | None) -> list[int | None]:
    """The shape of an input with the sizes that were asked for."""
    if shape.rank is None:
        return [1]
    sizes = shape.as_list()
    if size is not None and sizes:
        sizes[0] = 1
        if len(sizes) == 4:
            sizes[1:3] = size, size
    return sizes


def _without_checks(
    graph_def: tf.compat.v1.GraphDef,
) -> tuple[tf.compat.v1.GraphDef, dict[str, int]]:
    """A copy without checks, and the number of each that there was."""
    import tensorflow as tf

    dropped = Counter(node.op for node in graph_def.node if node.op in CHECKS)
    plain = tf.compat.v1.GraphDef()
    plain.CopyFrom(graph_def)
    del plain.node[:]
    for node in graph_def.node:
        if node.op == "Assert":
            continue
        node = plain.node.add(name=node.name, op=node.op, input=node.input, attr=node.attr)
        if node.op == "CheckNumerics":
            node.op = "Identity"
            del node.attr["message"]
        # In a graph without state, nothing but a check is worth waiting for.
        kept = [name for name in node.input if not name.startswith("^")]
        del node.input[:]
        node.input.extend(kept)
        node.attr.pop("_output_shapes", None)
    return plain, dict(dropped)
