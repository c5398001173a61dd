"""Segmentation of gray images: the U-Net, its loss, and class weights."""

from tfstyle.segmentation.loss import SegmentationLoss, balanced_class_weights
from tfstyle.segmentation.unet import UNet

__all__ = ["SegmentationLoss", "UNet", "balanced_class_weights"]
