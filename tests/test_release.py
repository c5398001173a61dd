"""The cards of released presets: what they say is what the benchmark measured."""

import json

from tfstyle import presets

FIGURES = {
    "pairs": 4,
    "mean": 0.0912,
    "median": 0.08,
    "percentile_90": 0.2,
    "better_than_histogram_matching": 0.75,
    "structure_mean": 0.981,
}


def test_cards_are_written_into_each_preset_and_the_table(script, tmp_path, monkeypatch):
    release = script("train_release")
    nothing = {**FIGURES, "mean": 0.25, "better_than_histogram_matching": 0.4}
    truth = {"methods": {"ours": {"all_folds": FIGURES}, "nothing": {"all_folds": nothing}}}
    for name in ("vgg16_ct", presets.DEFAULT):
        folder = tmp_path / name
        folder.mkdir()
        config = {"format": 1, "config": {"class": "ToneTransfer", "layer": "relu9_9"}, "card": {}}
        (folder / presets.CONFIG).write_text(json.dumps(config))
        (folder / presets.WEIGHTS).write_bytes(bytes(4200))
    monkeypatch.setattr(presets, "_HOME", tmp_path)
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(truth))
    release.write_cards(file)
    assert presets.table()[presets.DEFAULT]["figures"].startswith("tone error 0.091")
    assert "`relu9_9`" in (tmp_path / "vgg16_ct" / "README.md").read_text()
    card = (tmp_path / presets.DEFAULT / "README.md").read_text()
    assert f"| **{presets.DEFAULT}** | 0.091 | 0.080 | 0.200 | 75 % | 0.981 |" in card
    assert "| histogram matching | not measured yet |" in card
    assert (tmp_path / "README.md").read_text() == release.presets_text()
    before = (tmp_path / "README.md").read_text()
    release.write_cards(file)
    assert (tmp_path / "README.md").read_text() == before
