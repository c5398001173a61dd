"""StyleTransfer with encoders of other families: trains, stylizes, comes back from files."""

import keras
import numpy as np

from tests.models import image
from tfstyle import StyleTransfer
from tfstyle.encoders import ResNet50


def test_trains_and_comes_back_from_files(tmp_path):
    family, layer = ResNet50, "conv2_block1_out"
    content, style = image(0, (37, 21)), image(1, (24, 40))
    keras.utils.set_random_seed(0)
    encoder = family(weights=None, depth=layer)
    model = StyleTransfer(encoder, layer=layer)
    frozen, before = encoder.get_weights(), np.array(model.decoder.weights[-2])
    style_layers = [encoder.taps_table[0].name, layer]
    options = {"content_loss": "mse", "content_layers": [layer], "run_eagerly": True}
    model.compile(optimizer="adam", style_layers=style_layers, **options)
    pairs = {"content": image(2, (2, 32, 32, 1)), "style": image(3, (2, 32, 32, 1))}
    assert np.isfinite(model.train_on_batch(pairs, return_dict=True)["loss"])
    assert not np.array_equal(before, model.decoder.weights[-2])
    for a, b in zip(frozen, encoder.get_weights()):
        np.testing.assert_array_equal(a, b)
    # Untrained decoders give values far outside [0, 1]; clipped, all would be equal.
    last = model.decoder.steps[-1]
    kernel, bias = last.get_weights()
    last.set_weights([kernel * 0 + 1e-3, bias * 0 + 0.2])
    generated = model.stylize(content, style)
    assert generated.shape == (37, 21)
    assert np.ptp(generated) > 1e-4
    model.save(tmp_path / "model.keras")
    model.save_to_preset(tmp_path / "preset", half=False)
    for again in (
        StyleTransfer.load(tmp_path / "model.keras"),
        StyleTransfer.from_preset(tmp_path / "preset"),
    ):
        np.testing.assert_allclose(again.stylize(content, style), generated, atol=1e-5)
