"""A client's own ledger: what it charges, what it refuses, what survives."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from planned import BY_RECORDS, COUNTS, EVALUATION, RECORD, plan

from tacit.client import ledger as module
from tacit.client import spend
from tacit.client.ledger import Caps, ClientLedger, Participation, Refused
from tacit.privacy.errors import ConfigError, RoundError, StorageError
from tacit.privacy.plan import PrivacyPlan

PLAN = plan()
BOTH = plan(record=RECORD, evaluation=EVALUATION, counts=COUNTS)


class Clock:
    """Says what it is told to."""

    def __init__(self, now: float = 1e9) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def entry(round_: int = 1, attempt: int = 0, purpose: str = "train", **other: Any) -> Participation:
    run = other.get("run", "r")
    session = other.get("session", f"{run}/{round_}/{attempt}/{purpose}")
    return Participation(run, round_, attempt, purpose, other.get("plan", PLAN), session)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "0.ledger"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened() -> Iterator[list[ClientLedger]]:
    made: list[ClientLedger] = []
    yield made
    for one in made:
        one.close()


def reasons(ledger: ClientLedger, one: Participation) -> tuple[str, str]:
    """Why an entry is refused, by `project` and by `charge`."""
    found = []
    for settle in (ledger.project, ledger.charge):
        with pytest.raises(Refused) as error:
            settle(one)
        found.append(error.value.reason)
    return found[0], found[1]


# Charging


def test_a_charge_is_there_after_a_restart(path: Path, clock: Clock) -> None:
    ledger = ClientLedger(path, Caps(), clock)
    ledger.project(entry())
    assert ledger.spent().participations == 0
    ledger.charge(entry())
    ledger.close()
    again = ClientLedger(path, Caps(), clock)
    spent = again.spent()
    assert (spent.participations, spent.rounds, spent.last) == (1, 1, 1e9)
    event = spend.cost(PLAN, "train", "client")
    assert event is not None
    assert spent.client.epsilon == spend.epsilon({event: 1}, PLAN.client_delta)
    assert spent.client.delta == PLAN.client_delta
    again.close()


def test_a_charge_is_on_disk_when_it_returns(path: Path) -> None:
    # The process is killed as soon as it says so: nothing is flushed on the way out.
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tacit.client.ledger import Caps, ClientLedger, Participation\n"
        "from planned import plan\n"
        "ledger = ClientLedger(Path(sys.argv[1]), Caps())\n"
        "ledger.charge(Participation('r', 1, 0, 'train', plan(), 's'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert ClientLedger(path, Caps()).spent().participations == 1


def test_syncs_go_as_far_as_the_folder(path: Path) -> None:
    ledger = ClientLedger(path, Caps())
    assert ledger._db.execute("PRAGMA synchronous").fetchone() == (3,)
    assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_the_file_is_its_owners(path: Path) -> None:
    path.touch(mode=0o644)
    ClientLedger(path, Caps()).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_session_again_is_no_second_charge_and_never_refused(path: Path, clock: Clock) -> None:
    ledger = ClientLedger(path, Caps(rounds=1, separation=60.0), clock)
    for _ in range(3):
        ledger.charge(entry())
        ledger.project(entry())
    assert ledger.spent().participations == 1
    assert ledger.spent().refused == {}


def test_a_session_is_no_other_participations(path: Path) -> None:
    ledger = ClientLedger(path, Caps())
    ledger.charge(entry(session="s"))
    for other in (entry(2, session="s"), entry(run="q", session="s"), entry(1, 1, session="s")):
        with pytest.raises(RoundError, match="charged as another"):
            ledger.charge(other)
    with pytest.raises(RoundError, match="charged as another"):
        ledger.project(entry(session="s", plan=BOTH))
    assert ledger.spent().participations == 1


def test_rows_are_neither_changed_nor_deleted(path: Path) -> None:
    ClientLedger(path, Caps()).charge(entry())
    db = sqlite3.connect(path)
    for table, column in (("entries", "round"), ("costs", "event")):
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET {column} = NULL"):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                db.execute(statement)


def test_a_plan_is_kept_once(path: Path) -> None:
    ledger = ClientLedger(path, Caps())
    for round_ in (1, 2, 3):
        ledger.charge(entry(round_))
    ledger.charge(entry(4, plan=BOTH))
    rows = ledger._db.execute("SELECT digest, body FROM plans").fetchall()
    assert {digest for digest, _ in rows} == {PLAN.digest(), BOTH.digest()}
    assert json.loads(dict(rows)[PLAN.digest()])["client_delta"] == PLAN.client_delta


def test_a_ledger_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="ledger"):
        ClientLedger(tmp_path / "not there" / "0.ledger", Caps())
    broken = tmp_path / "0.ledger"
    broken.write_bytes(b"no database" * 500)
    with pytest.raises(StorageError, match="ledger"):
        ClientLedger(broken, Caps())


# Rounds


def test_the_last_round_is_the_last(path: Path) -> None:
    ledger = ClientLedger(path, Caps(rounds=2))
    ledger.charge(entry(1))
    ledger.charge(entry(2))
    assert reasons(ledger, entry(3)) == ("ROUNDS", "ROUNDS")
    assert ledger.spent().participations == 2


def test_training_evaluation_and_attempts_each_count(path: Path) -> None:
    ledger = ClientLedger(path, Caps(rounds=3))
    ledger.charge(entry(1, 0, plan=BOTH))
    ledger.charge(entry(1, 1, plan=BOTH))
    ledger.charge(entry(1, 1, "evaluate", plan=BOTH))
    assert ledger.spent().rounds == 1
    assert reasons(ledger, entry(1, 2, plan=BOTH)) == ("ROUNDS", "ROUNDS")


def test_a_client_that_allows_nothing_is_asked_in_vain(path: Path) -> None:
    assert reasons(ClientLedger(path, Caps(rounds=0)), entry()) == ("ROUNDS", "ROUNDS")


def test_limits_are_those_of_the_file_opened_last(path: Path) -> None:
    ledger = ClientLedger(path, Caps(rounds=1))
    ledger.charge(entry(1))
    ledger.close()
    more = ClientLedger(path, Caps(rounds=2))
    more.charge(entry(2))
    assert reasons(more, entry(3)) == ("ROUNDS", "ROUNDS")


def test_two_processes_cannot_both_have_the_last_round(path: Path) -> None:
    made = [ClientLedger(path, Caps(rounds=5)) for _ in range(4)]
    outcomes: list[str] = []

    def take(who: int) -> None:
        for k in range(5):
            try:
                made[who].charge(entry(1 + who * 5 + k))
                outcomes.append("charged")
            except Refused as error:
                outcomes.append(error.reason)

    threads = [threading.Thread(target=take, args=(who,)) for who in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(outcomes) == ["ROUNDS"] * 15 + ["charged"] * 5


# Separation


def test_rounds_keep_their_distance(path: Path, clock: Clock) -> None:
    ledger = ClientLedger(path, Caps(separation=3600.0), clock)
    ledger.charge(entry(1))
    clock.now += 3599
    assert reasons(ledger, entry(2)) == ("SEPARATION", "SEPARATION")
    assert reasons(ledger, entry(1, run="another")) == ("SEPARATION", "SEPARATION")
    clock.now += 1
    ledger.project(entry(2))
    ledger.charge(entry(2))
    assert reasons(ledger, entry(3)) == ("SEPARATION", "SEPARATION")


def test_within_a_round_there_is_none(path: Path, clock: Clock) -> None:
    ledger = ClientLedger(path, Caps(separation=3600.0), clock)
    ledger.charge(entry(1, plan=BOTH))
    ledger.charge(entry(1, 0, "evaluate", plan=BOTH))
    ledger.charge(entry(1, 1, plan=BOTH))
    assert ledger.spent().participations == 3


def test_going_back_to_an_earlier_round_is_another_round(path: Path, clock: Clock) -> None:
    ledger = ClientLedger(path, Caps(separation=10.0), clock)
    ledger.charge(entry(1))
    clock.now += 10
    ledger.charge(entry(2))
    assert reasons(ledger, entry(1, 1)) == ("SEPARATION", "SEPARATION")


@pytest.mark.parametrize("back", [1.0, 3600.0, 1e9, float("nan")])
def test_a_clock_that_goes_back_does_not_shorten_it(path: Path, clock: Clock, back: float) -> None:
    ledger = ClientLedger(path, Caps(separation=60.0), clock)
    ledger.charge(entry(1))
    clock.now -= back
    if back == back:
        # What is written while the clock is behind isn't earlier than what was there.
        ledger.charge(entry(1, 1))
    with pytest.raises((Refused, RoundError)):
        ledger.charge(entry(2))
    clock.now = 1e9 + 59
    assert reasons(ledger, entry(2)) == ("SEPARATION", "SEPARATION")
    clock.now = 1e9 + 60
    ledger.charge(entry(2))
    times = [t for (t,) in ledger._db.execute("SELECT time FROM entries ORDER BY number")]
    assert times == sorted(times)


def test_a_refusal_starts_no_separation(path: Path, clock: Clock) -> None:
    ledger = ClientLedger(path, Caps(separation=60.0), clock)
    ledger.charge(entry(1))
    clock.now += 30
    assert reasons(ledger, entry(2)) == ("SEPARATION", "SEPARATION")
    clock.now += 30
    ledger.charge(entry(3))


# Epsilon


def after(made: PrivacyPlan, unit: str, rounds: int, delta: float) -> float:
    event = spend.cost(made, "train", unit)  # type: ignore[arg-type]
    assert event is not None
    return spend.epsilon({event: rounds}, delta)


def test_the_round_that_would_exceed_epsilon_is_refused(path: Path) -> None:
    cap = after(PLAN, "client", 3, 1e-6)
    ledger = ClientLedger(path, Caps(epsilon=cap, delta=1e-6))
    for round_ in (1, 2, 3):
        ledger.charge(entry(round_))
    spent = ledger.spent().client
    assert (spent.epsilon, spent.delta, spent.cap) == (cap, 1e-6, cap)
    assert reasons(ledger, entry(4)) == ("EPSILON", "EPSILON")
    assert ledger.spent().client.epsilon == cap


def test_what_another_plan_spent_counts_too(path: Path) -> None:
    costly = plan(z=0.7)
    cap = after(PLAN, "client", 4, 1e-6)
    assert after(costly, "client", 1, 1e-6) < cap < after(costly, "client", 2, 1e-6) * 1.5
    ledger = ClientLedger(path, Caps(epsilon=cap, delta=1e-6))
    ledger.charge(entry(1, run="costly", plan=costly))
    outcomes = []
    for round_ in range(1, 5):
        try:
            ledger.charge(entry(round_))
            outcomes.append("charged")
        except Refused as error:
            outcomes.append(error.reason)
    assert outcomes[-1] == "EPSILON"
    events = {
        spend.cost(costly, "train", "client"): 1,
        spend.cost(PLAN, "train", "client"): outcomes.count("charged"),
    }
    assert ledger.spent().client.epsilon == spend.epsilon(events, 1e-6)  # type: ignore[arg-type]


def test_evaluations_spend_as_well(path: Path) -> None:
    ledger = ClientLedger(path, Caps(delta=1e-6))
    ledger.charge(entry(plan=BOTH))
    trained = ledger.spent().client.epsilon
    ledger.charge(entry(purpose="evaluate", plan=BOTH))
    evaluated = ledger.spent().client.epsilon
    assert trained is not None
    assert evaluated is not None
    assert evaluated > trained


def test_records_have_a_limit_of_their_own(path: Path) -> None:
    cap = after(BOTH, "record", 2, 1e-5)
    ledger = ClientLedger(path, Caps(record_epsilon=cap, record_delta=1e-5))
    ledger.charge(entry(1, plan=BOTH))
    ledger.charge(entry(2, plan=BOTH))
    assert reasons(ledger, entry(3, plan=BOTH)) == ("EPSILON", "EPSILON")
    assert ledger.spent().record.epsilon == cap


@pytest.mark.parametrize(
    ("made", "caps"),
    [
        (plan(**BY_RECORDS), Caps(epsilon=1e6, delta=1e-6)),
        (PLAN, Caps(record_epsilon=1e6, record_delta=1e-6)),
        (plan(noise_source="seeded-simulation"), Caps(epsilon=1e6, delta=1e-6)),
    ],
    ids=["clients", "records", "a seed"],
)
def test_a_plan_that_claims_nothing_is_refused_where_there_is_a_limit(
    path: Path, made: PrivacyPlan, caps: Caps
) -> None:
    ledger = ClientLedger(path, caps)
    assert reasons(ledger, entry(plan=made)) == ("EPSILON", "EPSILON")
    with pytest.raises(Refused, match="claims nothing"):
        ledger.project(entry(plan=made))


def test_what_was_spent_without_a_claim_leaves_nothing_under_a_later_limit(path: Path) -> None:
    ledger = ClientLedger(path, Caps())
    ledger.charge(entry(1, plan=plan(noise_source="seeded-simulation")))
    ledger.close()
    limited = ClientLedger(path, Caps(epsilon=1e6, delta=1e-6))
    assert reasons(limited, entry(2)) == ("EPSILON", "EPSILON")
    assert limited.spent().to_json()["client"]["epsilon"] == "unbounded"


def test_a_message_names_the_limit_and_not_what_was_done(path: Path) -> None:
    ledger = ClientLedger(path, Caps(epsilon=after(PLAN, "client", 1, 1e-6), delta=1e-6))
    ledger.charge(entry(1, run="secret"))
    with pytest.raises(Refused) as error:
        ledger.charge(entry(2))
    assert "epsilon=" in error.value.message
    assert "delta=1e-06" in error.value.message
    assert "secret" not in str(error.value)


# Refusals, and the view


def test_refusals_are_kept_once_and_not_without_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_REFUSALS", 5)
    ledger = ClientLedger(path, Caps(rounds=0))
    for round_ in range(1, 10):
        reasons(ledger, entry(round_))
    assert ledger.spent().refused == {"ROUNDS": 5}


def test_the_view_is_json(path: Path, clock: Clock) -> None:
    ledger = ClientLedger(path, Caps(rounds=1, delta=1e-6), clock)
    empty = ledger.spent().to_json()
    assert (empty["last"], empty["client"]["epsilon"]) == (None, 0.0)
    ledger.charge(entry(1, plan=BOTH))
    reasons(ledger, entry(2))
    view = json.loads(json.dumps(ledger.spent().to_json()))
    assert view["participations"] == 1
    assert view["refused"] == {"ROUNDS": 1}
    assert view["record"]["delta"] == BOTH.record_delta
    assert view["caps"]["rounds"] == 1


def test_a_simulations_ledger_is_in_memory(tmp_path: Path) -> None:
    ledger = ClientLedger(None, Caps(rounds=1))
    ledger.charge(entry(1))
    assert reasons(ledger, entry(2)) == ("ROUNDS", "ROUNDS")
    assert os.listdir(tmp_path) == []


# Caps


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rounds": -1}, "floors.rounds=-1"),
        ({"rounds": 1.5}, r"floors.rounds=1\.5"),
        ({"epsilon": 1.0}, "floors.epsilon=1 needs floors.delta"),
        ({"epsilon": -1.0, "delta": 0.1}, "floors.epsilon=-1"),
        ({"epsilon": float("inf"), "delta": 0.1}, "floors.epsilon=inf"),
        ({"delta": 1.0}, r"floors.delta=1\.0"),
        ({"record_epsilon": 1.0, "delta": 0.1}, "needs floors.record_delta"),
        ({"record_delta": 0.0}, "floors.record_delta=0"),
        ({"separation": -1.0}, "floors.separation=-1"),
        ({"separation": float("nan")}, "floors.separation=nan"),
    ],
)
def test_caps_that_make_no_sense_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Caps(**wrong)
