"""A Grid whose SuperLink fails in the middle of a call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from tacit.server import outside
from tacit.server.steady import SteadyGrid
from tacit.simulations.grid import InProcessGrid


def answered(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://superlink/v1/runtime/pull-messages")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status))


class Failing(InProcessGrid):
    """Fails in every call."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def get_node_ids(self) -> Iterable[int]:
        raise self.error

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise self.error

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise self.error


def request() -> Message:
    outside.prepare()
    return Message(
        RecordDict({"tacit": ConfigRecord({"x": 1})}), dst_node_id=5, message_type="train"
    )


@pytest.mark.parametrize("error", [answered(500), answered(503), ObjectPushError("o", 1, "s")])
def test_a_failure_of_the_superlink_is_passed_over(error: Exception) -> None:
    grid = SteadyGrid(Failing(error))
    assert list(grid.push_messages([request(), request()])) == ["", ""]
    if not isinstance(error, ObjectPushError):
        assert list(grid.pull_messages(["a"])) == []
        assert list(grid.get_node_ids()) == []


@pytest.mark.parametrize("error", [answered(401), answered(404), ValueError("mine")])
def test_a_failure_of_ones_own_isnt(error: Exception) -> None:
    grid = SteadyGrid(Failing(error))
    calls: list[Any] = [
        lambda: grid.push_messages([request()]),
        lambda: grid.pull_messages(["a"]),
        grid.get_node_ids,
    ]
    for call in calls:
        with pytest.raises(type(error)):
            call()
