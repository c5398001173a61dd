"""Each script in examples/ runs, with less training than it has, and draws its picture."""

import importlib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(p.stem for p in (ROOT / "examples").glob("*.py") if p.stem != "picture")
NEEDS = {
    "convert_and_run": ("ai_edge_litert", "onnxruntime", "tf2onnx"),
    "serve_and_call": ("tensorflow_serving", "grpc_health"),
}
SMALLER = {
    "augment_unet": ("EPOCHS, SEEN, UNSEEN = 20,", "EPOCHS, SEEN, UNSEEN = 2,"),
    "paper_table": ("SIZE, STEPS, SEEN, UNSEEN = 48, 96,", "SIZE, STEPS, SEEN, UNSEEN = 48, 12,"),
    "train_style_transfer": ("steps_per_epoch=40, epochs=4", "steps_per_epoch=2, epochs=2"),
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
    if name in SMALLER:
        assert SMALLER[name][0] in text
        text = text.replace(*SMALLER[name])
    exec(compile(text, path, "exec"), {"__name__": "__main__"})
    image = importlib.import_module("matplotlib.image").imread(tmp_path / f"{name}.png")
    assert np.std(image[..., :3]) > 0.05


def test_page_shows_every_example():
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert len(EXAMPLES) >= 5
    for name in EXAMPLES:
        assert f"../examples/{name}.py" in page
        assert f"(examples/{name}.png)" in page
