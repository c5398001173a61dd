"""Models on whole scans: what they take from style scans, served models, one curve for a scan."""

import numpy as np
import pytest

from tests.minis import ct_series
from tfstyle.data import WINDOWS, read_scan
from tfstyle.errors import ArgumentError, ServingError
from tfstyle.stylizers import encode_style, style_images


def test_slices_of_a_style_scan(tmp_path):
    ct_series(tmp_path, 5)
    unit = WINDOWS["bone"].to_unit(read_scan(tmp_path).pixels)
    for options, expected in (({}, [2]), ({"index": -1}, [4]), ({"most": 16}, range(5))):
        images, window = style_images(tmp_path, "bone", **options)
        np.testing.assert_array_equal(images, unit[list(expected)])
        assert window == WINDOWS["bone"]
    with pytest.raises(ArgumentError, match=r"5 slices, 0 to 4"):
        style_images(tmp_path, index=5)


class Recorder:
    """A client; `code` is what it encodes every style to, or raises."""

    def __init__(self, code):
        self.code = code

    def encode_style(self, style):
        if isinstance(self.code, Exception):
            raise self.code
        return self.code


def test_style_code_of_a_served_model(tmp_path):
    ct_series(tmp_path, 1)
    code = np.zeros((1, 2, 3), np.float32)
    assert encode_style(Recorder(code), tmp_path)[0] is code
    for status in ("FAILED_PRECONDITION", "INVALID_ARGUMENT"):  # a model without codes
        client = Recorder(ServingError("no such signature", status))
        image, images, _ = encode_style(client, tmp_path)
        np.testing.assert_array_equal(image, images[0])
    with pytest.raises(ServingError, match="no server"):
        encode_style(Recorder(ServingError("no server", "UNAVAILABLE")), tmp_path)
