"""What happens to versions after their release: aliases that move, versions that are retired.

Part of the verifier (`tacit.privacy.log.trail`). Guarantees: every move of an alias follows the
one before it, so two who moved it at once would show; it names a version that was released under
that name, by the artifact of its RELEASE, and that isn't retired; a ROLLBACK goes to a version that
the alias named before. Whether a gate let a version pass is `tacit.privacy.log.rollouts`' to say.

It doesn't guarantee that who is named as actor did it: that is the operator's word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tacit.privacy.errors import ConfigError, MessageError

Leaf = Mapping[str, Any]
ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,63}")
LONGEST = 2000


@dataclass
class AliasTrail:
    """One alias of a model.

    Attributes:
        leaf: of its newest move.
        number: that it names; None if it names nothing.
        past: the versions it can be rolled back to, oldest first.
    """

    leaf: int
    number: int | None
    past: list[int] = field(default_factory=list)

    def follow(self, leaf: int, kind: str, number: int | None) -> AliasTrail:
        """The alias after another move.

        A DEPLOY leaves what was named before to go back to. A ROLLBACK goes back: what came
        after the version that it goes to isn't gone back to again.
        """
        past = list(self.past)
        if kind == "ROLLBACK" and number in past:
            del past[len(past) - 1 - past[::-1].index(number) :]
        elif self.number is not None and self.number != number:
            past.append(self.number)
        return AliasTrail(leaf, number, past)


NEVER = AliasTrail(-1, None)
"""An alias that was never moved."""


class Life:
    """Follows the aliases and versions of a log."""

    def __init__(self) -> None:
        self.versions: dict[tuple[str, int], tuple[int, Leaf]] = {}
        self.aliases: dict[tuple[str, str], AliasTrail] = {}
        self.retired: dict[tuple[str, int], int] = {}
        self.automatic: dict[int, str] = {}
        self.notes: list[str] = []

    def released(self, index: int, body: Leaf) -> None:
        """Notes a version."""
        self.versions[body["name"], body["number"]] = (index, body)

    def take(self, index: int, body: Leaf) -> Iterator[str]:
        """What is wrong with the next leaf of these kinds."""
        _words(body)
        if body["kind"] == "RETIRE":
            yield from self._retire(index, body)
        elif body["kind"] != "GATE":
            yield from self._move(index, body)

    def _move(self, index: int, body: Leaf) -> Iterator[str]:
        place = (body["model"], body["alias"])
        what = f"{body['model']}@{body['alias']}"
        check_alias(body["alias"])
        before, number = self.aliases.get(place), body["number"]
        previous = before.leaf if before else None
        if body["previous"] != previous:
            yield f"{what}: follows leaf {body['previous']}, and the move before it is {previous}"
        if number is None:
            if body["kind"] == "ROLLBACK":
                yield f"{what}: is rolled back to nothing"
            if (body["run"], body["release"], body["artifact"]) != ("", None, None):
                yield f"{what}: names nothing, and a release"
        else:
            yield from self._named(body, what)
            if body["kind"] == "ROLLBACK" and number not in (before or NEVER).past:
                yield f"{what}: is rolled back to {number}, which it didn't name before"
        if body["kind"] == "ROLLBACK" and body.get("automatic"):
            self.automatic[index] = body["model"]
        self.aliases[place] = (before or NEVER).follow(index, body["kind"], number)
        if body.get("forced"):
            self.notes.append(
                f"leaf {index}: {what} was moved to {number} past its gate: {body['reason']}"
            )

    def _retire(self, index: int, body: Leaf) -> Iterator[str]:
        model, number = body["model"], body["number"]
        what = f"{model}@{number}"
        yield from self._named(body, what)
        for (name, alias), trail in self.aliases.items():
            if (name, trail.number) == (model, number):
                yield f"{what} is retired while {alias} names it"
        self.retired.setdefault((model, number), index)

    def _named(self, body: Leaf, what: str) -> Iterator[str]:
        """Whether a leaf names a version as it was released, and one that isn't retired."""
        model, number = body["model"], body["number"]
        found = self.versions.get((model, number))
        if found is None:
            yield f"{what}: names {model}@{number}, which wasn't released"
            return
        release, version = found
        if (body["release"], body["artifact"]) != (release, version["artifact"]):
            yield f"{what}: {model}@{number} isn't the artifact that leaf {release} released"
        if body["run"] != version["run"]:
            yield f"{what}: {model}@{number} isn't of run={body['run']}"
        if (model, number) in self.retired:
            yield f"{what}: {model}@{number} was retired by leaf {self.retired[model, number]}"


def check_alias(alias: str) -> None:
    """Raises `ConfigError` for what can't be an alias: digits would be a number."""
    if not ALIAS.fullmatch(alias):
        raise ConfigError(
            f"alias={alias!r} must be a lower-case letter, then up to 63 of a-z, 0-9, - and _"
        )


def _words(body: Leaf) -> None:
    for name in ("model", "actor", "reason"):
        if not isinstance(body[name], str) or not body[name] or len(body[name]) > LONGEST:
            raise MessageError(f"{name} isn't text of 1 to {LONGEST} characters")
    number = body.get("number")
    if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
        raise MessageError(f"number={number!r} isn't a version's")
