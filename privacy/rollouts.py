"""A rollout: versions of one model that are evaluated beside each other, fixed beforehand.

A rollout is a run whose rounds are federated evaluations only; its PLAN leaf has a `RolloutPlan`.
Each round draws one Poisson cohort and charges it once, for the purpose "evaluate"; then every
client of the cohort is in one **arm** and no client in two, and an arm evaluates one version.

* ``shadow``: champion and challenger take turns, each with a whole cohort.
* ``ab``: the cohort is split, half and half.
* ``canary``: the challenger gets a small share of the cohort.
* ``watch``: one version, again and again.
* ``explain``: copies of one version with something taken away (``ablation``), in turns or split.

Why one charge covers all arms of a round. Give every client, drawn or not, an arm by a secret coin
of its own, independent of everything else. Given all clients' coins, only one arm's sum depends on
a client's data, and that sum is one Poisson-sampled noised sum at the plan's rate: the event that
is charged. The other arms' sums are independent of it and of that client. A round is a mixture of
those over coins whose law is the same for neighbours, and the hockey-stick divergence is jointly
convex (Renyi divergence jointly quasi-convex: van Erven and Harremoes 2014, Theorem 13), so the
mixture's is at most that of one of them. Without amplification, and against the coordinator, those
who collude with it and who breaks secure aggregation, a client has sent one vector to one sum.
`docs/privacy.md` has it in full, `tests/privacy/test_rollouts.py` by enumeration.

It doesn't hide how many arms there are, nor what share of the cohort each gets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError

MODES = ("shadow", "ab", "canary", "watch", "explain")
COMPARING = ("shadow", "ab", "canary")
CANARY = 0.1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS = frozenset({"number", "release", "artifact", "share"})


@dataclass(frozen=True, slots=True)
class Arm:
    """One version, with whom it is evaluated.

    Attributes:
        number: of the version.
        release: leaf of its RELEASE.
        artifact: its digest.
        share: probability with which a client of a round's cohort is in this arm; 1 where arms
            take turns.
        ablation: what was taken away from the version, as JSON; None for nothing.
    """

    number: int
    release: int
    artifact: str
    share: float
    ablation: Any = None

    def __post_init__(self) -> None:
        validate.at_least("number", self.number, 1)
        validate.at_least("release", self.release, 0)
        validate.rate("share", self.share)
        if not _DIGEST.fullmatch(self.artifact):
            raise ConfigError(f"artifact={self.artifact!r} isn't a digest")

    def to_json(self) -> dict[str, Any]:
        """The arm as a PLAN leaf has it."""
        return {**self.named(), "release": self.release, "share": self.share}

    def named(self) -> dict[str, Any]:
        """What a RELEASE leaf calls it."""
        name: dict[str, Any] = {"number": self.number, "artifact": self.artifact}
        return name if self.ablation is None else {**name, "ablation": self.ablation}

    @classmethod
    def from_json(cls, value: Any) -> Arm:
        """An arm of a PLAN leaf.

        Raises:
            ConfigError: it isn't one.
        """
        if not isinstance(value, Mapping) or set(value) - {"ablation"} != _FIELDS:
            raise ConfigError(f"arm={value!r} has other fields than {', '.join(sorted(_FIELDS))}")
        for name, kind in (("number", int), ("release", int), ("share", (int, float))):
            if not isinstance(value[name], kind) or isinstance(value[name], bool):
                raise ConfigError(f"{name}={value[name]!r} of an arm is of the wrong type")
        return cls(
            value["number"],
            value["release"],
            str(value["artifact"]),
            float(value["share"]),
            value.get("ablation"),
        )


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What a rollout's rounds evaluate.

    Attributes:
        model: whose versions.
        mode: see the module.
        alias: which alias's version the first arm was when it was planned; None if no alias's.
        arms: the champion's first.
    """

    model: str
    mode: str
    alias: str | None
    arms: tuple[Arm, ...]

    def __post_init__(self) -> None:
        validate.one_of("mode", self.mode, MODES)
        numbers = {arm.number for arm in self.arms}
        if self.mode in COMPARING and (len(self.arms) != 2 or len(numbers) != 2):
            raise ConfigError(f"mode={self.mode} compares two versions", "name another challenger")
        if self.mode == "watch" and len(self.arms) != 1:
            raise ConfigError("mode=watch evaluates one version")
        if self.mode == "explain" and len(numbers) != 1:
            raise ConfigError("mode=explain evaluates copies of one version")
        if self.mode != "explain" and any(arm.ablation is not None for arm in self.arms):
            raise ConfigError(f"mode={self.mode} has no ablations")
        total = math.fsum(arm.share for arm in self.arms)
        if min(arm.share for arm in self.arms) <= 0:
            raise ConfigError("share=0 of an arm must be greater than 0")
        if not self.turns and abs(total - 1.0) > 1e-9:
            raise ConfigError(f"shares={total:g} of the arms must add up to 1")
        wrong = {"ab": self.turns, "canary": self.turns, "shadow": not self.turns}
        if wrong.get(self.mode, False):
            raise ConfigError(f"mode={self.mode} can't have shares of {self.arms[0].share:g}")

    @property
    def turns(self) -> bool:
        """Whether arms take turns, each with a whole cohort, instead of sharing one."""
        return all(arm.share == 1.0 for arm in self.arms)

    def due(self, number: int) -> tuple[Arm, ...]:
        """The arms of a round, from 1."""
        return (self.arms[(number - 1) % len(self.arms)],) if self.turns else self.arms

    def each(self, rounds: int) -> int:
        """Rounds in which every arm is evaluated, of so many."""
        return rounds // len(self.arms) if self.turns else rounds

    def arm(self, number: int) -> Arm | None:
        """The first arm of a version."""
        return next((arm for arm in self.arms if arm.number == number), None)

    def to_json(self) -> dict[str, Any]:
        """As the PLAN leaf has it."""
        arms = [arm.to_json() for arm in self.arms]
        return {"model": self.model, "mode": self.mode, "alias": self.alias, "arms": arms}

    @classmethod
    def from_json(cls, value: Any) -> RolloutPlan:
        """Reads it back.

        Raises:
            ConfigError: it isn't one.
        """
        known = {"model", "mode", "alias", "arms"}
        if not isinstance(value, Mapping) or set(value) != known:
            raise ConfigError(f"rollout={value!r} has other fields than {', '.join(sorted(known))}")
        alias, arms = value["alias"], value["arms"]
        if not isinstance(arms, list) or not arms:
            raise ConfigError("a rollout needs arms")
        if not isinstance(value["model"], str) or not (alias is None or isinstance(alias, str)):
            raise ConfigError("model and alias of a rollout are names")
        return cls(value["model"], value["mode"], alias, tuple(map(Arm.from_json, arms)))


def shares(mode: str, share: float | None) -> tuple[float, float]:
    """The champion's and the challenger's share in a mode that compares.

    Args:
        mode: of `COMPARING`.
        share: of the challenger; None takes the mode's own.

    Raises:
        ConfigError: the mode has no such share.
    """
    validate.one_of("mode", mode, COMPARING)
    if mode == "shadow":
        if share not in (None, 1.0):
            raise ConfigError(
                f"share={share:g}: in a shadow rollout each version has whole cohorts"
            )
        return 1.0, 1.0
    own = share if share is not None else (0.5 if mode == "ab" else CANARY)
    validate.open_unit("share", own)
    return 1.0 - own, own
