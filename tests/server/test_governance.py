"""Policies where charges are made: nothing is sent that is refused, nothing is spent twice."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from typing import Any

import governing
import pytest
from flwr.app import Message
from governing import DELTA, PLAN
from postgres import BOTH

from tacit import Result, Task, simulate
from tacit.client.app import make_app
from tacit.configs import build
from tacit.privacy import budget as budgets
from tacit.privacy.errors import BudgetError, ConfigError, StorageError
from tacit.privacy.events import Event
from tacit.privacy.log.leaves import statement
from tacit.privacy.log.notes import SignerKey, VerifierKey
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.policy import Policy, budget, divergence
from tacit.server import log as logs
from tacit.server import review, runs
from tacit.server.check import verify
from tacit.server.coordinator import RoundResult
from tacit.server.governance import Governance
from tacit.server.home import Home
from tacit.server.legs import Legs
from tacit.server.store import Store
from tacit.simulations.grid import InProcessGrid
from tacit.tasks.task import plan as privacy_plan

MakeTask = Callable[..., Task]
ALICE, BOB = SignerKey("alice", b"a" * 32), SignerKey("bob", b"b" * 32)
ORDER = 4.0

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["governing"])


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "POLL", 0.01)


def public(plan: PrivacyPlan, evaluating: bool = False) -> Event:
    rows = plan.evaluating() if evaluating else plan.training()
    (found,) = (
        c.event
        for c in rows
        if (c.unit, c.adversary, c.amplified) == ("client", "public", True) and c.event
    )
    return found


def cap(events: float, one: Event, population: str, **changes: Any) -> Policy:
    """Under which so many of an event fit."""
    nothing = 1.0 - budget(1.0, DELTA, ORDER)
    epsilon = (events + 1e-6) * divergence(one, ORDER) + nothing
    terms: dict[str, Any] = {"delta": DELTA, "order": ORDER}
    return Policy(population=population, **{**terms, "epsilon": epsilon, **changes})


def planned(overrides: list[str], task: Task) -> PrivacyPlan:
    return privacy_plan(task, build.compose(overrides))


def holds(store: Store) -> None:
    assert [str(f) for f in verify(store).findings] == []


def train_charges(store: Store, kind: str = "CHARGE") -> int:
    bodies = [leaf["body"] for leaf in store.leaves(kinds=[kind])]
    return sum(body["purpose"] == "train" for body in bodies)


class Recording(InProcessGrid):
    """Notes what is sent; ``before`` is called ahead of each lot."""

    sent: list[str]
    before: Callable[[str], None]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        asked = list(messages)
        kinds = {message.metadata.message_type for message in asked}
        for kind in kinds:
            self.before(kind)
        self.sent += [message.metadata.message_type for message in asked]
        return super().push_messages(asked)


def federate(
    task: Task,
    overrides: list[str],
    home: Home,
    sent: list[str],
    before: Callable[[str], None] = lambda kind: None,
) -> tuple[str, list[RoundResult], BudgetError | None]:
    """A federation; its id, its rounds, and the refusal that it ended with."""
    spec, store = build.compose(overrides), Store(home)
    run = runs.create(spec, task, store)
    grid = Recording(make_app(task), spec.clients, {"spec": json.dumps(spec.to_dict())})
    grid.sent, grid.before = sent, before
    results: list[RoundResult] = []
    with runs.coordinator(run, task, store, home, Legs(grid, grid.nodes)) as made:
        try:
            results.extend(made.rounds())
        except BudgetError as refusal:
            return run["id"], results, refusal
        finally:
            store.close()
    return run["id"], results, None


# Refusals


@BOTH
def test_a_cap_stops_a_run_before_anything_is_sent(
    tiny: MakeTask, overrides: list[str], home: Home, store: Store
) -> None:
    settings = [*overrides, "rounds=4"]
    task = tiny()
    Governance(store).adopt(cap(2, public(planned(settings, task)), "tiny"), None)
    sent: list[str] = []
    run, results, refusal = federate(task, settings, home, sent)
    assert refusal is None
    assert len(results) == 2
    assert len(sent) == sum(result.asked for result in results)
    row = store.run(run)
    assert row["status"] == "stopped"
    assert "population=tiny would be exceeded" in row["message"]
    # The next run on that population can't even begin.
    run, results, refusal = federate(task, [*settings, "name=another"], home, sent := [])
    assert refusal is not None
    assert "population=tiny would be exceeded" in refusal.message
    assert (results, sent, store.run(run)["status"]) == ([], [], "refused")
    # On another it can.
    _, results, _ = federate(task, [*settings, "population=others"], home, [])
    assert len(results) == 4
    assert train_charges(store) == 2 + 4
    holds(store)


def test_a_run_that_claims_nothing_is_refused_under_a_cap(
    tiny: MakeTask, overrides: list[str], home: Home, store: Store
) -> None:
    Governance(store).adopt(cap(100, public(PLAN), "tiny"), None)
    sent: list[str] = []
    settings = [*overrides, "privacy.client.noise_multiplier=0"]
    run, _, refusal = federate(tiny(), settings, home, sent)
    assert "claims nothing for the client" in str(refusal)
    assert (sent, store.run(run)["status"]) == ([], "refused")
    holds(store)


def test_what_another_run_spends_in_the_midst_of_a_round_stops_its_evaluation(
    tiny: MakeTask, overrides: list[str], home: Home, store: Store
) -> None:
    settings, task = [*overrides, "evaluation=federated"], tiny()
    plan = planned(settings, task)
    trained, evaluated = public(plan), public(plan, True)
    assert divergence(evaluated, ORDER) > 1e-3 * divergence(trained, ORDER)
    room = max(2.0, 1 + divergence(evaluated, ORDER) / divergence(trained, ORDER))
    Governance(store).adopt(cap(room, trained, "tiny"), None)
    governing.new_run(store, "other", replace(plan, rounds=20), "tiny")
    other = Governance(store)

    def before(kind: str) -> None:
        governing.charge(store, other, "other")

    sent: list[str] = []
    run, results, refusal = federate(task, settings, home, sent, before)
    assert refusal is not None
    assert results == []
    assert set(sent) == {"train"}
    assert store.run(run)["status"] == "refused"
    kinds = [(leaf["kind"], leaf["body"].get("reason")) for leaf in store.spending(run)]
    assert kinds == [("CHARGE", None), ("ABANDON", "refused")]
    holds(store)


def test_runs_keep_their_distance(
    tiny: MakeTask, overrides: list[str], home: Home, store: Store
) -> None:
    Governance(store).adopt(Policy(population="tiny", separation_hours=1.0), None)
    _, results, _ = federate(tiny(), overrides, home, [])
    assert len(results) == 3
    run, _, refusal = federate(tiny(), overrides, home, sent := [])
    assert "separation_hours=1 of population=tiny" in str(refusal)
    assert (sent, store.run(run)["status"]) == ([], "refused")
    holds(store)


@pytest.mark.parametrize("amplified", [True, False])
def test_a_runs_own_cap_stops_it_in_time(
    amplified: bool, tiny: MakeTask, overrides: list[str], home: Home, store: Store
) -> None:
    settings = [*overrides, "rounds=4"]
    _, free, _ = federate(tiny(), [*settings, "population=free"], home, [])
    name = "client" if amplified else "client_unamplified"
    spent = [result.epsilon[name] for result in free]
    assert spent[1] is not None
    assert spent[2] is not None
    limit = (spent[1] + spent[2]) / 2
    delta = planned(settings, tiny()).client_delta
    policy = Policy(population="tiny", run_epsilon=limit, delta=delta, amplified=amplified)
    Governance(store).adopt(policy, None)
    for _ in range(2):
        run, results, refusal = federate(tiny(), settings, home, sent := [])
        assert refusal is None
        assert len(results) == 2
        assert results[-1].epsilon[name] == spent[1]
        assert len(sent) == sum(result.asked for result in results)
        assert store.run(run)["status"] == "stopped"
        assert "run_epsilon" in store.run(run)["message"]
        assert "population=tiny" in store.run(run)["message"]
    holds(store)


def test_a_ledger_without_policies_is_read_by_nobody(store: Store) -> None:
    governing.new_run(store, "r", PLAN)
    governance = Governance(store)
    assert governance.awaits_review("r") is None
    assert governance.policy("p") is None
    governing.charge(store, governance, "r")
    assert governance._seen == -1
    # The first policy finds all that came before it.
    Governance(store).adopt(cap(2, public(PLAN), "p"), None)
    governing.charge(store, governance, "r", 1)
    with pytest.raises(BudgetError):
        governing.charge(store, governance, "r", 2)
    policy = governance.policy("p")
    assert policy is not None
    assert policy.population == "p"


# Times


class Clock(datetime):
    """Says the times that it is given, one after another."""

    said: Iterator[datetime] = iter(())

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        assert tz is UTC
        return next(cls.said)


def test_leaves_seconds_apart_are_of_the_same_hour(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [(10, 0, 0), (10, 59, 58), (10, 59, 59), (11, 0, 0)]
    monkeypatch.setattr(Clock, "said", iter([datetime(2100, 1, 1, *t, tzinfo=UTC) for t in times]))
    monkeypatch.setattr(logs, "datetime", Clock)
    found = [store.append({"kind": "STATUS", "run": "", "status": "failed"}) for _ in times]
    said = [leaf["body"]["at"] for leaf in store.leaves() if leaf["index"] in found]
    assert said == ["2100-01-01T10:00:00Z"] * 3 + ["2100-01-01T11:00:00Z"]


@BOTH
def test_times_of_leaves_never_fall_though_the_clock_does(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(hour: int) -> str:
        return f"2100-01-01T{hour:02}:00:00Z"

    governance = Governance(store)
    governance.adopt(Policy(population="p", separation_hours=2.0), None)
    began, times = len(store.leaves()), [12, 11, 3, 13, 9]
    for hour in times:
        monkeypatch.setattr(logs, "now", lambda hour=hour: at(hour))
        name = governing.new_run(store, f"r{hour}", PLAN, "p")
        assert store.run(name)["created_at"] == max(at(h) for h in times[: times.index(hour) + 1])
    # What policies are asked about is the time that the leaf will name.
    governing.charge(store, governance, "r12")
    monkeypatch.setattr(logs, "now", lambda: at(14))
    with pytest.raises(BudgetError, match=r"charged 1\.0 hours ago"):
        governing.charge(store, governance, "r11")
    monkeypatch.setattr(logs, "now", lambda: at(15))
    governing.charge(store, governance, "r11")
    # Another process, whose clock is behind by years.
    monkeypatch.undo()
    other = Store(store.home)
    other.abandon_open_charges("r12", "abort")
    other.abandon_open_charges("r11", "abort")
    other.close()
    said = [leaf["body"]["at"] for leaf in store.leaves()][began:]
    assert said == [at(h) for h in (12, 12, 12, 13, 13, 13, 15, 15, 15)]
    holds(store)


# Several at once


def together(
    target: Callable[..., None], arguments: list[tuple[Any, ...]], patience: float = 120.0
) -> list[int]:
    """Runs a function in a process for each tuple, begun at once; their exit codes."""
    barrier = _FORKS.Barrier(len(arguments))
    made: list[BaseProcess] = [
        _FORKS.Process(target=target, args=(*each, barrier)) for each in arguments
    ]
    for process in made:
        process.start()
    for process in made:
        process.join(patience)
    codes = [process.exitcode for process in made]
    for process in made:
        process.kill()
    assert all(code is not None and code >= 0 for code in codes), codes
    return [code for code in codes if code is not None]


@BOTH
@pytest.mark.parametrize("fits", [0, 1, 12, 40])
def test_runs_at_the_same_time_cant_both_spend_the_last_of_a_budget(
    fits: int, home: Home, store: Store
) -> None:
    plans = [PLAN] * 4
    Governance(store).adopt(cap(fits or 0.5, public(PLAN), "p"), None)
    names = [governing.new_run(store, f"r{i}", plan) for i, plan in enumerate(plans)]
    admitted = together(governing.spend, [(str(home.root), home.url, name) for name in names])
    assert sum(admitted) == fits
    assert train_charges(store) == fits
    for name in names:
        store.abandon_open_charges(name, "abort")
    holds(store)


@BOTH
def test_two_federations_at_the_same_time_stay_within_one_cap(
    tiny: MakeTask, overrides: list[str], home: Home, store: Store
) -> None:
    plan = planned([*overrides, "rounds=6"], tiny())
    Governance(store).adopt(cap(7, public(plan), "tiny"), None)
    released = together(governing.federate, [(str(home.root), 1), (str(home.root), 2)])
    assert train_charges(store) == 7
    assert sum(released) == train_charges(store, "RELEASE") == 7
    ended = sorted(row["status"] for row in store.runs())
    assert set(ended) <= {"finished", "stopped", "refused"}
    assert ended != ["finished", "finished"]
    holds(store)


# Reviews


def begun(settings: list[str], task: Task, home: Home, **more: Any) -> Future[Result]:
    """A federation in a thread."""
    pool = ThreadPoolExecutor(1)
    made = pool.submit(simulate, settings, task=task, home=home.root, **more)
    pool.shutdown(wait=False)
    return made


def waiting(store: Store, made: Future[Result]) -> str:
    """The id of the run that waits for a review."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit and not made.done():
        found = [row["id"] for row in store.runs() if row["status"] == "waiting"]
        if found:
            return str(found[0])
        time.sleep(0.01)
    raise AssertionError(made.exception() if made.done() else "nobody waits")


REVIEWED = Policy(
    population="tiny", review_epsilon=0.01, delta=DELTA, reviewers=(str(ALICE.verifier),)
)


@BOTH
def test_a_run_waits_until_a_reviewer_says_yes(
    tiny: MakeTask, overrides: list[str], home: Home, store: Store
) -> None:
    governance = Governance(store)
    governance.adopt(REVIEWED, None)
    made = begun([*overrides, "rounds=2"], tiny(), home)
    run = waiting(store, made)
    assert "review_epsilon=0.01" in store.run(run)["message"]
    with pytest.raises(ConfigError, match="isn't a reviewer's"):
        governance.approve(run, "approved", "I like it", None, BOB)
    with pytest.raises(ConfigError, match="isn't a reviewer's"):
        governance.approve(run, "approved", "the operator", None, store.signer)
    assert store.spending(run) == []
    index = governance.approve(run, "approved", "fine", None, ALICE)
    assert made.result(60).status == "finished"
    kinds = [leaf["kind"] for leaf in store.leaves(run)]
    assert kinds[:4] == ["PLAN", "STATUS", "APPROVAL", "STATUS"]
    body = store.leaves(run, ["APPROVAL"])[0]["body"]
    assert store.leaves(run, ["APPROVAL"])[0]["index"] == index
    assert body["key"] == str(ALICE.verifier)
    assert VerifierKey.parse(body["key"]) == ALICE.verifier
    assert b'"note":"fine"' in statement(body)
    holds(store)


def test_a_reviewers_no_ends_the_run(
    tiny: MakeTask, overrides: list[str], home: Home, store: Store
) -> None:
    governance = Governance(store)
    governance.adopt(REVIEWED, None)
    made = begun(overrides, tiny(), home)
    run = waiting(store, made)
    governance.approve(run, "refused", "too much", None, ALICE)
    with pytest.raises(BudgetError, match=f"a reviewer refused run={run}"):
        made.result(60)
    assert store.run(run)["status"] == "refused"
    assert store.spending() == []
    with pytest.raises(BudgetError, match="a reviewer refused"):
        simulate(task=tiny(), home=home.root, resume=run)
    holds(store)


def test_who_doesnt_wait_is_told_what_to_do_and_can_resume(
    tiny: MakeTask, overrides: list[str], home: Home, store: Store
) -> None:
    governance = Governance(store)
    governance.adopt(REVIEWED, None)
    with pytest.raises(BudgetError, match="waits for a review") as refusal:
        simulate([*overrides, "budget.wait=0"], task=tiny(), home=home.root)
    (row,) = store.runs()
    run = row["id"]
    assert row["status"] == "waiting"
    assert f"tacit ledger approve {run} --key FILE" in refusal.value.hint
    assert f"--resume {run}" in refusal.value.hint
    assert store.spending() == []
    with pytest.raises(BudgetError, match="waits for a review"):
        simulate(task=tiny(), home=home.root, resume=run)
    governance.approve(run, "approved", "", None, ALICE)
    assert simulate(task=tiny(), home=home.root, resume=run).status == "finished"
    holds(store)


def test_a_no_to_a_run_under_way_stops_it(
    tiny: MakeTask, overrides: list[str], home: Home, store: Store
) -> None:
    governance = Governance(store)
    governance.adopt(replace(REVIEWED, review_epsilon=1e3), None)

    def second_thoughts(result: RoundResult) -> None:
        run = store.runs()[0]["id"]
        governance.approve(run, "refused", "it says too much", None, ALICE)

    result = simulate(overrides, task=tiny(), home=home.root, progress=second_thoughts)
    assert (result.status, result.rounds) == ("stopped", 1)
    assert "a reviewer refused" in result.message
    holds(store)


def test_a_run_planned_to_spend_less_than_the_threshold_doesnt_wait(
    tiny: MakeTask, overrides: list[str], home: Home, store: Store
) -> None:
    Governance(store).adopt(replace(REVIEWED, review_epsilon=1e3), None)
    result = simulate([*overrides, "budget.wait=0"], task=tiny(), home=home.root)
    assert result.status == "finished"
    holds(store)


def spends(plan: PrivacyPlan) -> float:
    """What a run is planned to spend."""
    value = budgets.planned(plan).epsilon("client", "public", True)
    assert value is not None
    return value


@BOTH
def test_a_run_whose_failed_rounds_bring_it_above_the_threshold_needs_a_yes(
    tiny: MakeTask, overrides: list[str], home: Home, store: Store
) -> None:
    plan = planned(overrides, tiny())
    governance, limit = Governance(store), spends(plan)
    terms: dict[str, Any] = {"review_epsilon": limit, "delta": plan.client_delta}
    governance.adopt(replace(REVIEWED, **terms), None)
    lots = 0

    def before(kind: str) -> None:
        nonlocal lots
        lots += 1
        if lots == 2:
            raise RuntimeError("the network is gone")

    # As planned it needs nobody's yes; its second round is charged, and fails.
    with pytest.raises(RuntimeError, match="the network is gone"):
        federate(tiny(), overrides, home, [], before)
    run = store.runs()[0]["id"]
    assert governance.awaits_review(run) is None
    # Charged again, it comes to all that was planned; so the third round isn't.
    result = simulate(task=tiny(), home=home.root, resume=run)
    assert (result.status, result.rounds) == ("stopped", 2)
    assert f"review_epsilon={limit:g} of population=tiny would be exceeded" in result.message
    assert train_charges(store) == plan.rounds == 3
    # That it is tried again changes nothing, a reviewer's yes does.
    assert simulate(task=tiny(), home=home.root, resume=run).status == "stopped"
    assert train_charges(store) == 3
    governance.approve(run, "approved", "the network's fault", None, ALICE)
    result = simulate(task=tiny(), home=home.root, resume=run)
    assert (result.status, result.rounds) == ("finished", 3)
    assert train_charges(store) == 4
    holds(store)


@BOTH
@pytest.mark.parametrize("name", ["run_epsilon", "review_epsilon"])
def test_a_large_delta_of_its_own_gets_a_run_no_further(
    name: str, tiny: MakeTask, overrides: list[str], home: Home, store: Store
) -> None:
    delta = planned(overrides, tiny()).client_delta
    settings = [*overrides, "delta=0.9", "budget.wait=0"]
    plan = planned(settings, tiny())
    assert plan.client_delta == 0.9
    # Between what it spends by its own delta and by the policy's.
    limit = 0.99 * spends(replace(plan, client_delta=delta))
    assert spends(plan) < limit
    terms: dict[str, Any] = {"review_epsilon": None, name: limit, "delta": delta}
    Governance(store).adopt(replace(REVIEWED, **terms), None)
    if name == "run_epsilon":
        result = simulate(settings, task=tiny(), home=home.root)
        assert (result.status, result.rounds) == ("stopped", 2)
        assert "run_epsilon" in result.message
    else:
        with pytest.raises(BudgetError, match="waits for a review"):
            simulate(settings, task=tiny(), home=home.root)
        assert store.spending() == []
    holds(store)


def test_only_a_reviewer_adopts_the_next_policy(store: Store) -> None:
    governance = Governance(store)
    governance.adopt(REVIEWED, None)
    size = len(store.leaves())
    for signer in (None, BOB, store.signer):
        with pytest.raises(ConfigError, match="isn't a reviewer's"):
            governance.adopt(Policy(population="tiny", run_epsilon=1e6, delta=DELTA), signer)
    assert len(store.leaves()) == size
    assert governance.policy("tiny") == REVIEWED
    index = governance.adopt(replace(REVIEWED, review_epsilon=2.0), ALICE)
    assert index == size
    # A second look, and another process, see the same.
    for reader in (governance, Governance(store)):
        assert reader.policy("tiny") == replace(REVIEWED, review_epsilon=2.0)
    holds(store)


def test_a_leaf_that_is_said_again_is_found(store: Store) -> None:
    """An operator writes what it likes into its own database; the verifier says so."""
    governance = Governance(store)
    governing.new_run(store, "r", PLAN, "tiny")
    governance.adopt(REVIEWED, None)
    governance.approve("r", "approved", "", None, ALICE)
    governance.approve("r", "refused", "", None, ALICE)
    (yes, _) = (leaf["body"] for leaf in store.leaves(kinds=["APPROVAL"]))
    yes.pop("at")
    index = store.append(yes)
    (finding,) = verify(store).findings
    assert finding.leaf == index
    assert "said again" in finding.problem


def test_the_same_may_be_signed_again(store: Store) -> None:
    governance = Governance(store)
    governing.new_run(store, "r", PLAN, "tiny")
    governance.adopt(REVIEWED, None)
    for verdict in ("approved", "refused", "approved"):
        governance.approve("r", verdict, "", None, ALICE)
    governance.adopt(REVIEWED, ALICE)
    governance.adopt(REVIEWED, ALICE)
    assert governance.awaits_review("r") is None
    holds(store)


def test_an_approval_is_of_a_run_and_says_yes_or_no(store: Store) -> None:
    governance = Governance(store)
    governance.adopt(REVIEWED, None)
    governing.new_run(store, "r", PLAN, "tiny")
    governing.new_run(store, "q", PLAN, "elsewhere")
    size = len(store.leaves())
    with pytest.raises(StorageError, match="run=nobody"):
        governance.approve("nobody", "approved", "", None, ALICE)
    with pytest.raises(ConfigError, match="verdict=perhaps"):
        governance.approve("r", "perhaps", "", None, ALICE)
    with pytest.raises(ConfigError, match="no policy that asks for a review"):
        governance.approve("q", "approved", "", None, ALICE)
    with pytest.raises(ConfigError, match="is no audit of run=r"):
        governance.approve("r", "approved", "", 3, ALICE)
    assert len(store.leaves()) == size
    holds(store)


# Audits


def violated(run: str) -> dict[str, Any]:
    return {
        "kind": "AUDIT",
        "run": run,
        "stage": "result",
        "commitment": "c" * 64,
        "method": "one-run",
        "lower_bound": 9.0,
        "charged": 1.0,
        "violated": True,
    }


@BOTH
def test_an_audit_stops_charges_until_it_is_lifted(store: Store) -> None:
    governance = Governance(store)
    governing.new_run(store, "r", PLAN)
    governing.charge(store, governance, "r")
    index = store.append(violated("r"))
    with pytest.raises(BudgetError, match=f"the audit at leaf {index}"):
        governing.charge(store, governance, "r", 1)
    with pytest.raises(ConfigError, match="is the ledger's own"):
        governance.approve("r", "approved", "", index, store.signer)
    governance.approve("r", "refused", "not yet", index, ALICE)
    with pytest.raises(BudgetError, match=f"the audit at leaf {index}"):
        governing.charge(store, governance, "r", 1)
    governance.approve("r", "approved", "a bug in the audit", index, ALICE)
    governing.charge(store, governance, "r", 1)
    governing.charge(store, Governance(store), "r", 2)


@pytest.mark.parametrize("number", [1, 2])
def test_an_audit_between_charge_and_release_stops_the_release(
    number: int, tiny: MakeTask, overrides: list[str], home: Home, store: Store
) -> None:
    lots = 0

    def before(kind: str) -> None:
        nonlocal lots
        lots += 1
        if lots == number:
            store.append(violated(store.runs()[0]["id"]))

    run, results, refusal = federate(tiny(), overrides, home, [], before)
    assert len(results) == number - 1
    assert (refusal is None) == (number > 1)
    assert store.run(run)["status"] == ("refused" if number == 1 else "stopped")
    assert "the audit at leaf" in store.run(run)["message"]
    assert len(store.versions()) == number - 1
    kinds = [leaf["kind"] for leaf in store.spending(run)]
    assert kinds == ["CHARGE", "RELEASE"] * (number - 1) + ["CHARGE", "ABANDON"]
    # It goes on once somebody has signed that it may.
    if number == 1:
        with pytest.raises(BudgetError, match="the audit at leaf"):
            simulate(task=tiny(), home=home.root, resume=run)
    else:
        assert simulate(task=tiny(), home=home.root, resume=run).status == "stopped"
    assert len(store.versions()) == number - 1
    (index,) = (leaf["index"] for leaf in store.leaves(kinds=["AUDIT"]))
    Governance(store).approve(run, "approved", "explained", index, ALICE)
    assert simulate(task=tiny(), home=home.root, resume=run).status == "finished"
    assert len(store.versions()) == 3
