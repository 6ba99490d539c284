"""What must hold of a ledger at any moment, checked from its rows alone with `privacy/log`."""

from __future__ import annotations

import base64
import json
from typing import Any

from sqlalchemy.engine import Connection

from tacit.privacy.ledger import replay
from tacit.privacy.log import leaves, merkle
from tacit.privacy.log.notes import Checkpoint, VerifierKey, open_note
from tacit.server.store import Store


def check_log(store: Store) -> list[dict[str, Any]]:
    """Leaves, nodes, keys and every checkpoint agree; returns the bodies, oldest first."""
    with store.database.reading() as c:
        bodies, tree = _leaves(c)
        _check_nodes(c, tree)
        _check_checkpoints(c, tree, _keys(bodies))
    return bodies


def check_exposures(store: Store, bodies: list[dict[str, Any]]) -> None:
    """Nothing was released uncharged, and versions and rounds are what leaves say."""
    rows, runs, kept = store.versions(), store.runs(), store.rounds
    for run in runs:
        said = [b for b in bodies if b["run"] == run["id"]]
        replay(said, {"client": 1e-3, "record": 1e-3})  # Raises on a release uncharged.
        assert said[0]["kind"] == "PLAN"
        mine = [v for v in rows if v["run"] == run["id"]]
        rounds = list(range(1, run["round"] + 1))
        assert [v["round"] for v in mine] == rounds == [r["round"] for r in kept(run["id"])]
        for version in mine:
            released, charged = bodies[version["release"]], bodies[version["charge"]]
            assert (released["kind"], charged["kind"]) == ("RELEASE", "CHARGE")
            assert version["charge"] < version["release"]
            for name in ("run", "round"):
                assert released[name] == charged[name] == version[name]
            assert released["charge"] == version["charge"]
            assert (released["name"], released["number"]) == (version["name"], version["number"])
    models = sum(b["kind"] == "RELEASE" and b["purpose"] == "train" for b in bodies)
    assert models == len(rows)
    for name in {v["name"] for v in rows}:
        numbers = [v["number"] for v in rows if v["name"] == name]
        assert numbers == list(range(1, len(numbers) + 1))


def _leaves(c: Connection) -> tuple[list[dict[str, Any]], merkle.Tree]:
    bodies, tree = [], merkle.Tree()
    rows = c.exec_driver_sql('SELECT "index", run, kind, body, hash FROM leaves ORDER BY "index"')
    for place, (index, run, kind, text, hashed) in enumerate(rows):
        body = json.loads(text)
        assert index == place
        assert hashed == merkle.leaf_hash(text.encode()).hex()
        assert (run, kind) == (body["run"], body["kind"])
        assert leaves.leaf_bytes(body) == text.encode()
        tree.append(bytes.fromhex(hashed))
        bodies.append(body)
    return bodies, tree


def _check_nodes(c: Connection, tree: merkle.Tree) -> None:
    stored = {
        (level, index): bytes(value)
        for level, index, value in c.exec_driver_sql('SELECT level, "index", hash FROM nodes')
    }
    levels = range(1, tree.size.bit_length())
    anew = {
        (level, index): tree.node(level, index)
        for level in levels
        for index in range(tree.size >> level)
    }
    assert stored == anew


def _keys(bodies: list[dict[str, Any]]) -> dict[int, VerifierKey]:
    """The ledger's keys by the index of their leaf; each signed with the one before it."""
    found: dict[int, VerifierKey] = {}
    previous: VerifierKey | None = None
    for index, body in enumerate(bodies):
        if body["kind"] != "KEY":
            continue
        key = VerifierKey.parse(body["key"])
        if previous is None:
            assert (body["previous"], body["signature"]) == (None, None)
        else:
            assert body["previous"] == str(previous)
            said = leaves.rotation(body["origin"], body["key"], body["previous"])
            assert previous.verify(base64.b64decode(body["signature"]), said)
        assert key.name == body["origin"]
        found[index] = previous = key
    return found


def _check_checkpoints(c: Connection, tree: merkle.Tree, keys: dict[int, VerifierKey]) -> None:
    rows = c.exec_driver_sql("SELECT size, note FROM checkpoints ORDER BY size").all()
    assert [size for size, _ in rows][-1:] == [tree.size]
    for size, note in rows:
        key = keys[max(index for index in keys if index < size)]
        found = Checkpoint.parse(open_note(note, key))
        assert found == Checkpoint(key.name, size, tree.root_at(size))
