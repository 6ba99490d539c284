"""`tacit.configs.build`: overrides become a spec or one clear line, a spec becomes its plan."""

from __future__ import annotations

import functools
import json
import math

import pytest

from tacit.configs import build
from tacit.configs.planning import local_steps, privacy_plan
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError
from tacit.privacy.plan import PrivacyPlan

# Every number that a test depends on is stated here, never taken from the YAML.
SMALL = (
    "experiment=none",
    "mechanism=central",
    "aggregation=plain",
    "clients=40",
    "cohort=8",
    "rounds=5",
    "evaluation=none",
    "weighting=uniform",
    "privacy.client=flat",
    "privacy.client.noise_multiplier=1.5",
    "privacy.client.clip=0.25",
    "privacy.record=dpsgd",
    "privacy.record.noise_multiplier=0.7",
    "privacy.record.clip=2.0",
    "privacy.record.sampling_rate=0.5",
    "local.steps=3",
    "local.epochs=null",
)


@functools.cache
def composed(*overrides: str) -> RunSpec:
    return build.compose([*SMALL, *overrides])


def planned(*overrides: str, examples: int | None = 10) -> PrivacyPlan:
    return privacy_plan(composed(*overrides), examples, 10)


def refusal(*overrides: str) -> ConfigError:
    """The error of a command line, wherever before the first message it is raised."""
    with pytest.raises(ConfigError) as caught:
        privacy_plan(build.compose(list(overrides)), 10, 10).digest()
    assert "\n" not in str(caught.value)
    return caught.value


def test_compose_sets_what_the_overrides_say() -> None:
    spec = composed("seed=7", "data.root=/some/where", "budget.epsilon=3")
    assert (spec.clients, spec.cohort, spec.rounds, spec.seed) == (40, 8.0, 5, 7)
    assert spec.data.root == "/some/where"
    assert spec.budget.epsilon == 3.0
    assert spec.sampling_rate == 0.2


def test_an_override_beats_the_experiment_it_comes_with() -> None:
    assert build.compose(["experiment=digits", "clients=77", "cohort=7"]).clients == 77
    assert build.compose(["clients=77", "cohort=7", "experiment=digits"]).clients == 77


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("roudns=3", "roudns", "rounds"),
        ("client=5", "client", "clients"),
        ("partitoin=iid", "partitoin", "partition"),
        ("local.step=3", "local.step", "local.steps"),
        ("data.rot=/x", "data.rot", "data.root"),
        ("budget.epsilom=1", "budget.epsilom", "budget.epsilon"),
        ("privacy.clent=none", "privacy.clent", "privacy.client"),
        (
            "privacy.client.noise_multiplyer=1",
            "privacy.client.noise_multiplyer",
            "privacy.client.noise_multiplier",
        ),
        (
            "privacy.record.sample_rate=1",
            "privacy.record.sample_rate",
            "privacy.record.sampling_rate",
        ),
    ],
)
def test_a_misspelt_key_is_named_with_the_nearest_setting(
    override: str, key: str, nearest: str
) -> None:
    error = refusal(override)
    assert f"{key} is not a setting" in error.message
    assert error.hint == f"did you mean {nearest}?"


def test_the_suggestion_for_a_key_is_never_the_key_itself() -> None:
    assert refusal("privacy=none").hint != "did you mean privacy?"


def test_an_added_key_is_refused_too() -> None:
    assert "foo is not a setting" in refusal("+foo=1").message


def test_a_word_without_equals_says_how_to_write_an_override() -> None:
    error = refusal("rounds")
    assert "'rounds' is not an override" in error.message
    assert error.hint == "write key=value"


@pytest.mark.parametrize("override", ["rounds=[1", "=3", "seed=0,1"])
def test_what_isnt_the_grammar_is_a_config_error_of_one_line(override: str) -> None:
    refusal(override)


@pytest.mark.parametrize(
    ("override", "should"),
    [
        ("clients=abc", "clients=abc should be a whole number"),
        ("clients=2.5", "clients=2.5 should be a whole number"),
        ("clients=true", "clients=True should be a whole number"),
        ("cohort=many", "cohort=many should be a number"),
        ("rounds=", "rounds= should be a whole number"),
        ("seed=1.5", "seed=1.5 should be a whole number or null"),
        ("task=5", "task=5 should be a word"),
        ("data.root=3", "data.root=3 should be a word or null"),
        ("data.hub=maybe", "data.hub=maybe should be true or false"),
        ("budget.epsilon=lots", "budget.epsilon=lots should be a number or null"),
        ("privacy.client.clip=abc", "privacy.client.clip=abc should be a number"),
        ("data=3", "data=3 should have fields of its own"),
    ],
)
def test_a_wrong_type_is_named_with_the_right_one(override: str, should: str) -> None:
    assert refusal(override).message == should


@pytest.mark.parametrize(
    ("override", "field", "legal"),
    [
        ("clients=0", "clients", "at least 1"),
        ("clients=-3", "clients", "at least 1"),
        ("cohort=0", "cohort", "(0, clients="),
        ("cohort=-1", "cohort", "(0, clients="),
        ("cohort=nan", "cohort", "finite"),
        ("cohort=1e9", "cohort", "(0, clients="),
        ("rounds=0", "rounds", "at least 1"),
        ("seed=-1", "seed", "[0, 2^53)"),
        ("seed=9007199254740992", "seed", "below 2^53"),
        ("mechanism=magic", "mechanism", "one of central"),
        ("aggregation=magic", "aggregation", "one of plain"),
        ("budget.epsilon=0", "budget.epsilon", "greater than 0"),
        ("budget.epsilon=inf", "budget.epsilon", "finite"),
        ("delta=0", "delta", "(0, 1)"),
        ("delta=1", "delta", "(0, 1)"),
        ("privacy.client.noise_multiplier=-1", "privacy.client.noise_multiplier", "at least 0"),
        ("privacy.client.noise_multiplier=inf", "privacy.client.noise_multiplier", "finite"),
        ("privacy.client.clip=0", "privacy.client.clip", "greater than 0"),
        ("privacy.client.clip=nan", "privacy.client.clip", "finite"),
        ("privacy.record.noise_multiplier=-1", "privacy.record.noise_multiplier", "at least 0"),
        ("privacy.record.clip=0", "privacy.record.clip", "greater than 0"),
        ("privacy.record.clip=inf", "privacy.record.clip", "finite"),
        ("privacy.record.sampling_rate=0", "privacy.record.sampling_rate", "(0, 1]"),
        ("privacy.record.sampling_rate=1.01", "privacy.record.sampling_rate", "(0, 1]"),
        ("privacy.record.denominator=0", "privacy.record.denominator", "greater than 0"),
        ("minimum_survivors=-1", "minimum_survivors", "at least 0"),
        ("threads=0", "threads", "at least 1"),
        ("partition.alpha=0", "partition.alpha", "greater than 0"),
        ("partition.shards=0", "partition.shards", "at least 1"),
        ("local.learning_rate=0", "local.learning_rate", "greater than 0"),
        ("local.proximal=-1", "local.proximal", "at least 0"),
        ("local.physical_batch=0", "local.physical_batch", "at least 1"),
        ("optimizer.momentum=1", "optimizer.momentum", "[0, 1)"),
    ],
)
def test_out_of_range_names_the_field_the_value_and_the_legal_range(
    override: str, field: str, legal: str
) -> None:
    message = refusal(*SMALL, override).message
    assert message.startswith(f"{field}=")
    assert legal in message


def test_a_number_too_large_for_the_ledger_is_a_config_error() -> None:
    refusal(*SMALL, "rounds=99999999999999999999")


def test_a_count_noise_that_isnt_a_number_is_a_config_error_whatever_the_clipping() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.client\.count_noise"):
        composed("privacy.client.count_noise=nan").digest()


def test_a_cohort_may_be_everybody_but_no_more() -> None:
    assert composed("cohort=40").sampling_rate == 1.0
    with pytest.raises(ConfigError, match=r"cohort=41 must be in \(0, clients=40\]"):
        composed("cohort=41")


@pytest.mark.parametrize(
    ("override", "some"),
    [
        ("experiment=mnsit", ["digits", "none"]),
        ("partition=random", ["dirichlet", "iid", "natural", "shards"]),
        ("privacy.client=strong", ["adaptive", "flat", "none"]),
        ("privacy.record=strong", ["dpsgd", "none"]),
        ("optimizer=adam", ["fedadam", "fedavg", "fedavgm"]),
        ("weighting=fair", ["examples", "uniform"]),
        ("evaluation=private", ["federated", "none", "public"]),
    ],
)
def test_an_unknown_choice_lists_the_choices(override: str, some: list[str]) -> None:
    message = refusal(override).message
    said, _, listed = message.partition(" must be one of ")
    assert said == override
    assert set(some) <= set(listed.split(", "))


@pytest.mark.parametrize(
    "override", ["privacy.client=5", "privacy.record=null", "partition=null", "experiment=null"]
)
def test_a_choice_that_isnt_a_word_is_a_config_error(override: str) -> None:
    refusal(override)


def test_choices_are_written_as_values() -> None:
    assert planned("privacy.record=none").record is None
    assert planned("privacy.client=none").client is None
    adaptive = planned("privacy.client=adaptive").client
    assert adaptive is not None
    assert adaptive.adaptive is not None
    assert composed("partition=shards").partition.kind == "shards"
    assert composed("optimizer=fedadam").optimizer.kind == "fedadam"


def test_a_choices_own_settings_can_follow_it() -> None:
    unit = planned("privacy.client=adaptive", "privacy.client.quantile=0.75").client
    assert unit is not None
    assert unit.adaptive is not None
    assert unit.adaptive.quantile == 0.75


@pytest.mark.parametrize(
    "overrides",
    [("local.steps=2", "local.epochs=2"), ("local.steps=null", "local.epochs=null")],
)
def test_local_work_is_either_steps_or_epochs(overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="set exactly one"):
        composed(*overrides)


@pytest.mark.parametrize("record", ["dpsgd", "none"])
@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        (("local.steps=0", "local.epochs=null"), "local.steps=0"),
        (("local.steps=null", "local.epochs=0"), "local.epochs=0"),
    ],
)
def test_no_local_work_is_refused_with_and_without_dp_sgd(
    overrides: tuple[str, ...], field: str, record: str
) -> None:
    with pytest.raises(ConfigError, match=field):
        planned(*overrides, f"privacy.record={record}")


def test_sweep_expands_the_product_of_values_and_choices() -> None:
    lines = build.sweep(["seed=0,1", "privacy.record=none,dpsgd", "rounds=2"])
    made = {(s.seed, s.privacy.record.kind, s.rounds) for s in map(build.compose, lines)}
    assert len(lines) == 4
    assert made == {(s, k, 2) for s in (0, 1) for k in ("none", "dpsgd")}


def test_sweep_of_a_single_line_is_that_line() -> None:
    lines = build.sweep(["rounds=2", "data.root='a b'"])
    assert len(lines) == 1
    assert build.compose(lines[0]).data.root == "a b"


def test_sweep_expands_ranges() -> None:
    assert [build.compose(line).seed for line in build.sweep(["seed=range(1,4)"])] == [1, 2, 3]


@pytest.mark.parametrize("override", ["seed=[1", "seed", "seed=interval(0,1)"])
def test_sweep_refuses_what_it_cant_expand_in_one_line(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build.sweep([override])
    assert "\n" not in str(caught.value)


def test_run_config_carries_a_spec_as_json_or_as_overrides() -> None:
    spec = composed("seed=3")
    assert build.from_run_config({"spec": json.dumps(spec.to_dict())}) == spec
    assert build.from_run_config({"spec": "", "overrides": " ".join([*SMALL, "seed=3"])}) == spec
    assert build.from_run_config({}) == build.compose([])


@pytest.mark.parametrize("text", ["nope", "[1]", "{}", '{"a": 1}', "{"])
def test_a_run_configs_spec_that_isnt_one_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        build.from_run_config({"spec": text})


def test_the_plan_says_what_the_spec_says() -> None:
    plan = planned()
    assert (plan.population, plan.sampling_rate, plan.rounds) == (40, 0.2, 5)
    assert plan.client is not None
    assert (plan.client.clip, plan.client.noise_multiplier) == (0.25, 1.5)
    assert plan.client.adaptive is None
    assert plan.record is not None
    assert (plan.record.clip, plan.record.noise_multiplier) == (2.0, 0.7)
    assert (plan.record.sampling_rate, plan.record.steps) == (0.5, 3)
    assert plan.evaluation is None
    assert plan.weight_cap is None


@pytest.mark.parametrize(
    ("rate", "examples", "denominator"),
    [(0.5, 10, 5.0), (1.0, 10, 10.0), (0.01, 10, 1.0), (0.3, 1, 1.0)],
)
def test_denominator_is_the_nominal_batch_but_at_least_one(
    rate: float, examples: int, denominator: float
) -> None:
    unit = planned(f"privacy.record.sampling_rate={rate}", examples=examples).record
    assert unit is not None
    assert unit.denominator == pytest.approx(denominator)


def test_a_denominator_that_is_set_needs_no_examples() -> None:
    unit = planned("privacy.record.denominator=4.5", examples=None).record
    assert unit is not None
    assert unit.denominator == 4.5


def test_without_examples_or_denominator_the_plan_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.record\.denominator"):
        planned(examples=None)
    assert planned("privacy.record=none", examples=None).record is None


def test_delta_defaults_to_units_to_the_minus_1_1() -> None:
    plan = planned("delta=null", examples=10)
    assert plan.client_delta == pytest.approx(40**-1.1)
    assert plan.record_delta == pytest.approx(400**-1.1)
    assert 0 < planned("delta=null", "clients=1", "cohort=1").client_delta < 1


def test_a_delta_that_is_set_holds_for_both_units() -> None:
    plan = planned("delta=1e-6")
    assert (plan.client_delta, plan.record_delta) == (1e-6, 1e-6)


def test_minimum_survivors_is_everybody_only_where_everybody_takes_part() -> None:
    assert planned("minimum_survivors=null", "cohort=40").minimum_survivors == 40
    assert planned("minimum_survivors=null", "cohort=39").minimum_survivors == 0
    assert planned("minimum_survivors=7", "cohort=40").minimum_survivors == 7


@pytest.mark.parametrize(("cohort", "z", "noise"), [(40, 1.5, 2.0), (40, 3.0, 3.0), (8, 0.0, 0.4)])
def test_count_noise_defaults_to_a_twentieth_of_the_cohort_or_the_noise_multiplier(
    cohort: int, z: float, noise: float
) -> None:
    unit = planned(
        "privacy.client=adaptive",
        "privacy.client.count_noise=null",
        f"cohort={cohort}",
        f"privacy.client.noise_multiplier={z}",
    ).client
    assert unit is not None
    assert unit.adaptive is not None
    assert unit.adaptive.count_noise == pytest.approx(noise)


def test_a_count_noise_that_is_set_is_kept() -> None:
    unit = planned("privacy.client=adaptive", "privacy.client.count_noise=9.5").client
    assert unit is not None
    assert unit.adaptive is not None
    assert unit.adaptive.count_noise == 9.5


def test_the_noise_source_of_a_seeded_run_is_named_a_simulation() -> None:
    assert planned("seed=4").noise_source == "seeded-simulation"
    assert planned("seed=null").noise_source == "os-csprng"


def test_weights_by_examples_need_record_level_dp_off() -> None:
    with pytest.raises(ConfigError, match="weighting=examples"):
        planned("weighting=examples")
    plan = planned("weighting=examples", "weighting.cap=12", "privacy.record=none")
    assert plan.weight_cap == 12


@pytest.mark.parametrize(
    ("epochs", "rate", "steps"), [(1, 1.0, 1), (2, 0.5, 4), (1, 0.3, 4), (3, 0.25, 12)]
)
def test_local_steps_of_epochs_round_up(epochs: int, rate: float, steps: int) -> None:
    overrides = (
        "local.steps=null",
        f"local.epochs={epochs}",
        f"privacy.record.sampling_rate={rate}",
    )
    assert local_steps(composed(*overrides)) == steps
    unit = planned(*overrides).record
    assert unit is not None
    assert unit.steps == steps == math.ceil(epochs / rate)


def test_local_steps_that_are_set_dont_depend_on_the_rate() -> None:
    assert local_steps(composed("privacy.record.sampling_rate=0.1")) == 3


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_the_device_is_a_setting_of_the_run_and_not_of_its_privacy(device: str) -> None:
    assert composed().device == "cpu"
    spec = composed(f"device={device}")
    assert spec.device == device
    assert (spec.digest() == composed().digest()) == (device == "cpu")
    assert planned(f"device={device}").digest() == planned().digest()


@pytest.mark.parametrize("engine", ["fused", "serial"])
def test_an_engine_of_the_cpu_is_not_asked_for_on_a_gpu(engine: str) -> None:
    assert f"device=cuda and engine={engine}" in str(refusal("device=cuda", f"engine={engine}"))
    assert composed(f"engine={engine}", "device=cpu").engine == engine
    assert "device=gpu" in str(refusal("device=gpu"))
