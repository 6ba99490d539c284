"""What stands for clients in cohorts: handles, pseudorandom, and erasable one client at a time.

A population has a secret seed, the root of a tree with 16 children a node and a leaf for every
number below 2^32; a child's seed is HMAC-SHA256 of its parent's, and a client's handle in a run
that of its leaf's and the run's id, cut to 16 bytes (Goldreich, Goldwasser and Micali 1986). To
erase a client is to replace the seed above its leaf by the siblings of every node on the way down
(a puncturable function: Boneh and Waters 2013): all other handles stay what they are, and that one
can't be computed any more from what is left, as long as HMAC-SHA256 is pseudorandom.

So nothing is stored for a client until it is erased, and then 120 seeds at most.

Guarantees: cohorts and the ledger's commitments hold handles alone. A client's differ from run to
run, and without the population's seeds say nothing.

It doesn't guarantee that an erased client can't be told by other means: by a backup of the seeds,
by a run's own seed where its draws came from one, or by elimination, since all other handles are
still somebody's. A process that read the seeds before has them until it ends or reads them again.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.errors import ConfigError
from tacit.server.erasure import tables as t

LEVELS, CHILDREN = 8, 16
NUMBERS = CHILDREN**LEVELS
SEED_BYTES, HANDLE_BYTES = 32, 16
# Inner seeds that are remembered, at most.
_KEPT = 100_000

Node = tuple[int, int]


class Tree:
    """The seeds of one population.

    Args:
        seeds: by level, from 0 for the root, and place in it; no two of a branch.
    """

    def __init__(self, seeds: Mapping[Node, bytes]) -> None:
        self.seeds = dict(seeds)
        self._derived: dict[Node, bytes] = {}

    def handle(self, run: str, client: int) -> str | None:
        """A client's handle in a run; None if it was erased."""
        seed = self._seed(LEVELS, client)
        return None if seed is None else _handle(seed, run)

    def clients(self, run: str, population: int) -> dict[str, int]:
        """Whose every handle of a run is, of the numbers below ``population``."""
        found = {}
        for client in range(population):
            handle = self.handle(run, client)
            if handle is not None:
                found[handle] = client
        return found

    def without(self, client: int) -> Tree:
        """The tree that a client can't be derived from any more."""
        left = dict(self.seeds)
        level = self._above(client)
        if level is None:
            return self
        seed = left.pop((level, _place(client, level)))
        for below in range(level + 1, LEVELS + 1):
            own = _place(client, below)
            first = own - own % CHILDREN
            children = {first + k: _child(seed, k) for k in range(CHILDREN)}
            seed = children.pop(own)
            left.update({(below, place): child for place, child in children.items()})
        return Tree(left)

    def _above(self, client: int) -> int | None:
        """The level of the seed that a client's is derived from."""
        if not 0 <= client < NUMBERS:
            raise ConfigError(f"client={client} must be in [0, {NUMBERS})")
        return next((n for n in range(LEVELS + 1) if (n, _place(client, n)) in self.seeds), None)

    def _seed(self, level: int, place: int) -> bytes | None:
        node = (level, place)
        known = self.seeds.get(node) or self._derived.get(node)
        if known is not None or level == 0:
            return known
        above = self._seed(level - 1, place // CHILDREN)
        if above is None:
            return None
        made = _child(above, place % CHILDREN)
        if level < LEVELS:
            if len(self._derived) >= _KEPT:
                self._derived.clear()
            self._derived[node] = made
        return made


class Handles:
    """A population's handles, for whoever draws cohorts; reads the seeds once.

    Args:
        population: whose.
    """

    def __init__(self, population: str) -> None:
        self._population = population
        self._tree: Tree | None = None

    def forget(self) -> None:
        """Reads the seeds again next time: somebody was erased."""
        self._tree = None

    def of(self, c: Connection, run: str, clients: Sequence[int]) -> list[str]:
        """The handles of clients in a run, in an order that says nothing.

        Args:
            c: of a writing transaction: a population gets its seed here.
            run: its id.
            clients: none of whom was erased.
        """
        if self._tree is None:
            self._tree = planted(c, self._population)
        found = [self._tree.handle(run, client) for client in clients]
        return sorted(handle for handle in found if handle is not None)


def load(c: Connection, population: str) -> Tree:
    """The seeds of a population; none if it was never charged anything."""
    s = t.seeds.c
    rows = c.execute(sa.select(s.level, s.place, s.seed).where(s.population == population))
    return Tree({(row.level, row.place): bytes(row.seed) for row in rows})


def planted(c: Connection, population: str) -> Tree:
    """As `load`, with a new root if there are no seeds; in a writing transaction."""
    found = load(c, population)
    if found.seeds:
        return found
    made = Tree({(0, 0): secrets.token_bytes(SEED_BYTES)})
    _plant(c, population, made)
    return made


def erase(c: Connection, population: str, client: int) -> None:
    """Takes away what a client's handles are derived from; in a writing transaction."""
    _replant(c, population, planted(c, population).without(client))


def renew(c: Connection, population: str, out: Iterable[int]) -> None:
    """Gives a population a new seed, so that nobody's older handles can be computed any more.

    Args:
        c: of a writing transaction.
        population: whose.
        out: clients that are to have no handles.
    """
    made = Tree({(0, 0): secrets.token_bytes(SEED_BYTES)})
    for client in out:
        made = made.without(client)
    _replant(c, population, made)


def _replant(c: Connection, population: str, tree: Tree) -> None:
    """Puts other seeds in the place of a population's.

    All rows are written anew, so that on SQLite no page has a copy of an old one
    (`tacit.server.erasure.unlinking` sees to the rest).
    """
    s = t.seeds.c
    others = [dict(row._mapping) for row in c.execute(sa.select(t.seeds))]
    # Without a condition, which on SQLite clears whole pages.
    c.execute(t.seeds.delete())
    others = [row for row in others if row[s.population.name] != population]
    if others:
        c.execute(t.seeds.insert(), others)
    _plant(c, population, tree)


def named(members: Iterable[int | str], whose: Mapping[str, int]) -> list[int]:
    """The clients of a cohort that can be told.

    Args:
        members: of its row: handles, or numbers in one of before there were handles.
        whose: as `Tree.clients` gives it.
    """
    told = (whose.get(member) if isinstance(member, str) else member for member in members)
    return [client for client in told if client is not None]


def _plant(c: Connection, population: str, tree: Tree) -> None:
    rows = [
        {"population": population, "level": level, "place": place, "seed": seed}
        for (level, place), seed in sorted(tree.seeds.items())
    ]
    if rows:
        c.execute(t.seeds.insert(), rows)


def _place(client: int, level: int) -> int:
    """Where the node above a client's leaf is, in a level."""
    return int(client // CHILDREN ** (LEVELS - level))


def _child(seed: bytes, which: int) -> bytes:
    return hmac.digest(seed, b"tacit handle seed v1" + bytes([which]), "sha256")


def _handle(seed: bytes, run: str) -> str:
    return hmac.digest(seed, b"tacit handle v1" + run.encode(), "sha256")[:HANDLE_BYTES].hex()
