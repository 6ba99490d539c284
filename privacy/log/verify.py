"""The verifier: whether a log keeps its own promises, from its leaves and signatures alone.

`Verifier` takes a log's leaves in order and lists what is wrong with each:

* a leaf that isn't canonical JSON, or isn't of a known kind and shape;
* a run without its plan, a plan that isn't its digest's, or a second one;
* a CHARGE that claims other than its plan, isn't the next attempt, is of a round that wasn't
  planned, or that the population's policy of that moment forbids;
* a RELEASE or ABANDON that doesn't close an open CHARGE under the same plan, versions or rounds
  with a gap, metrics of clients that no charge is for, an epsilon beside it that falls, or (at
  rounds 1, 2, 4, 8 ... and the last) isn't what the charges before it add up to;
* a key, policy or approval without the signature it needs; releases after an audit found more
  than was charged; a time before that of the leaf before it.

`Verifier.finish` checks the tree's root and signature, and any older checkpoint that somebody
kept, and recomputes epsilon. It needs neither torch nor flwr nor a database.

It doesn't show that a leaf is true: that the mechanism it names is what ran. That is what the
code digest in the PLAN leaf, clients that check the plan themselves, and audits are for.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import rfc8785

from tacit.privacy.errors import MessageError, TacitError
from tacit.privacy.governor import Governor
from tacit.privacy.log import leaves
from tacit.privacy.log.leaves import KINDS, SPENDING
from tacit.privacy.log.merkle import Tree, leaf_hash
from tacit.privacy.log.notes import Checkpoint, VerifierKey, open_note, signed
from tacit.privacy.log.trail import Trail
from tacit.privacy.policy import seconds

# What json.dumps wrote is as RFC 8785 has it but for exponents, which it writes with a sign, and
# whole floats. A number comes right after one of the first three signs. Looking for marks is
# faster than for the pattern.
_DOUBTFUL = re.compile(r"[:,\[]-?[0-9.]+e[-+]|\.0[,\]}]")
_MARKS = ("e-", "e+", ".0,", ".0}", ".0]")
_EXACT = 2**53 - 1
# A leaf of another shape; what exactly doesn't matter to whoever reads the report.
_MALFORMED = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong: at which leaf, if at one, and what."""

    leaf: int | None
    problem: str

    def __str__(self) -> str:
        return self.problem if self.leaf is None else f"leaf {self.leaf}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a verifier found.

    Attributes:
        origin: the ledger's name.
        size: leaves.
        root: of the tree, in hex.
        keys: that signed it, oldest first.
        findings: empty if all holds.
        runs: of each run its id, model, population, plan, rounds, and rows of epsilon.
        populations: of each its rows composed over all its runs.
        notes: what a reader should know that isn't wrong.
    """

    origin: str
    size: int
    root: str
    keys: list[str]
    findings: list[Finding]
    runs: list[dict[str, Any]]
    populations: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "holds": self.holds,
            "origin": self.origin,
            "size": self.size,
            "root": self.root,
            "keys": self.keys,
            "findings": [{"leaf": f.leaf, "problem": f.problem} for f in self.findings],
            "runs": self.runs,
            "populations": self.populations,
            "notes": self.notes,
        }


class Verifier:
    """Takes leaves in order; `finish` gives the report."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.findings: list[Finding] = []
        self._keys: list[tuple[int, VerifierKey]] = []
        self._origin = ""
        self._last = (float("-inf"), "")
        self._governor = Governor()
        self.trail = Trail()

    def add(self, text: str) -> None:
        """Takes the next leaf, as it is hashed."""
        index = self.tree.size
        # A lone surrogate has no UTF-8; such a text isn't canonical either.
        self.tree.append(leaf_hash(text.encode(errors="surrogatepass")))
        try:
            self._check(index, parsed(text))
        except TacitError as error:
            self.wrong(index, error.message)
        except _MALFORMED as error:
            self.wrong(index, f"is malformed: {type(error).__name__} {error}")

    def wrong(self, index: int | None, problem: str) -> None:
        """Notes something that is wrong."""
        self.findings.append(Finding(index, problem))

    def finish(
        self, checkpoint: str, kept: Iterable[str] = (), pinned: Iterable[str] = ()
    ) -> Report:
        """Checks signatures and roots, recomputes epsilon, and reports.

        Args:
            checkpoint: the signed note over all leaves.
            kept: notes that somebody kept from earlier.
            pinned: keys that must have signed this ledger, as signed notes write them.
        """
        try:
            newest = self._opened(checkpoint, self.tree.size)
            if newest.size != self.tree.size:
                self.wrong(None, f"the checkpoint is of {newest.size} leaves, not {self.tree.size}")
            elif newest.root != self.tree.root():
                self.wrong(None, "the leaves aren't those that the checkpoint signs")
        except MessageError as error:
            self.wrong(None, f"the checkpoint: {error.message}")
        for note in kept:
            self._compare(note)
        known = {str(key) for _, key in self._keys}
        for key in pinned:
            if key not in known:
                self.wrong(None, f"the ledger isn't signed by the key {key}")
        runs, populations = self._tables()
        return Report(
            origin=self._origin,
            size=self.tree.size,
            root=self.tree.root().hex(),
            keys=[str(key) for _, key in self._keys],
            findings=self.findings,
            runs=runs,
            populations=populations,
            notes=self.trail.notes,
        )

    def _tables(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Epsilon by run and by population, recomputed."""
        try:
            for place, problem in self.trail.closing():
                self.wrong(place, problem)
            return self.trail.run_tables(), self.trail.population_tables()
        except (TacitError, *_MALFORMED) as error:
            # Charges with numbers that no mechanism has; no table is better than half of one.
            self.wrong(None, f"what was charged can't be added up: {error}")
            return [], []

    def key_at(self, size: int) -> VerifierKey | None:
        """The key that signs a checkpoint of this size."""
        signing = [key for index, key in self._keys if index < size]
        return signing[-1] if signing else None

    def _compare(self, note: str) -> None:
        """An older checkpoint: the tree of its size must have its root."""
        try:
            older = self._opened(note, signed(note).size)
        except MessageError as error:
            self.wrong(None, f"the checkpoint that was kept: {error.message}")
            return
        if older.size > self.tree.size:
            self.wrong(
                None,
                f"a checkpoint that was kept is of {older.size} leaves; the newest "
                f"{older.size - self.tree.size} of them are gone",
            )
        elif older.root != self.tree.root_at(older.size):
            self.wrong(None, f"the first {older.size} leaves aren't those of a kept checkpoint")

    def _opened(self, note: str, size: int) -> Checkpoint:
        key = self.key_at(size)
        if key is None:
            raise MessageError("no leaf names the key that signs it")
        found = Checkpoint.parse(open_note(note, key))
        if found.origin != self._origin:
            raise MessageError(f"it is of the ledger {found.origin}, not {self._origin}")
        return found

    # Leaf by leaf

    def _check(self, index: int, body: Mapping[str, Any]) -> None:
        if body["kind"] not in KINDS:
            raise MessageError(f"kind={body['kind']!r} is unknown")
        body = self._timed(index, body)
        if body["kind"] == "KEY":
            self._check_key(index, body)
        elif not self._keys:
            if body["kind"] not in SPENDING:
                raise MessageError(f"{body['kind']} before the ledger's first KEY")
            self.trail.legacy = index + 1
        if body["kind"] in ("CHARGE", "RELEASE"):
            self._ask(index, body)
        for problem in self.trail.take(index, body):
            self.wrong(index, problem)
        self._governor.note(index, body)

    def _timed(self, index: int, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The leaf, at a time that isn't before its predecessor's."""
        time = seconds(body["at"])
        if time >= self._last[0]:
            self._last = (time, body["at"])
            return body
        if self._keys:
            self.wrong(index, f"says {body['at']}, and the leaf before it {self._last[1]}")
        return {**body, "at": self._last[1]}

    def _ask(self, index: int, body: Mapping[str, Any]) -> None:
        """Whether the policies of the moment allow a charge, or an audit forbids a release."""
        try:
            if body["kind"] == "RELEASE":
                self._governor.check_frozen()
            elif self._governor.knows(body["run"]):
                self._governor.check(body["run"], [body], body["at"])
        except TacitError as error:
            self.wrong(index, f"should have been refused: {error.message}")

    def _check_key(self, index: int, body: Mapping[str, Any]) -> None:
        key = VerifierKey.parse(body["key"])
        if not self._keys:
            if body["previous"] is not None:
                raise MessageError("the first key of a ledger has none before it")
            self._origin = body["origin"]
        else:
            before = self._keys[-1][1]
            said = leaves.rotation(body["origin"], body["key"], str(before))
            signature = base64.b64decode(body["signature"], validate=True)
            if body["previous"] != str(before) or body["origin"] != self._origin:
                raise MessageError("the key doesn't follow the one before it")
            if not before.verify(signature, said):
                raise MessageError("the new key isn't signed with the old one")
        self._keys.append((index, key))


def parsed(text: str) -> dict[str, Any]:
    """A leaf's body.

    Raises:
        MessageError: the text isn't a JSON object in canonical form (RFC 8785).
    """
    marked = any(mark in text for mark in _MARKS)
    doubtful = not text.isascii() or (marked and bool(_DOUBTFUL.search(text)))
    try:
        body = _DECODER.decode(text)
    except (ValueError, OverflowError, RecursionError) as error:
        raise MessageError(f"isn't JSON: {error}") from error
    if not isinstance(body, dict):
        raise MessageError("isn't a JSON object")
    if not _canonical(text, body, doubtful):
        raise MessageError("isn't in canonical form (RFC 8785)")
    return body


def _canonical(text: str, body: dict[str, Any], doubtful: bool) -> bool:
    try:
        # The C encoder decides nearly always, and is many times faster.
        if not doubtful and _ENCODER.encode(body) == text:
            return True
        return rfc8785.dumps(body) == text.encode()
    except (ValueError, RecursionError):
        return False


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} isn't JSON")


def _number(digits: str) -> int | float:
    """A whole number as RFC 8785 has it: beyond 2^53 it is a double."""
    exact = int(digits)
    return exact if abs(exact) <= _EXACT else float(exact)


_DECODER = json.JSONDecoder(parse_constant=_refused, parse_int=_number)
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
