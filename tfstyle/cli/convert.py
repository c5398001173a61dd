"""``tfstyle convert``."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from tfstyle.cli.options import IN_AND_OUT, AtLeastOne, Output, Overwrite, Reporting, Several
from tfstyle.cli.output import console, print_facts, progress

EXAMPLES = """Examples:
  tfstyle convert saved_models/stylize --to tflite --size 256 -o stylize.tflite
  tfstyle convert saved_models/stylize --to onnx -o stylize.onnx
  tfstyle convert saved_models/unet --to tflite --precision float16 -o u.tflite"""


def convert(
    saved_model: Annotated[str, Parameter(help="An exported model or one of its versions.")],
    /,
    *,
    to: Annotated[Literal["tflite", "onnx"], Parameter(group=IN_AND_OUT)],
    output: Output,
    overwrite: Overwrite = False,
    signature: str | None = None,
    precision: Literal["float32", "float16"] = "float32",
    size: AtLeastOne | None = None,
    compare: Several = (),
    reporting: Reporting = Reporting(),
) -> dict:
    """Convert an exported model to TFLite or ONNX.

    Converts one signature of a SavedModel for another runtime, compares the two on real slices and
    writes a report beside the model. TFLite and ONNX need extras of tfstyle: pip install
    'tfstyle[tflite]', 'tfstyle[onnx]'. For TensorRT convert to ONNX first; see
    serving/tensorrt.

    Args:
        to: The runtime's format.
        output: File to write, ending in .tflite or .onnx.
        signature: What to convert, such as encode_style; tfstyle info lists them. Defaults to
            stylize, or the model's only one.
        precision: float16, for TFLite, keeps constants in half precision, and half the size.
        size: Take images of SIZE x SIZE pixels, one at a time. Defaults to any number and size.
        compare: Scans to compare on. Defaults to CT slices of pydicom-data, or of pydicom.
    """
    from tfstyle import convert

    with progress(reporting, "converting"):
        report = convert.convert(
            saved_model,
            output,
            to=to,
            signature=signature,
            precision=precision,
            size=size,
            compare=compare,
            overwrite=overwrite,
        )
    if not reporting.json:
        difference = report.difference
        masks = ""
        if difference.equal_share is not None:
            masks = f"; {difference.equal_share:.2%} of the masks' pixels are the same"
        facts = {
            "written": f"{output}, {report.model['bytes'] / 1e6:.2f} MB",
            "report": f"{output}.json",
            "difference": f"at most {difference.max_difference:.2g} gray levels of [0, 1], "
            f"{difference.mean_difference:.2g} on average, on {difference.pairs} pairs of slices"
            f"{masks}",
            "checks": "the converted model does not check its input",
        }
        print_facts(console(), facts)
    return report.as_dict()
