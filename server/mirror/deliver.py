"""What each leaf means to an MLflow server, and telling it.

Guarantees: everything told is in the ledger or bound by it: a run's configuration (but its seed
and its data's folder), the metrics and epsilons of its RELEASE leaves, versions, aliases,
retirements. Who answered, and how many, isn't. Leaves come in order and each may come again, and
the server ends the same (`tacit.server.mirror.mlflow`).

Each step is logged on ``tacit.mirror`` before it is taken; tests kill the process there.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from tacit.privacy.errors import MissingError
from tacit.privacy.log.leaves import Body, digest
from tacit.server.mirror.mlflow import Server, UnreachableError
from tacit.server.mirror.outbox import Outbox
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store

log = logging.getLogger("tacit.mirror")
# MLflow's word for a run's status, and whether it is over.
_STATUS = {
    "running": ("RUNNING", False),
    "waiting": ("SCHEDULED", False),
    "finished": ("FINISHED", True),
    "stopped": ("FINISHED", True),
    "refused": ("KILLED", True),
    "failed": ("FAILED", True),
}
# A seed takes the noise of a simulation off again; a folder is the operator's.
_KEPT_BACK = ("seed", "data.root")
_LONGEST_WAIT = 60.0


class Mirror:
    """Tells an MLflow server what a ledger says.

    Args:
        store: of the home.
        server: who is told.
        outbox: what it has to be told yet.
        artifacts: whether versions' files are uploaded too.
    """

    def __init__(self, store: Store, server: Server, outbox: Outbox, artifacts: bool) -> None:
        self._store, self._server, self._outbox = store, server, outbox
        self._artifacts = artifacts
        self._known = set[str]()
        self._tellers: dict[str, Callable[[int, Body], None]] = {
            "PLAN": self._plan,
            "STATUS": self._status,
            "RELEASE": self._release,
            "DEPLOY": self._move,
            "ROLLBACK": self._move,
            "RETIRE": self._retire,
            "GATE": self._gate,
            "APPROVAL": self._approval,
            "AUDIT": self._audit,
        }

    def once(self) -> int:
        """Tells everything there is to tell by now; returns how many leaves it looked at.

        Raises:
            UnreachableError: the server doesn't answer; what it was told is kept.
            StorageError: it refuses.
        """
        count, silent = 0, None
        for index, body in self._outbox.waiting():
            tell = self._tellers.get(body["kind"])
            if tell is None:
                silent = index
            else:
                log.debug("tell %s", body["kind"])
                tell(index, body)
                log.debug("told %s", body["kind"])
                self._outbox.delivered(index)
                silent = None
            count += 1
        if silent is not None:
            self._outbox.delivered(silent)
        return count

    def follow(self, ended: threading.Event, every: float = 2.0) -> None:
        """Tells what comes, until ``ended``; waits longer and longer while nobody answers.

        Args:
            ended: set from elsewhere.
            every: seconds between two looks at the ledger.
        """
        wait = every
        while not ended.is_set():
            try:
                if count := self.once():
                    log.info("%d leaves mirrored to %s", count, self._server.uri)
                wait = every
            except UnreachableError as error:
                wait = min(2 * wait, _LONGEST_WAIT)
                log.warning("%s; next try in %.0f s", error.message, wait)
            ended.wait(wait)

    def _planned(self, run: str) -> None:
        """Tells a run's plan first: in homes from before there was a tree its leaf comes later."""
        if run not in self._known and self._server.run(run) is None:
            for leaf in self._store.leaves(run, ("PLAN",)):
                self._plan(leaf["index"], leaf["body"])
        self._known.add(run)

    def _plan(self, index: int, body: Body) -> None:
        self._known.add(body["run"])
        run = self._store.run(body["run"])
        tags = {
            "tacit.leaf": str(index),
            "tacit.population": body["population"],
            "tacit.plan": body["plan"],
            "tacit.spec": body["spec"],
            "tacit.code": body["code"],
            "tacit.actor": str(body.get("actor", "")),
            "tacit.noise_source": str(body["body"].get("noise_source")),
            "tacit.kind": "rollout" if "rollout" in body else "training",
        }
        for name in ("initial", "rollout", "cause"):
            if body.get(name) is not None:
                tags[f"tacit.{name}"] = json.dumps(body[name], sort_keys=True)
        name = f"{body['name']} {body['run']}"
        self._server.make_run(body["run"], name, body["at"], tags)
        params = flat(json.loads(run["spec"]))
        shown = {k: v for k, v in params.items() if k not in _KEPT_BACK}
        self._server.log(body["run"], body["at"], params=shown)

    def _status(self, index: int, body: Body) -> None:
        self._planned(body["run"])
        status, ended = _STATUS.get(body["status"], ("RUNNING", False))
        self._server.status(body["run"], status, body["at"], ended)
        self._server.log(body["run"], body["at"], tags={"tacit.status": body["status"]})

    def _release(self, index: int, body: Body) -> None:
        if body.get("purpose") == "evaluate" and "arms" not in body and not body.get("metrics"):
            return
        self._planned(body["run"])
        claimed, unclaimed = epsilons(body)
        metrics = {**body.get("metrics", {}), **claimed}
        for arm in body.get("arms", ()):
            place = f"version_{arm['number']}"
            if arm.get("ablation") is not None:
                # The run's tag `tacit.rollout` says what it is.
                place += f"_ablation_{digest(arm['ablation'])[:8]}"
            metrics |= {f"{place}.{k}": v for k, v in arm["metrics"].items()}
        shown = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        tags = {"tacit.not_claimed": ", ".join(unclaimed)} if unclaimed else {}
        if body.get("evaluation"):
            tags["tacit.evaluation"] = str(body["evaluation"])
        self._server.log(body["run"], body["at"], body["round"], shown, tags=tags)
        if "artifact" in body:
            self._version(index, body, claimed)

    def _version(self, index: int, body: Body, claimed: Mapping[str, float]) -> None:
        model, number = body["name"], body["number"]
        source = f"tacit://{self._server.origin}/artifacts/{body['artifact']}"
        tags = {
            "tacit.leaf": str(index),
            "tacit.artifact": body["artifact"],
            "tacit.round": str(body["round"]),
            "tacit.plan": body["plan"],
            "tacit.charge": str(body["charge"]),
            **{f"tacit.{name}": repr(value) for name, value in claimed.items()},
        }
        self._server.make_model(model)
        log.debug("tell version")
        if self._artifacts:
            registry = ModelRegistry(self._store.home, self._store)
            row = self._store.versions(name=model, number=number)[-1]
            registry.verified(row)
            path = str(registry.path(row["artifact"]))
            source = self._server.upload(body["run"], path, f"versions/{number}") or source
        self._server.make_version(model, number, body["run"], source, tags)

    def _move(self, index: int, body: Body) -> None:
        model, alias, number = body["model"], body["alias"], body["number"]
        self._server.make_model(model)
        self._server.point(model, alias, number)
        log.debug("tell alias")
        said = {"leaf": index, "version": number, "kind": body["kind"], "forced": body["forced"]}
        if body.get("automatic"):
            said["automatic"] = True
        self._server.mark_model(model, {f"tacit.alias.{alias}": json.dumps(said, sort_keys=True)})

    def _retire(self, index: int, body: Body) -> None:
        self._server.mark_version(body["model"], body["number"], {"tacit.retired": str(index)})

    def _gate(self, index: int, body: Body) -> None:
        said = json.dumps({"leaf": index, **body["gate"]}, sort_keys=True)
        # A gate may be set before its model has a version.
        self._server.make_model(body["model"])
        self._server.mark_model(body["model"], {f"tacit.gate.{body['alias']}": said})

    def _approval(self, index: int, body: Body) -> None:
        said = {f"tacit.approval.{index}": str(body.get("verdict"))}
        self._server.log(body["run"], body["at"], tags=said)

    def _audit(self, index: int, body: Body) -> None:
        said = {"stage": body.get("stage"), "violated": body.get("violated")}
        tags = {f"tacit.audit.{index}": json.dumps(said, sort_keys=True)}
        self._server.log(body["run"], body["at"], tags=tags)


def epsilons(body: Body) -> tuple[dict[str, float], list[str]]:
    """What a RELEASE says was spent so far, and what it claims nothing for."""
    said = body.get("epsilon") or {}
    claimed = {f"epsilon.{k}": float(v) for k, v in said.items() if v is not None}
    return claimed, sorted(k for k, v in said.items() if v is None)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as ``name.name`` with their values in words."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return found


def differences(store: Store, server: Server) -> list[str]:
    """What was changed in MLflow by hand, or is missing there; nothing is read back from it.

    To be asked once everything is delivered.
    """
    from tacit.server.lifecycle import Lifecycle

    life, found = Lifecycle(store), []
    versions = store.versions()
    for model in sorted({row["name"] for row in versions}):
        name = server.name(model)
        try:
            there = server.model(model)
        except MissingError:
            found.append(f"model {name} isn't there")
            continue
        rows = {r["number"]: r["artifact"] for r in versions if r["name"] == model}
        found += _versions(server, model, rows)
        found += _aliases(
            server, model, there, {a: m.number for a, m in life.aliases(model).items()}
        )
    missing = [run["id"] for run in store.runs() if server.run(run["id"]) is None]
    return found + [f"run {identifier} isn't there" for identifier in missing]


def _versions(server: Server, model: str, rows: Mapping[int, str]) -> list[str]:
    name, found, seen = server.name(model), [], set()
    for version in server.versions(model):
        number, artifact = version.tags.get("tacit.version"), version.tags.get("tacit.artifact")
        place = f"{name} version {version.version}"
        if number is None or not number.isdecimal() or int(number) not in rows:
            found.append(f"{place} isn't of this ledger")
            continue
        seen.add(int(number))
        if artifact != rows[int(number)]:
            found.append(f"{place} names the artifact {artifact}, not {rows[int(number)]}")
    return found + [f"{name} has no version for {model}@{n}" for n in sorted(set(rows) - seen)]


def _aliases(
    server: Server, model: str, there: Any, expected: Mapping[str, int | None]
) -> list[str]:
    from tacit.server.mirror.mlflow import alias_name

    wanted: dict[str, str | None] = {}
    for alias, number in expected.items():
        assert number is not None  # `Lifecycle.aliases` has those that name a version.
        wanted[alias_name(alias)] = server.number(model, number)
    name, found = server.name(model), []
    for alias, version in there.aliases.items():
        if alias not in wanted:
            found.append(f"{name}@{alias} isn't an alias of this ledger")
        elif str(version) != wanted[alias]:
            found.append(f"{name}@{alias} names {version} there, {wanted[alias]} by the ledger")
    return found + [f"{name}@{a} isn't there" for a in sorted(set(wanted) - set(there.aliases))]
