"""What a client insists on, whatever plan a coordinator proposes.

Floors are about one plan, caps about everything that the client takes part in
(`tacit.client.ledger`); both are in its ``floors.json``.

Guarantees: floors come from the client's own file and are checked against the plan before
anything else happens in a round; no message can change them. That a sum needs more than two
thirds of a cohort to be undone isn't among them: it can't be lowered at all.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

from tacit.client.caps import Caps
from tacit.privacy import validate
from tacit.privacy.errors import ConfigError, RoundError, StorageError
from tacit.privacy.plan import PrivacyPlan


@dataclass(frozen=True, slots=True)
class Floors:
    """A client's own limits; the defaults ask for nothing beyond the plan.

    Attributes:
        secure: whether only secure aggregation will do.
        survivors: fewest vectors in a sum.
        noise_multiplier: least, for the client unit, in training and in a federated evaluation.
        record_noise_multiplier: least, for the record unit, where the plan protects it.
        clip: largest L2 bound of an update.
        bits: fewest of a word.
        seeded: whether noise from a simulation's seed will do; a deployed client's file has to
            say so, else it won't.
        rounds: see `tacit.client.caps.Caps`, as for all that follow; None is no limit.
        epsilon: for all of this client's data.
        delta: of ``epsilon``.
        record_epsilon: for one record.
        record_delta: of ``record_epsilon``.
        separation: seconds between participations of different rounds.
    """

    secure: bool = False
    survivors: int = 0
    noise_multiplier: float = 0.0
    record_noise_multiplier: float = 0.0
    clip: float = math.inf
    bits: int = 0
    seeded: bool = True
    rounds: int | None = None
    epsilon: float | None = None
    delta: float | None = None
    record_epsilon: float | None = None
    record_delta: float | None = None
    separation: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_kind(field.name, getattr(self, field.name), field.default)
        validate.at_least("floors.survivors", self.survivors, 0)
        validate.nonnegative("floors.noise_multiplier", self.noise_multiplier)
        validate.nonnegative("floors.record_noise_multiplier", self.record_noise_multiplier)
        validate.at_least("floors.bits", self.bits, 0)
        if not self.clip > 0:
            raise ConfigError(f"floors.clip={self.clip} must be greater than 0")
        self.caps()

    def caps(self) -> Caps:
        """The limits over a lifetime, for `tacit.client.ledger.ClientLedger`."""
        return Caps(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Caps)})

    @classmethod
    def load(cls, path: Path, seeded: bool = True) -> Floors:
        """Reads floors from JSON; a file that isn't there means none.

        Args:
            path: of the file.
            seeded: what holds where the file doesn't say.

        Raises:
            StorageError: the file can't be read.
            ConfigError: it has unknown fields or values out of range.
        """
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return cls(seeded=seeded)
        except (OSError, ValueError) as error:
            raise StorageError(f"floors {path} can't be read: {error}") from error
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(found, dict) or not set(found) <= known:
            raise ConfigError(f"floors {path} should only have {', '.join(sorted(known))}")
        return cls(**{"seeded": seeded, **found})

    def check(self, plan: PrivacyPlan) -> None:
        """Refuses a plan that promises less.

        Raises:
            RoundError: naming the floor.
        """
        client, record = plan.client, plan.record
        multiplier = client.noise_multiplier if client else 0.0
        evaluated = _evaluated(plan)
        bits = plan.updates.bits if plan.updates else 32
        wrong = [
            (self.secure and plan.aggregation != "secure", "aggregation", plan.aggregation),
            (
                plan.minimum_survivors < self.survivors,
                "minimum_survivors",
                plan.minimum_survivors,
            ),
            (
                multiplier < self.noise_multiplier,
                "privacy.client.noise_multiplier",
                multiplier,
            ),
            (
                evaluated < self.noise_multiplier * (1 - 1e-9),
                "evaluation.noise_multiplier",
                evaluated,
            ),
            (
                record is not None and record.noise_multiplier < self.record_noise_multiplier,
                "privacy.record.noise_multiplier",
                record.noise_multiplier if record else 0.0,
            ),
            (bits < self.bits, "secure.bits", bits),
            (
                not self.seeded and plan.noise_source != "os-csprng",
                "noise_source",
                plan.noise_source,
            ),
        ]
        for fails, name, value in wrong:
            if fails:
                raise RoundError(f"the plan's {name}={value} is below this client's floor")
        self.check_clip(client.clip if client else 0.0)

    def check_clip(self, bound: float) -> None:
        """Refuses a clip above this client's.

        Raises:
            RoundError: it is.
        """
        if bound > self.clip:
            raise RoundError(f"clip={bound:g} is above this client's limit of {self.clip:g}")


def _evaluated(plan: PrivacyPlan) -> float:
    """Noise over client-level sensitivity in a federated evaluation; infinite without one."""
    if plan.evaluation is None:
        return math.inf
    if plan.counts is None:
        return plan.evaluation.noise_multiplier
    return math.sqrt(plan.counts.variance) / plan.counts.l2


def _check_kind(name: str, value: object, default: object) -> None:
    """Refuses what JSON may hold instead of a flag, or of a number."""
    if isinstance(default, bool) or isinstance(value, bool):
        if not (isinstance(default, bool) and isinstance(value, bool)):
            what = "true or false" if isinstance(default, bool) else "a number"
            raise ConfigError(f"floors.{name}={value!r} must be {what}")
    elif value is None and default is None:
        return
    elif not isinstance(value, int | float):
        raise ConfigError(f"floors.{name}={value!r} must be a number")
