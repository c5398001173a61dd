"""The layer test over every layer and model, and their loading in a new process."""

import functools
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import tfstyle
from tests import layer_test
from tests.layer_test import Case
from tests.models import image, small_model, tone_of_few_weights
from tests.process import python
from tfstyle.baselines.contextual_transformation import CascadedRefinement, ContextualTransformation
from tfstyle.decoder import Decoder
from tfstyle.encoders import VGG16, ResNet50
from tfstyle.layers import AdaIN, ChannelAffine, ReflectionPadding2D
from tfstyle.metrics.perceptual import PerceptualDistance
from tfstyle.segmentation import UNet

GRAY = [image(0, (2, 48, 40, 1))]
PAIR = [*GRAY, image(1, (2, 48, 40, 1))]
MAPS = [np.abs(np.random.default_rng(2).normal(size=(2, 12, 16, 8))).astype(np.float32)]


def named(arrays):
    return dict(zip(("content", "style"), arrays))


CASES = {
    "AdaIN": Case(AdaIN, [MAPS[0], 2 * MAPS[0][::-1]], tuple),
    "ChannelAffine": Case(ChannelAffine, MAPS),
    "ReflectionPadding2D": Case(lambda: ReflectionPadding2D(2), MAPS),
    "StyleAugmentation": Case(
        lambda: tfstyle.StyleAugmentation(small_model("relu1_1"), "batch", p=0), GRAY
    ),
    "VGG16": Case(lambda: VGG16(weights=None, depth="relu2_1"), GRAY),
    "ResNet50": Case(lambda: ResNet50(weights=None, depth="conv1_relu"), GRAY),
    "Decoder": Case(lambda: Decoder((8, 4, 4), (2, 2, 1)), MAPS),
    "StyleTransfer": Case(lambda: small_model("relu2_1"), PAIR, named, half=0.05),
    "UNet": Case(lambda: UNet(3, depth=1, width=4, normalization="batch"), GRAY),
    "CascadedRefinement": Case(lambda: CascadedRefinement((4, 4, 4)), GRAY),
    "ContextualTransformation": Case(
        lambda: ContextualTransformation(
            VGG16(weights=None, depth="relu1_1"), generator=CascadedRefinement((4, 4))
        ),
        GRAY,
    ),
    "ToneTransfer": Case(tone_of_few_weights, PAIR, named, half=0.1),
    "PerceptualDistance": Case(lambda: PerceptualDistance("alexnet", None), PAIR, list),
}


@pytest.fixture(scope="module")
def made():
    """Layers by name, made when first asked for."""

    @functools.cache
    def make(name: str):
        keras.utils.set_random_seed(0)
        layer = CASES[name].make()
        layer_test.run(layer, CASES[name])
        return layer

    return make


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("check", layer_test.CHECKS)
def test_layer(made, name, check):
    check(made(name), CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["StyleTransfer", "ToneTransfer", "UNet"])
def test_export(name, tmp_path):
    layer_test.check_export(CASES[name], tmp_path / "exported")


def registered_in_source() -> set[str]:
    """Every class of the package that registers with Keras."""
    pattern = r'register_keras_serializable\(package="tfstyle"\)\nclass (\w+)'
    files = Path(tfstyle.__file__).parent.rglob("*.py")
    found = {f"tfstyle>{name}" for file in files for name in re.findall(pattern, file.read_text())}
    assert len(found) > 20
    return found


@pytest.mark.integration
def test_new_process_loads_all(made, tmp_path):
    """Saved files load where nothing but tfstyle was imported, and give the same."""
    for number, (name, case) in enumerate(CASES.items()):
        model = layer = made(name)
        if not isinstance(layer, keras.Model):
            model = layer_test.functional(layer, case)
        model.save(tmp_path / f"{number}.keras")
        np.savez(tmp_path / f"{number}.npz", *layer_test.run(layer, case))
        np.savez(tmp_path / f"{number}_inputs.npz", *case.inputs)
    code = (
        "import numpy as np, keras, tfstyle\n"
        f"assert {registered_in_source()} <= {{*keras.saving.get_custom_objects()}}\n"
        "from pathlib import Path\n"
        f"for number in range({len(CASES)}):\n"
        "    model = keras.saving.load_model(f'{number}.keras', safe_mode=True)\n"
        "    given = list(np.load(f'{number}_inputs.npz').values())\n"
        "    found = keras.tree.flatten(model(given if len(given) > 1 else given[0]))\n"
        "    expected = np.load(f'{number}.npz').values()\n"
        "    for one, other in zip(found, expected, strict=True):\n"
        "        np.testing.assert_allclose(one, other, 1e-4, 1e-5, err_msg=str(number))\n"
    )
    python("-c", code, cwd=tmp_path)
