import numpy as np
import pytest

from tfstyle.data import WINDOWS, Scan, Window, resolve_window, scan_to_unit
from tfstyle.errors import ArgumentError

SOME = [Window(40, 400), Window(-1873.2, 1.5), Window(3999.75, 4871.3)]


@pytest.mark.parametrize("window", SOME)
def test_to_unit_is_the_standard_formula_and_to_hu_leads_back(window):
    # PS3.3 C.11.2.1.3.2, with ymin 0 and ymax 1.
    center, width = window.center, window.width
    x = np.linspace(-3000, 5000, 4001)
    expected = (x - center) / width + 0.5
    expected[x <= center - width / 2] = 0
    expected[x > center + width / 2] = 1
    unit = window.to_unit(x)
    assert unit.dtype == np.float32
    # float32 holds values of some thousand to 0.0005, a share of the width.
    np.testing.assert_allclose(unit, expected, atol=1e-3 / min(width, 10))
    gray_levels = np.linspace(0, 1, 33)
    values = window.to_hu(gray_levels)
    assert values.dtype == np.float32
    np.testing.assert_allclose(window.to_unit(values), gray_levels, atol=1e-6 + 1e-3 / width)


@pytest.mark.parametrize(("center", "width"), [(40, 400), (-600.5, 2)])
def test_from_linear_equals_the_older_function(center, width):
    # PS3.3 C.11.2.1.2.1
    x = np.arange(-2000, 2000)
    expected = (x - (center - 0.5)) / (width - 1) + 0.5
    expected[x <= center - 0.5 - (width - 1) / 2] = 0
    expected[x > center - 0.5 + (width - 1) / 2] = 1
    np.testing.assert_allclose(Window.from_linear(center, width).to_unit(x), expected, atol=1e-4)


@pytest.mark.parametrize(("center", "width"), [(0, 0), (np.nan, 10), ("wide", 10)])
def test_bad_windows(center, width):
    with pytest.raises(ArgumentError, match="width above 0"):
        Window(center, width)


RAMP = np.arange(-1000, 1000, dtype=np.int16).reshape(2, 50, 20)
OWN = {"header_window": Window(7, 70)}
PERCENTILE = Window.from_limits(-980.01, 979.01)


@pytest.mark.parametrize(
    ("spec", "scan", "window"),
    [
        *((spec, {}, WINDOWS["soft_tissue"]) for spec in ("soft_tissue", " Soft-Tissue ")),
        *((spec, {}, Window(300, 1500)) for spec in ("300,1500", "300, 1500", [300.0, 1500.0])),
        ("-600,1500", {}, Window(-600, 1500)),
        (Window(1, 2), {}, Window(1, 2)),
        ("header", OWN, Window(7, 70)),
        ("range", {}, Window.from_limits(-1000, 999)),
        ("percentile", {}, PERCENTILE),
        ("percentile:25,75", {}, Window.from_limits(-500.25, 499.25)),
        ("auto", {}, WINDOWS["soft_tissue"]),
        ("auto", OWN, Window(7, 70)),
        ("auto", {"units": "US"}, PERCENTILE),
        ("auto", {"units": "US", **OWN}, Window(7, 70)),
        *((s, {"pixels": RAMP.astype(np.uint8), "units": "gray"}, Window.from_limits(0, 255))
          for s in ("auto", "range")),
        ("range", {"pixels": RAMP.astype(np.uint16), "units": "gray"},
         Window.from_limits(0, 65535)),
    ],
)  # fmt: skip
def test_resolved(spec, scan, window):
    found = resolve_window(spec, Scan(**{"pixels": RAMP, **scan}))
    np.testing.assert_allclose([found.lower, found.upper], [window.lower, window.upper], atol=0.01)


@pytest.mark.parametrize("spec", ["percentile", "range"])
def test_constant_image_is_middle_gray(spec):
    scan = Scan(np.full((1, 4, 4), 70, np.int16))
    np.testing.assert_array_equal(scan_to_unit(scan, spec), 0.5)


BAD = "unknown window|must be a name"


@pytest.mark.parametrize(
    ("spec", "scan", "message"),
    [
        *((spec, {}, BAD) for spec in ("", "1,2,3", (1, 2, 3), 5, "percentile:x")),
        *((f"percentile:{limits}", {}, "percentiles must rise")
          for limits in ("99,1", "1,101")),
        ("bones", {}, "mediastinum"),
        ("header", {}, "scan has no window in its header"),
        ("bone", {"units": "US"}, "'bone' is in Hounsfield units, but scan"),
    ],
)  # fmt: skip
def test_not_resolved(spec, scan, message):
    with pytest.raises(ArgumentError, match=message):
        resolve_window(spec, Scan(RAMP, **scan))
