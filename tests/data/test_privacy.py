"""What messages say of other libraries' errors."""

import pydicom
import pytest

from tfstyle.data.privacy import reason_of, values_unsaid


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("could not convert to float: 'DOE'"), "could not convert to float"),
        (ValueError('Value "DOE" is not valid'), "Value … is not valid"),
        (KeyError("DOE"), "KeyError"),
        (ImportError("No module named 'a'"), "No module named 'a'"),
        (EOFError("Unexpected end. Read 0 bytes."), "Unexpected end. Read 0 bytes"),
    ],
)  # fmt: skip
def test_reason(error, said):
    assert reason_of(error) == said


def test_pydicom_is_left_as_it_was():
    before = pydicom.config.settings.reading_validation_mode
    with values_unsaid():
        with values_unsaid():
            assert pydicom.config.settings.reading_validation_mode == pydicom.config.IGNORE
        assert pydicom.config.settings.reading_validation_mode == pydicom.config.IGNORE
    assert pydicom.config.settings.reading_validation_mode == before
