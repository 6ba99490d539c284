"""Waiting for a reviewer, where the population's policy asks for one."""

from __future__ import annotations

import logging
import time

from tacit.privacy.errors import BudgetError
from tacit.server.charges import Charges
from tacit.server.store import Store

log = logging.getLogger("tacit.round")
POLL = 1.0


def wait(charges: Charges, store: Store, run: str, limit: float | None) -> None:
    """Returns when no review is asked for, or a reviewer said yes.

    Args:
        charges: of the run.
        store: where its status is.
        run: its id.
        limit: seconds to wait; None waits for ever.

    Raises:
        BudgetError: a reviewer said no, or nobody said anything for ``limit``.
    """
    began, said = time.monotonic(), False
    while True:
        try:
            reason = charges.awaits_review()
        except BudgetError as refusal:
            store.set_status(run, "refused", refusal.message)
            raise
        if reason is None:
            return
        hint = f"tacit ledger approve {run} --key FILE"
        if not said:
            store.set_status(run, "waiting", reason)
            log.warning("waiting: %s; %s", reason, hint)
            said = True
        if limit is not None and time.monotonic() - began >= limit:
            raise BudgetError(
                f"run={run} waits for a review: {reason}", f"{hint}, then --resume {run}"
            )
        time.sleep(POLL)
