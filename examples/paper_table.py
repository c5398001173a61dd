# %% [markdown]
# # A table of the paper, in small
#
# After Table 2 of Xu, Li and Shin: a U-Net is trained on one gray scale and tested on others. What
# does it gain when each training image is there a second time, in the style of a scan without mask?
# The paper took spine CT, a day of training and the contextual loss against MSE; here phantoms of
# 48 x 48, a minute and released presets do. So compare rows, not figures with the paper's.

# %%
import keras
import numpy as np
from picture import save_row

import tfstyle
from tfstyle.data import LABELS, apply_protocol, spine_phantom
from tfstyle.metrics import mean_iou, pixel_accuracy
from tfstyle.segmentation import UNet

SIZE, STEPS, SEEN, UNSEEN = 48, 96, "standard", ("bone_sharp", "wide")
VERTEBRA = (LABELS["vertebral_body"], LABELS["posterior_elements"])


def phantoms(seeds, protocol):
    """Images float32 (N, H, W, 1) in [0, 1], and masks uint8 (N, H, W), 1 for vertebra."""
    drawn = [spine_phantom(seed, SIZE, spacing_mm=2.5, slices=2) for seed in seeds]
    images = np.concatenate([apply_protocol(phantom, protocol, seed=7) for phantom in drawn])
    masks = np.isin(np.concatenate([phantom.mask for phantom in drawn]), VERTEBRA)
    return images.reshape(-1, SIZE, SIZE, 1).astype("float32"), masks.astype("uint8")


keras.utils.set_random_seed(1)
images, masks = phantoms(range(12), SEEN)
styles = [phantoms([200 + i], UNSEEN[i % 2])[0][1] for i in range(6)]
tests = [phantoms(range(100, 103), protocol) for protocol in UNSEEN]
test_images, test_masks = (np.concatenate(part) for part in zip(*tests))

# %%
methods = {
    "no augmentation": None,
    "histogram matching": tfstyle.baselines.get("histogram_matching"),
    "AdaIN, MSE": tfstyle.StyleTransfer.from_preset("vgg16_ct_mse"),
    "AdaIN, contextual loss": tfstyle.StyleTransfer.from_preset("vgg16_ct"),
    "tone transfer": tfstyle.from_preset(),
}
unet = UNet(classes=2, depth=3, width=8, normalization="batch")
unet.compile_default(learning_rate=3e-3, dice=1.0)
unet.optimizer.build(unet.trainable_variables)
start = unet.get_state_tree(value_format="numpy_array")  # every row begins here
print("| augmentation | pixel accuracy, % | mean IoU, % |\n| --- | ---: | ---: |")
predicted = {}
for name, method in methods.items():
    generated = images
    if method is not None:
        parts = np.split(images, len(styles))
        generated = np.concatenate([method.stylize(*pair) for pair in zip(parts, styles)])
    both = np.concatenate([images, generated]), np.concatenate([masks, masks])
    unet.set_state_tree(start)
    keras.utils.set_random_seed(2)  # the order of the images
    unet.fit(*both, batch_size=6, epochs=STEPS * 6 // len(both[0]), verbose=0)
    found = unet.segment(test_images)[..., 0]
    accuracy, iou = (100 * metric(test_masks, found, 2) for metric in (pixel_accuracy, mean_iou))
    print(f"| {name} | {accuracy:.1f} | {iou:.1f} |")
    predicted[f"{name}\nmean IoU {iou:.1f} %"] = found[1]

# %%
save_row(
    "paper_table",
    {
        f"trained on\n{SEEN}": images[1],
        f"tested on\n{UNSEEN[0]}": test_images[1],
        "mask\n": test_masks[1],
        **predicted,
    },
    classes=2,
)
