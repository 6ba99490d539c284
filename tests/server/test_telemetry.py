"""Metrics, health and logs: what is there, what ends it, and what must never be in it."""

from __future__ import annotations

import http.client
import io
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families
from secured import failing, federate
from tiny import make_tiny

from tacit import simulate
from tacit.privacy.errors import BudgetError, ConfigError, ShortfallError
from tacit.server import telemetry
from tacit.server.coordinator import RoundResult
from tacit.server.home import Home
from tacit.server.store import Store
from tacit.server.telemetry import logs, meters
from tacit.server.telemetry.http import Serving


@pytest.fixture
def serving() -> Iterator[Serving]:
    with telemetry.serve(port=0) as made:
        yield made


def get(serving: Serving, page: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*serving.address, timeout=10)
    try:
        connection.request("GET", page)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def scraped(serving: Serving) -> dict[str, float]:
    status, text = get(serving, "/metrics")
    assert status == 200
    return {
        s.name + "".join(f" {v}" for _, v in sorted(s.labels.items())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def say_everything() -> None:
    telemetry.reply("train", "answered")
    telemetry.reply("train", "no reply")
    telemetry.resent("train", 3)
    telemetry.leg("train", 1.5, 2, 1)
    telemetry.round(2.0, 1, "released")
    telemetry.epsilon("client", "public", 0.5, amplified=True)
    telemetry.budget("client", 1.5)
    telemetry.leaves(7)
    telemetry.devices(connected=4)
    telemetry.check_in("accepted")
    telemetry.refusal("SEPARATION")
    telemetry.bytes_moved("in", 100)


def test_what_was_said_is_scraped(serving: Serving) -> None:
    say_everything()
    found = scraped(serving)
    due = {
        "tacit_rounds_total released": 1,
        "tacit_round_seconds_sum": 2.0,
        "tacit_round_accepted": 1,
        "tacit_leg_seconds_sum train": 1.5,
        "tacit_leg_asked_total train": 2,
        "tacit_leg_answered_total train": 1,
        "tacit_replies_total train answered": 1,
        "tacit_replies_total train no_reply": 1,
        "tacit_resends_total train": 3,
        "tacit_epsilon public yes client": 0.5,
        "tacit_budget_remaining client": 1.5,
        "tacit_ledger_leaves": 7,
        "tacit_devices_connected": 4,
        "tacit_check_ins_total accepted": 1,
        "tacit_refusals_total separation": 1,
        "tacit_bytes_total in": 100,
    }
    assert {name: found.get(name) for name in due} == due
    assert found["process_resident_memory_bytes"] > 0
    assert not [name for name in found if "_created" in name]


def test_a_reply_shows_when_its_leg_ends_and_not_before(serving: Serving) -> None:
    telemetry.reply("train", "answered")
    telemetry.reply("query.share", "answered")
    assert not [name for name in scraped(serving) if name.startswith("tacit_replies_total ")]
    telemetry.leg("train", 1.0, 1, 1)
    found = [name for name in scraped(serving) if name.startswith("tacit_replies_total ")]
    assert found == ["tacit_replies_total train answered"]


def test_strange_words_make_no_series(serving: Serving) -> None:
    for i in range(50):
        word = f"client {i} at 10.0.0.{i}"
        telemetry.refusal(word)
        telemetry.check_in(word)
        telemetry.resent(word, 1)
        telemetry.leg(word, 1.0, 1, 1)
        telemetry.reply(word, word)
        telemetry.round(1.0, 1, word)
        telemetry.epsilon(word, word, 1.0)
        telemetry.bytes_moved(word, 1)
    found = scraped(serving)
    assert found["tacit_refusals_total other"] == 50
    _, text = get(serving, "/metrics")
    assert "10.0.0" not in text
    assert len(found) < 200


def test_what_isnt_claimed_is_no_number(serving: Serving) -> None:
    telemetry.epsilon("record", "local", None)
    found = scraped(serving)["tacit_epsilon local no record"]
    assert found != found


def test_nothing_is_counted_or_imported_until_it_is_served() -> None:
    code = (
        "import sys; from tacit.server import telemetry as t\n"
        "t.leg('train', 1.0, 1, 1); t.reply('train', 'answered'); t.round(1.0, 1, 'released')\n"
        "t.epsilon('client', 'public', 1.0); t.leaves(3); t.ready(True)\n"
        "assert not t._held, t._held\n"
        "assert not {'prometheus_client', 'http.server'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_it_stops_and_starts_from_zero() -> None:
    first = telemetry.serve(port=0)
    telemetry.ready(True)
    say_everything()
    with pytest.raises(ConfigError, match="already"):
        telemetry.serve(port=0)
    first()
    first()
    with pytest.raises(ConnectionError):
        get(first, "/healthz")
    with telemetry.serve(port=first.address[1]) as second:
        found = scraped(second)
        assert found["tacit_ledger_leaves"] == 0
        assert found["tacit_rounds_total released"] == 0
        assert get(second, "/readyz")[0] == 503


def test_a_port_that_is_taken(serving: Serving) -> None:
    taken = serving.address[1]
    serving()
    with socket.socket() as other:
        other.bind(("127.0.0.1", taken))
        other.listen()
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{taken}"):
            telemetry.serve(port=taken)
    # What failed left nothing behind.
    telemetry.serve(port=0)()


def test_only_this_machine_unless_another_address_is_named(serving: Serving) -> None:
    assert serving.address[0] == "127.0.0.1"


def test_health_and_pages(serving: Serving) -> None:
    assert get(serving, "/healthz") == (200, "ok\n")
    assert get(serving, "/other")[0] == 404
    connection = http.client.HTTPConnection(*serving.address, timeout=10)
    connection.request("POST", "/metrics")
    answer = connection.getresponse()
    assert answer.status == 501
    assert answer.headers["Server"] == "tacit"
    connection.close()


def test_ready_when_clients_are_taken_and_the_ledger_is_read(home: Home, store: Store) -> None:
    with telemetry.serve(port=0, checks={"ledger": telemetry.store_opens(store)}) as serving:
        assert get(serving, "/readyz") == (503, "not ready: gateway\n")
        telemetry.ready(True)
        assert get(serving, "/readyz") == (200, "ready\n")
        assert scraped(serving)["tacit_ready"] == 1
        telemetry.ready(False)
        assert scraped(serving)["tacit_ready"] == 0
        assert get(serving, "/readyz")[0] == 503
        telemetry.ready(True)
        store.database.close()
        home.database.rename(home.database.with_suffix(".gone"))
        for beside in home.root.glob("tacit.db-*"):
            beside.unlink()
        assert get(serving, "/readyz") == (503, "not ready: ledger\n")


def test_slow_callers_are_bounded(serving: Serving) -> None:
    held = [http.client.HTTPConnection(*serving.address, timeout=10) for _ in range(16)]
    for connection in held:
        connection.connect()
        connection.sock.sendall(b"GET /metrics")
    try:
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            get(serving, "/healthz")
    finally:
        for connection in held:
            connection.close()


# The coordinator


def test_a_run_is_told_round_by_round(serving: Serving, home: Home, overrides: list[str]) -> None:
    def progress(result: RoundResult) -> None:
        found = scraped(serving)
        assert found["tacit_rounds_total released"] == result.round
        assert found["tacit_round_accepted"] == result.accepted
        spent = result.epsilon["client"]
        assert spent is not None
        assert found["tacit_epsilon public yes client"] == spent
        assert found["tacit_budget_remaining client"] == 1000 - spent
        store = Store(home)
        assert found["tacit_ledger_leaves"] == len(store.leaves())
        store.close()

    result = simulate(
        [*overrides, "budget.epsilon=1000"], task=make_tiny(), home=home.root, progress=progress
    )
    assert scraped(serving)["tacit_rounds_total released"] == result.rounds == 3


def test_rounds_that_release_nothing(serving: Serving, home: Home, secure: list[str]) -> None:
    faults = {"train": range(20)}
    with pytest.raises(ShortfallError):
        federate(make_tiny(), [*secure, "seed=1"], home, failing(faults))
    with pytest.raises(BudgetError):
        simulate([*secure, "budget.epsilon=0.001"], task=make_tiny(), home=home.root)
    found = scraped(serving)
    assert found["tacit_rounds_total shortfall"] == 1
    assert found["tacit_rounds_total refused"] == 1
    assert found["tacit_round_seconds_count"] == 0


# Logs


@contextmanager
def written(
    as_json: bool, level: int = logging.INFO
) -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger with one handler of ours, and what that wrote."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines() if as_json else logs.Plain())
    logger = logging.getLogger("tacit.tests.telemetry")
    logger.handlers[:], logger.propagate = [handler], False
    logger.setLevel(level)
    try:
        yield logger, stream
    finally:
        logger.handlers.clear()
        logger.propagate = True


def test_a_line_of_json() -> None:
    with written(as_json=True) as (logger, stream):
        logger.info("round %d\nreleased", 3, extra={"round": 3, "seconds": 1.5, "run": "a"})
    line = json.loads(stream.getvalue())
    assert line["event"] == "round 3 released"
    assert line["fields"] == {"round": 3, "seconds": 1.5, "run": "a"}
    assert (line["level"], line["logger"]) == ("info", "tacit.tests.telemetry")
    assert line["time"].endswith("Z")


SECRET = "Zk3vQ9xLr0TnB5wYp8JcDf2HsGm7UaEe1RiOo4XtKqM"
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


@pytest.mark.parametrize("as_json", [True, False])
def test_no_personal_data_whatever_is_said(as_json: bool) -> None:
    with written(as_json) as (logger, stream):
        logger.info(
            "client 90417 from ipv4:203.0.113.9:443, or 2001:db8::7, with %s under %s",
            SECRET,
            DIGEST,
            extra={
                "client": 90417,
                "token": SECRET,
                "peer": "203.0.113.9",
                "reason": "203.0.113.9",
            },
        )
        logger.warning("members=[1, 90417, 40] and cohort: {2, 3}")
        logger.info("an array", extra={"count": [90417, 18], "seconds": float("nan")})
        try:
            raise ValueError(f"client 90417 at 203.0.113.9 has {SECRET}")
        except ValueError:
            logger.exception("it failed")
    text = stream.getvalue()
    for private in ("90417", "203.0", "db8", SECRET, "2, 3"):
        assert private not in text, private
    assert DIGEST in text
    assert "ValueError" in text
    if as_json:
        first = json.loads(text.splitlines()[0])
        assert first["withheld"] == ["client", "peer", "token"]
        assert first["fields"] == {"reason": "[address]"}
        assert len(text.splitlines()) == 4


def test_a_clients_number_is_for_debugging() -> None:
    with written(as_json=True, level=logging.DEBUG) as (logger, stream):
        logger.debug("client 90417 answered", extra={"client": 90417, "token": SECRET})
    line = json.loads(stream.getvalue())
    assert line["event"] == "client 90417 answered"
    assert line["fields"] == {"client": 90417}
    assert line["withheld"] == ["token"]


@pytest.mark.parametrize(
    "text",
    [
        "serving at 127.0.0.1:9464 and [::1]:9464",
        "at 12:30:45 with version 1.2.3 and clients=50",
        "12 of 20 clients answered",
        "/usr/lib/python3/dist-packages/somewhere/else/entirely.py",
        "a_rather_long_name_of_a_test_that_failed_just_now",
    ],
)
def test_what_is_nobodys_stays(text: str) -> None:
    assert logs.scrubbed(text) == text


def test_setting_up_replaces_what_was_there(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("", "tacit", "flwr")
    before = {n: logging.getLogger(n) for n in names}
    state = {n: (list(g.handlers), g.level, g.propagate) for n, g in before.items()}
    try:
        before["flwr"].addHandler(logging.StreamHandler())
        telemetry.setup_logs(json=True)
        logging.getLogger("tacit.round").info("ours")
        logging.getLogger("other").info("not shown")
        logging.getLogger("flwr.server").warning("from 203.0.113.9")
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        assert [line["event"] for line in lines] == ["ours", "from [address]"]
    finally:
        for name, (handlers, level, propagate) in state.items():
            before[name].handlers[:], before[name].propagate = handlers, propagate
            before[name].setLevel(level)


def test_every_reason_of_the_protocol_has_a_word() -> None:
    from tacit.protocol import edge_pb2

    names = {name.lower() for name in edge_pb2.Refusal.Reason.DESCRIPTOR.values_by_name}
    assert names <= meters.REASONS
