"""What messages say of other libraries' errors and of technical attributes."""

import pydicom
import pytest
from dicomanonymizer.simpledicomanonymizer import initialize_actions
from pydicom.tag import Tag

from tfstyle.data.dicom.deidentify import TABLE
from tfstyle.data.privacy import TECHNICAL, reason_of, values_unsaid


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


def test_no_technical_keyword_is_in_the_table():
    actions = initialize_actions(TABLE)
    tags = {keyword: Tag(keyword) for keyword in TECHNICAL}
    assert not [k for k, tag in tags.items() if (tag.group, tag.element) in actions]
