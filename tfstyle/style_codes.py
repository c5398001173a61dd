"""What models share that take a style as a code: checks, batches, traced steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfstyle._private.images import as_batch, check_batch_size, check_style_count, named_styles
from tfstyle._private.keras_files import KerasFile
from tfstyle.errors import ArgumentError


class StyleCodes(KerasFile):
    """Gives style codes to a ``keras.Model`` that stands behind it in its bases.

    The class defines ``code_shape``, ``code_of`` and ``generate_from_code``.
    """

    @property
    def code_shape(self) -> tuple[int, int]:
        """Shape of a style code without the batch axis."""
        raise TypeError(f"{type(self).__name__} must define code_shape.")

    def code_of(self, style):
        """Codes (B, *code_shape) of a float32 tensor (B, H, W, 1) in [0, 1], any size."""
        raise TypeError(f"{type(self).__name__} must define code_of().")

    def generate_from_code(self, content, code, strength=None):
        """:meth:`generate` with a code of :meth:`code_of`, B or 1, instead of a style."""
        raise TypeError(f"{type(self).__name__} must define generate_from_code().")

    def generate(self, content, style, strength=None):
        """Generates images of any size; traceable with unknown batch, height and width.

        Args:
            content: float32 tensor (B, H, W, 1) in [0, 1], H and W at least 1.
            style: float32 tensor (B or 1, H', W', 1) in [0, 1].
            strength: scalar, or tensor that broadcasts to (B, 1, 1, 1), in [0, 1]; None for 1.

        Returns:
            float32 tensor (B, H, W, 1), clipped to [0, 1].
        """
        return self.generate_from_code(content, self.code_of(style), strength)

    def encode_style(self, style: np.ndarray, batch_size: int = 8) -> np.ndarray:
        """All that the model takes from a style, to keep and to give to ``stylize``.

        Args:
            style: float array (H, W), (H, W, 1) or (B, H, W, 1) with values in [0, 1].
            batch_size: Images a call.

        Returns:
            float32 array (B, *code_shape), B = 1 for one image.

        Raises:
            ArgumentError: an image that cannot be used.

        Example:
            >>> code = model.encode_style(style)
            >>> generated = model.stylize(content, code)      # as with the style itself
        """
        return self.encode_batch(as_batch(style, "style")[0], batch_size)

    def encode_batch(self, images: np.ndarray, batch_size: int) -> np.ndarray:
        """Codes (B, *code_shape) of checked images (B, H, W, 1)."""
        check_batch_size(batch_size)
        encode = self.traced("code_of", self.code_of, self.images_spec)
        parts = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
        return np.concatenate([encode(part).numpy() for part in parts])

    def weighted_codes(
        self,
        style: np.ndarray | Sequence[np.ndarray],
        style_weights: Sequence[float] | None,
        contents: int,
        batch_size: int = 8,
    ) -> list[tuple[np.float32, np.ndarray]]:
        """The argument `style` of ``stylize`` as checked codes with weights that sum to 1.

        `style` is an image, a batch, codes, or a list of images and codes with `style_weights`.
        Raises an ArgumentError for what cannot be used with that number of contents.
        """
        found = []
        for weight, one, name in named_styles(style, style_weights):
            array = one if isinstance(one, np.ndarray) else np.asarray(one)
            if array.ndim == 3 and array.shape[-1] > 1:
                if array.shape[1:] != self.code_shape or not np.isfinite(array).all():
                    shape = ", ".join(map(str, self.code_shape))
                    raise ArgumentError(
                        f"{name}: must be an image or a style code of this model, (B, {shape}) "
                        f"finite values, received shape {array.shape}."
                    )
                code = array.astype(np.float32)
                check_style_count(len(code), contents, name)
            else:
                images = as_batch(array, name)[0]
                check_style_count(len(images), contents, name)
                code = self.encode_batch(images, batch_size)
            found.append((np.float32(weight), code))
        return found

    @property
    def code_spec(self) -> tf.TensorSpec:
        """Signature of a batch of codes."""
        return tf.TensorSpec((None, *self.code_shape), tf.float32)
