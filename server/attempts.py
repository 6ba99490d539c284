"""The rounds of a run, whatever they do: attempted, given up, and where the run then stands.

Guarantees: a round that ends without a release has every charge that it left open abandoned and
counted as aborted before anything else is tried; a run that may not spend more ends, and says why.
What a round is, and what it draws and charges, is its coordinator's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import BudgetError, RoundError, ShortfallError
from tacit.server import review, telemetry
from tacit.server.charges import Charges
from tacit.server.store import Row, Store

log = logging.getLogger("tacit.round")
R = TypeVar("R")


def _never() -> bool:
    """For runs that nothing but their plan ends."""
    return False


class Attempts:
    """Runs one run's rounds.

    Args:
        run: its row.
        spec: its configuration.
        store: where it stands.
        charges: of the run.
    """

    def __init__(self, run: Row, spec: RunSpec, store: Store, charges: Charges) -> None:
        self._run: str = run["id"]
        self._spec, self._store, self._charges = spec, store, charges

    def rounds(
        self,
        released: Callable[[], int],
        project: Callable[[int], None],
        step: Callable[[], R],
        over: Callable[[], bool] = _never,
    ) -> Iterator[R]:
        """Steps until the planned rounds are done, the budget refuses, or it is over.

        A round that falls short of clients is attempted again, drawn and charged anew, up to
        ``attempts`` times.

        Args:
            released: the last round that was.
            project: asks the budget about a round, before it is begun.
            step: one round.
            over: whether something else has ended the run, and has said so; asked before the first
                step and after each.

        Raises:
            BudgetError: not even the first round fits.
            RoundError: a round ended without a release; its charges stand, and the run can
                be resumed.
        """
        if released() == 0:
            review.wait(self._charges, self._store, self._run, self._spec.budget.wait)
        if over():
            return
        self._store.set_status(self._run, "running")
        failures = 0
        while released() < self._spec.rounds:
            number = released() + 1
            try:
                project(number)
                result = step()
            except BudgetError as refusal:
                self._refused(number, refusal)
                return
            except RoundError as error:
                failures += 1
                if self._given_up(number, failures, error):
                    raise
                continue
            failures = 0
            yield result
            if over():
                return
        self._store.set_status(self._run, "finished")

    def _given_up(self, number: int, failures: int, error: RoundError) -> bool:
        """Whether a round that failed isn't attempted again."""
        short = isinstance(error, ShortfallError)
        telemetry.round(0.0, 0, "shortfall" if short else "failed")
        self._abandon(number, "abort")
        if short and failures < self._spec.attempts:
            log.warning("round %d, attempt %d: %s", number, failures, error)
            return False
        self._store.set_status(self._run, "failed", error.message)
        return True

    def _refused(self, number: int, refusal: BudgetError) -> None:
        """Ends a run that may not spend more; raises if it never released anything."""
        telemetry.round(0.0, 0, "refused")
        self._abandon(number, "refused")
        status = "refused" if number == 1 else "stopped"
        self._store.set_status(self._run, status, refusal.message)
        if number == 1:
            raise refusal
        log.info("stopped after round %d: %s", number - 1, refusal.message)

    def _abandon(self, number: int, reason: str) -> None:
        self._charges.aborted(number, self._store.abandon_open_charges(self._run, reason))
