"""Plans with noise in shares, of a size that real ones have."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from tacit.privacy.discrete.lattice import Lattice, Need, sized
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.units import ClientUnit, Evaluation, RecordUnit

CLIENT = ClientUnit(0.5, 1.2)
RECORD = RecordUnit(1.0, 0.8, 0.1, 1, 32.0)
RULES = Rules(25, 90, 0.1, 5)
EVALUATION = Evaluation(5, 100, 4.0, 3.0)


def lattice(z: float = 1.2, share: float = 0.0, **changes: Any) -> Lattice:
    """Of 50 coordinates in words of 32 bits."""
    need = Need(
        dimension=50,
        rotated=True,
        clients=RULES.largest,
        noise_multiplier=z,
        conditional=share == 0,
        record_share=share,
    )
    return sized(replace(need, **changes), 32)


UPDATES, BY_RECORD = lattice(), lattice(0.8 * math.sqrt(60), 1 / 16)
COUNTS = lattice(3.0, rotated=False, dimension=3, conditional=False)
BASE: dict[str, Any] = {
    "population": 300,
    "sampling_rate": 0.2,
    "rounds": 60,
    "client": CLIENT,
    "record": None,
    "client_delta": 1e-4,
    "record_delta": 1e-5,
    "minimum_survivors": 25,
    "noise_source": "os-csprng",
    "mechanism": "skellam",
    "aggregation": "secure",
    "rules": RULES,
    "updates": UPDATES,
    "relation": "zero-out",
}
BY_RECORDS = {"client": None, "record": RECORD, "updates": BY_RECORD, "projection": 0.05}


def plan(*, z: float | None = None, collusion: int | None = None, **changes: Any) -> PrivacyPlan:
    """A plan with ``changes``, another multiplier of noise, or other colluders."""
    if z is not None:
        changes |= {"client": replace(CLIENT, noise_multiplier=z), "updates": lattice(z)}
    if collusion is not None:
        changes |= {"rules": replace(RULES, collusion=collusion)}
    return PrivacyPlan(**{**BASE, **changes})
