"""The tone transfer: the gray scale of one scan for another, by one rising curve."""

from tfstyle.tone.curve import ToneCurve
from tfstyle.tone.features import ToneEncoder
from tfstyle.tone.matching import ToneMatcher
from tfstyle.tone.model import ToneTransfer
from tfstyle.tone.pairs import GrayScale, ViewPool, tone_groups

__all__ = [
    "GrayScale",
    "ToneCurve",
    "ToneEncoder",
    "ToneMatcher",
    "ToneTransfer",
    "ViewPool",
    "tone_groups",
]
