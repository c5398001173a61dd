# %% [markdown]
# # Train a small StyleTransfer
#
# The paper's network: encoder, AdaIN, decoder, trained with the contextual loss. The encoder is
# that of the preset `vgg16_ct`, which comes with tfstyle;
# `tfstyle.encoders.VGG16(weights="imagenet")` fetches the whole one. A minute of training shows
# the way, not the end of it.

# %%
import keras
import numpy as np
from picture import save_row
from pydicom.data import get_testdata_file

import tfstyle
from tfstyle.data import Window, pair_dataset, read_scan, scan_to_unit, spine_phantom

keras.utils.set_random_seed(1)
scans = [spine_phantom(seed, 128).scan for seed in range(4)]
scans += [read_scan(get_testdata_file(name)) for name in ("CT_small.dcm", "bad_sequence.dcm")]
pairs = pair_dataset(scans, windows=("bone", "soft_tissue", "wide"), crop=48, batch_size=4, seed=1)

# %%
encoder = tfstyle.StyleTransfer.from_preset("vgg16_ct").encoder
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
scan = read_scan(get_testdata_file("explicit_VR-UN.dcm"))
content = scan_to_unit(scan, "soft_tissue")[0, ::4, ::4]
style = scan_to_unit(read_scan(get_testdata_file("bad_sequence.dcm")), "bone")[0, ::4, ::4]
answer = Window(400, 1800).to_unit(scan.pixels)[0, ::4, ::4]
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
