# %% [markdown]
# # Train a small StyleTransfer
#
# The paper's network: encoder, AdaIN, decoder, trained with the contextual loss. The encoder is
# that of the preset `vgg16_ct_shallow`, which comes with tfstyle;
# `tfstyle.encoders.VGG16(weights="imagenet")` fetches the whole one. A minute of training shows
# the way, not the end of it.

# %%
import keras
import numpy as np
from picture import packaged_slice, save_row
from pydicom.data import get_testdata_file

import tfstyle
from tfstyle.data import pair_dataset, read_scan, spine_phantom

keras.utils.set_random_seed(1)
scans = [spine_phantom(seed, 128).scan for seed in range(4)]
scans += [read_scan(get_testdata_file(name)) for name in ("CT_small.dcm", "bad_sequence.dcm")]
pairs = pair_dataset(scans, windows=("bone", "soft_tissue", "wide"), crop=48, batch_size=4, seed=1)

# %%
encoder = tfstyle.StyleTransfer.from_preset("vgg16_ct_shallow").encoder
model = tfstyle.StyleTransfer(encoder, layer="relu1_2")
model.compile(
    optimizer=keras.optimizers.Adam(3e-3),
    content_loss="contextual",
    content_layers=["relu1_2"],
    style_loss="moments",
    style_layers=["relu1_2"],
)
history = model.fit(pairs, steps_per_epoch=40, epochs=4, shuffle=False, verbose=2)

# %%
content, answer = (packaged_slice("explicit_VR-UN.dcm", w, 4)[0] for w in ("soft_tissue", "bone"))
style = packaged_slice("bad_sequence.dcm", "bone", 4)[0]
generated = model.stylize(content, style)
print("loss", np.round(history.history["loss"], 3))
save_row(
    "train_style_transfer",
    {
        "content, soft_tissue": content,
        "style, bone": style,
        "generated after 160 steps": generated,
        "right answer": answer,
    },
)
