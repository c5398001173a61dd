"""``tfstyle segment``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from tfstyle.cli import options as opt
from tfstyle.cli.output import complain_of_failed, print_accounts, progress

EXAMPLES = """Examples:
  tfstyle segment ct.nii.gz -o spine.nii.gz
  tfstyle segment ct_series/ --format dicom-seg -o masks/
  tfstyle segment pictures/ -o masks/
  tfstyle segment ct/ --model own.keras --spacing 1.5 --window bone -o masks/
  tfstyle segment pictures/ --model own.keras --harmonize \\
      --reference trained_on.nii.gz -o masks/"""


SEGMENTATION = Group("Model", sort_key=3)


def segment(
    inputs: opt.Inputs,
    /,
    *,
    output: opt.Output,
    overwrite: opt.Overwrite = False,
    model: Annotated[str, Parameter(group=SEGMENTATION)] = "unet_spine",
    harmonize: Annotated[
        bool | None, Parameter(group=SEGMENTATION, negative="--no-harmonize")
    ] = None,
    reference: Annotated[str | None, Parameter(group=SEGMENTATION)] = None,
    window: Annotated[str | None, Parameter(converter=opt.strip, group=SEGMENTATION)] = None,
    spacing: Annotated[float | None, Parameter(group=SEGMENTATION)] = None,
    series: Annotated[str | None, Parameter(group=opt.CONTENT)] = None,
    output_format: Annotated[
        Literal["auto", "nifti", "dicom-seg", "png"],
        Parameter(name="--format", group=opt.CONTENT),
    ] = "auto",
    batch_size: opt.BatchSize = 8,
    reporting: opt.Reporting = opt.Reporting(),
) -> dict:
    """Segment scans with a U-Net and write masks.

    The preset unet_spine is a demonstration, trained on three scans; it is not for diagnosis. Your
    own U-Net takes its place with --model. Masks lie on the grid of their scan; the same command
    resumes where an interrupted one stopped.

    Args:
        output: Folder for the masks, or a file name for the mask of one scan.
        model: A preset for segmentation, its folder, or a .keras file of a model from gray images
            to scores of classes.
        harmonize: Bring scans to the gray scale that the model was trained on, by the tone
            transfer, or not. Defaults to doing so for scans that are not in HU.
        reference: A scan in the gray scale that the model was trained on. Defaults to what the
            preset keeps.
        window: Window of scans in HU, as of tfstyle stylize. Defaults to the preset's.
        spacing: Pixel spacing in mm that the model wants. Defaults to the preset's, or the scan's.
        series: Only this series: its number, its name or its UID.
        output_format: Format of the masks; auto is NIfTI, and PNG for PNG. dicom-seg needs
            tfstyle[dicom-seg] and carries patient and study of its source.
    """
    from tfstyle.runs.segment import segment_scans

    failed: dict[str, str] = {}
    with progress(reporting, "segmenting") as update:
        results = segment_scans(
            model,
            inputs,
            output,
            reference=reference,
            harmonize=harmonize,
            window=window,
            spacing=spacing,
            series=series,
            output_format=output_format,
            batch_size=batch_size,
            overwrite=overwrite,
            progress=update,
            on_failure=lambda path, error: failed.update({path: error.problem}),
        )
    if not reporting.json:
        print_accounts(results, _account)
    complain_of_failed(failed, "; the others are done")
    return {"scans": [asdict(result) for result in results], "failed": failed}


def _account(result: Any) -> dict[str, str]:
    """A segmented scan in words."""
    found = result.milliliters or result.pixels
    unit = "pixels" if result.milliliters is None else "ml"
    facts = {
        "written": result.file,
        "size": f"{result.slices} × {result.size[0]} × {result.size[1]}",
        **{name: f"{value:g} {unit}" for name, value in found.items()},
        "window": f"center {result.window.center:g}, width {result.window.width:g}",
    }
    if result.harmonized:
        confidence = "" if result.confidence is None else f", confidence {result.confidence:.2f}"
        facts["harmonized"] = f"to the gray scale of the training{confidence}"
    facts["time"] = f"{result.seconds:.1f} s"
    if result.resumed:
        facts["resumed"] = "made by an earlier run"
    return facts
