"""Flower's SecAgg+, called as installed and timed step by step; for `secagg.py`."""

from __future__ import annotations

import importlib
import logging
import time
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
from sessions import Seconds


class Peer:
    """Flower's SecAgg+ with clients that answer from memory.

    Args:
        updates: each client's update, shape [clients, parameters].
    """

    EXAMPLES = 1000  # The workflow's default max_weight: weights of one.

    def __init__(self, updates: np.ndarray) -> None:
        from flwr.common import ndarrays_to_parameters
        from flwr.supercore.task_identity import TaskIdentity

        # A message asks for these, which a ServerApp's process has.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
        # The package has a function of the module's name.
        secaggplus_mod = importlib.import_module(
            "flwr.client.mod.secure_aggregation.secaggplus_mod"
        )

        logging.getLogger("flwr").setLevel(logging.CRITICAL)
        self._mod, self._updates = secaggplus_mod, updates
        self._states = {k + 1: secaggplus_mod.SecAggPlusState() for k in range(len(updates))}
        for node, state in self._states.items():
            state.nid = node
        self._parameters = lambda node: ndarrays_to_parameters([updates[node - 1]])
        self._known: dict[tuple[Any, ...], Any] = {}
        self._dropped: set[int] = set()
        self._away = 0.0
        self.seconds: dict[int, Seconds] = defaultdict(dict)
        self.sent: dict[str, list[int]] = defaultdict(list)

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Any]:
        """What Flower's Grid does; each client computes an answer once."""
        began = time.process_time()
        replies = [self._reply(message) for message in messages]
        self._away += time.process_time() - began
        return replies

    def _reply(self, message: Any) -> Any:
        from flwr.app import ConfigRecord, Error, Message, RecordDict
        from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Stage

        node = message.metadata.dst_node_id
        configs = dict(message.content.config_records[RECORD_KEY_CONFIGS])
        stage = configs.pop("stage")
        if stage == Stage.COLLECT_MASKED_VECTORS and node in self._dropped:
            return Message(Error(code=0, reason="dropped"), reply_to=message)
        place = (stage, node, len(self._dropped) if stage == Stage.UNMASK else 0)
        if place not in self._known:
            content, found = RecordDict(), self._answer(stage, node, configs)
            if stage == Stage.COLLECT_MASKED_VECTORS:
                content = self._fitted()
            content.config_records[RECORD_KEY_CONFIGS] = ConfigRecord(found)
            self._known[place] = Message(content, reply_to=message)
        return self._known[place]

    def _fitted(self) -> Any:
        from flwr.common import Code, FitRes, Parameters, Status
        from flwr.compat.common import recorddict_compat

        empty, done = Parameters([], "numpy.ndarray"), Status(Code.OK, "")
        return recorddict_compat.fitres_to_recorddict(
            FitRes(done, empty, self.EXAMPLES, {}), keep_input=False
        )

    def _answer(self, stage: str, node: int, configs: dict[str, Any]) -> dict[str, Any]:
        from flwr.common.secure_aggregation.secaggplus_constants import Stage

        extra = ()
        if stage == Stage.COLLECT_MASKED_VECTORS:
            extra = (self.EXAMPLES, self._parameters(node))
        call = {
            Stage.SETUP: self._mod._setup,
            Stage.SHARE_KEYS: self._mod._share_keys,
            Stage.COLLECT_MASKED_VECTORS: self._mod._collect_masked_vectors,
            Stage.UNMASK: self._mod._unmask,
        }[stage]
        began = time.process_time()
        found = call(self._states[node], configs, *extra)
        self.seconds[node][stage] = time.process_time() - began
        self.sent[stage].append(sum(map(_size, found.values())))
        return dict(found)

    # What the workflow asks of a strategy.

    def configure_fit(self, *_: Any) -> list[Any]:
        """Everybody is asked; the model isn't sent, so it isn't timed."""
        from flwr.common import FitIns, Parameters

        fitins = FitIns(Parameters([], "numpy.ndarray"), {})
        return [(SimpleNamespace(node_id=node), fitins) for node in self._states]

    def aggregate_fit(self, _: int, results: Any, failures: Any) -> tuple[None, dict[str, Any]]:
        """Takes the mean, which is checked later."""
        self._mean = results[0][1].parameters
        return None, {}

    def serve(self, dropped: set[int]) -> Seconds:
        """Runs the workflow and returns its server's seconds by stage."""
        from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
        from flwr.common import parameters_to_ndarrays
        from flwr.server import LegacyContext
        from flwr.server.workflow.constant import (
            MAIN_CONFIGS_RECORD,
            MAIN_PARAMS_RECORD,
            Key,
        )
        from flwr.server.workflow.secure_aggregation import secaggplus_workflow

        self._dropped = {k + 1 for k in dropped}
        records = RecordDict()
        records.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
        records.array_records[MAIN_PARAMS_RECORD] = ArrayRecord()
        bare = Context(run_id=1, node_id=0, node_config={}, state=records, run_config={})
        context = LegacyContext(bare, strategy=self)
        workflow = secaggplus_workflow.SecAggPlusWorkflow(1.0, 2 / 3)
        state, seconds = secaggplus_workflow.WorkflowState(), {}
        for name in ("setup", "share_keys", "collect_masked_vectors", "unmask"):
            self._away, began = 0.0, time.process_time()
            assert getattr(workflow, f"{name}_stage")(self, context, state)
            seconds[name] = time.process_time() - began - self._away
        alive = [k for k in range(len(self._updates)) if k not in dropped]
        step = 2 * workflow.clipping_range / workflow.quantization_range
        wanted = self._updates[alive].mean(axis=0, dtype=np.float64)
        off = np.abs(parameters_to_ndarrays(self._mean)[0] - wanted).max()
        assert off < 2 * step, f"the mean is off by {off / step} steps"
        return seconds


def _size(value: Any) -> int:
    """Bytes of a value, integers as 8."""
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(value) if isinstance(value, bytes) else 8
