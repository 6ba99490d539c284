"""The global model on the coordinator's side: initial values, artifacts, public metrics."""

from __future__ import annotations

import numpy as np

from tacit.configs.spec import RunSpec
from tacit.privacy.noise import Floats
from tacit.tasks import vector
from tacit.tasks.task import Task, make_model, score, tensors


class GlobalModel:
    """A task's model as the coordinator needs it.

    Args:
        task: whose model.
        spec: of the run.
        initial: the parameters to begin with, shape [d]; None takes the task's own.
    """

    def __init__(self, task: Task, spec: RunSpec, initial: Floats | None = None) -> None:
        self._task = task
        self._model = make_model(task, spec.seed)
        own: Floats = vector.read(self._model).astype(np.float64)
        self.initial = own if initial is None else initial
        self.frozen = vector.frozen_digest(self._model)
        self.examples = task.examples_per_client
        self._test = None
        if task.test is not None and spec.evaluation.kind == "public":
            self._test = tensors(task.test(), "the public test set")

    def arrays(self, parameters: Floats) -> dict[str, np.ndarray]:
        """The model's whole state dict as arrays, frozen parts included: what a version stores."""
        vector.write(self._model, parameters.astype(np.float32))
        return {name: vector.array(name, t) for name, t in self._model.state_dict().items()}

    def public_metrics(self, parameters: Floats) -> dict[str, float]:
        """Accuracy and loss on the public test set, which is nobody's private data."""
        if self._test is None:
            return {}
        vector.write(self._model, parameters.astype(np.float32))
        right, loss = score(self._task, self._model, *self._test)
        return {"accuracy": float(right.mean()), "loss": float(loss.mean())}
