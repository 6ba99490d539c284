"""The life of a model, from its first version to what a reviewer verifies at the end.

Trained, promoted, trained on, evaluated as a shadow and as a canary, promoted past its gate; its
clients' data decays, the alias falls back by itself, the model is retrained within the budget; a
client withdraws; and the whole history is verified from the ledger by ``tacit-verify``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rolling import SETTINGS, task

from tacit import simulate
from tacit.cli import main
from tacit.privacy.errors import BudgetError, ConfigError
from tacit.privacy.policy import Policy, best_order
from tacit.server import check
from tacit.server.governance import Governance
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle, Move
from tacit.server.registry import ModelRegistry
from tacit.server.retrain import propose
from tacit.server.store import Store
from tacit.simulations.retrain import retrain
from tacit.simulations.rollout import Outcome, rollout

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("remembered")]
ALL_KINDS = {
    *("KEY", "PLAN", "STATUS", "CHARGE", "RELEASE", "POLICY"),
    *("DEPLOY", "ROLLBACK", "GATE", "RETIRE", "ACCESS", "ERASURE"),
}


LONGER = ["rounds=5"]


class Tale:
    """A home, and the commands that are run on it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str], patch: Any) -> None:
        self.root, self._capsys, self._patch = root, capsys, patch

    def tacit(self, *words: str, status: int = 0) -> Any:
        """What a command prints as JSON."""
        self._patch.setattr(sys, "argv", ["tacit", *words, "--home", str(self.root), "--json"])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        assert (ended.value.code or 0) == status, said.err
        return json.loads(said.out) if said.out.strip() else said.err

    def rolled(self, mode: str, challenger: int | None, *overrides: str, **more: Any) -> Outcome:
        given = {"rounds": 20 if mode == "shadow" else 10, "task": task(), **more}
        found = {"challenger": challenger, "mode": mode, "overrides": overrides}
        return rollout("tiny", home=self.root, **{**found, **given})

    def champion(self) -> Move:
        store = Store(Home(self.root))
        found = Lifecycle(store).current("tiny", "champion")
        store.close()
        assert found is not None
        return found


@pytest.fixture
def tale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Tale:
    return Tale(tmp_path / "home", capsys, monkeypatch)


def test_the_life_of_a_model(tale: Tale, tmp_path: Path) -> None:
    # Version 1, and what it takes to be the champion from here on.
    simulate([*SETTINGS["secure"], "rounds=1"], task=task(), home=tale.root)
    tale.tacit("models", "promote", "tiny@1", "--reason", "the first")
    floor = ("--at-least", "0.75", "--margin", "0.05", "--windows", "10")
    tale.tacit("gate", "set", "tiny", *floor, "--fallback-rounds", "3", "--reason", "as agreed")

    # Version 2 begins with it: what was spent on the first counts.
    second = simulate(
        [*SETTINGS["secure"], "rounds=5", "seed=4", "initial=tiny@champion"],
        task=task(),
        home=tale.root,
    )
    newest = second.model_version
    assert newest == 6

    # Nobody promotes it on trust.
    refused = tale.tacit("models", "promote", f"tiny@{newest}", "--reason", "it's new", status=2)
    assert "tacit rollout tiny --challenger" in refused

    # Evaluated beside the champion and never used; then on a canary's share.
    shadow = tale.rolled("shadow", newest)
    assert (shadow.status, shadow.verdict) == ("finished", "pass"), shadow.why
    quiet = ("minimum_survivors=4", "evaluation.noise_multiplier=0.1", "seed=11")
    canary = tale.rolled("canary", newest, *quiet, share=0.3)
    assert (canary.status, canary.verdict) == ("finished", "pass"), canary.why
    evidence = [word for leaf in canary.evidence for word in ("--evidence", str(leaf))]
    why = ("--reason", "shadow and canary passed", *evidence)
    tale.tacit("models", "promote", f"tiny@{newest}", *why)
    assert tale.champion().number == newest

    # Its clients' data decays; the alias falls back by itself, on evidence.
    watched = tale.rolled("watch", None, "seed=12", task=task(decayed=True), rounds=8)
    assert watched.fallback is not None
    assert (watched.fallback.number, watched.fallback.automatic) == (1, True)
    assert watched.rollout["rounds"] == 3
    assert tale.champion().number == 1

    # Retrained on the data as it is now, as far as the population's policy allows.
    cap(tale, rounds=2)
    given: dict[str, Any] = {"home": tale.root, "task": task(decayed=True), "overrides": LONGER}
    result = retrain("tiny", if_needed=True, **given)
    assert result is not None
    assert 1 <= result.rounds < 5
    assert retrain("tiny", if_needed=True, **given) is None
    before = len(leaves(tale))
    with pytest.raises(BudgetError, match="may not be retrained: epsilon="):
        retrain("tiny", **given)
    assert len(leaves(tale)) == before
    tale.tacit("models", "retire", f"tiny@{newest}", "--reason", "its data has changed")

    # A client withdraws.
    case = tale.tacit("erase", "open", "--simulated", "tiny:7")
    identifier = str(case["case"])
    chosen = tale.tacit("erase", "choose", identifier, "keep", "--reason", "within its epsilon")
    assert chosen["choice"]["evidence"]
    tale.tacit("erase", "close", identifier)
    tale.tacit("erase", "report", identifier, "--to", str(tmp_path / "report.md"))
    assert (tmp_path / "report.md").read_text()

    # Who is shown a version is recorded, and where it came from is known.
    tale.tacit("models", "export", "tiny@champion", "--to", str(tmp_path / "champion.safetensors"))
    lineage = tale.tacit("models", "lineage", f"tiny@{newest}")
    assert "tiny@1" in json.dumps(lineage)
    assert tale.tacit("models", "access-log", "tiny")

    verify(tale, tmp_path)


def cap(tale: Tale, rounds: int) -> None:
    """A policy that leaves room for about so many more rounds, and not for a whole training."""
    store = Store(Home(tale.root))
    low, high = 1.0, 1e6
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        adopt(store, middle)
        allowed = propose(store, "tiny", overrides=LONGER, task=task(decayed=True)).allowed
        low, high = (low, middle) if allowed >= rounds else (middle, high)
    adopt(store, high)
    store.close()


def adopt(store: Store, epsilon: float) -> None:
    terms = {"epsilon": epsilon, "delta": 1e-3, "order": best_order(epsilon, 1e-3)}
    Governance(store).adopt(Policy(population="tiny", **terms), None)


def leaves(tale: Tale) -> list[dict[str, Any]]:
    store = Store(Home(tale.root))
    found = [row["body"] for row in store.leaves()]
    store.close()
    return found


def verify(tale: Tale, tmp_path: Path) -> None:
    """The whole history, in the home and, from one file, by who has nothing else."""
    store = Store(Home(tale.root))
    report = check.verify(store)
    assert report.holds, [str(finding) for finding in report.findings]
    registry = ModelRegistry(store.home, store)
    for row in registry.list():
        registry.load(row)
    with pytest.raises(ConfigError, match=r"evidence|gate"):
        Lifecycle(store).move(
            "tiny", "champion", 5, expected=tale.champion().leaf, actor="me", reason="in a hurry"
        )
    key = str(store.signer.verifier)
    store.close()
    tale.tacit("access", "seal")
    bundle = tmp_path / "ledger.tacit"
    tale.tacit("ledger", "export", "--to", str(bundle), "--artifacts", "all")
    assert {leaf["kind"] for leaf in leaves(tale)} >= ALL_KINDS
    done = subprocess.run(
        [Path(sys.executable).with_name("tacit-verify"), bundle, "--key", key, "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["holds"]
    text = bundle.read_text()
    for old, new in (
        ('"automatic":true', '"automatic":false'),
        ('"kind":"RETIRE"', '"kind":"GATE"'),
    ):
        assert old in text
        doctored = tmp_path / "doctored.tacit"
        doctored.write_text(text.replace(old, new, 1))
        broken = subprocess.run(
            [Path(sys.executable).with_name("tacit-verify"), doctored],
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert broken.returncode != 0
