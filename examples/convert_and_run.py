# %% [markdown]
# # Convert to TFLite and ONNX, and run both
#
# The converted files need LiteRT or ONNX Runtime, and neither TensorFlow nor tfstyle.

# %%
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter
from picture import packaged_slice, save_row
from pydicom.data import get_testdata_file

import tfstyle

folder = Path(tempfile.mkdtemp())
model = tfstyle.from_preset()
exported = tfstyle.export.export_stylize(model, folder / "stylize", warm_up_size=0)
tflite, onnx = folder / "stylize.tflite", folder / "stylize.onnx"
for target, path in (("tflite", tflite), ("onnx", onnx)):
    report = tfstyle.convert.convert(
        exported, path, to=target, compare=[get_testdata_file("CT_small.dcm")]
    )
    print(target, f"{path.stat().st_size / 1e6:.1f} MB", report.difference)

# %%
content = packaged_slice("explicit_VR-UN.dcm", "soft_tissue")  # float32 (1, H, W, 1) in [0, 1]
style = packaged_slice("bad_sequence.dcm", "bone")

run = Interpreter(str(tflite), num_threads=2).get_signature_runner()
by_tflite = run(content=content, style=style)["generated"]  # float32 (B, H, W, 1)

session = onnxruntime.InferenceSession(str(onnx))
(by_onnx,) = session.run(["generated"], {"content": content, "style": style})

# %%
by_model = model.stylize(content, style)
for name, result in (("TFLite", by_tflite), ("ONNX", by_onnx)):
    print(f"{name}: largest difference {np.abs(result - by_model).max():.1e} gray levels")
save_row(
    "convert_and_run",
    {"content": content, "Keras": by_model, "TFLite": by_tflite, "ONNX": by_onnx},
)
