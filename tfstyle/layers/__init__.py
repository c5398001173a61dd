"""Layers of the generator."""

from tfstyle.layers.adain import AdaIN, moments
from tfstyle.layers.affine import ChannelAffine
from tfstyle.layers.padding import ReflectionPadding2D

__all__ = ["AdaIN", "ChannelAffine", "ReflectionPadding2D", "moments"]
