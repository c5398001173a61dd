"""The call that every baseline answers: that of ``StyleTransfer.stylize``, with its checks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from keras import ops

from tfstyle import encoders
from tfstyle._private.images import (
    as_batch,
    check_batch_size,
    check_strength,
    check_style_count,
    named_styles,
)
from tfstyle.encoders import Encoder
from tfstyle.errors import ArgumentError

#: Style images (1 or B, H', W', 1) with their weights, which sum to 1.
Styles = Sequence[tuple[float, Any]]


class Baseline:
    """A method of changing gray scales behind the call of :meth:`tfstyle.StyleTransfer.stylize`.

    A subclass gives ``_generate``.
    """

    #: Name in :data:`tfstyle.baselines.BASELINES`.
    method: str = ""
    #: Whether the gray scale comes from the style images of the call.
    needs_style: bool = True

    @classmethod
    def ready(cls, **options: Any) -> Baseline:
        """Makes the object that :func:`tfstyle.baselines.get` returns."""
        return cls(**options)

    def fingerprint(self) -> str | None:
        """Short text that is the same for methods that generate the same images; None if none is.

        It is of the method's name, its options, and the weights of its networks.
        """
        digest = hashlib.sha256(self.method.encode())
        for name, value in sorted(self._made_of().items()):
            for part in value if isinstance(value, list) else [value]:
                digest.update(name.encode())
                if hasattr(part, "get_weights"):
                    for array in part.get_weights():
                        digest.update(array.tobytes())
                    part = sorted(part.get_config().items())
                digest.update(repr(part).encode())
        return digest.hexdigest()[:32]

    def _made_of(self) -> dict[str, Any]:
        """What decides the images: options and networks by name."""
        return {name: value for name, value in vars(self).items() if name[0] != "_"}

    def stylize(
        self,
        content: np.ndarray,
        style: np.ndarray | Sequence[np.ndarray] | None = None,
        strength: float = 1.0,
        style_weights: Sequence[float] | None = None,
        batch_size: int = 8,
    ) -> np.ndarray:
        """Gives `content` another gray scale.

        Args:
            content: float array (H, W), (H, W, 1) or (B, H, W, 1) with values in [0, 1].
            style: one image (H', W') or (H', W', 1); a batch (B, H', W', 1) with one style for
                each content; or a list of images, blended with `style_weights`. May be left out,
                and is checked and not used, where ``needs_style`` is False.
            strength: 0 leaves the content's gray scale, 1 changes it in full.
            style_weights: One weight for each style of a list, at least 0, not all 0; they are
                divided by their sum. Defaults to equal weights.
            batch_size: Images a call of a network.

        Returns:
            float32 array of the content's shape, in [0, 1].

        Raises:
            ArgumentError: shapes, values, strength or weights that cannot be used.
        """
        check_strength(strength)
        check_batch_size(batch_size)
        images, shape = as_batch(content, "content")
        styles = self._styles(style, style_weights, len(images))
        generated = self._generate(images, styles, float(strength), batch_size)
        return np.clip(generated, 0.0, 1.0).astype(np.float32).reshape(shape)

    def _styles(self, style, style_weights, contents: int) -> list[tuple[float, np.ndarray]]:
        if style is None:
            if self.needs_style:
                raise ArgumentError(f"style: {self.method} needs a style image.")
            return []
        checked = []
        for weight, one, name in named_styles(style, style_weights):
            images = as_batch(one, name)[0]
            check_style_count(len(images), contents, name)
            checked.append((weight, images))
        return checked

    def _generate(
        self,
        images: np.ndarray,
        styles: Styles,
        strength: float,
        batch_size: int,
    ) -> np.ndarray:
        """Images like `images`, float32 (B, H, W, 1) in [0, 1], that need not be clipped."""
        raise TypeError(f"{type(self).__name__} must define _generate().")


class NetworkBaseline(Baseline):
    """A baseline whose images one pass through a network makes; a subclass gives ``_plain``.

    ``generate`` takes what ``StyleTransfer.generate`` takes, so that
    :func:`tfstyle.export.export_stylize` exports such a baseline as well.
    """

    def generate(self, content, style, strength=None):
        """As ``StyleTransfer.generate``; `style` may also be a list of weights and tensors.

        Each is a pair, and weights sum to 1. Without ``needs_style`` the style may be None.
        """
        styles = style if isinstance(style, list) else [(1.0, style)] if style is not None else []
        return ops.clip(self._plain(content, styles, strength), 0.0, 1.0)

    def _plain(self, content, styles: Styles, strength):
        raise TypeError(f"{type(self).__name__} must define _plain().")

    def _generate(self, images, styles, strength, batch_size):
        results = []
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            own = [(weight, one if len(one) == 1 else one[part]) for weight, one in styles]
            result = self.generate(ops.convert_to_tensor(images[part]), own, strength)
            results.append(ops.convert_to_numpy(result))
        return np.concatenate(results)


def cut_encoder(
    encoder: Encoder | str, weights: str | None, layers_of: Callable[[type[Encoder]], Iterable[str]]
) -> Encoder:
    """An encoder that ends at the deepest tap wanted; one that is given is returned as it is.

    `layers_of` goes from an encoder's class to the taps wanted. Raises an ArgumentError for an
    unknown name or tap, a WeightsError for weights that cannot be had.
    """
    if isinstance(encoder, Encoder):
        return encoder
    family = encoders.family(encoder)
    return family(weights=weights, depth=family.deepest(layers_of(family)))


def known_taps(
    family: Encoder | type[Encoder], paper: tuple[str, ...], default: tuple[str, ...]
) -> tuple[str, ...]:
    """The taps that a paper names after VGG's layers, or the family's own for other families."""
    return paper if {*paper} <= {tap.name for tap in family.taps_table} else default
