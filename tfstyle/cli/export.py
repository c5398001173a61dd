"""``tfstyle export``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from tfstyle.cli import options as opt
from tfstyle.cli.output import PROGRAM, console, print_facts, progress

EXAMPLES = """Examples:
  tfstyle export
  tfstyle export --model runs/first -o saved_models/first --version 3
  tfstyle export --unet unet_spine"""


def export(
    *,
    output: Annotated[str | None, Parameter(alias="-o", group=opt.IN_AND_OUT)] = None,
    version: Annotated[opt.AtLeastOne | None, Parameter(group=opt.IN_AND_OUT)] = None,
    unet: Annotated[str | None, Parameter(group=opt.MODEL)] = None,
    choice: opt.ModelChoice = opt.ModelChoice(),
    warm_up_size: opt.NotNegative = 256,
    reporting: opt.Reporting = opt.Reporting(),
) -> dict:
    """Write a SavedModel for TensorFlow Serving.

    Writes a SavedModel for any batch, height and width, in TensorFlow Serving's layout:
    FOLDER/VERSION/. Signatures: stylize and serving_default, encode_style (image to style code),
    stylize_with_code, and the same with strength.

    Args:
        output: Base folder of the model. Defaults to saved_models/stylize, or saved_models/unet.
        version: Number of the version. Defaults to the next free one.
        unet: Instead: a U-Net (a preset such as unet_spine, or a .keras file), exported with the
            signature segment.
        warm_up_size: Side in pixels of the images with which servers warm up; 0 for none.
    """
    from tfstyle.export import export_stylize, export_unet

    output = output or f"saved_models/{'unet' if unet else 'stylize'}"
    with progress(reporting, "exporting"):
        if unet:
            from tfstyle.segmentation import UNet

            folder = export_unet(UNet.open(unet), output, version, warm_up_size=warm_up_size)
        else:
            preset = None if choice.model else choice.preset
            folder = export_stylize(
                choice.open(), output, version, preset=preset, warm_up_size=warm_up_size
            )
    if not reporting.json:
        out = console()
        print_facts(out, {"exported": folder})
        out.print(f"Serve it with: {PROGRAM} serve --models {output}")
    return {"folder": folder, "version": int(folder.name)}
