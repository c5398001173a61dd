import logging

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from tests.canaries import leaks, plant
from tfstyle.data import read_scan, scan_to_unit
from tfstyle.errors import ServingError
from tfstyle.runs import stylize_scans


def test_a_server_hears_and_tells_nothing_of_the_patient(client, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    dataset.pixel_array  # noqa: B018 - decoded while the header is as it was
    canaries = plant(dataset).values()
    source = tmp_path / "ct.dcm"
    dataset.save_as(source, enforce_file_format=True)
    (done,) = stylize_scans(client, [source], [source], tmp_path / "out", deidentify="basic")
    code = client.encode_style(scan_to_unit(read_scan(source), "bone")[0])
    with pytest.raises(ServingError) as info:
        client.stylize(np.zeros((400, 400)), code)  # above the server's limits
    said = "\n".join([caplog.text, *capfd.readouterr(), repr(done), str(info.value)])
    assert leaks(canaries, said, code.tobytes(), tmp_path / "out") == []
