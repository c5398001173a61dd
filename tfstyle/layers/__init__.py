"""Layers of the generator."""

from tfstyle.layers.adain import AdaIN, moments
from tfstyle.layers.padding import ReflectionPadding2D

__all__ = ["AdaIN", "ReflectionPadding2D", "moments"]
