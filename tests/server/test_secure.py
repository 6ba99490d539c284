"""Secure aggregation through the real coordinator: one sum, whoever drops out or lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from secured import LEGS, changing, failing, federate

from tacit import Result, Task, simulate
from tacit.configs import build
from tacit.privacy.errors import ConfigError, RoundError
from tacit.privacy.ledger import replay
from tacit.server.aggregate import PlainAggregation
from tacit.server.aggregations import aggregation
from tacit.server.cohort import Sampler
from tacit.server.distributed import EncodedAggregation
from tacit.server.home import Home
from tacit.server.secure import SecureAggregation
from tacit.server.store import Store
from tacit.tasks.task import plan as privacy_plan

MakeTask = Callable[..., Task]
PLAIN = "aggregation=plain"


def artifacts(result: Result, home: Home) -> list[str]:
    return [version["artifact"] for version in Store(home).versions(run=result.run)]


# Secure aggregation changes who sees what, and nothing else


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["privacy.client=adaptive", "privacy.client.count_noise=2"],
        ["evaluation=federated"],
        ["weighting=examples", "weighting.cap=10", "privacy.record=none"],
        ["mechanism=discrete_gaussian", "secure.bits=32"],
        ["optimizer=fedadam"],
        ["privacy.client=none", "local.steps=1"],
        ["privacy.client=none", "local.steps=1", "evaluation=federated"],
        ["privacy.client.noise_multiplier=0", "privacy.record=none"],
        ["cohort=20", "minimum_survivors=null", "secure.collusion=2", "secure.bits=16"],
    ],
    ids=lambda settings: " ".join(settings) or "flat",
)
def test_secure_and_plain_release_the_same_models_bit_for_bit(
    tiny: MakeTask, secure: list[str], home: Home, settings: list[str]
) -> None:
    line = [*secure, *settings, "seed=4"]
    hidden = simulate(line, task=tiny(), home=home.root)
    again = simulate(line, task=tiny(), home=home.root)
    seen = simulate([*line, PLAIN], task=tiny(), home=home.root)
    assert len(artifacts(hidden, home)) == 3
    # Fresh keys and masks every time, and they cancel.
    assert artifacts(hidden, home) == artifacts(again, home) == artifacts(seen, home)
    assert hidden.metrics == seen.metrics
    for public in ("client", "client_unamplified", "record", "record_unamplified"):
        assert hidden.epsilon[public] == seen.epsilon[public]
    other = simulate([*line, "seed=5"], task=tiny(), home=home.root)
    assert set(artifacts(other, home)).isdisjoint(artifacts(hidden, home))


def test_what_the_coordinator_may_learn_is_what_differs(
    tiny: MakeTask, secure: list[str], home: Home
) -> None:
    hidden = simulate(secure, task=tiny(), home=home.root).epsilon
    seen = simulate([*secure, PLAIN], task=tiny(), home=home.root).epsilon
    assert hidden["client_coordinator"] is not None
    assert seen["client_coordinator"] is not None
    assert hidden["client"] <= hidden["client_coordinator"] < seen["client_coordinator"]


def test_without_a_seed_it_runs_too_and_nothing_repeats(
    tiny: MakeTask, secure: list[str], home: Home
) -> None:
    runs = [
        simulate([*secure, "seed=null", "rounds=1", kind], task=tiny(), home=home.root)
        for kind in ("aggregation=secure", "aggregation=secure", PLAIN)
    ]
    assert len({run.artifact_sha256 for run in runs}) == 3
    sources = {
        leaf["body"]["noise_source"] for leaf in Store(home).spending() if leaf["kind"] == "CHARGE"
    }
    assert sources == {"os-csprng"}


# Dropouts

EVERYBODY = [
    "attempts=1",
    "experiment=none",
    "clients=20",
    "cohort=20",
    "minimum_survivors=14",
    "secure.dropout=0.2",
    "rounds=1",
    "evaluation=none",
]


def drawn_without(monkeypatch: pytest.MonkeyPatch, gone: set[int]) -> None:
    honest = Sampler.draw

    def draw(self: Sampler, purpose: str, number: int, aborts: int) -> list[int]:
        return [k for k in honest(self, purpose, number, aborts) if k not in gone]

    monkeypatch.setattr(Sampler, "draw", draw)


GONE = {2, 7, 11}


@pytest.mark.parametrize("leg", ["query.advertise", "query.share"])
def test_who_drops_out_before_the_vectors_might_as_well_not_have_been_drawn(
    tiny: MakeTask, home: Home, leg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, (result,) = federate(tiny(), EVERYBODY, home, failing({leg: GONE}))
    assert (result.asked, result.accepted, result.rejected) == (20, 17, {"error": 3})
    drawn_without(monkeypatch, GONE)
    for kind in ("aggregation=secure", PLAIN):
        _, _, (expected,) = federate(tiny(), [*EVERYBODY, kind], home)
        assert (expected.asked, expected.accepted) == (17, 17)
        assert result.artifact == expected.artifact


def test_who_drops_out_with_its_vector_leaves_the_same_sum_as_where_it_is_seen(
    tiny: MakeTask, home: Home
) -> None:
    made = {
        kind: federate(tiny(), [*EVERYBODY, kind], home, failing({"train": GONE}))[2][0]
        for kind in ("aggregation=secure", PLAIN)
    }
    hidden, seen = made.values()
    assert hidden.artifact == seen.artifact
    for result in made.values():
        assert (result.accepted, result.rejected) == (17, {"error": 3})
    whole = federate(tiny(), EVERYBODY, home)[2][0]
    assert whole.artifact != hidden.artifact


@pytest.mark.parametrize("leg", ["query.confirm", "query.reveal"])
def test_who_drops_out_after_its_vector_is_in_the_sum_all_the_same(
    tiny: MakeTask, home: Home, leg: str
) -> None:
    _, _, (result,) = federate(tiny(), EVERYBODY, home, failing({leg: GONE}))
    assert (result.accepted, result.rejected) == (20, {"error": 3})
    _, _, (whole,) = federate(tiny(), EVERYBODY, home)
    assert result.artifact == whole.artifact


def test_dropouts_at_every_leg_add_up(tiny: MakeTask, home: Home) -> None:
    faults = {leg: {k} for k, leg in enumerate(LEGS)}
    _, _, (hidden,) = federate(tiny(), EVERYBODY, home, failing(faults))
    assert (hidden.accepted, hidden.rejected) == (17, {"error": 5})


@pytest.mark.parametrize("leg", LEGS)
def test_too_many_dropouts_release_nothing_and_the_charge_stands(
    tiny: MakeTask, home: Home, leg: str
) -> None:
    task, settings = tiny(), [*EVERYBODY, "rounds=2"]
    most = set(range(15))
    with pytest.raises(RoundError, match="nothing was released") as caught:
        federate(task, settings, home, failing({leg: most}))
    assert "resume" in caught.value.hint
    store = Store(home)
    (run,) = store.runs()
    assert [leaf["kind"] for leaf in store.spending()] == ["CHARGE", "ABANDON"]
    assert (run["status"], run["round"], store.versions()) == ("failed", 0, [])
    # Another attempt is another session and another charge.
    _, _, results = federate(task, [], home, resume=run["id"])
    assert [result.accepted for result in results] == [20, 20]
    bodies = [leaf["body"] for leaf in store.spending()]
    charges = [(b["round"], b["attempt"]) for b in bodies if b["kind"] == "CHARGE"]
    assert charges == [(1, 0), (1, 1), (2, 0)]
    undisturbed = federate(tiny(), settings, Home(home.root / "other"))[2]
    for after, before in zip(results, undisturbed, strict=True):
        assert after.epsilon["client"] > before.epsilon["client"]
        assert after.epsilon["client_coordinator"] > before.epsilon["client_coordinator"]
    deltas = {"client": 20**-1.1, "record": 120**-1.1}
    replayed = replay(bodies, deltas).epsilon("client", "public", True)
    assert replayed == pytest.approx(results[-1].epsilon["client"], rel=1e-6)


def test_one_dropout_more_than_planned_costs_the_round(tiny: MakeTask, home: Home) -> None:
    """A fifth of 20 may drop with its vector: with 4 it is released, with 5 it isn't."""
    for kind in ("aggregation=secure", PLAIN):
        place = Home(home.root / kind.partition("=")[2])
        settings = [*EVERYBODY, kind]
        _, _, (result,) = federate(tiny(), settings, place, failing({"train": range(4)}))
        assert result.accepted == 16
        with pytest.raises(RoundError, match="nothing was released"):
            federate(tiny(), settings, place, failing({"train": range(5)}))


def test_a_cohort_that_fails_whole_says_why(tiny: MakeTask, home: Home) -> None:
    with pytest.raises(RoundError, match=r"(?s)all 20 clients.*the client is gone"):
        federate(tiny(), EVERYBODY, home, failing({"query.advertise": range(20)}))


def test_a_poisoned_client_costs_itself_and_no_round(tiny: MakeTask, home: Home) -> None:
    """Its update isn't finite, which nobody could see: it is encoded as zero."""
    settings = [*EVERYBODY, "privacy.record=none"]
    poisoned = federate(tiny(poison={3: np.nan}), settings, home)[2][0]
    assert poisoned.accepted == 20
    arrays = np.concatenate([a.ravel() for a in released(home, poisoned.artifact)])
    assert np.isfinite(arrays).all()
    assert np.abs(arrays).max() < 10


def released(home: Home, artifact: str) -> list[np.ndarray]:
    from tacit.server.registry import ModelRegistry

    return list(ModelRegistry(home, Store(home)).get(artifact).values())


# Answers that don't fit


def flipped(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize(
    "change",
    [flipped, lambda body: body[:-2], lambda body: b"", lambda body: b"TCT1nonsense"],
    ids=["flipped", "short", "empty", "nonsense"],
)
def test_a_bad_answer_is_counted_and_costs_its_client_only(
    tiny: MakeTask, home: Home, leg: str, change: Callable[[bytes], bytes]
) -> None:
    settings = [*EVERYBODY, "privacy.record=none", "clients=8", "cohort=8", "minimum_survivors=5"]
    settings += ["secure.dropout=0.3"]
    _, _, (result,) = federate(tiny(), settings, home, changing(leg, {3}, change))
    in_sum = 8 if leg in LEGS[3:] else 7
    assert (result.accepted, result.rejected) == (in_sum, {"refused": 1})
    _, _, (gone,) = federate(tiny(), settings, home, failing({leg: {3}}))
    assert result.artifact == gone.artifact


@pytest.mark.parametrize("leg", LEGS)
def test_a_client_cant_answer_for_another(tiny: MakeTask, home: Home, leg: str) -> None:
    kept: list[bytes] = []

    def steal(body: bytes) -> bytes:
        kept.append(body)
        return kept[0]

    settings = [*EVERYBODY, "privacy.record=none"]
    # Client 3 is called first, and 4 says what 3 has said.
    _, _, (result,) = federate(tiny(), settings, home, changing(leg, {3, 4}, steal))
    assert len(kept) == 2
    assert result.rejected == {"refused": 1}


def test_too_many_bad_answers_end_the_round_and_name_the_first_refusal(
    tiny: MakeTask, home: Home
) -> None:
    liars = changing("train", range(15), flipped)
    with pytest.raises(RoundError, match=r"sent a vector.*first refusal: .*signed"):
        federate(tiny(), EVERYBODY, home, liars)


# Federated evaluation


def test_federated_counts_are_charged_released_and_noised_once(
    tiny: MakeTask, secure: list[str], home: Home
) -> None:
    settings = [*secure, "evaluation=federated", "evaluation.every=2"]
    store, run, results = federate(tiny(test=False), settings, home)
    leaves = [row["body"] for row in store.spending(run)]
    shape = [(b["kind"][0], b["round"], b["purpose"]) for b in leaves]
    evaluated = [
        row
        for n in (2, 3)
        for row in (
            ("C", n, "train"),
            ("C", n, "evaluate"),
            ("R", n, "evaluate"),
            ("R", n, "train"),
        )
    ]
    assert shape == [("C", 1, "train"), ("R", 1, "train"), *evaluated]
    assert set(results[-1].metrics) == {"accuracy", "loss", "accuracy_noise"}
    spec = build.compose(settings)
    plan = privacy_plan(tiny(test=False), spec)
    claimed = [c for b in leaves if b["kind"] == "CHARGE" for c in b["claims"]]
    for_counts = [
        c
        for b in leaves
        if (b["kind"], b["purpose"]) == ("CHARGE", "evaluate")
        for c in b["claims"]
        if c["unit"] == "client"
    ]
    assert plan.counts is not None
    assert {c["event"]["type"] for c in claimed if c["unit"] == "client"} == {"sampled_skellam"}
    (whole,) = {c["event"]["variance"] for c in for_counts if c["adversary"] == "public"}
    assert whole == pytest.approx(plan.counts.variance, rel=1e-8)
    without = simulate([*secure, "evaluation=none"], task=tiny(), home=home.root)
    for row in ("client", "client_coordinator"):
        assert results[-1].epsilon[row] > without.epsilon[row]


def test_an_evaluation_that_fails_releases_nothing_and_both_charges_stand(
    tiny: MakeTask, home: Home
) -> None:
    settings = [*EVERYBODY, "evaluation=federated"]
    with pytest.raises(RoundError, match="nothing was released"):
        federate(tiny(), settings, home, failing({"evaluate": range(15)}))
    store = Store(home)
    leaves = [(row["body"]["kind"], row["body"]["purpose"]) for row in store.spending()]
    assert leaves[:2] == [("CHARGE", "train"), ("CHARGE", "evaluate")]
    assert sorted(leaves[2:]) == [("ABANDON", "evaluate"), ("ABANDON", "train")]
    assert store.versions() == []
    (run,) = store.runs()
    _, _, (result,) = federate(tiny(), [], home, resume=run["id"])
    assert result.accepted == 20
    once = federate(tiny(), settings, Home(home.root / "other"))[2][0]
    assert result.epsilon["client"] > once.epsilon["client"]


def test_federated_accuracy_without_noise_is_the_pooled_accuracy(
    tiny: MakeTask, home: Home
) -> None:
    task = tiny()
    settings = [*EVERYBODY, "evaluation=federated", "evaluation.noise_multiplier=0"]
    settings += ["privacy.record=none"]
    for kind in ("aggregation=secure", PLAIN):
        _, _, (result,) = federate(task, [*settings, kind], home)
        weight, bias = released(home, result.artifact)
        if weight.ndim == 1:
            weight, bias = bias, weight
        right = total = 0
        for k in range(20):
            x, y = task.data(k)
            right += int((np.argmax(x @ weight.T + bias, 1) == y).sum())
            total += len(y)
        # The counts are rounded to the lattice, finer than one record in a hundred.
        assert result.metrics["accuracy"] == pytest.approx(right / total, abs=2e-3)
        assert result.epsilon["client"] is None


def test_the_counts_noise_has_the_planned_deviation(tiny: MakeTask, home: Home) -> None:
    """Empty clients count nothing: what is released is the noise, over a cap of one.

    A share of the counts' noise for each of three counts and 40 rounds: 120 draws; the
    bounds are six deviations of the estimate, sqrt(2 / 120) each.
    """
    empty = Task(**{**vars_of(tiny()), "data": lambda k: (np.zeros((0, 4)), np.zeros(0))})
    settings = [*EVERYBODY, "rounds=40", "clients=6", "cohort=6", "minimum_survivors=4"]
    settings += ["privacy.record=none", "evaluation=federated", "evaluation.noise_multiplier=2"]
    seen: list[np.ndarray] = []
    honest = EncodedAggregation.evaluate

    def noting(self: EncodedAggregation, *arguments: object) -> object:
        made = honest(self, *arguments)  # type: ignore[arg-type]
        seen.append(made.total)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EncodedAggregation, "evaluate", noting)
        federate(empty, [*settings, PLAIN, "secure.dropout=0"], home)
    counts = np.stack(seen)
    assert counts.shape == (40, 3)
    deviation = np.sqrt(np.mean(counts**2)) / (2 * np.sqrt(3))
    assert abs(deviation - 1) < 6 * np.sqrt(1 / (2 * counts.size))


def vars_of(task: Task) -> dict[str, object]:
    return {name: getattr(task, name) for name in Task.__dataclass_fields__}


# Which aggregation a plan gets


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (["mechanism=central", PLAIN], PlainAggregation),
        ([PLAIN], EncodedAggregation),
        (["mechanism=discrete_gaussian", "secure.bits=32", PLAIN], EncodedAggregation),
        ([], SecureAggregation),
    ],
)
def test_the_plan_decides_how_sums_are_made(
    tiny: MakeTask, secure: list[str], settings: list[str], kind: type
) -> None:
    from tacit.privacy.secagg.directory import LocalDirectory

    plan = privacy_plan(tiny(), build.compose([*secure, *settings]))
    assert type(aggregation(plan, LocalDirectory())) is kind
    if kind is not SecureAggregation:
        assert type(aggregation(plan, None)) is kind


def test_secure_aggregation_without_a_directory_is_refused(
    tiny: MakeTask, secure: list[str]
) -> None:
    plan = privacy_plan(tiny(), build.compose(secure))
    with pytest.raises(ConfigError, match="directory") as caught:
        aggregation(plan, None)
    assert "enrol" in caught.value.hint


def test_a_run_keeps_no_secrets_of_its_clients(
    tiny: MakeTask, secure: list[str], tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    simulate([*secure, "rounds=1"], task=tiny(), home=home.root)
    files = {p for p in home.root.rglob("*") if p.suffix in (".key", ".vault")}
    assert files == {home.signing_key}
