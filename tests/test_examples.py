"""Each script in examples/ runs, with less training than it has, and draws its picture."""

import importlib

import numpy as np
import pytest

from tests.process import ROOT

EXAMPLES = sorted(p.stem for p in (ROOT / "examples").glob("*.py") if p.stem != "picture")
NEEDS = {
    "convert_and_run": ("ai_edge_litert", "onnxruntime", "tf2onnx"),
    "serve_and_call": ("tensorflow_serving", "grpc_health"),
}
SMALLER = {
    "augment_unet": {"UNSEEN = 20,": "UNSEEN = 2,", "depth=3": "depth=1"},
    "convert_and_run": {"from_preset()": 'from_preset("vgg16_ct_shallow")'},
    "paper_table": {"= 48, 96,": "= 48, 12,", "depth=3": "depth=1"},
    "serve_and_call": {"from_preset()": 'from_preset("vgg16_ct_shallow")'},
    "train_style_transfer": {"steps_per_epoch=40, epochs=4": "steps_per_epoch=2, epochs=2"},
}


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name, tmp_path, monkeypatch):
    for package in ("matplotlib", "data_store", *NEEDS.get(name, ())):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the server of one of them
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("picture.OUT", tmp_path)
    monkeypatch.setattr("tfstyle.convert.conversion.COMPARISON_PAIRS", 1)
    path = ROOT / "examples" / f"{name}.py"
    text = path.read_text(encoding="utf-8")
    for ours, smaller in SMALLER.get(name, {}).items():
        assert ours in text
        text = text.replace(ours, smaller)
    exec(compile(text, path, "exec"), {"__name__": "__main__"})
    image = importlib.import_module("matplotlib.image").imread(tmp_path / f"{name}.png")
    assert np.std(image[..., :3]) > 0.05


def test_page_shows_every_example():
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert len(EXAMPLES) >= 5
    for name in EXAMPLES:
        assert f"../examples/{name}.py" in page
        assert f"(examples/{name}.png)" in page
