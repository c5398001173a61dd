"""Layers of the generator."""

from tfstyle.layers.adain import AdaIN, moments
from tfstyle.layers.affine import ChannelAffine
from tfstyle.layers.padding import ReflectionPadding2D
from tfstyle.layers.resize import reduce_size

__all__ = ["AdaIN", "ChannelAffine", "ReflectionPadding2D", "moments", "reduce_size"]
