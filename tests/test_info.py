"""Facts for `tfstyle info` that need no scan and no weights."""

import json

from tests.models import small_model, small_tone
from tfstyle import cli, info, presets
from tfstyle.encoders import ENCODERS


def test_encoders():
    assert info.describe_environment()["encoders"] == list(ENCODERS)
    for name, family in ENCODERS.items():
        facts = json.loads(json.dumps(info.describe(name.upper())))
        assert facts["kind"] == "encoder"
        assert [tap["name"] for tap in facts["taps"]] == [tap.name for tap in family.taps_table]
        assert facts["preprocessing"] == ("torch" if "dense" in name else "caffe")


def test_presets_in_one_table(capsys):
    assert cli.main(["info"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    rows = lines[lines.index(["preset", "class", "size", "data", "figures"]) + 1 :]
    assert [row[0] for row in rows] == list(presets.names())
    assert all(row[1] in presets.CLASSES for row in rows)


def test_model_files_of_any_class(tmp_path):
    small_tone().save(tmp_path / "tone.keras")
    facts = info.describe(tmp_path / "tone.keras")
    assert (facts["kind"], facts["class"]) == ("model", "ToneTransfer")
    style = small_model("relu1_1")
    style.save(tmp_path / "style.keras")
    facts = info.describe(tmp_path / "style.keras")
    assert (facts["class"], facts["parameters"]) == ("StyleTransfer", style.count_params())
