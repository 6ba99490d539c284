"""A rollout asks nobody who has withdrawn, and who took part in one is found there too."""

from __future__ import annotations

import pytest
from erasing import asked
from rolling import CLIENTS, task, trained

from tacit.server import check
from tacit.server.erasure.cases import Cases
from tacit.server.home import Home
from tacit.server.store import Store
from tacit.simulations.rollout import rollout


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize("kind", ["central", pytest.param("secure", marks=pytest.mark.slow)])
def test_of_rollouts(home: Home, kind: str) -> None:
    trained(home.root, kind)
    store = Store(home)
    cases = Cases(store)
    more = {"task": task(), "home": home.root, "challenger": 6, "mode": "ab", "rounds": 2}
    fewer = ["minimum_survivors=5"]
    first = rollout("tiny", overrides=fewer, **more).run  # type: ignore[arg-type]
    case = cases.open(asked(3), "me").id
    second = rollout("tiny", overrides=fewer, **more).run  # type: ignore[arg-type]
    everybody = set(range(CLIENTS))
    assert [set(m) for _, m in store.cohorts(first)] == [everybody] * 2
    assert [set(m) for _, m in store.cohorts(second)] == [everybody - {3}] * 2
    found = cases.affected(case)
    mine = [x for x in found.charges if x["run"] == first]
    assert [(x["purpose"], x["open"]) for x in mine] == [("evaluate", False)] * 2
    assert not [x for x in found.charges if x["run"] == second]
    # Counts of an evaluation are in no model.
    assert {v["run"] for v in found.versions} == {store.runs()[0]["id"]}
    evidence = cases.choose(case, "keep", "little", "me").body["choice"]["evidence"]
    told = {(r["adversary"], r["amplified"]): r["epsilon"] for r in evidence}
    assert told["public", False] is not None
    assert (told["coordinator", False] is not None) == (kind == "secure")
    cases.close(case, "me")
    assert check.verify(store).holds
    store.close()
