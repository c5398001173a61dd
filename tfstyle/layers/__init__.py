"""Layers of the generator."""

from tfstyle.layers.adain import AdaIN, moments
from tfstyle.layers.affine import ChannelAffine
from tfstyle.layers.guided import (
    apply_tone_grid,
    fit_tone_grid,
    gray_levels,
    match_levels,
    reduce_size,
    smooth_slices,
)
from tfstyle.layers.padding import ReflectionPadding2D

__all__ = [
    "AdaIN",
    "ChannelAffine",
    "ReflectionPadding2D",
    "apply_tone_grid",
    "fit_tone_grid",
    "gray_levels",
    "match_levels",
    "moments",
    "reduce_size",
    "smooth_slices",
]
