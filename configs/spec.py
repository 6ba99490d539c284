"""A run's whole configuration as frozen dataclasses, validated at construction.

Each class is one node of the YAML under `tacit.configs`; field names are the override keys
and are stable. `RunSpec.from_dict` is the only way in from untyped data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import rfc8785

from tacit.configs.faults import FaultsSpec
from tacit.privacy import validate
from tacit.privacy.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Where a built-in task finds its data.

    Attributes:
        root: a folder of its files, or None for the places the task knows.
        hub: whether the Hugging Face hub may be asked when nothing is found locally.
    """

    root: str | None
    hub: bool


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """How a pooled dataset is split into simulated clients (flwr-datasets).

    Attributes:
        kind: "iid", "dirichlet" (label skew), "shards" (few labels each) or "natural" (by a
            column of the data).
        alpha: of Dirichlet; smaller is more skewed.
        shards: shards of each client.
        column: of "natural"; the label for the others.
    """

    kind: str
    alpha: float
    shards: int
    column: str

    def __post_init__(self) -> None:
        validate.one_of("partition", self.kind, ("iid", "dirichlet", "shards", "natural"))
        validate.positive("partition.alpha", self.alpha)
        validate.at_least("partition.shards", self.shards, 1)


@dataclass(frozen=True, slots=True)
class ClientPrivacySpec:
    """Client-level DP, `tacit.privacy.units.ClientUnit` in the words of the command line."""

    kind: str
    noise_multiplier: float
    clip: float
    quantile: float
    quantile_learning_rate: float
    count_noise: float | None

    def __post_init__(self) -> None:
        validate.one_of("privacy.client", self.kind, ("flat", "adaptive", "none"))
        validate.nonnegative("privacy.client.noise_multiplier", self.noise_multiplier)
        validate.positive("privacy.client.clip", self.clip)


@dataclass(frozen=True, slots=True)
class RecordPrivacySpec:
    """Record-level DP, `tacit.privacy.units.RecordUnit` in the words of the command line.

    ``sampling_rate`` also draws the batches when ``kind`` is none.
    """

    kind: str
    noise_multiplier: float
    clip: float
    sampling_rate: float
    denominator: float | None

    def __post_init__(self) -> None:
        validate.one_of("privacy.record", self.kind, ("dpsgd", "none"))
        validate.nonnegative("privacy.record.noise_multiplier", self.noise_multiplier)
        validate.positive("privacy.record.clip", self.clip)
        validate.rate("privacy.record.sampling_rate", self.sampling_rate)


@dataclass(frozen=True, slots=True)
class PrivacySpec:
    """Both units."""

    client: ClientPrivacySpec
    record: RecordPrivacySpec


@dataclass(frozen=True, slots=True)
class LocalSpec:
    """Training on one client.

    Attributes:
        steps: optimizer steps in one participation; None takes them from ``epochs``.
        epochs: passes over the data in expectation, ceil(epochs / sampling_rate) steps.
        learning_rate: of SGD.
        proximal: FedProx's mu (Li et al. 2020), 0 for none.
        physical_batch: most records in memory at once; doesn't change the result.
    """

    steps: int | None
    epochs: int | None
    learning_rate: float
    proximal: float
    physical_batch: int

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ConfigError(
                f"local.steps={self.steps} and local.epochs={self.epochs}: set exactly one",
                "the other is null",
            )
        validate.at_least("local.steps", 1 if self.steps is None else self.steps, 1)
        validate.at_least("local.epochs", 1 if self.epochs is None else self.epochs, 1)
        validate.positive("local.learning_rate", self.learning_rate)
        validate.nonnegative("local.proximal", self.proximal)
        validate.at_least("local.physical_batch", self.physical_batch, 1)


@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """The coordinator's optimizer (Reddi et al. 2021): "fedavg", "fedavgm" or "fedadam"."""

    kind: str
    learning_rate: float
    momentum: float
    beta1: float
    beta2: float
    tau: float

    def __post_init__(self) -> None:
        validate.one_of("optimizer", self.kind, ("fedavg", "fedavgm", "fedadam"))
        validate.positive("optimizer.learning_rate", self.learning_rate)
        validate.half_open_unit("optimizer.momentum", self.momentum)
        validate.half_open_unit("optimizer.beta1", self.beta1)
        validate.half_open_unit("optimizer.beta2", self.beta2)
        validate.positive("optimizer.tau", self.tau)


@dataclass(frozen=True, slots=True)
class WeightingSpec:
    """Weights of clients: "uniform", or "examples" up to ``cap`` of them."""

    kind: str
    cap: int

    def __post_init__(self) -> None:
        validate.one_of("weighting", self.kind, ("uniform", "examples"))
        validate.at_least("weighting.cap", self.cap, 1)


@dataclass(frozen=True, slots=True)
class EvaluationSpec:
    """On a "public" test set that is nobody's, "federated" (charged), or "none"."""

    kind: str
    every: int
    cap: int
    loss_cap: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        validate.one_of("evaluation", self.kind, ("public", "federated", "none"))
        validate.at_least("evaluation.every", self.every, 1)


@dataclass(frozen=True, slots=True)
class BudgetSpec:
    """Caps of this run; see `tacit.privacy.budget.caps`. Those of a population are policies.

    Attributes:
        epsilon: cap on the client's epsilon, or the record's where only that is protected.
        record_epsilon: cap on the record's.
        wait: seconds to wait for a review that a policy asks for; None waits for ever.
    """

    epsilon: float | None
    record_epsilon: float | None
    wait: float | None

    def __post_init__(self) -> None:
        if self.epsilon is not None:
            validate.positive("budget.epsilon", self.epsilon)
        if self.record_epsilon is not None:
            validate.positive("budget.record_epsilon", self.record_epsilon)
        if self.wait is not None:
            validate.nonnegative("budget.wait", self.wait)


@dataclass(frozen=True, slots=True)
class SecureSpec:
    """Noise in shares and secure aggregation; ignored with ``mechanism=central``.

    Attributes:
        bits: of a word: 16, 20 or 32; None takes the fewest that cost under half a percent.
        dropout: fraction of a cohort that may drop without costing the round, below 1/3.
        collusion: clients that may side with the coordinator.
        projection: L2 bound of an update where only records are protected, as a fraction of
            what a batch of the expected size can reach.
        protocol: "full" exchanges keys, shares and masks. "shortcut", for simulations, adds the
            same encoded and noised vectors up without: the same sums, bit for bit. "auto" is
            the shortcut in `tacit simulate` without faults, else the full protocol.
    """

    bits: int | None
    dropout: float
    collusion: int
    projection: float
    protocol: str

    def __post_init__(self) -> None:
        validate.one_of("secure.protocol", self.protocol, ("auto", "full", "shortcut"))
        if self.bits not in (None, 16, 20, 32):
            raise ConfigError(f"secure.bits={self.bits} must be 16, 20, 32 or null")
        if not 0 <= self.dropout < 1 / 3:
            raise ConfigError(f"secure.dropout={self.dropout:g} must be in [0, 1/3)")
        validate.at_least("secure.collusion", self.collusion, 0)
        validate.positive("secure.projection", self.projection)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything a run is made of.

    Attributes:
        task: a built-in task's name, or ``module:attribute`` of your own.
        model: which of the task's models; None takes its first.
        name: of the model in the registry; None takes the task's.
        population: name of the population of clients, over whose runs budgets compose; None
            takes the task's.
        initial: a released version to begin with, NAME@NUMBER or NAME@ALIAS; None begins with the
            task's own parameters. What was spent on it counts.
        clients: size of the population.
        cohort: expected clients in a round; each joins with probability cohort / clients.
        rounds: training rounds.
        seed: of the simulation; None draws everything from the operating system.
        delta: of both units; None is (number of units)^-1.1 for each.
        mechanism: "skellam", "discrete_gaussian" or "central".
        aggregation: "secure" or "plain".
        minimum_survivors: fewest accepted updates with which a round is released. None: with
            noise in shares, all that may not drop where every client takes part, else a
            third of the cohort; with "central", everybody or 0.
        attempts: how often a round that falls short of clients is attempted, each time with
            another cohort and a new charge, before the run stops.
        threads: torch threads; part of the configuration since sums depend on it.
        engine: how a simulation trains: "serial" one client at a time through Opacus, "cohort"
            many in one pass of torch, "fused" in compiled code, "auto" the fastest that can
            train the model. They agree to rounding; a deployed client has no use for it.
        device: that the cohort engine trains on: "cpu", "cuda", or "auto", a GPU where torch
            has one. Results agree to rounding; a deployed client has no use for it.
    """

    task: str
    model: str | None
    name: str | None
    population: str | None
    initial: str | None
    clients: int
    cohort: float
    rounds: int
    seed: int | None
    delta: float | None
    mechanism: str
    aggregation: str
    minimum_survivors: int | None
    attempts: int
    threads: int
    engine: str
    device: str
    secure: SecureSpec
    faults: FaultsSpec
    data: DataSpec
    partition: PartitionSpec
    privacy: PrivacySpec
    local: LocalSpec
    optimizer: OptimizerSpec
    weighting: WeightingSpec
    evaluation: EvaluationSpec
    budget: BudgetSpec

    def __post_init__(self) -> None:
        validate.at_least("clients", self.clients, 1)
        if not 0 < self.cohort <= self.clients:
            raise ConfigError(f"cohort={self.cohort:g} must be in (0, clients={self.clients}]")
        validate.at_least("rounds", self.rounds, 1)
        validate.at_least("attempts", self.attempts, 1)
        validate.at_least("threads", self.threads, 1)
        validate.one_of("engine", self.engine, ("auto", "serial", "cohort", "fused"))
        validate.one_of("device", self.device, ("auto", "cpu", "cuda"))
        if self.device == "cuda" and self.engine not in ("auto", "cohort"):
            raise ConfigError(
                f"device=cuda and engine={self.engine}, which trains on the CPU",
                "leave one of them out: engine=cohort trains on a GPU",
            )
        if self.seed is not None and not 0 <= self.seed < 2**53:
            raise ConfigError(f"seed={self.seed} must be in [0, 2^53)")
        if self.delta is not None:
            validate.open_unit("delta", self.delta)

    @property
    def sampling_rate(self) -> float:
        """Probability with which each client joins a cohort."""
        return self.cohort / self.clients

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> RunSpec:
        """Builds and validates a spec from untyped data.

        Raises:
            ConfigError: an unknown or missing key, a wrong type or a value out of range.
        """
        return _build(cls, value, "")

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain data; `from_dict` reads it back."""
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """SHA-256 of the spec in canonical JSON, in hex."""
        return hashlib.sha256(rfc8785.dumps(self.to_dict())).hexdigest()


def _build(cls: type[T], value: Any, path: str) -> T:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}={value} should have fields of its own")
    hints = typing.get_type_hints(cls)
    prefix = f"{path}." if path else ""
    for key in value:
        if key not in hints:
            raise ConfigError(f"{prefix}{key} is not a setting", f"known: {', '.join(hints)}")
    missing = [name for name in hints if name not in value]
    if missing:
        raise ConfigError(f"{prefix}{missing[0]} is missing")
    return cls(**{k: _convert(hint, value[k], prefix + k) for k, hint in hints.items()})


def _convert(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(cast("type[Any]", hint), value, name)
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in allowed:
        return None
    if isinstance(value, int | float) and not abs(value) < 2**53:
        raise ConfigError(f"{name}={value} must be finite and below 2^53")
    if float in allowed and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if int in allowed and isinstance(value, float) and value.is_integer():
        return int(value)
    for kind in allowed:
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
    words = {float: "a number", int: "a whole number", str: "a word", bool: "true or false"}
    names = [words.get(kind, "null") for kind in allowed]
    raise ConfigError(f"{name}={value} should be {' or '.join(names)}")
