"""What may be shown of each round, told to whoever plots: TensorBoard, or anything like W&B.

Guarantees: a hook is called once a round was released, with its metrics and its epsilons, which
its RELEASE leaf has too; not with how many clients answered, which are the operator's to know. The
times that TensorBoard's files name are hours, as leaves' are: how long a round took tells who was
in it.

It doesn't guarantee what a tool adds by itself: W&B stamps each line with the second, and may send
it away; ``wandb.init(mode="offline")`` keeps it here.
"""

from __future__ import annotations

import time
from os import PathLike
from types import TracebackType
from typing import Any, Protocol

from tacit.privacy.errors import ConfigError
from tacit.privacy.ledger import STATED


class Released(Protocol):
    """A released round: of a training or of a rollout."""

    @property
    def round(self) -> int:
        """Its number, from 1."""

    @property
    def metrics(self) -> dict[str, float]:
        """What may be shown."""

    @property
    def epsilon(self) -> dict[str, float | None]:
        """What was spent so far."""


class Logs(Protocol):
    """What W&B's runs can do, and others that copied it."""

    def log(self, data: dict[str, Any], *, step: int) -> Any:
        """Keeps figures of one step."""


def shown(result: Released) -> dict[str, float]:
    """The figures of a round that may be shown; what isn't claimed is left out."""
    spent = {k: v for k, v in result.epsilon.items() if k in STATED and v is not None}
    return {**result.metrics, **{f"epsilon/{name}": value for name, value in spent.items()}}


class Logged:
    """Tells each round to something with W&B's ``log``.

    Args:
        run: such as ``wandb.init(mode="offline")``.

    Example:
        >>> class Printed:
        ...     def log(self, data, *, step):
        ...         print(step, sorted(data)[0])
        >>> from tacit.simulations.engine import simulate
        >>> import tempfile
        >>> settings = ["rounds=1", "clients=50", "cohort=20"]
        >>> done = simulate(settings, home=tempfile.mkdtemp(), progress=Logged(Printed()))
        1 accuracy
    """

    def __init__(self, run: Logs) -> None:
        self._run = run

    def __call__(self, result: Released) -> None:
        """Called after each released round."""
        self._run.log(shown(result), step=result.round)


class TensorBoard:
    """Writes each round to a folder that TensorBoard reads; a context that closes its file.

    Args:
        folder: of one run.

    Raises:
        ConfigError: tensorboard isn't installed.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        check_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder))

    def __call__(self, result: Released) -> None:
        """Called after each released round."""
        hour = time.time() // 3600 * 3600
        for name, value in shown(result).items():
            self._writer.add_scalar(name, value, result.round, walltime=hour)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def __enter__(self) -> TensorBoard:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the file."""
        self.close()


def check_tensorboard() -> None:
    """Raises `ConfigError` if tensorboard isn't installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"tensorboard isn't installed: {error}", "pip install tensorboard"
        ) from error
