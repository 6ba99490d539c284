"""tacit: federated learning with differential privacy.

A coordinator sends a global model to sampled clients; each trains locally with Opacus
DP-SGD; clipped updates are summed and noised; every release is charged to a ledger before
it is revealed, and every aggregated model is a version that names its charge.

The tour, in the order a reader needs it:

* `tacit.privacy`: what is promised and what was spent. `PrivacyPlan`, events, accountant,
  ledger leaves. Imports neither torch nor flwr.
* `tacit.configs`: a run as frozen dataclasses, composed by Hydra.
* `tacit.tasks`: what is learned and from whose data; `Task` brings your own.
* `tacit.client`, `tacit.server`: the two sides of a round, on Flower's messages and Grid.
* `tacit.simulations`: all of it in one process.

Example:
    >>> import tacit, tempfile
    >>> result = tacit.simulate(["rounds=1", "cohort=20"], home=tempfile.mkdtemp())
    >>> result.rounds, result.status
    (1, 'finished')
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tacit.privacy.errors import TacitError
    from tacit.simulations.engine import Result, simulate
    from tacit.tasks.task import Task

__version__ = "0.1.0"
__all__ = ["Result", "TacitError", "Task", "__version__", "simulate"]

# Resolved on first use: the reviewer's half of tacit must not import torch.
_WHERE = {
    "Result": "tacit.simulations.engine",
    "TacitError": "tacit.privacy.errors",
    "Task": "tacit.tasks.task",
    "simulate": "tacit.simulations.engine",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'tacit' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)
