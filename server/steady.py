"""Flower's Grid over a network, whose SuperLink may be killed in the middle of a call.

Flower's own Grid waits for a SuperLink that is away, but gives up where one comes back in the
middle of an upload: an object that was stored, and whose acknowledgement was lost, is refused
when it is sent again. Then what was being sent counts here as not accepted, and what was being
fetched as not there yet; `Legs` sends again what isn't answered. The ServerApp, which nothing
would start again, lives on.

Guarantees no more than that a call ends without an error of the network. It doesn't wait longer
than Flower does, and a run that the SuperLink has ended still ends the ServerApp.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import httpx
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from tacit.server.grids import WrappingGrid

log = logging.getLogger("tacit.legs")

_SERVERS_FAULT = 500


class SteadyGrid(WrappingGrid):
    """Another Grid, whose calls don't fail when its SuperLink does.

    Args:
        grid: Flower's.
    """

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are there; none if the SuperLink fails."""
        try:
            return list(self._grid.get_node_ids())
        except httpx.HTTPStatusError as error:
            _lost(error)
            return []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pushes messages; those of a call that fails get an empty id each."""
        messages = list(messages)
        try:
            return list(self._grid.push_messages(messages))
        except (ObjectPushError, httpx.HTTPStatusError) as error:
            _lost(error)
            return [""] * len(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are there; none if the SuperLink fails."""
        try:
            return list(self._grid.pull_messages(message_ids))
        except httpx.HTTPStatusError as error:
            _lost(error)
            return []


def _lost(error: ObjectPushError | httpx.HTTPStatusError) -> None:
    """Passes over a failure of the SuperLink; raises what is this side's own."""
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < _SERVERS_FAULT:
        raise error
    log.warning("the SuperLink failed in the middle of a call: %s", error)
