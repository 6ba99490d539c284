"""Starts this silo's ClientApp for each message, from a process that has imported it already.

Flower starts a process a message; importing torch and flwr takes it seconds of a core, five
times a round. Here they are imported once, in a server process that does nothing else, which
forks one process a message (multiprocessing's forkserver): every message still has a process of
its own, that ends with it. Anything but a ClientApp isn't started.

    python -m tacit.client.superexec --help      # the options are flower-superexec's
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.process import BaseProcess
from typing import Any

from flwr.supercore.cli.flower_superexec import flower_superexec
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec import run_superexec as flower
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor

# What a ClientApp's process would import, as found by looking; one that isn't there is left out.
PRELOADED = [
    "tacit.client.app",
    "flwr.supernode.runtime.run_clientapp",
    "dp_accounting",
    "hydra._internal.config_loader_impl",
    "sklearn.model_selection",
    "torch._dynamo",
]


class WarmExecutor(SubprocessExecutor):
    """Forks a process for each ClientApp that is to answer a message."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._children: list[BaseProcess] = []

    def get_eligible_capacity(
        self, supported_task_types: set[TaskType], **_: Any
    ) -> tuple[set[TaskType], set[str]]:
        """ClientApps and nothing else."""
        return supported_task_types & {TaskType.CLIENT_APP}, set()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Starts a ClientApp's process."""
        if spec.task_type != TaskType.CLIENT_APP:
            return LaunchResult.failed(f"a silo doesn't run {spec.task_type}")
        child = self._context.Process(target=work, args=(spec,))
        child.start()
        self._children.append(child)
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Forgets processes that have ended."""
        self._children = [child for child in self._children if child.is_alive()]


def work(spec: ExecutionSpec) -> None:
    """Answers one message, in a process of its own."""
    from flwr.supercore.tls import validate_and_resolve_root_certificates
    from flwr.supernode.runtime.run_clientapp import run_clientapp

    run_clientapp(
        runtime_api_address=spec.runtime_api_address,
        token=spec.token,
        insecure=spec.insecure,
        certificates=validate_and_resolve_root_certificates(
            spec.root_certificates_path, spec.insecure
        ),
        parent_pid=spec.parent_pid,
        runtime_dependency_install=False,
    )


def main() -> None:
    """Runs the SuperExec until it is told to stop."""
    # By name, since it is that module's by an import.
    setattr(flower, "get_executor", lambda *_, **__: WarmExecutor())  # noqa: B010
    flower_superexec()


if __name__ == "__main__":
    main()
