"""Slices with their masks as a ``tf.data.Dataset``, for training a network that segments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfstyle._private.images import checked_whole
from tfstyle.data.labelled import LabelledFiles, LabelledScan, check_classes, merge_classes
from tfstyle.data.windows import WindowSpec, resolve_window
from tfstyle.errors import ArgumentError

#: Slices among which the next one is drawn.
SHUFFLED = 256


def labelled_dataset(
    records: Sequence[LabelledFiles | LabelledScan],
    window: WindowSpec = "auto",
    batch_size: int = 8,
    *,
    size: int | None = None,
    classes: Mapping[int, Iterable[int]] | str | None = None,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Batches of slices and masks, as ``UNet.fit`` takes them.

    Each pass gives every slice that its mask covers once. Files are read when their turn comes;
    ``.cache()`` keeps what was read. How many batches files give is known after the first pass
    alone, at whose end Keras warns that the data ran out.

    Example:
        >>> records = tfstyle.data.find_labelled("images/", "masks/")
        >>> data = labelled_dataset(records, "soft_tissue", batch_size=2, size=64, seed=1)
        >>> for images, masks in data.take(1):
        ...     print(images.shape, images.dtype.name, masks.shape, masks.dtype.name)
        (2, 64, 64, 1) float32 (2, 64, 64) int32
        >>> augmented = data.map(tfstyle.StyleAugmentation(model, styles="batch"))

    Args:
        records: Of :func:`tfstyle.data.find_labelled`, :func:`tfstyle.data.read_labelled` or
            :func:`tfstyle.data.spine_phantom`.
        window: From HU to gray levels, see :func:`tfstyle.data.resolve_window`.
        batch_size: Slices in a batch; the last one may have fewer.
        size: Side of the images in pixels. Slices are scaled to fit, masks by the nearest pixel,
            and padded with black and background. Without it slices keep their size, and the
            smaller ones of a batch are padded at the bottom and on the right.
        classes: See :func:`tfstyle.data.merge_classes`.
        seed: Of the order, another one in each pass. Without it slices come in the order of the
            records, for a test.

    Returns:
        Dataset of images, float32 (B, H, W, 1) in [0, 1], and masks, int32 (B, H, W).

    Raises:
        ArgumentError: No records, or arguments that cannot be used.
        InputFileError: A file that cannot be read, as a ``tf.errors.OpError`` while the dataset is
            iterated.
    """
    records = list(records)
    check_classes(classes)
    if not records:
        raise ArgumentError("records: must be at least one, received none.")
    batch_size = checked_whole("batch_size", batch_size, 1)
    size = None if size is None else checked_whole("size", size, 1)
    rng = None if seed is None else np.random.default_rng(seed)

    def slices() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number in range(len(records)) if rng is None else rng.permutation(len(records)):
            record = records[number]
            one = record.read() if isinstance(record, LabelledFiles) else record
            mask = merge_classes(one.mask, classes)
            images = resolve_window(window, one.scan).to_unit(one.pixels[one.covered])
            for image, labels in zip(images, mask[one.covered]):
                yield image[..., None], labels.astype(np.int32)

    data = tf.data.Dataset.from_generator(
        slices,
        output_signature=(
            tf.TensorSpec((None, None, 1), tf.float32),
            tf.TensorSpec((None, None), tf.int32),
        ),
    )
    if size is not None:
        data = data.map(lambda image, mask: _fitted(image, mask, size))
    if seed is not None:
        data = data.shuffle(SHUFFLED, seed=seed)
    data = data.padded_batch(batch_size)
    in_memory = [record for record in records if not isinstance(record, LabelledFiles)]
    if len(in_memory) == len(records):
        count = sum(int(record.covered.sum()) for record in in_memory)
        data = data.apply(tf.data.experimental.assert_cardinality(-(-count // batch_size)))
    return data.prefetch(tf.data.AUTOTUNE)


def _fitted(image: tf.Tensor, mask: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Image and mask in a square of `size` pixels."""
    image = tf.image.resize_with_pad(image, size, size, antialias=True)
    mask = tf.image.resize_with_pad(mask[..., None], size, size, method="nearest")
    # Bilinear weights may leave [0, 1] by a rounding error.
    return tf.clip_by_value(image, 0.0, 1.0), tf.ensure_shape(mask[..., 0], (size, size))
