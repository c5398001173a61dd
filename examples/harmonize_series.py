# %% [markdown]
# # Harmonize a series
#
# The slices of one scan in the gray scale of another patient's. Both are HU here, so the right
# answer is known and the picture shows it; with HU at hand one would change the window instead.

# %%
import tempfile
from pathlib import Path

import numpy as np
from picture import save_row
from pydicom.data import get_testdata_file

import tfstyle
from tfstyle.data import Window, read_scan, scan_to_unit, spine_phantom, write_nifti

series = Path(tempfile.mkdtemp()) / "series.nii.gz"
scan = spine_phantom(seed=3, size=192, slices=6).scan
full = Window(1000, 4000)
write_nifti(full.to_unit(scan.pixels), scan, full, series)
reference = get_testdata_file("bad_sequence.dcm")  # a vertebra, 512 x 512

# %%
model = tfstyle.from_preset()  # a ToneTransfer
content = scan_to_unit(read_scan(series), "soft_tissue")  # (slices, H, W, 1) in [0, 1]
style = scan_to_unit(read_scan(reference), "bone")[0]  # one image (H, W, 1)

generated = model.stylize(content, style, one_curve=True)  # the content's shape
confidence = model.confidence(content, style, one_curve=True)  # (1,), from 0 to 1

# %%
answer = scan_to_unit(read_scan(series), "bone")
shown = (content > 0) & (content < 1)  # what the content's window did not clip
for name, image in (("before", content), ("after", generated)):
    print(f"{name}: mean error {np.abs(image - answer)[shown].mean():.3f} gray levels")
print(f"confidence {confidence[0]:.2f}")
save_row(
    "harmonize_series",
    {
        "content, slice 3 of 6": content[2],
        "style": style,
        "generated": generated[2],
        "right answer": answer[2],
    },
)
