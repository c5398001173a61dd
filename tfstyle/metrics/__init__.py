"""Measures of style transfer: how much of the style arrived, how much of the content stayed."""

from tfstyle.metrics.preservation import (
    body_mask,
    edge_displacement,
    structure_map,
    structure_similarity,
)
from tfstyle.metrics.style import histogram_distance, style_distance_ratio

__all__ = [
    "body_mask",
    "edge_displacement",
    "histogram_distance",
    "structure_map",
    "structure_similarity",
    "style_distance_ratio",
]
