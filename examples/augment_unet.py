# %% [markdown]
# # Augment and train a U-Net
#
# Two U-Nets learn to segment phantoms of the spine that are shown in one gray scale, one of them
# with `StyleAugmentation`. Both are tested on other phantoms in a gray scale that neither saw.

# %%
import keras
import numpy as np
import tensorflow as tf
from picture import save_row

import tfstyle
from tfstyle.data import LABELS, apply_protocol, spine_phantom
from tfstyle.segmentation import UNet

SIZE, EPOCHS, SEEN, UNSEEN = 64, 20, "standard", "bone_sharp"


def phantoms(seeds, protocol):
    """Images (N, H, W, 1) in [0, 1] and masks (N, H, W): 1 is vertebra."""
    drawn = [spine_phantom(seed, SIZE, spacing_mm=2, slices=3) for seed in seeds]
    images = [apply_protocol(phantom, protocol, seed=7) for phantom in drawn]
    vertebra = (LABELS["vertebral_body"], LABELS["posterior_elements"])
    masks = np.isin(np.concatenate([phantom.mask for phantom in drawn]), vertebra)
    images = np.concatenate(images).reshape(-1, SIZE, SIZE, 1)
    return images.astype("float32"), masks.astype("uint8")


keras.utils.set_random_seed(1)
images, masks = phantoms(range(12), SEEN)
test_images, test_masks = phantoms(range(100, 104), UNSEEN)

# %% [markdown]
# Styles need no masks: scans of the other gray scales are enough, here phantoms of other seeds.

# %%
bone, _ = phantoms(range(200, 203), UNSEEN)
wide, _ = phantoms(range(203, 206), "wide")

# --8<-- [start:augment]
model = tfstyle.from_preset()
codes = model.encode_style(np.concatenate([bone, wide]))  # (N, H, W, 1) in [0, 1]
augment = tfstyle.StyleAugmentation(model, styles=codes, p=0.5, strength=(0.5, 1.0), seed=1)
train = tf.data.Dataset.from_tensor_slices((images, masks)).shuffle(64).batch(6)
augmented = train.map(augment)
# --8<-- [end:augment]

# %%
predicted = {}
for name, data in (("plain", train), ("augmented", augmented)):
    keras.utils.set_random_seed(2)
    unet = UNet(classes=2, depth=3, width=8, normalization="batch")
    unet.compile_default(learning_rate=3e-3, dice=1.0)
    unet.fit(data, epochs=EPOCHS, shuffle=False, verbose=0)
    results = unet.evaluate(test_images, test_masks, verbose=0, return_dict=True)
    print(name, {key: round(value, 3) for key, value in results.items()})
    predicted[f"{name}, mean IoU {results['mean_iou']:.2f}"] = unet.segment(test_images)[1]

print(augment.counts)
save_row(
    "augment_unet",
    {
        f"trained on: {SEEN}": images[1],
        f"tested on: {UNSEEN}": test_images[1],
        "mask": test_masks[1],
        **predicted,
    },
    classes=2,
)
