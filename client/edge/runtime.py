"""A signed graph in onnxruntime: a record a call, on one thread unless told otherwise.

Guarantees: a graph runs only if its bytes are the manifest's and it reads no file; what it takes
and gives has the manifest's types and shapes, and whatever else it returns is an error. Rows
beside the record are zeros that the mask leaves out.

It doesn't guarantee what the graph computes: the coordinator checked it beside Opacus and
signed it (`tacit.tasks.device.check`), and `tacit.client.edge.steps` bounds what it gives. Its
custom operators can't be code from elsewhere: none are registered here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from tacit.client.edge import walk
from tacit.privacy.errors import ModelError
from tacit.protocol.manifest import Manifest

Array = NDArray[Any]

_EXTERNAL = "session.model_external_initializers_file_folder_path"
_FAILED = (
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.NotImplemented,
    _state.RuntimeException,
    ValueError,
)


class Graph:
    """One graph, loaded.

    Args:
        data: the graph.
        manifest: of it.
        threads: of one call.

    Raises:
        ModelError: the bytes aren't the manifest's or a device's graph (`tacit.client.edge.walk`),
            or onnxruntime can't load them.
    """

    def __init__(self, data: bytes, manifest: Manifest, threads: int = 1) -> None:
        manifest.check(data)
        walk.check(data)
        self.manifest = manifest
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # A pool would keep the largest step's memory for good, and threads would spin.
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        # Tensors kept outside the graph are looked for here, never in the working directory:
        # nothing can lie below what isn't a folder.
        options.add_session_config_entry(_EXTERNAL, os.path.join(os.devnull, "none"))
        try:
            self._session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except _FAILED as error:
            raise ModelError(f"onnxruntime can't load the graph: {type(error).__name__}") from error
        # What the graph has no use for isn't among its inputs.
        self._wanted = {value.name for value in self._session.get_inputs()}
        known = {tensor.name for tensor in manifest.inputs}
        if not self._wanted <= known:
            raise ModelError("the graph takes inputs that its manifest doesn't have")

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One call.

        Args:
            feeds: by name, of the manifest's types and shapes.

        Raises:
            ModelError: onnxruntime can't run it, or it gives something else than it should.
        """
        names = [tensor.name for tensor in self.manifest.outputs]
        try:
            given = self._session.run(names, {k: v for k, v in feeds.items() if k in self._wanted})
        except _FAILED as error:
            raise ModelError(f"onnxruntime can't run the graph: {type(error).__name__}") from error
        for tensor, array in zip(self.manifest.outputs, given, strict=True):
            if array.shape != tensor.shape or array.dtype != np.dtype(tensor.dtype):
                raise ModelError(f"the graph's {tensor.name} isn't what its manifest says")
        return dict(zip(names, given, strict=True))

    def alone(self, inputs: Array, targets: Array) -> dict[str, Array]:
        """One record in the first row: ``inputs``, ``targets`` and ``mask`` of a call.

        Args:
            inputs: of the record, of the manifest's type.
            targets: of the record.
        """
        rows = self.manifest.microbatch
        return {
            "inputs": _first(inputs, rows),
            "targets": _first(targets, rows),
            "mask": np.arange(rows) < 1,
        }


def _first(record: Array, rows: int) -> Array:
    """So many rows: the record, and zeros after it."""
    whole = np.zeros((rows, *np.shape(record)), dtype=record.dtype)
    whole[0] = record
    return whole
