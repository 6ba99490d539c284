"""``tacit models export --device`` and ``--verify``: a task's graphs for devices, signed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tacit.cli.common import print_json, print_table

if TYPE_CHECKING:
    from tacit.protocol.manifest import DeviceGraph, Manifest
    from tacit.tasks.task import Task


def export(
    overrides: Sequence[str], to: str, home: str | None, microbatch: int | None, as_json: bool
) -> None:
    """Exports the graphs of a run into a folder, checked beside Opacus and signed.

    Args:
        overrides: of the run, as of ``tacit simulate``.
        to: a folder that isn't there yet, or is empty.
        home: whose coordinator key signs; made if it isn't there.
        microbatch: rows of a step's call; None is 1.
        as_json: whether to print JSON.
    """
    from pathlib import Path

    from tacit.configs.build import compose
    from tacit.privacy.errors import ConfigError, StorageError
    from tacit.protocol import folder
    from tacit.server.gateway.authority import Authority
    from tacit.server.home import Home, explained, write_durably
    from tacit.tasks.task import load

    path = Path(to)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StorageError(f"{path} is there already", "choose another name, or remove it")
    try:
        from tacit.tasks.device import bundle
    except ImportError as error:
        raise ConfigError(
            f"graphs for devices need the package {error.name}", "pip install 'tacit[device]'"
        ) from error
    spec = compose(overrides)
    task = load(spec)
    began = time.perf_counter()
    step, evaluation, frozen = bundle.exported(task, spec, 1 if microbatch is None else microbatch)
    seconds = time.perf_counter() - began
    found = _errors(task, spec.seed, bundle.shapes(task, spec), step, evaluation)
    coordinator = Authority(Home(home), spec.population or task.name).coordinator
    with explained(f"{path} can't be made"):
        path.mkdir(parents=True, exist_ok=True)
    made = folder.files(step, evaluation, frozen, coordinator)
    for name, data in made.items():
        write_durably(path / name, data)
    graphs = [step.manifest, *([evaluation.manifest] if evaluation else [])]
    document = {
        "to": str(path),
        "files": sorted(made),
        "coordinator": coordinator.public.hex(),
        "frozen": frozen,
        "seconds": round(seconds, 3),
        **{m.kind: _described(m) | {"error": found[m.kind]} for m in graphs},
    }
    if as_json:
        print_json(document)
        return
    _show(f"{task.name} -> {path}", graphs, found)
    print(f"signed by {coordinator.public.hex()}")
    print(f"check it with: tacit models export --verify {path} --key {coordinator.public.hex()}")


def check(path: str, key: str | None, as_json: bool) -> None:
    """Checks a folder's signature and graphs, without torch.

    Args:
        path: the folder.
        key: the coordinator's Ed25519 key, in hex.
        as_json: whether to print JSON.
    """
    from pathlib import Path

    from tacit.privacy.errors import ConfigError
    from tacit.protocol import folder

    try:
        public = bytes.fromhex(key or "")
    except ValueError:
        public = b""
    if len(public) != 32:
        raise ConfigError(
            f"key={key} must be the coordinator's Ed25519 key, 64 digits in hex",
            "export printed it, and so does the file that enrols a device",
        )
    held = folder.check(Path(path), public)
    graphs = [held.step, *([held.evaluation] if held.evaluation else [])]
    if as_json:
        print_json(
            {"verified": path, "frozen": held.frozen} | {m.kind: _described(m) for m in graphs}
        )
        return
    _show(f"{path}: signed by this key, and whole", graphs, {})


def _errors(
    task: Task,
    seed: int | None,
    like: Any,
    step: DeviceGraph,
    evaluation: DeviceGraph | None,
) -> dict[str, float]:
    """The largest relative error of each graph, beside Opacus or torch."""
    from tacit.tasks.device import check as steps
    from tacit.tasks.device import evaluation as scores
    from tacit.tasks.task import make_model

    model = make_model(task, seed)
    found = {"step": steps.verify(step, task, model, like)}
    if evaluation is not None:
        found["evaluation"] = scores.verify(evaluation, task, model, like)
    return found


def _described(manifest: Manifest) -> dict[str, Any]:
    return {
        "graph": manifest.graph,
        "bytes": manifest.graph_bytes,
        "parameters": manifest.size,
        "microbatch": manifest.microbatch,
        "opset": manifest.opset,
        "operators": list(manifest.operators),
    }


def _show(title: str, graphs: Sequence[Manifest], errors: dict[str, float]) -> None:
    columns = ["graph", "bytes", "parameters", "microbatch", "operators", "sha256"]
    rows: list[list[object]] = [
        [m.kind, m.graph_bytes, m.size, m.microbatch, len(m.operators), m.graph[:16]]
        for m in graphs
    ]
    if errors:
        columns.append("error")
        for row, manifest in zip(rows, graphs, strict=True):
            row.append(f"{errors[manifest.kind]:.1e}")
    print_table(title, columns, rows)
    if errors:
        print("error: relative, of clipped sums beside Opacus's, of losses beside torch's")
