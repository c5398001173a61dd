"""``tfstyle stylize``."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from tfstyle.cli import options as opt
from tfstyle.cli.output import complain_of_failed, print_accounts, progress
from tfstyle.errors import ArgumentError, InputFileError
from tfstyle.runs.options import StylizeOptions

EXAMPLES = """Examples:
  tfstyle stylize ct_series/ --style reference.dcm -o stylized/
  tfstyle stylize a.dcm --style b.dcm --window bone --style-window brain -o c/
  tfstyle stylize ct.nii.gz --style a.dcm --style b.dcm \\
      --style-weights 0.7 0.3 -o out.nii.gz
  tfstyle stylize slice.dcm --style head.dcm --format png -o slice.png
  tfstyle stylize ct_series/ --style a.dcm --server localhost:8500 -o out/
  tfstyle stylize archive/ --style a.dcm -o out/ --beam --direct_num_workers 8
  tfstyle stylize a.dcm --style b.dcm --method histogram_matching -o matched/
  tfstyle stylize a.dcm --style b.dcm --method gatys --set steps=100 -o gatys/
  tfstyle stylize a.dcm --style b.dcm --method nyul --set floor=0.05 -o out/"""

SERVER = Group("Served model", sort_key=4)
METHOD = Group("Other methods, to compare with", sort_key=5)


Options = opt.flattened(
    StylizeOptions,
    {
        "style_weights": Annotated[
            tuple[float, ...] | None, Parameter(group=opt.STYLE, consume_multiple=1)
        ],
        "style_slice": Annotated[int | None, Parameter(group=opt.STYLE)],
        "style_series": Annotated[str | None, Parameter(group=opt.STYLE)],
        "style_window": Annotated[str, Parameter(group=opt.STYLE, converter=opt.strip)],
        "strength": Annotated[float, Parameter(group=opt.STYLE)],
        "window": opt.Window,
        "output_format": Annotated[
            Literal["auto", "dicom", "nifti", "png"], Parameter(name="--format", group=opt.CONTENT)
        ],
        "deidentify": opt.Deidentify,
        "batch_size": opt.BatchSize,
    },
)


def stylize(
    inputs: opt.Inputs,
    /,
    *,
    output: opt.Output,
    overwrite: opt.Overwrite = False,
    style: Annotated[tuple[str, ...], Parameter(group=opt.STYLE)] = (),
    series: Annotated[str | None, Parameter(group=opt.CONTENT)] = None,
    options: Options | None = None,  # type: ignore[valid-type]
    choice: opt.ModelChoice = opt.ModelChoice(),
    server: Annotated[str | None, Parameter(group=SERVER)] = None,
    server_ca: Annotated[str | None, Parameter(group=SERVER)] = None,
    server_header: Annotated[tuple[str, ...], Parameter(group=SERVER)] = (),
    method: Annotated[str, Parameter(group=METHOD)] = "contextual",
    settings: Annotated[tuple[str, ...], Parameter(name="--set", group=METHOD)] = (),
    workers: Annotated[opt.NotNegative | None, Parameter(group=opt.SPEED)] = None,
    beam: opt.Beam = None,
    reporting: opt.Reporting = opt.Reporting(),
) -> dict:
    """Give scans the gray scale of another scan.

    A DICOM series becomes a derived DICOM series (new UIDs, ImageType DERIVED, source references;
    spacing and orientation kept), NIfTI becomes NIfTI, PNG becomes PNG. The same command resumes
    where an interrupted one stopped.

    Args:
        output: Folder for the results, or a file name for one NIfTI volume or one PNG.
        style: Scan with the gray scale wanted; repeat it to blend several.
        series: Only this series: its number, its name or its UID.
        server: HOST:PORT of a served model to use instead of a local one, by gRPC;
            grpcs://HOST:PORT for TLS.
        server_ca: PEM file of certificates to trust. Defaults to the system's.
        server_header: NAME:VALUE, sent with every call as gRPC metadata; may be repeated.
        method: contextual is the preset or model, of any class. Others: adain_mse, gatys, wct,
            histogram_matching, foreground_histogram_matching, mean_and_spread, nyul;
            contextual_transformation with --model.
        settings: NAME=VALUE, an option of the method, such as steps=100; may be repeated.
        workers: Processes that read and write slices; 0 for none. Defaults to as many as suit.
    """
    other = method != "contextual"
    if not style and not other:
        raise ArgumentError("--style: give a scan with the gray scale wanted.")
    if other and server is not None:
        raise ArgumentError("--method: a server runs the model it has; leave out one of the two.")
    if settings and not other:
        raise ArgumentError("--set: sets options of another --method; name one.")
    method_options = _values(opt.pairs("--set", settings, "="))
    headers = opt.pairs("--server-header", server_header, ":")
    from tfstyle.runs.stylize import stylize_scans

    run: Any = stylize_scans
    how: dict[str, Any] = {"series": series, "workers": workers}
    if beam is not None:
        given = {"--method": other, "--server": server, "--series": series}
        unfit = [name for name, value in given.items() if value]
        if unfit:
            raise ArgumentError(f"{unfit[0]}: is not available with --beam.")
        from tfstyle import beam as pipelines

        pipelines.check_options(beam)
        run, how = pipelines.stylize_scans, {"beam_options": beam}
    failed: dict[str, str] = {}
    with progress(reporting, "stylizing") as update, ExitStack() as stack:
        if server is not None:
            from tfstyle.serving import Client

            client = Client(server, credentials=_credentials(server_ca), headers=headers)
            stylizer: Any = stack.enter_context(client)
        elif other:
            from tfstyle import baselines

            if choice != opt.ModelChoice(opt.DEFAULT_PRESET):
                method_options["model"] = choice.model or choice.preset
            stylizer = baselines.get(method, **method_options)
        else:
            stylizer = choice.open()
        results = run(
            stylizer,
            inputs,
            style,
            output,
            overwrite=overwrite,
            progress=update,
            on_failure=lambda path, error: failed.update({path: error.problem}),
            **how,
            **(asdict(options) if options else {}),
        )
    if not reporting.json:
        print_accounts(results, _account)
    complain_of_failed(failed, "; the others are done")
    return {"scans": [asdict(result) for result in results], "failed": failed}


def _values(settings: dict[str, str]) -> dict[str, Any]:
    """Values as JSON; what is not JSON is text."""
    found = {}
    for name, value in settings.items():
        try:
            found[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            found[name.replace("-", "_")] = value
    return found


def _credentials(path: str | None) -> Any:
    """Certificates to trust, read from a PEM file."""
    if path is None:
        return None
    import grpc

    try:
        with open(path, "rb") as file:
            return grpc.ssl_channel_credentials(file.read())
    except OSError as error:
        raise InputFileError(
            path, f"cannot be read ({error.strerror or error}); name a PEM file."
        ) from error


def _account(result: Any) -> dict[str, str]:
    """A stylized scan in words."""
    unit = "" if result.units in ("gray", "US") else f" {result.units}"
    window = result.window
    facts = {
        "written": result.files[0] + (f" … {len(result.files)} files" if result.files[1:] else ""),
        "size": f"{result.slices} × {result.size[0]} × {result.size[1]}",
        "window": f"center {window.center:g}, width {window.width:g}: {window.lower:g} … "
        f"{window.upper:g}{unit}; {result.clipped_below:.1%} of the source's pixels lay below and "
        f"{result.clipped_above:.1%} above, and were clipped",
        "steps": f"values are stored in steps of {result.quantization:.3g}{unit}",
    }
    if result.confidence is not None:
        facts["confidence"] = (
            f"{result.confidence:.2f} of 1: how well the style shows what the scan shows"
        )
    if result.structure is not None:
        facts["structure"] = f"{result.structure:.3f} of 1 kept (structure term of SSIM)"
    facts["time"] = f"{result.seconds:.1f} s in the model"
    if result.resumed:
        facts["resumed"] = "made by an earlier run"
    return facts
