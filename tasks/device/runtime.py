"""Graphs in onnxruntime, on one thread of the CPU, and what it raises."""

from __future__ import annotations

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from tacit.privacy.errors import ModelError

FAILED = (
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.NotImplemented,
    _state.RuntimeException,
)
"""What onnxruntime raises."""


def session(data: bytes, severity: int = 3) -> onnxruntime.InferenceSession:
    """A graph, on the caller's thread alone.

    Args:
        data: the graph.
        severity: of what is logged: 3 for errors, 4 for what is fatal.

    Raises:
        ModelError: onnxruntime can't load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = severity
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except FAILED as error:
        raise ModelError(f"onnxruntime can't load the graph: {said(error)}") from error


def said(error: Exception) -> str:
    """An error's first line, which may be long."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
