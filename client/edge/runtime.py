"""A signed graph in onnxruntime: microbatches with masks, on one thread unless told otherwise.

Guarantees: a graph runs only if its bytes are the manifest's; what it takes and gives has the
manifest's types and shapes, and whatever else it returns is an error. Rows that fill up a
microbatch are zeros that the mask leaves out.

It doesn't guarantee what the graph computes: the coordinator checked it beside Opacus and
signed it (`tacit.tasks.device.check`). Its custom operators can't be code from elsewhere: none
are registered here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as _state

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
        ModelError: the bytes aren't the manifest's, or onnxruntime can't load them.
    """

    def __init__(self, data: bytes, manifest: Manifest, threads: int = 1) -> None:
        manifest.check(data)
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

    def batches(self, inputs: Array, targets: Array) -> Iterator[dict[str, Array]]:
        """Records as microbatches: ``inputs``, ``targets`` and ``mask``; none for no records.

        Args:
            inputs: records in dimension 0, of the manifest's type.
            targets: as many.
        """
        rows = self.manifest.microbatch
        for start in range(0, len(inputs), rows):
            part = slice(start, start + rows)
            count = len(inputs[part])
            yield {
                "inputs": _filled(inputs[part], rows),
                "targets": _filled(targets[part], rows),
                "mask": np.arange(rows) < count,
            }


def _filled(part: Array, rows: int) -> Array:
    """The rows, with zeros after them."""
    if len(part) == rows:
        return np.ascontiguousarray(part)
    whole = np.zeros((rows, *part.shape[1:]), dtype=part.dtype)
    whole[: len(part)] = part
    return whole
