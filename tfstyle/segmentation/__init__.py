"""Segmentation of gray images: the U-Net, its loss, class weights, and whole scans."""

from tfstyle.segmentation.loss import SegmentationLoss, balanced_class_weights
from tfstyle.segmentation.scans import Segmenter
from tfstyle.segmentation.unet import UNet

__all__ = ["SegmentationLoss", "Segmenter", "UNet", "balanced_class_weights"]
