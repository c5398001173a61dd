"""Models on whole scans: what they take from style scans, served models, one curve for a scan."""

from __future__ import annotations

import numpy as np
import pytest

from tests.minis import ct_series
from tests.models import small_tone
from tfstyle.data import WINDOWS, read_scan
from tfstyle.errors import ArgumentError, ServingError
from tfstyle.stylizers import ScanTransfer, ServedStylizer, style_images


def test_slices_of_a_style_scan(tmp_path):
    ct_series(tmp_path, 5)
    unit = WINDOWS["bone"].to_unit(read_scan(tmp_path).pixels)
    for options, expected in (({}, [2]), ({"index": -1}, [4]), ({"most": 16}, range(5))):
        images, window = style_images(tmp_path, "bone", **options)
        np.testing.assert_array_equal(images, unit[list(expected)])
        assert window == WINDOWS["bone"]
    with pytest.raises(ArgumentError, match=r"5 slices, 0 to 4"):
        style_images(tmp_path, index=5)


def test_no_more_than_sixteen_slices_are_read_beforehand():
    asked = []

    def read(indices):
        asked.extend(indices)
        return np.random.default_rng(0).random((len(indices), 16, 16, 1), np.float32)

    style = np.random.default_rng(1).random((16, 16), np.float32)
    ScanTransfer(small_tone(), 300, read, style)
    assert len(asked) == 16
    assert set(np.diff(asked)) <= {18, 19}
    asked.clear()
    ScanTransfer(ServedStylizer(None), 300, read, style)
    assert not asked


class Recorder:
    """A client that remembers; `code` is what it encodes every style to, or raises."""

    def __init__(self, code=None):
        self.code = code
        self.calls = []

    def encode_style(self, style):
        if isinstance(self.code, Exception):
            raise self.code
        return self.code

    def stylize(self, content, style, **options):
        self.calls.append((len(content), options))
        return content


def test_served():
    client = Recorder()
    images = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1) / 5
    style = images[0, ..., 0]
    found = ServedStylizer(client).stylize(images, style)
    np.testing.assert_array_equal(found, images)
    ServedStylizer(client).stylize(images, style, strength=0.5)
    ServedStylizer(client).stylize(images, [style, style], style_weights=[1, 3])
    whole = [(5, {"strength": 0.5}), (5, {"style_weights": [1, 3]})]
    assert client.calls == [(5, {}), *whole]


def test_style_code_of_a_served_model():
    image = np.zeros((4, 4), np.float32)
    code = np.zeros((1, 2, 3), np.float32)
    assert ServedStylizer(Recorder(code)).encode_style(image) is code
    for status in ("FAILED_PRECONDITION", "INVALID_ARGUMENT"):  # a model without codes
        client = Recorder(ServingError("no such signature", status))
        assert ServedStylizer(client).encode_style(image) is image
    with pytest.raises(ServingError, match="no server"):
        ServedStylizer(Recorder(ServingError("no server", "UNAVAILABLE"))).encode_style(image)
