"""A statement says what the leaves say: recomputed here by other means, and never more."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from tacit.privacy.accountant import Accountant
from tacit.privacy.accountant import epsilon as epsilon_of
from tacit.privacy.errors import AccountingError, ConfigError, MessageError
from tacit.privacy.events import SampledGaussian
from tacit.privacy.log import leaves as log
from tacit.privacy.log.merkle import Tree, leaf_hash
from tacit.privacy.log.notes import Checkpoint, SignerKey, sign_note
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.statement import words
from tacit.privacy.statement.registry import BY_OPERATOR, NOT_CLAIMED, OPERATOR_FIELDS
from tacit.privacy.statement.statement import markdown, registry_entry, sections, statement
from tacit.privacy.units import AdaptiveClip, ClientUnit, RecordUnit

Leaf = dict[str, Any]
SIGNER = SignerKey("test.ledger", bytes(range(32)))
AT = "2026-03-04T05:06:07Z"


def plan(**changes: Any) -> PrivacyPlan:
    fields: dict[str, Any] = {
        "population": 1000,
        "sampling_rate": 0.1,
        "rounds": 5,
        "client": ClientUnit(clip=0.5, noise_multiplier=2.0),
        "record": None,
        "client_delta": 1e-5,
        "record_delta": 1e-6,
        "minimum_survivors": 7,
        "noise_source": "os-csprng",
    }
    return PrivacyPlan(**{**fields, **changes})


class Ledger:
    """Leaves as a coordinator would append them."""

    def __init__(self, keyed: bool = True) -> None:
        self.leaves: list[Leaf] = []
        self.versions = 0
        if keyed:
            self.key()

    def add(self, body: Leaf) -> int:
        self.leaves.append({"at": AT, **body})
        return len(self.leaves) - 1

    def key(self) -> None:
        self.add(log.key(SIGNER.name, str(SIGNER.verifier), None, None))

    def plan(self, made: PrivacyPlan, run: str = "r1", **more: Any) -> None:
        body = json.loads(json.dumps(made.to_json()))
        for name in more.pop("without", ()):
            del body[name]
        self.add(
            {
                "kind": "PLAN",
                "run": run,
                "name": more.pop("name", "m"),
                "population": "p",
                "plan": log.digest(body),
                "body": body,
                "spec": "5" * 64,
                "code": "tacit 9",
                "actor": "alice",
                **more,
            }
        )

    def charge(self, made: PrivacyPlan, round: int, attempt: int = 0, run: str = "r1") -> int:
        return self.add(
            log.charge(
                run=run,
                round=round,
                attempt=attempt,
                purpose="train",
                plan_digest=made.digest(),
                cohort="c" * 64,
                claims=made.training(),
                participations=round,
                noise_source=made.noise_source,
            )
        )

    def release(self, made: PrivacyPlan, round: int, attempt: int = 0, **more: Any) -> int:
        run = more.pop("run", "r1")
        charge = self.charge(made, round, attempt, run)
        self.versions += 1
        place = {"run": run, "round": round, "attempt": attempt, "purpose": "train"}
        said = {
            "charge": charge,
            "plan": made.digest(),
            "metrics": {},
            "evaluation": "public",
            "artifact": "a" * 64,
            "name": "m",
            "number": self.versions,
            "parent": None,
        }
        return self.add({"kind": "RELEASE", **place, **said, **more})

    def note(self, signer: SignerKey = SIGNER) -> str:
        tree = Tree()
        for body in self.leaves:
            tree.append(leaf_hash(log.leaf_bytes(body)))
        return sign_note(Checkpoint(SIGNER.name, tree.size, tree.root()).text(), signer)

    def state(self, release: int, **about: Any) -> dict[str, Any]:
        return statement(list(enumerate(self.leaves)), release, self.note(), about or None)


def figure(made: dict[str, Any], unit: str, adversary: str, amplified: bool) -> Any:
    rows = [
        r["epsilon"]
        for r in made["guarantees"]
        if (r["unit"], r["adversary"], r["amplified"]) == (unit, adversary, amplified)
    ]
    assert len(rows) == 1
    return rows[0]


def empties(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, found in value.items():
            yield from empties(found, f"{path}.{name}")
    elif isinstance(value, list):
        for place, found in enumerate(value):
            yield from empties(found, f"{path}.{place}")
    elif value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        yield path


def test_epsilon_is_that_of_the_charges_up_to_the_version_and_of_no_later_one() -> None:
    ledger, made = Ledger(), plan()
    ledger.plan(made)
    first = ledger.release(made, 1)
    ledger.charge(made, 2)
    ledger.add(
        {"kind": "ABANDON", "run": "r1", "round": 2, "attempt": 0, "purpose": "train",
         "reason": "abort"}
    )  # fmt: skip
    second = ledger.release(made, 2, attempt=1, parent=first)
    ledger.release(made, 3, parent=second)
    for release, charges, counts in ((first, 1, (1, 1, 0)), (second, 3, (2, 3, 1))):
        said = ledger.state(release)
        for amplified, rate in ((True, 0.1), (False, 1.0)):
            expected = epsilon_of([SampledGaussian(2.0, rate, charges)], 1e-5)
            assert figure(said, "client", "public", amplified) == pytest.approx(expected.value)
        rounds = said["rounds"]
        names = ("released", "charges", "abandoned_charges")
        assert tuple(rounds[name] for name in names) == counts
        assert rounds["open_charges"] == 0
        then = said["composition"]["at_release"]["runs"]
        assert then[0]["charges"] == charges
        now = said["composition"]["at_checkpoint"]["runs"]
        assert now[0]["charges"] == 4, "the total of the population is as of the checkpoint too"
        assert any("charged again" in warning for warning in said["warnings"])
    assert said["model"]["parent"] == f"m@1 (leaf {first})"
    assert said["model"]["ancestors"] == ["m@1"]
    # A reader of the first version may hold a ledger that ends there.
    ledger.leaves = ledger.leaves[: first + 1]
    assert not any("charged again" in w for w in ledger.state(first)["warnings"])


def test_what_isnt_claimed_says_so_in_every_row_and_no_field_is_empty() -> None:
    ledger, made = Ledger(), plan()
    ledger.plan(made)
    said = ledger.state(ledger.release(made, 1))
    assert list(empties(said)) == []
    assert figure(said, "client", "coordinator", False) == NOT_CLAIMED
    assert figure(said, "client", "collusion", False) == NOT_CLAIMED
    assert {(r["unit"], r["adversary"]) for r in said["guarantees"]} == {
        (u, a)
        for u in ("client", "record")
        for a in ("public", "coordinator", "collusion", "local")
    }
    assert said["trust"]["minimum_survivors"] == 7
    assert said["trust"]["colluding_clients"] == NOT_CLAIMED
    assert {f["value"] for f in said["deployment"].values()} == {NOT_CLAIMED}
    assert list(empties(registry_entry(said))) == []


def test_mechanism_and_sampling_are_the_plans() -> None:
    made = plan(record=RecordUnit(2.0, 1.5, 0.25, 3, 10.0))
    ledger = Ledger()
    ledger.plan(made)
    said = ledger.state(ledger.release(made, 1))
    assert said["mechanism"]["client"]["l2_sensitivity"] == 0.5
    assert said["mechanism"]["client"]["noise_variance"] == pytest.approx(1.0)
    assert said["mechanism"]["record"]["noise_variance_of_a_step"] == pytest.approx(9.0)
    assert said["sampling"]["expected_cohort"] == pytest.approx(100.0)
    assert [u["delta"] for u in said["units"]] == [1e-5, 1e-6]
    assert said["provenance"]["actor"] == "alice"
    assert said["provenance"]["plan"] == made.digest()


def test_an_adaptive_clip_has_no_one_variance() -> None:
    made = plan(client=ClientUnit(0.5, 1.0, AdaptiveClip(0.5, 0.2, 5.0)))
    ledger = Ledger()
    ledger.plan(made)
    said = ledger.state(ledger.release(made, 1))
    z = (1.0 - 0.01) ** -0.5
    assert said["mechanism"]["client"]["noise_variance"].startswith(f"({z:.6g} times")
    assert "adaptive afterwards" in said["units"][0]["bound"]


def test_seeded_noise_is_warned_of_and_never_registered_as_epsilon() -> None:
    made = plan(noise_source="seeded-simulation")
    ledger = Ledger()
    ledger.plan(made)
    said = ledger.state(ledger.release(made, 1))
    assert "PROTECTS NOBODY" in said["warnings"][0]
    assert "protects nobody" in " ".join(said["summary"])
    text = markdown(said)
    assert text.index("PROTECTS NOBODY") < text.index("##")
    entry = registry_entry(said)["deployment"]
    assert "privacy_parameters" not in entry["privacy_loss"]
    assert "variant_name" not in entry["dp_variant"]
    assert "PROTECTS NOBODY" in entry["basic"]["description"]


def test_without_noise_nothing_is_claimed_in_words_or_numbers() -> None:
    made = plan(client=ClientUnit(0.5, 0.0))
    ledger = Ledger()
    ledger.plan(made)
    said = ledger.state(ledger.release(made, 1))
    assert said["headline"] == NOT_CLAIMED
    assert {row["epsilon"] for row in said["guarantees"]} == {NOT_CLAIMED}
    assert words.NOTHING in said["summary"]
    assert words.NOTHING in said["warnings"]
    assert not any(unit["claimed"] for unit in said["units"])
    assert "privacy_parameters" not in registry_entry(said)["deployment"]["privacy_loss"]


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0, 5.0, 60.0])
@pytest.mark.parametrize("delta", [0.0, 1e-6, 0.05])
def test_the_guess_is_the_worst_mechanisms_bayes_risk(epsilon: float, delta: float) -> None:
    # The (e, d)-DP mechanism that dominates all others (Kairouz et al. 2015, section 5.1).
    e = math.exp(epsilon)
    p = [delta, (1 - delta) * e / (1 + e), (1 - delta) / (1 + e), 0.0]
    right = sum(max(a, b) for a, b in zip(p, reversed(p), strict=True)) / 2
    assert words.guess_at_most(epsilon, delta) == pytest.approx(right, rel=1e-12)


def test_percentages_are_rounded_up() -> None:
    assert words.percent(0.5) == "50.0%"
    assert words.percent(0.73101) == "73.2%"
    assert words.percent(0.9999) == "100.0%"


def test_the_summary_has_both_figures_and_what_it_rests_on() -> None:
    ledger, made = Ledger(), plan()
    ledger.plan(made)
    said = ledger.state(ledger.release(made, 1))
    text = " ".join(said["summary"])
    for amplified in (True, False):
        value = figure(said, "client", "public", amplified)
        assert words.percent(words.guess_at_most(value, 1e-5)) in text
        assert f"epsilon {math.ceil(value * 1e4) / 1e4:.4f}" in text
    assert "keeps the Poisson draw of the cohort secret" in text
    assert "coordinator nothing is claimed" in text


def test_other_runs_on_the_population_are_composed() -> None:
    ledger, made, other = Ledger(), plan(), plan(client=ClientUnit(0.5, 3.0))
    ledger.plan(other, run="r0")
    ledger.release(other, 1, run="r0")
    ledger.plan(made)
    said = ledger.state(ledger.release(made, 1))
    rows = said["composition"]["at_release"]["rows"]
    total = next(r for r in rows if r["unit"] == "client" and r["adversary"] == "public"
                 and r["amplified"])  # fmt: skip
    both = Accountant(1e-5)
    both.compose(SampledGaussian(2.0, 0.1))
    both.compose(SampledGaussian(3.0, 0.1))
    assert total["epsilon"] == pytest.approx(both.epsilon())
    assert total["epsilon"] > figure(said, "client", "public", True)
    assert any("1 more run(s) on the same population" in w for w in said["warnings"])


def test_an_older_plan_leaves_its_unknown_fields_unclaimed() -> None:
    ledger, made = Ledger(keyed=False), plan()
    release = ledger.release(made, 1)
    for name in ("parent", "at"):
        del ledger.leaves[release][name]
    ledger.key()
    missing = ("mechanism", "aggregation", "rules", "updates", "counts", "projection", "relation")
    ledger.plan(made, without=missing, adopted={"round": 1}, actor=None)
    del ledger.leaves[-1]["actor"]
    digest = ledger.leaves[-1]["plan"]
    for leaf in ledger.leaves[: release + 1]:
        leaf["plan"] = digest
    said = ledger.state(release)
    assert list(empties(said)) == []
    mechanism = said["mechanism"]
    for name in ("name", "aggregation", "in_words", "noise_distribution", "projection", "lattice"):
        assert mechanism[name] == NOT_CLAIMED, name
    assert said["relation"] == {"name": NOT_CLAIMED, "in_words": NOT_CLAIMED}
    assert said["model"]["parent"] == said["model"]["released_at"] == NOT_CLAIMED
    assert said["provenance"]["actor"] == NOT_CLAIMED
    assert said["mechanism"]["client"]["clip"] == 0.5, "what it does know is there"
    assert figure(said, "client", "public", True) == pytest.approx(
        epsilon_of([SampledGaussian(2.0, 0.1)], 1e-5).value
    )
    assert any("older" in warning for warning in said["warnings"])
    assert any("Another tacit" in warning for warning in said["warnings"])
    assert "model_name" not in registry_entry(said)["deployment"]["deployment_model"]
    markdown(said)


def test_approvals_policies_and_audits_name_who_signed() -> None:
    import base64

    reviewer = SignerKey("reviewer", bytes(32))
    ledger, made = Ledger(), plan()
    ledger.plan(made)
    terms = {"population": "p", "unit": "client", "amplified": True, "epsilon": None,
             "delta": 1e-5, "window_days": None, "order": None, "run_epsilon": 9.0,
             "separation_hours": None, "review_epsilon": None,
             "reviewers": [str(reviewer.verifier)]}  # fmt: skip
    policy = ledger.add(
        {"kind": "POLICY", "run": "", "policy": terms, "key": None, "signature": None}
    )
    body = {"kind": "APPROVAL", "run": "r1", "plan": made.digest(), "verdict": "approved",
            "lifts": None, "note": "fine | by me", "key": str(reviewer.verifier)}  # fmt: skip
    signature = base64.b64encode(reviewer.sign(log.statement(body))).decode()
    ledger.add({**body, "signature": signature})
    ledger.add({**body, "note": "forged", "signature": signature})
    release = ledger.release(made, 1)
    ledger.add({"kind": "AUDIT", "run": "r1", "stage": "result", "commitment": "d" * 64,
                "lower_bound": 8.0, "charged": 0.5, "violated": True})  # fmt: skip
    said = ledger.state(release)
    good, forged = said["approvals"]
    assert good["signed_by"] == str(reviewer.verifier)
    assert good["signature"] == "valid"
    assert forged["signature"].startswith("not valid")
    assert said["policies"]["at_release"]["leaf"] == policy
    assert "run_epsilon=9.0" in said["policies"]["at_release"]["terms"]
    audit = said["audits"][0]
    assert (audit["lower_bound"], audit["charged"], audit["method"]) == (8.0, 0.5, NOT_CLAIMED)
    assert audit["when"] == "after this version"
    assert "REFUTED" in said["warnings"][0]
    assert "fine \\| by me" in markdown(said)
    assert list(empties(said)) == []


def test_figures_beside_a_release_that_arent_its_charges_are_told() -> None:
    ledger, made = Ledger(), plan()
    ledger.plan(made)
    said = ledger.state(ledger.release(made, 1, epsilon={"client": 0.001}))
    assert any("(client)" in warning for warning in said["warnings"])
    assert figure(said, "client", "public", True) > 0.01


def test_leaves_that_the_checkpoint_doesnt_sign_are_refused() -> None:
    ledger, made = Ledger(), plan()
    ledger.plan(made)
    release = ledger.release(made, 1)
    numbered, note = list(enumerate(ledger.leaves)), ledger.note()
    changed = [(i, {**b, "at": "now"}) for i, b in numbered]
    with pytest.raises(MessageError, match="aren't those"):
        statement(changed, release, note)
    with pytest.raises(MessageError, match="aren't those"):
        statement(numbered[:-1], release - 1, note)
    with pytest.raises(MessageError, match="is missing"):
        statement(numbered[1:], release, note)
    with pytest.raises(MessageError):
        statement(numbered, release, ledger.note(SignerKey("other", bytes(32))))
    with pytest.raises(ConfigError, match="no model version"):
        statement(numbered, release - 1, note)
    with pytest.raises(ConfigError, match="no model version"):
        statement(numbered, 99, note)


def test_later_leaves_than_the_checkpoints_dont_count() -> None:
    ledger, made = Ledger(), plan()
    ledger.plan(made)
    release = ledger.release(made, 1)
    note, before = ledger.note(), ledger.state(release)
    ledger.release(made, 2, parent=release)
    assert statement(list(enumerate(ledger.leaves)), release, note) == before


def test_a_release_without_its_charge_is_an_error() -> None:
    ledger, made = Ledger(), plan()
    ledger.plan(made)
    release = ledger.release(made, 1)
    del ledger.leaves[release - 1]
    with pytest.raises(AccountingError):
        ledger.state(release - 1)


def test_a_plan_that_isnt_its_digests_is_an_error() -> None:
    ledger, made = Ledger(), plan()
    ledger.plan(made)
    ledger.leaves[-1]["body"]["client_delta"] = 0.5
    release = ledger.release(made, 1)
    with pytest.raises(MessageError, match="isn't the one of its digest"):
        ledger.state(release)


def test_what_the_operator_says_is_marked_as_such() -> None:
    ledger, made = Ledger(), plan()
    ledger.plan(made)
    release = ledger.release(made, 1)
    about = {"data_curators": "ACME; Globex", "data_product_sector": "Healthcare", "notes": "n"}
    said = ledger.state(release, **about)
    assert said["deployment"]["data_curators"] == {"value": "ACME; Globex", "source": BY_OPERATOR}
    assert said["deployment"]["contact"]["source"] == NOT_CLAIMED
    entry = registry_entry(said)["deployment"]
    assert entry["basic"]["data_curators"] == ["ACME", "Globex"]
    assert entry["basic"]["data_product_sector"] == "Healthcare"
    assert (
        f"{BY_OPERATOR}: data_curators, data_product_sector, notes."
        in (entry["administrative"]["notes"])
    )
    for bad in ({"epsilon": "0.1"}, {"notes": " "}, {"data_curators": ";"},
                {"data_product_sector": "Magic"}, {"notes": 3}):  # fmt: skip
        with pytest.raises(ConfigError, match=r"about"):
            ledger.state(release, **bad)


# opendp/deployments-registry-data, schemas/deployments-schema.yaml at 3e9c812 (see the module).
SCHEMA: dict[str, tuple[set[str], set[str]]] = {
    "basic": (
        {"name", "data_curators", "description", "intended_use", "data_product_type",
         "data_product_region", "publication_date"},
        {"data_product_sector"},
    ),
    "dp_variant": (set(), {"variant_name", "data_domain", "unprotected_quantities"}),
    "privacy_loss": (
        set(),
        {"privacy_unit", "privacy_unit_details", "privacy_parameters",
         "privacy_parameters_details"},
    ),
    "deployment_model": (
        set(),
        {"model_name", "model_name_details", "actors", "release_type", "release_type_details",
         "data_source_type", "data_source_type_details", "access_type", "access_type_details"},
    ),
    "accounting": (set(), {"post_processing", "composition"}),
    "implementation": (
        set(), {"preprocessing_and_hyperparameter_tuning", "mechanisms", "justification"}
    ),
    "administrative": ({"registry_authors"}, {"sources", "notes"}),
}  # fmt: skip


def test_the_registrys_entry_has_its_fields_and_no_others() -> None:
    ledger, made = Ledger(), plan()
    ledger.plan(made)
    about = dict.fromkeys(OPERATOR_FIELDS, "said")
    about |= {"data_product_sector": "Finance", "data_source_type": "Dynamic"}
    said = ledger.state(ledger.release(made, 1), **about)
    entry = registry_entry(said)
    assert json.loads(json.dumps(entry)) == entry
    assert set(entry) == {"url_slug", "status", "tier", "deployment"}
    assert (entry["status"], entry["tier"], entry["url_slug"]) == ("Draft", 3, "m-1")
    parts = entry["deployment"]
    assert set(parts) == set(SCHEMA)
    for name, (required, optional) in SCHEMA.items():
        assert set(parts[name]) == required | optional, name
    assert parts["privacy_loss"]["privacy_parameters"] == {
        "epsilon": figure(said, "client", "public", True),
        "delta": 1e-5,
    }
    assert parts["deployment_model"]["model_name"] == "Central"
    assert parts["basic"]["publication_date"] == "2026-03-04"


def test_markdown_shows_names_and_notes_as_text() -> None:
    ledger, made = Ledger(), plan()
    ledger.plan(made)
    said = ledger.state(ledger.release(made, 1, name="<b>x"), notes="a|b\n# [c](d) `e` \x1b[31m*f*")
    text = markdown(said)
    assert "<b>" not in text
    assert "&lt;b&gt;x@1" in text
    assert "\x1b" not in text
    assert "a\\|b \\# \\[c\\](d) \\`e\\`" in text
    assert registry_entry(said)["url_slug"] == "b-x-1"


def test_every_part_is_in_a_section() -> None:
    ledger, made = Ledger(), plan()
    ledger.plan(made)
    said = ledger.state(ledger.release(made, 1))
    shown = "\n".join(
        cell
        for section in sections(said)
        for cell in (*section.paragraphs, *(c for row in section.rows for c in row))
    )
    for value in (
        said["checkpoint"]["root"],
        said["provenance"]["code"],
        "a" * 64,
        "docs/security",
    ):
        assert value in shown
    for section in sections(said):
        assert all(len(row) == len(section.columns) for row in section.rows)
