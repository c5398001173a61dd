"""Small untrained models for tests."""

import keras
import numpy as np

import tfstyle

#: Signatures of an exported model, and the inputs of each.
SIGNATURE_INPUTS = {
    "serving_default": {"content", "style"},
    "stylize": {"content", "style"},
    "stylize_strength": {"content", "style", "strength"},
    "encode_style": {"style"},
    "stylize_with_code": {"content", "code"},
    "stylize_with_code_strength": {"content", "code", "strength"},
}
SIGNATURES = set(SIGNATURE_INPUTS)


def small_model(layer: str = "relu2_1", depth: str | None = None, seed: int = 0):
    """An untrained model whose output spreads over [0, 1] instead of being clipped away."""
    keras.utils.set_random_seed(seed)
    encoder = tfstyle.encoders.VGG16(weights=None, depth=depth or layer)
    model = tfstyle.StyleTransfer(encoder, layer=layer)
    last = model.decoder.steps[-1]
    probe = image(7, (1, 32, 32, 1))
    output = np.asarray(model({"content": probe, "style": probe}))
    kernel, bias = last.get_weights()
    scale = 0.15 / output.std()
    last.set_weights([kernel * scale, bias + 0.5 - output.mean() * scale])
    return model


def tone_of_few_weights():
    """A ToneTransfer as it is before training."""
    encoder = tfstyle.tone.ToneEncoder(
        channels=(8, 16, 16, 24), width=16, features=8, working_size=48, name="encoder"
    )
    return tfstyle.ToneTransfer(encoder, tfstyle.tone.ToneMatcher(16, 1, name="matcher"))


def small_tone(seed: int = 0):
    """A small untrained ToneTransfer that changes gray levels, other ones for other styles."""
    keras.utils.set_random_seed(seed)
    model = tone_of_few_weights()
    rng = np.random.default_rng(seed)
    for variable in model.matcher.trainable_variables:
        variable.assign(variable + 0.05 * rng.normal(size=variable.shape).astype(np.float32))
    model.matcher.alike[1].bias.assign([-6.0])  # never takes two gray scales for one
    expect_error(model, -4.0)
    return model


def expect_error(model, log_error: float) -> None:
    """Has a ToneTransfer expect about this error of its curves; those that change less are left."""
    bias = model.matcher.out.bias
    bias.assign([*np.asarray(bias)[:-1], log_error])


def image(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth random gray levels in [0, 1]."""
    rng = np.random.default_rng(seed)
    values = rng.random(shape)
    for axis in (-2, -3) if len(shape) > 2 else (0, 1):
        values = (values + np.roll(values, 1, axis) + np.roll(values, -1, axis)) / 3
    return values.astype(np.float32)
