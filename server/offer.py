"""What devices are offered of a run: the signed run document, and the graphs it refers to.

Exporting graphs takes ``tacit[device]``, which a coordinator of silos alone does without; it is
imported when it is needed.
"""

from __future__ import annotations

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError
from tacit.privacy.secagg.keys import Identity
from tacit.tasks.task import Task

_HINT = "pip install 'tacit[all,device]'"


def check() -> None:
    """Refuses to begin what would fail at the first export.

    Raises:
        ConfigError: a package for the export isn't installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f"serving devices needs {error.name}, to export graphs", _HINT) from error


def made(
    task: Task, spec: RunSpec, run: str, population: str, coordinator: Identity
) -> tuple[bytes, tuple[bytes, ...]]:
    """A run's document, signed, and its graphs; the same ones each time.

    Args:
        task: of the run.
        spec: of the run.
        run: its identifier.
        population: of the devices.
        coordinator: signs the document.

    Raises:
        ConfigError: a package for the export isn't installed.
        ModelError: the task's model can't run on devices.
    """
    check()
    from tacit.tasks.device import bundle

    found = bundle.build(task, spec, run, population)
    return found.document.encode(coordinator), tuple(found.blobs.values())
