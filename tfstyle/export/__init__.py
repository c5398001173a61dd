"""Export to SavedModels, for TensorFlow Serving and anything else that loads them.

:func:`export_stylize` and :func:`export_unet` write a model as ``<folder>/<version>/``, the layout
that TensorFlow Serving watches, with its signatures, metadata and warm-up records;
:func:`export_servable` does it for any table of signatures. :class:`Servable` loads and runs what
was written through TensorFlow's session loader, without the model's Python code. Importing this
package does not import TensorFlow.
"""

from tfstyle.export.saved_model import (
    export_servable,
    export_stylize,
    export_unet,
    read_metadata,
)
from tfstyle.export.servable import Servable, list_versions, saved_model_folder
from tfstyle.export.signatures import Signature, Tensor

__all__ = [
    "Servable",
    "Signature",
    "Tensor",
    "export_servable",
    "export_stylize",
    "export_unet",
    "list_versions",
    "read_metadata",
    "saved_model_folder",
]
