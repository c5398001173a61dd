"""``tfstyle augment``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter

from tfstyle.cli import options as opt
from tfstyle.cli.output import complain_of_failed, console, print_facts, progress
from tfstyle.runs.options import AugmentOptions

EXAMPLES = """Examples:
  tfstyle augment train/images augmented/ --styles scanners/ --masks train/masks
  tfstyle augment ct/ out/ --styles a.dcm b.nii.gz --style-windows bone lung
  tfstyle augment ct/ out/ --styles scanners/ --save-bank styles.npz
  tfstyle augment ct/ out/ --styles styles.npz --strength 0.3 1 --per-image 4
  tfstyle augment archive/ out/ --styles a.npz --beam --direct_num_workers 8"""


Options = opt.flattened(
    AugmentOptions,
    {
        "strength": Annotated[tuple[float, float], Parameter(group=opt.STYLE)],
        "gate": Annotated[float, Parameter(group=opt.STYLE)],
        "per_image": Annotated[opt.AtLeastOne, Parameter(group=opt.CONTENT)],
        "masks": Annotated[str | None, Parameter(group=opt.CONTENT)],
        "window": opt.Window,
        "seed": Annotated[opt.NotNegative, Parameter(group=opt.CONTENT)],
        "deidentify": opt.Deidentify,
        "batch_size": opt.BatchSize,
    },
)


def augment(
    input: Annotated[str, Parameter(help="Folder of DICOM series, NIfTI and PNG.")],
    output: Annotated[str, Parameter(help="New folder, or that of the run to resume.")],
    /,
    *,
    overwrite: opt.Overwrite = False,
    styles: Annotated[opt.Several, Parameter(group=opt.STYLE)],
    style_windows: Annotated[opt.Windows, Parameter(group=opt.STYLE)] = ("auto",),
    style_slices: Annotated[opt.AtLeastOne | None, Parameter(group=opt.STYLE)] = None,
    save_bank: Annotated[str | None, Parameter(group=opt.STYLE)] = None,
    options: Options | None = None,  # type: ignore[valid-type]
    choice: opt.ModelChoice = opt.ModelChoice(),
    workers: Annotated[opt.AtLeastOne, Parameter(group=opt.SPEED)] = 2,
    beam: opt.Beam = None,
    reporting: opt.Reporting = opt.Reporting(),
) -> dict:
    """Write a training set in the gray scales of other scans.

    Writes every scan of a folder several times, each time with a style and a strength drawn at
    random: OUTPUT/images/ mirrors the input folder, OUTPUT/masks/ has the masks, untouched, and
    OUTPUT/manifest.jsonl says what was done to each image. Results that keep too little structure
    are replaced by the original.

    The same command resumes after an interruption, or with more inputs or copies. Draws depend on
    the seed, the place of a scan in the input folder and the number of the copy alone. An input
    that cannot be read is noted in the manifest and the others are written; the exit status is 1
    then.

    Args:
        styles: Scans, folders of scans, or banks that --save-bank wrote.
        style_windows: Each style is taken through each of these windows.
        style_slices: Slices of each style scan, evenly spread, each of them a style. Defaults to
            one style a scan, of up to 16 slices for a ToneTransfer, else of the middle one.
        save_bank: File (.npz) in which to keep the encoded styles; they hold no images.
        workers: Sources that are worked on at the same time, in threads.
    """
    from tfstyle.style_bank import StyleBank

    if beam is None:
        from tfstyle.runs.augment import augment_scans

        how: dict[str, Any] = {"workers": workers}
    else:
        from tfstyle.beam import augment_scans, check_options

        check_options(beam)
        how = {"beam_options": beam}
    with progress(reporting, "augmenting") as update:
        model = choice.open()
        bank = StyleBank.from_scans(model, styles, windows=style_windows, slices=style_slices)
        if save_bank is not None:
            bank.save(save_bank)
        result = augment_scans(
            model,
            input,
            output,
            bank,
            overwrite=overwrite,
            progress=update,
            **how,
            **(asdict(options) if options else {}),
        )
    if not reporting.json:
        facts = {
            "manifest": result.manifest,
            "styles": len(bank),
            "written": result.written,
            "there before": result.kept,
            "gated": f"{result.gated}, kept as they were",
        }
        if result.unchanged:
            facts["unchanged"] = f"{result.unchanged}, whose style has their gray scale"
        if result.left_out:
            facts["left out"] = f"{len(result.left_out)}, which hold no scan"
        if result.without_mask:
            facts["without mask"] = len(result.without_mask)
        print_facts(console(), facts | {"failed": len(result.failed)})
    complain_of_failed(result.failed, "; the same command tries them again", result.manifest)
    return asdict(result)
