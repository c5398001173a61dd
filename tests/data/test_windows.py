import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfstyle.data import WINDOWS, Scan, Window, resolve_window, scan_to_unit
from tfstyle.errors import ArgumentError

CENTERS = st.floats(-2000, 4000, width=32)
WIDTHS = st.floats(1, 5000, width=32)


@pytest.fixture
def hu():
    ramp = np.arange(-1000, 1000, dtype=np.int16).reshape(2, 50, 20)
    return Scan(ramp, name="ramp")


def gray(dtype):
    return Scan(np.array([[[10, 20], [30, 200]]], dtype), units="gray", name="picture")


@given(CENTERS, WIDTHS, st.lists(st.integers(-3000, 5000), min_size=1, max_size=20))
def test_to_unit_is_the_standard_formula(center, width, values):
    # PS3.3 C.11.2.1.3.2, with ymin 0 and ymax 1.
    expected = [
        0.0
        if x <= center - width / 2
        else 1.0
        if x > center + width / 2
        else (x - center) / width + 0.5
        for x in values
    ]
    unit = Window(center, width).to_unit(values)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, expected, atol=2e-3 if width < 10 else 2e-4)


@given(CENTERS, WIDTHS, st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_round_trip(center, width, gray_levels):
    window = Window(center, width)
    values = window.to_hu(gray_levels)
    assert values.dtype == np.float32
    # float32 holds values of some thousand to 0.0005, a share of the width.
    np.testing.assert_allclose(window.to_unit(values), gray_levels, atol=1e-6 + 1e-3 / width)


def test_every_whole_hu_inside_a_window_survives():
    window = WINDOWS["soft_tissue"]
    values = np.arange(-160, 241, dtype=np.int16)
    np.testing.assert_array_equal(np.rint(window.to_hu(window.to_unit(values))), values)


def test_input_is_not_changed():
    values = np.array([0.0, 100.0], np.float32)
    Window(40, 400).to_unit(values)
    Window(40, 400).to_hu(values)
    np.testing.assert_array_equal(values, [0, 100])


@pytest.mark.parametrize(("center", "width"), [(40, 400), (128, 256), (0, 2), (-600.5, 1500)])
def test_from_linear_equals_the_older_function(center, width):
    # PS3.3 C.11.2.1.2.1
    x = np.arange(-2000, 2000)
    expected = (x - (center - 0.5)) / (width - 1) + 0.5
    expected[x <= center - 0.5 - (width - 1) / 2] = 0
    expected[x > center - 0.5 + (width - 1) / 2] = 1
    np.testing.assert_allclose(Window.from_linear(center, width).to_unit(x), expected, atol=1e-4)


def test_limits():
    window = Window.from_limits(-100, 300)
    assert (window.center, window.width, window.lower, window.upper) == (100, 400, -100, 300)


@pytest.mark.parametrize(
    ("center", "width"),
    [(0, 0), (0, -5), (np.nan, 10), (0, np.inf), ("wide", 10), (None, 10)],
)
def test_bad_windows(center, width):
    with pytest.raises(ArgumentError, match="width above 0"):
        Window(center, width)


def test_names_are_whole_and_read_only():
    assert {
        "bone",
        "soft_tissue",
        "lung",
        "brain",
        "mediastinum",
        "liver",
        "spine",
        "angio",
    } <= set(WINDOWS)
    with pytest.raises(TypeError):
        WINDOWS["mine"] = Window(0, 1)


@pytest.mark.parametrize("spec", ["soft_tissue", "soft-tissue", " Soft Tissue "])
def test_by_name(hu, spec):
    assert resolve_window(spec, hu) == WINDOWS["soft_tissue"]


@pytest.mark.parametrize("spec", ["300,1500", "300, 1500", (300, 1500), [300.0, 1500.0]])
def test_by_numbers(hu, spec):
    assert resolve_window(spec, hu) == Window(300, 1500)


def test_negative_numbers(hu):
    assert resolve_window("-600,1500", hu) == Window(-600, 1500)


def test_window_passes_through(hu):
    assert resolve_window(Window(1, 2), hu) == Window(1, 2)


def test_header(hu):
    with pytest.raises(ArgumentError, match="ramp has no window in its header"):
        resolve_window("header", hu)
    scan = Scan(hu.pixels, header_window=Window(7, 70))
    assert resolve_window("header", scan) == Window(7, 70)


def test_percentiles(hu):
    window = resolve_window("percentile", hu)
    np.testing.assert_allclose([window.lower, window.upper], [-980.01, 979.01], atol=0.01)
    window = resolve_window("percentile:25,75", hu)
    np.testing.assert_allclose([window.lower, window.upper], [-500.25, 499.25], atol=0.01)


@pytest.mark.parametrize("spec", ["percentile:99,1", "percentile:-1,50", "percentile:1,101"])
def test_bad_percentiles(hu, spec):
    with pytest.raises(ArgumentError, match="Percentiles must rise"):
        resolve_window(spec, hu)


def test_range(hu):
    window = resolve_window("range", hu)
    assert (window.lower, window.upper) == (-1000, 999)
    assert resolve_window("range", gray(np.uint8)) == Window.from_limits(0, 255)
    assert resolve_window("range", gray(np.uint16)) == Window.from_limits(0, 65535)


def test_auto(hu):
    assert resolve_window("auto", hu) == WINDOWS["soft_tissue"]
    assert resolve_window("auto", Scan(hu.pixels, header_window=Window(7, 70))) == Window(7, 70)
    assert resolve_window("auto", gray(np.uint8)) == Window.from_limits(0, 255)
    other = Scan(hu.pixels, units="US")
    assert resolve_window("auto", other) == resolve_window("percentile", hu)
    other = Scan(hu.pixels, units="US", header_window=Window(7, 70))
    assert resolve_window("auto", other) == Window(7, 70)


@pytest.mark.parametrize("spec", ["percentile", "range"])
def test_constant_image_is_middle_gray(spec):
    scan = Scan(np.full((1, 4, 4), 70, np.int16))
    np.testing.assert_array_equal(scan_to_unit(scan, spec), 0.5)


def test_names_need_hu():
    with pytest.raises(ArgumentError, match="'bone' is in Hounsfield units, but picture"):
        resolve_window("bone", gray(np.uint8))


@pytest.mark.parametrize("spec", ["bones", "", "1,2,3", "a,b", (1, 2, 3), 5, None, "percentile:x"])
def test_unknown(hu, spec):
    with pytest.raises(ArgumentError, match=r"window|two numbers"):
        resolve_window(spec, hu)


def test_unknown_lists_the_names(hu):
    with pytest.raises(ArgumentError, match="mediastinum"):
        resolve_window("bones", hu)


def test_scan_to_unit(hu):
    unit = scan_to_unit(hu, "bone")
    assert unit.shape == (2, 50, 20, 1)
    assert unit.dtype == np.float32
    np.testing.assert_array_equal(unit[..., 0], WINDOWS["bone"].to_unit(hu.pixels))
    assert (unit.min(), unit.max()) == (0.0, pytest.approx((999 + 500) / 1800))
