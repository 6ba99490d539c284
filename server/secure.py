"""Secure aggregation over the Grid: five exchanges, and the coordinator sees one sum.

A client's answer that `tacit.privacy.secagg.server` refuses costs that client its place; the
reason is counted for the operator. When too few are left the session ends, nothing has been
learned, and the charge stands.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from tacit.configs import wire
from tacit.privacy.errors import MessageError, RoundError
from tacit.privacy.messages import Message
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.secagg.directory import Directory
from tacit.privacy.secagg.messages import (
    Advertisement,
    Answer,
    Confirmation,
    Invitation,
    Masked,
    Revealed,
    Shares,
)
from tacit.privacy.secagg.server import AggregatingServer
from tacit.privacy.secagg.words import Words
from tacit.server.aggregate import Aggregate
from tacit.server.distributed import Gathering, IntegerSum, SharedNoise
from tacit.server.legs import Legs

log = logging.getLogger("tacit.round")
A = TypeVar("A", bound=Answer)


class SecureAggregation(SharedNoise):
    """Five exchanges; see `tacit.privacy.secagg.messages`.

    Args:
        plan: of the run.
        directory: everybody's public keys.
    """

    def __init__(self, plan: PrivacyPlan, directory: Directory) -> None:
        super().__init__(plan)
        self._directory = directory

    def _gathered(self, job: Gathering) -> IntegerSum | None:
        request, made = job.request, job.made
        invitation = Invitation.to(request, job.purpose)
        words, asked = Words(job.lattice.bits), list(job.cohort)
        server = AggregatingServer(
            invitation, self.rules, self._directory, words, job.lattice.length, asked
        )
        leg = _Leg(job.legs, made, request.round)
        try:
            leg.run(
                "query.advertise",
                dict.fromkeys(asked, invitation),
                Advertisement,
                server.advertised,
            )
            roster = server.roster()
            known = list(server.cohort.clients)
            leg.run("query.share", dict.fromkeys(known, roster), Shares, server.shared)
            with_members = dataclasses.replace(request, members=server.close_shares())
            requests = dict.fromkeys(server.members, with_members)
            leg.run(job.purpose, requests, Masked, server.masked)
            survivors = server.close_masked()
            asked_again = dict.fromkeys(server.survivors, survivors)
            leg.run("query.confirm", asked_again, Confirmation, server.confirmed)
            leg.run("query.reveal", server.close_confirmed(), Revealed, server.revealed)
            total, surplus, seeds = server.total()
        except RoundError as error:
            made.detail = f"{error.message}; first refusal: {made.detail or 'none'}"
            return None
        made.accepted = len(server.survivors)
        return IntegerSum(total, len(server.members), surplus, seeds)


class _Leg:
    """Runs the exchanges of one session and notes what goes wrong."""

    def __init__(self, legs: Legs, made: Aggregate, number: int) -> None:
        self._legs, self._made, self._number = legs, made, number

    def run(
        self,
        kind: str,
        requests: Mapping[int, Message],
        answer: type[A],
        take: Callable[[A], object],
    ) -> None:
        """One exchange: each reply is decoded and handed to the session, or counted."""
        log.debug("round %d: %s", self._number, kind)
        for reply in self._legs.exchange(kind, requests):
            if reply.message is None:
                self._refused(reply.problem, reply.detail)
                continue
            try:
                found = wire.unpack(answer, reply.message)
                if found.client != reply.client:
                    raise MessageError(f"client {reply.client} answers for another")
                take(found)
            except (MessageError, RoundError) as error:
                self._refused("refused", error.message)

    def _refused(self, reason: str, detail: str) -> None:
        self._made.rejected[reason] += 1
        self._made.detail = self._made.detail or detail
