# %% [markdown]
# # Augment and train a U-Net
#
# Two U-Nets learn to segment phantoms of the spine that are shown in one window, one of them with
# `StyleAugmentation`. Both are tested on other phantoms in a window that neither saw. With files
# the records are `tfstyle.data.find_labelled("ct/", "masks/")`, and the rest is the same.

# %%
import keras
import numpy as np
from picture import save_row

import tfstyle
from tfstyle.data import LABELS, labelled_dataset, scan_to_unit, spine_phantom
from tfstyle.segmentation import UNet

EPOCHS, SEEN, UNSEEN = 20, "soft_tissue", "spine_bone"
vertebra = {1: (LABELS["vertebral_body"], LABELS["posterior_elements"])}
drawn = [spine_phantom(seed, 64, spacing_mm=2, slices=3) for seed in range(22)]
records, test_records, others = drawn[:12], drawn[12:16], drawn[16:]

# %% [markdown]
# Styles need no masks: scans in other gray scales are enough, here phantoms of other seeds.

# %%
windows = (UNSEEN, "wide", "abdomen")
others = np.concatenate([scan_to_unit(p.scan, windows[i % 3]) for i, p in enumerate(others)])

model = tfstyle.from_preset()
codes = model.encode_style(others)  # (N, H, W, 1) in [0, 1]
augment = tfstyle.StyleAugmentation(model, styles=codes, p=0.5, strength=(0.5, 1.0), seed=1)
train = labelled_dataset(records, SEEN, batch_size=6, classes=vertebra, seed=1)
endless = train.repeat()  # before `map`: to start an augmented set again takes seconds
augmented, steps = endless.map(augment), len(records) * 3 // 6

# %%
test = labelled_dataset(test_records, UNSEEN, batch_size=12, classes=vertebra)
((test_images, test_masks),) = test.take(1)
predicted = {}
for name, data in (("plain", endless), ("augmented", augmented)):
    keras.utils.set_random_seed(2)
    unet = UNet(classes=2, depth=3, width=8, normalization="batch")
    unet.compile_default(learning_rate=3e-3, dice=1.0)
    unet.fit(data, steps_per_epoch=steps, epochs=EPOCHS, shuffle=False, verbose=0)
    results = unet.evaluate(test, verbose=0, return_dict=True)
    print(name, {key: round(value, 3) for key, value in results.items()})
    predicted[f"{name}, mean IoU {results['mean_iou']:.2f}"] = unet.segment(test_images)[1]

print(augment.counts)
save_row(
    "augment_unet",
    {
        f"trained on: {SEEN}": next(iter(train))[0][1].numpy(),
        f"tested on: {UNSEEN}": test_images[1].numpy(),
        "mask": test_masks[1].numpy(),
        **predicted,
    },
    classes=2,
)
