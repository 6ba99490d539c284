"""A session's cohort as both sides derive it: who is in it, neighbours, threshold, layers.

Guarantees: everything here is a function of the roster and of the `Rules`, which are in the
privacy plan. Neither side takes a threshold, a degree or a number of layers from the other.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from tacit.privacy import validate
from tacit.privacy.discrete import layers
from tacit.privacy.errors import ConfigError, RoundError
from tacit.privacy.secagg import graph
from tacit.privacy.secagg.messages import unpack_roster

# Of three, each has two holders of its shares and both are needed (t = k = 2): 2 t > k + c holds
# with one of them corrupted, and nobody may drop out. Of two, a sum would be the other's vector.
SMALLEST = 3
KEY_WORDS = 16
SEED_WORDS = layers.SEED_BYTES // 2


@dataclass(frozen=True, slots=True)
class Rules:
    """What a plan fixes about secure aggregation.

    Attributes:
        minimum: fewest vectors in a sum; at least `SMALLEST`.
        largest: most clients in a roster, which words and noise are sized for.
        dropout: fraction of a cohort that may drop after it was fixed, below 1/3.
        collusion: clients that may collude with the coordinator.
    """

    minimum: int
    largest: int
    dropout: float
    collusion: int

    def __post_init__(self) -> None:
        validate.at_least("minimum_survivors", self.minimum, SMALLEST)
        validate.at_least("largest", self.largest, self.minimum)
        validate.at_least("secure.collusion", self.collusion, 0)
        if not 0 <= self.dropout < 1 / 3:
            raise ConfigError(f"secure.dropout={self.dropout:g} must be in [0, 1/3)")
        if self.minimum <= 3 * self.collusion:
            raise ConfigError(
                f"minimum_survivors={self.minimum} must be more than 3 x "
                f"secure.collusion={self.collusion}",
                "two thirds of any cohort have to be honest; raise the cohort",
            )

    def choice(self, size: int) -> graph.Choice:
        """Degree and threshold for a roster of ``size`` clients."""
        return graph.choose(size, self.collusion, self.dropout)

    def layers(self, clients: int) -> int:
        """How many of ``clients`` may drop: what is left has to be enough for the sum.

        Enough is ``minimum``, the `quorum`, and one more than the threshold of the complete
        graph, since no client holds a share of its own secrets.
        """
        least = max(self.minimum, self.quorum(clients), 2 * (clients - 1) // 3 + 2)
        return max(0, min(layers.tolerated(clients, self.dropout), clients - least))

    def survivors(self, members: int) -> int:
        """Fewest of ``members`` whose vectors may make a sum."""
        return max(self.minimum, members - self.layers(members))

    def quorum(self, size: int) -> int:
        """Signatures on one set of survivors: more than two thirds of the roster."""
        return 2 * size // 3 + 1


class Cohort:
    """A roster and what follows from it; nothing here changes. Made by `cohort`.

    Args:
        entries: the roster, packed.
        rules: of the plan.

    Raises:
        MessageError: the roster is malformed.
        RoundError: it has fewer or more clients than the rules allow.
    """

    def __init__(self, entries: bytes, rules: Rules) -> None:
        self.entries = {entry.client: entry for entry in unpack_roster(entries)}
        self.rules, self.size = rules, len(self.entries)
        if not rules.minimum <= self.size <= rules.largest:
            raise RoundError(
                f"a roster of {self.size} clients isn't between "
                f"minimum={rules.minimum} and largest={rules.largest}"
            )
        self.digest = hashlib.sha256(b"tacit roster\x00" + entries).digest()
        self.clients = list(self.entries)
        self.position = {client: i for i, client in enumerate(self.clients)}
        self.choice = rules.choice(self.size)
        self.threshold = self.choice.threshold
        linked = graph.adjacency(self.size, self.choice.degree, self.digest)
        self._neighbours = {
            client: sorted(self.clients[i] for i in found)
            for client, found in zip(self.clients, linked, strict=True)
        }
        # As many as could be needed; fewer members need fewer.
        self.layers = rules.layers(self.size)

    @property
    def fewest(self) -> int:
        """Fewest members with which a session goes on."""
        return max(self.rules.minimum, self.threshold, self.rules.quorum(self.size))

    def neighbours(self, client: int) -> list[int]:
        """Whom a client exchanges shares and masks with, ascending."""
        return self._neighbours[client]

    def place(self, holder: int, dealer: int) -> int:
        """Where a holder is among its dealer's neighbours."""
        return bisect.bisect_left(self._neighbours[dealer], holder)

    def enough_around(self, client: int, survivors: Iterable[int]) -> bool:
        """Whether enough of a client's neighbours on each side survive (`graph.Choice.side`).

        Always so in the complete graph. In a sparse one, a coordinator that chose who drops
        out could otherwise cut the circle in two, and learn two sums.
        """
        if self.choice.side == 0:
            return True
        alive = {self.position[k] for k in survivors}
        both = graph.sides(self.position[client], self.size, self.choice.degree, self.digest)
        return all(len(alive.intersection(side)) >= self.choice.side for side in both)

    def point(self, client: int) -> int:
        """Where a client's shares are evaluated."""
        return self.position[client] + 1

    @functools.cached_property
    def pieces(self) -> dict[int, slice]:
        """Where each piece of a share is: key, self-mask seed, seed of each layer."""
        sizes = [KEY_WORDS, KEY_WORDS, *[SEED_WORDS] * self.layers]
        ends = list(itertools.accumulate(sizes))
        return {
            i: slice(end - size, end) for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
        }

    def spans(self, kinds: Iterable[int]) -> dict[int, slice]:
        """Where pieces of these kinds are when only they follow each other."""
        found, end = {}, 0
        for kind in kinds:
            size = self.pieces[kind].stop - self.pieces[kind].start
            found[kind] = slice(end, end + size)
            end += size
        return found

    def count(self, kinds: Iterable[int]) -> int:
        """Words of the pieces of these kinds."""
        return sum(self.pieces[kind].stop - self.pieces[kind].start for kind in kinds)

    @property
    def words(self) -> int:
        """Words of a whole share."""
        return int(self.pieces[len(self.pieces) - 1].stop)

    def revealed(self, survived: bool, dropped: int, members: int) -> list[int]:
        """Which pieces a peer's share is revealed of: never key and self-mask both."""
        if not survived:
            return [0]
        # Layers above `dropped` are surplus; revealing the next one's seed reveals them all.
        return [1, 2 + dropped] if dropped < self.rules.layers(members) else [1]


@functools.lru_cache(maxsize=8)
def cohort(entries: bytes, rules: Rules) -> Cohort:
    """The cohort of a roster; made once for all who ask in this process."""
    return Cohort(entries, rules)


def missing(of: Iterable[int], among: Iterable[int]) -> list[int]:
    """Those of ``of`` that aren't ``among``."""
    known = set(among)
    return [client for client in of if client not in known]
