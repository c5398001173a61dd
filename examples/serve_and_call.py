# %% [markdown]
# # Serve, and call with tensorflow-serving-api alone
#
# What a program needs that has not tfstyle: the protocol of TensorFlow Serving, a channel, and gray
# levels in [0, 1]. The server here is the one that `tfstyle serve` finds on this machine.

# %%
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from picture import packaged_slice, save_row

import tfstyle

folder = Path(tempfile.mkdtemp())
tfstyle.export.export_stylize(tfstyle.from_preset(), folder / "stylize")
server = subprocess.Popen(
    [sys.executable, "-m", "tfstyle", "serve", "--models", folder, "--port", "0", "--json"],
    stdout=subprocess.PIPE,
    text=True,
)
assert server.stdout is not None
address = json.loads(server.stdout.readline())["address"]
content = packaged_slice("explicit_VR-UN.dcm", "soft_tissue")  # float32 (1, H, W, 1) in [0, 1]
style = packaged_slice("bad_sequence.dcm", "bone")

# %% [markdown]
# From here on nothing is tfstyle's.

# %%
import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

with grpc.insecure_channel(
    address, options=[("grpc.max_receive_message_length", 64 * 2**20)]
) as channel:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "stylize"
    request.model_spec.signature_name = "stylize"
    request.inputs["content"].CopyFrom(tf.make_tensor_proto(content))  # float32 (B, H, W, 1)
    request.inputs["style"].CopyFrom(tf.make_tensor_proto(style))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    answer = stub.Predict(request, timeout=60)
generated = tf.make_ndarray(answer.outputs["generated"])

# %%
server.terminate()
server.wait(30)

print(address, generated.shape)
save_row("serve_and_call", {"content": content[0], "style": style[0], "generated": generated[0]})
