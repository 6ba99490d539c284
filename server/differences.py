"""How two versions differ: configuration, plan, code, metrics, epsilon, and array by array.

Guarantees: both artifacts are loaded as `ModelRegistry.load` does, so what is compared is what was
released; distances are L2 norms in float64. Metrics and epsilons are what the releases state.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tacit.server.proven import Proven
from tacit.server.registry import ModelRegistry
from tacit.server.store import Row, Store


def difference(store: Store, a: Row, b: Row) -> Row:
    """What is other in ``b``; where a side has nothing it is None.

    Args:
        store: of the home.
        a: row of a version.
        b: row of another.

    Returns:
        ``versions`` with their leaves; ``configuration``, ``plan``, ``metrics`` and ``epsilon``
        as [key, in a, in b]; ``code``; ``arrays`` with shapes, the distance and both norms.

    Raises:
        StorageError: one of the versions isn't what was released.
    """
    registry = ModelRegistry(store.home, store)
    arrays = registry.load(a), registry.load(b)
    runs = store.run(a["run"]), store.run(b["run"])
    with store.database.reading() as c:
        proven = Proven(c, store.signer.verifier)
        said = proven.body(a["release"]), proven.body(b["release"])

    def of_runs(column: str) -> list[list[Any]]:
        one, two = (_flat(json.loads(run[column])) for run in runs)
        return _changed(one, two)

    return {
        "versions": [_place(a), _place(b)],
        "configuration": of_runs("spec"),
        "plan": of_runs("plan"),
        "code": [a["code"], b["code"]] if a["code"] != b["code"] else [],
        "metrics": _changed(said[0]["metrics"], said[1]["metrics"]),
        "epsilon": _changed(said[0].get("epsilon") or {}, said[1].get("epsilon") or {}),
        "arrays": _arrays(*arrays),
    }


def _place(row: Row) -> Row:
    same = {"model": row["name"], "number": row["number"], "artifact": row["artifact"]}
    return {**same, "leaf": row["release"]}


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    found: dict[str, Any] = {}
    for key, part in value.items():
        found |= _flat(part, f"{name}.{key}" if name else str(key))
    return found


def _changed(a: dict[str, Any], b: dict[str, Any]) -> list[list[Any]]:
    names = [*a, *(name for name in b if name not in a)]
    return [[n, a.get(n), b.get(n)] for n in names if a.get(n) != b.get(n)]


def _arrays(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> list[Row]:
    return [_array(name, a.get(name), b.get(name)) for name in [*a, *(n for n in b if n not in a)]]


def _array(name: str, a: np.ndarray | None, b: np.ndarray | None) -> Row:
    """Shapes, norms, and the distance where it has one."""
    found: Row = {"name": name, "distance": None}
    found["shapes"] = [None if x is None else list(x.shape) for x in (a, b)]
    found["norms"] = [None if x is None else _norm(x) for x in (a, b)]
    if a is not None and b is not None and a.shape == b.shape:
        found["distance"] = _norm(np.asarray(b, np.float64) - np.asarray(a, np.float64))
    return found


def _norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(x, np.float64)))
