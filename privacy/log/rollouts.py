"""Rollouts in a log: what each round released, and whether gates and fallbacks went by it.

Part of the verifier (`tacit.privacy.log.trail`), and by the same code of the coordinator, which
asks within the transaction that would move an alias: so both decide alike.

Guarantees: a rollout charges and releases evaluations only; each RELEASE has the arms that its
PLAN leaf says for that round, with counts, and metrics that are those counts'. Where a gate
guards an alias, a DEPLOY that isn't forced rests on evidence that recomputes to "pass": the first
``windows`` evaluations of each version in one rollout that was planned after the gate was set, and
after the alias last fell back. An automatic ROLLBACK rests on the newest ``fallback_rounds``
evaluations of the version that the alias named, all of them since it was moved there, each clearly
beyond the gate's floor or ceiling. What any other move names as evidence are evaluations of
rollouts of that model.

It doesn't guarantee that counts are what clients counted: see `tacit.privacy.log.verify`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tacit.privacy.errors import ConfigError
from tacit.privacy.gates import PASS, Decision, Gate, Noise, breached, decide
from tacit.privacy.intervals import Counts, deviation, metrics
from tacit.privacy.log.leaves import MOVES
from tacit.privacy.log.lifecycle import NEVER, Life, check_alias
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.plans import read
from tacit.privacy.rollouts import RolloutPlan

Leaf = Mapping[str, Any]
Place = tuple[str, str]


@dataclass
class RolloutTrail:
    """One rollout.

    Attributes:
        index: of its PLAN leaf.
        rollout: what its rounds evaluate.
        plan: its privacy plan.
        releases: of each RELEASE leaf the counts by version; copies of one version by place.
    """

    index: int
    rollout: RolloutPlan
    plan: PrivacyPlan
    releases: dict[int, list[tuple[int, Counts]]] = field(default_factory=dict)

    def counts(self, number: int) -> dict[int, Counts]:
        """The evaluations of a version, by RELEASE leaf."""
        return {leaf: c for leaf, arms in self.releases.items() for n, c in arms if n == number}

    def compares(self, model: str, *numbers: int) -> bool:
        """Whether it evaluates these versions of a model, as they were released.

        One that explains a version doesn't: copies without something have the version's number.
        """
        if self.rollout.model != model or self.rollout.mode == "explain":
            return False
        return set(numbers) <= {arm.number for arm in self.rollout.arms}

    def deviation(self, number: int) -> float:
        """Of each count of a version in one round."""
        arm = self.rollout.arm(number)
        assert arm is not None
        return deviation(self.plan, arm.share)

    @property
    def loss_cap(self) -> float:
        """Of its evaluations."""
        assert self.plan.evaluation is not None
        return self.plan.evaluation.loss_cap


class Rollouts:
    """Follows the rollouts and gates of a log, and when aliases were moved."""

    def __init__(self) -> None:
        self.runs: dict[str, RolloutTrail] = {}
        self.gates: dict[Place, tuple[int, Gate | None]] = {}
        self._moved: dict[Place, int] = {}
        self._fallen: dict[Place, int] = {}

    # Following

    def note(self, index: int, body: Leaf) -> None:
        """Takes in a leaf that was checked before, or that this home's coordinator wrote."""
        if body["kind"] == "PLAN" and "rollout" in body:
            made = RolloutPlan.from_json(body["rollout"])
            self.runs[body["run"]] = RolloutTrail(index, made, read(body["body"]))
        elif body["kind"] == "RELEASE" and body["run"] in self.runs:
            arms = [(a["number"], Counts.from_json(a["counts"])) for a in body["arms"]]
            self.runs[body["run"]].releases[index] = arms
        elif body["kind"] == "GATE":
            gate = None if body["gate"] is None else Gate.from_json(body["gate"])
            self.gates[body["model"], body["alias"]] = (index, gate)
        elif body["kind"] in MOVES:
            self._moved[body["model"], body["alias"]] = index
            if body.get("automatic"):
                self._fallen[body["model"], body["alias"]] = index

    def planned(self, index: int, body: Leaf, life: Life) -> Iterator[str]:
        """What is wrong with a PLAN leaf, if it is a rollout's."""
        if "rollout" not in body:
            return
        self.note(index, body)
        found, run = self.runs[body["run"]], body["run"]
        rollout, plan = found.rollout, found.plan
        if rollout.model != body["name"]:
            yield f"run={run} of {body['name']} rolls out versions of {rollout.model}"
        if plan.evaluation is None or plan.evaluation.every != 1:
            yield f"run={run} is a rollout, and its plan doesn't evaluate each round"
        for arm in rollout.arms:
            release, version = life.versions.get((rollout.model, arm.number), (None, {}))
            if (arm.release, arm.artifact) != (release, version.get("artifact")):
                yield f"{rollout.model}@{arm.number} of a rollout isn't a version as released"
        if rollout.alias is not None:
            named = life.aliases.get((rollout.model, rollout.alias), NEVER).number
            if named != rollout.arms[0].number:
                yield f"run={run}: {rollout.alias} named {named}, not {rollout.arms[0].number}"

    def released(self, index: int, body: Leaf) -> Iterator[str]:
        """What is wrong with what a RELEASE of a rollout says of its arms."""
        run = self.runs[body["run"]]
        due = run.rollout.due(body["round"])
        what = f"round {body['round']}"
        if body["purpose"] != "evaluate" or "artifact" in body or body["metrics"]:
            yield f"{what} of a rollout releases more than evaluations"
        more = ("counts", "metrics")
        said = [{k: v for k, v in arm.items() if k not in more} for arm in body["arms"]]
        if said != [arm.named() for arm in due]:
            yield f"{what} releases other arms than its plan's"
            return
        how = run.plan.evaluation
        for arm in body["arms"]:
            counts = Counts.from_json(arm["counts"])
            if how is not None and arm["metrics"] != metrics(counts, how):
                yield f"{what}: the metrics of version {arm['number']} aren't its counts'"
        self.note(index, body)

    def gated(self, index: int, body: Leaf) -> Iterator[str]:
        """What is wrong with a GATE leaf."""
        check_alias(body["alias"])
        self.note(index, body)
        _, gate = self.gates[body["model"], body["alias"]]
        if gate is not None and (gate.model, gate.alias) != (body["model"], body["alias"]):
            yield f"the gate of {body['model']}@{body['alias']} is for {gate.model}@{gate.alias}"

    def moved(self, body: Leaf, life: Life) -> Iterator[str]:
        """What is wrong with why an alias is moved; asked before the move is taken in."""
        model, alias, number = body["model"], body["alias"], body["number"]
        trail = life.aliases.get((model, alias), NEVER)
        what = f"{model}@{alias}"
        try:
            self.check_evidence(body)
        except ConfigError as error:
            yield f"{what}: {error.message}"
        try:
            if body["kind"] == "DEPLOY":
                self.check_move(body, trail.number)
                return
            if not body["automatic"]:
                return
            self.check_fallback(body, trail.number)
        except ConfigError as error:
            yield f"{what}: {error.message}"
        back = [n for n in trail.past if (model, n) not in life.retired]
        if body["kind"] == "ROLLBACK" and (not back or back[-1] != number):
            yield f"{what}: falls back to {number}, and the last good version was {back[-1:]}"

    # Deciding

    def gate(self, model: str, alias: str) -> tuple[int, Gate] | None:
        """The gate in force, with its leaf."""
        index, gate = self.gates.get((model, alias), (-1, None))
        return None if gate is None else (index, gate)

    def check_evidence(self, body: Leaf) -> None:
        """Raises `ConfigError` for a move that names as evidence what is none, gate or not."""
        runs = [run for run in self.runs.values() if run.rollout.model == body["model"]]
        known, named = {leaf for run in runs for leaf in run.releases}, body["evidence"]
        if len(set(named)) != len(named) or not set(named) <= known:
            raise ConfigError(
                f"evidence={_listed(named)} isn't evaluations of rollouts of {body['model']}",
                f"tacit gate show {body['model']}",
            )

    def check_move(self, body: Leaf, champion: int | None) -> None:
        """Raises `ConfigError` for a DEPLOY past a gate, without its being forced.

        Args:
            body: of the leaf.
            champion: the version that the alias names so far.
        """
        model, alias, number = body["model"], body["alias"], body["number"]
        found = self.gate(model, alias)
        if found is None or number is None or number == champion or body["forced"]:
            return
        decision = self.decide(model, alias, number, champion, body["evidence"])
        if decision.verdict != PASS:
            raise ConfigError(
                f"the gate of {model}@{alias} says {decision.verdict} for version {number}: "
                f"{explained(decision)}",
                f"tacit gate show {model}; a move that is forced needs a reason",
            )

    def decide(
        self, model: str, alias: str, number: int, champion: int | None, evidence: Sequence[int]
    ) -> Decision:
        """What the gate of an alias says of a version, from evidence.

        Args:
            model: whose.
            alias: which has a gate.
            number: of the version that asks.
            champion: that the alias names; None for none.
            evidence: RELEASE leaves.

        Raises:
            ConfigError: there is no gate, or the evidence isn't what it has to be.
        """
        index, gate = self._guarding(model, alias)
        if gate.margin is not None and champion is None:
            raise ConfigError(f"{alias} names no version that {model}@{number} could compare with")
        name = self._run_of(evidence, model)
        run = self.runs[name]
        pair = (number,) if gate.margin is None or champion is None else (number, champion)
        if run.index < index:
            raise ConfigError(
                f"run={name} was planned before the gate was set, by leaf {index}",
                "a gate is fixed before what it reads",
            )
        fallen = self._fallen.get((model, alias), -1)
        if run.index < fallen:
            raise ConfigError(
                f"run={name} was planned before {model}@{alias} fell back, by leaf {fallen}",
                "what was shown before doesn't hold any more: roll out again",
            )
        if not run.compares(model, *pair):
            raise ConfigError(f"run={name} doesn't evaluate versions {_listed(pair)} of {model}")
        if sorted(evidence) != self.due(run, gate, pair):
            raise ConfigError(
                f"the evidence isn't the first {gate.windows} evaluations of versions "
                f"{_listed(pair)} in run={name}: {_listed(self.due(run, gate, pair))}"
            )
        chosen = [list(_only(run.counts(n), evidence)) for n in pair]
        second = chosen[1] if len(pair) > 1 else []
        noise = Noise(run.deviation(pair[-1]), run.deviation(number), run.loss_cap)
        return decide(gate, second, chosen[0], noise, self.look(run, model, pair))

    def due(self, run: RolloutTrail, gate: Gate, pair: Sequence[int]) -> list[int]:
        """The RELEASE leaves that a gate reads of a rollout; fewer where more aren't there yet."""
        leaves = {leaf for n in pair for leaf in list(run.counts(n))[: gate.windows]}
        return sorted(leaves)

    def look(self, run: RolloutTrail, model: str, pair: Sequence[int]) -> int:
        """How often these versions were rolled out by then, this time included.

        In the order of their first releases: no later leaf changes it, and no two are the same.
        """
        first = min(run.releases)
        return sum(
            bool(other.releases) and min(other.releases) <= first and other.compares(model, *pair)
            for other in self.runs.values()
        )

    def newest(self, model: str, alias: str, number: int, champion: int | None) -> list[int]:
        """The evidence that there is for a version: of the newest rollout that fits the gate."""
        index, gate = self._guarding(model, alias)
        pair = (number,) if gate.margin is None or champion is None else (number, champion)
        index = max(index, self._fallen.get((model, alias), -1))
        fits = [r for r in self.runs.values() if r.index > index and r.compares(model, *pair)]
        fits = [run for run in fits if run.releases]
        return self.due(fits[-1], gate, pair) if fits else []

    def watched(self, model: str, number: int) -> list[int]:
        """The RELEASE leaves of all watches of a version, in order."""
        runs = [r for r in self.runs.values() if r.rollout.mode == "watch"]
        runs = [run for run in runs if run.compares(model, number)]
        return sorted(leaf for run in runs for leaf in run.counts(number))

    def falling(self, model: str, alias: str, number: int) -> list[int]:
        """The evidence for an automatic fallback from a version; empty if there is none."""
        found = self.gate(model, alias)
        if found is None:
            return []
        index, gate = found
        # Those of before the alias was moved there were answered by the move that came after them.
        index = max(index, self._moved.get((model, alias), -1))
        leaves = [leaf for leaf in self.watched(model, number) if leaf > index]
        last = leaves[-gate.fallback_rounds :]
        beyond = [self._beyond(gate, leaf, number) for leaf in last]
        return last if len(last) == gate.fallback_rounds and all(beyond) else []

    def check_fallback(self, body: Leaf, champion: int | None) -> None:
        """Raises `ConfigError` for an automatic ROLLBACK without the evidence for it."""
        model, alias = body["model"], body["alias"]
        self._guarding(model, alias)
        due = [] if champion is None else self.falling(model, alias, champion)
        if not due or list(body["evidence"]) != due:
            raise ConfigError(f"falls back from {champion} on evidence that doesn't ask for it")

    def _beyond(self, gate: Gate, leaf: int, number: int) -> bool:
        run = next(r for r in self.runs.values() if leaf in r.releases)
        # Watches may differ in their noise: each round is held against its own.
        return breached(gate, run.counts(number)[leaf], run.deviation(number), run.loss_cap)

    def _guarding(self, model: str, alias: str) -> tuple[int, Gate]:
        found = self.gate(model, alias)
        if found is None:
            raise ConfigError(f"{model}@{alias} has no gate", f"tacit gate set {model}")
        return found

    def _run_of(self, evidence: Collection[int], model: str) -> str:
        runs = {name for name, run in self.runs.items() if run.releases.keys() & set(evidence)}
        known = {leaf for name in runs for leaf in self.runs[name].releases}
        if len(runs) != 1 or not set(evidence) <= known:
            raise ConfigError(
                f"evidence={_listed(evidence)} isn't the evaluations of one rollout of {model}",
                f"tacit rollout {model} --challenger N",
            )
        return runs.pop()


def explained(decision: Decision) -> str:
    """A decision in words: each condition with its interval."""
    said = [decision.why] if decision.why else []
    for condition in decision.conditions:
        low, high = condition.interval.low, condition.interval.high
        bounds = "unbounded" if low is None or high is None else f"[{low:.4f}, {high:.4f}]"
        said.append(f"{condition.name}={condition.threshold:g} {condition.verdict}, {bounds}")
    return "; ".join(said)


def _only(counts: Mapping[int, Counts], leaves: Collection[int]) -> Iterator[Counts]:
    return (found for leaf, found in counts.items() if leaf in set(leaves))


def _listed(numbers: Collection[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"
