"""Trains on several machines: `python several_machines.py SCANS FOLDER` on each, with TF_CONFIG."""

import sys

import keras
import tensorflow as tf

import tfstyle
from tfstyle.data import pair_dataset, read_scans

strategy = tf.distribute.MultiWorkerMirroredStrategy()  # waits for the others; before all else
chief = not strategy.cluster_resolver.task_id  # 0, or None without TF_CONFIG: one machine
folder = sys.argv[2]  # on a file system that all machines share
scans = read_scans(sys.argv[1], lazy=True)  # files of tfstyle prepare are mapped into memory
with strategy.scope():
    model = tfstyle.StyleTransfer.from_preset("vgg16_ct_shallow")  # or a new one, with one seed
    model.compile(content_layers=["relu1_2"], style_layers=["relu1_2"])


def pairs(context):
    """This machine's part of every batch: 8 pairs for each of its devices."""
    machine, machines = context.input_pipeline_id, context.num_input_pipelines
    options = {"windows": ("bone", "soft_tissue", "lung"), "crop": 128, "seed": 0}
    return pair_dataset(scans, batch_size=8 * machines, shard=(machine, machines), **options)


model.fit(
    strategy.distribute_datasets_from_function(pairs),
    steps_per_epoch=100,
    epochs=50,
    shuffle=False,
    verbose=2 if chief else 0,
    callbacks=[  # all resume from the backup of the first machine, which alone writes
        keras.callbacks.BackupAndRestore(
            f"{folder}/backup",
            save_freq="epoch" if chief else 10**9,
            double_checkpoint=True,
            delete_checkpoint=False,
        )
    ],
)
if chief:
    model.save_to_preset(f"{folder}/preset")
