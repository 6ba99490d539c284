"""Workers: in order, no more than asked, gone when they should be."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.errors import ConfigError, DataError, EngineError
from tacit.simulations import workers
from tacit.simulations.grid import groups
from tacit.simulations.workers import Pool, Tell


def square(x: int, tell: Tell) -> tuple[int, int]:
    time.sleep(0.01 * (x % 3))
    return x * x, os.getpid()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_come_in_the_items_order(count: int) -> None:
    pool = Pool(square, count)
    try:
        for _ in range(2):
            made = list(pool.map(range(20)))
            assert [x for x, _ in made] == [x * x for x in range(20)]
            assert os.getpid() not in {pid for _, pid in made}
            assert len({pid for _, pid in made}) == count
        assert list(pool.map([])) == []
    finally:
        pool.close()


def late(x: int, tell: Tell) -> int:
    time.sleep(0.3 if x == 0 else 0.0)
    return x


def test_a_first_result_that_comes_last_stops_nothing() -> None:
    pool = Pool(late, 3)
    try:
        assert list(pool.map(range(100))) == list(range(100))
    finally:
        pool.close()


def test_a_large_item_and_a_large_result() -> None:
    pool = Pool(lambda data, tell: data * 2, 2)
    try:
        for made in pool.map([bytes(10_000_000)] * 5):
            assert len(made) == 20_000_000
    finally:
        pool.close()


def fails(x: int, tell: Tell) -> int:
    if x == 3:
        raise DataError("client 3 has no data", "mend it")
    if x == 5:
        raise KeyError("five")
    return x


def test_an_error_of_the_users_is_raised_here_and_another_with_its_traceback() -> None:
    pool = Pool(fails, 2)
    with pytest.raises(DataError, match="client 3 has no data") as caught:
        list(pool.map([1, 2, 3]))
    assert caught.value.hint == "mend it"
    pool = Pool(fails, 2)
    with pytest.raises(EngineError, match=r"(?s)Traceback.*KeyError: 'five'"):
        list(pool.map([1, 5]))


def dies(x: int, tell: Tell) -> int:
    if x == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if x == 4:
        os._exit(3)
    return x


@pytest.mark.parametrize(("items", "how"), [([1, 2], "SIGKILL"), ([4], "exit 3")])
def test_a_dead_worker_is_an_error_and_no_hang(items: list[int], how: str) -> None:
    before = {child.pid for child in psutil.Process().children()}
    pool = Pool(dies, 2)
    children = [child for child in psutil.Process().children() if child.pid not in before]
    assert len(children) == 2
    with pytest.raises(EngineError, match=how):
        list(pool.map(items))
    psutil.wait_procs(children, timeout=10)
    assert not [child for child in children if child.is_running()]


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\n"
        "from tacit.simulations.workers import Pool\n"
        "pool = Pool(lambda x, tell: os.getpid(), 3)\n"
        "print(*{*pool.map(range(30))}, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert children
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def tells(x: int, tell: Tell) -> int:
    for k in range(x):
        tell((x, k))
    return x


def test_what_workers_tell_comes_before_their_result() -> None:
    heard: list[tuple[int, int]] = []
    pool = Pool(tells, 2, heard.append)
    try:
        for x, made in enumerate(pool.map(range(8))):
            assert made == x
            assert [note for note in heard if note[0] == x] == [(x, k) for k in range(x)]
    finally:
        pool.close()


def convolves(size: int, tell: Tell) -> float:
    image = torch.ones(8, 16, size, size)
    return float(torch.nn.functional.conv2d(image, torch.ones(16, 16, 3, 3)).sum())


def test_workers_of_a_process_that_has_used_many_threads_do_not_hang() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        due = [convolves(size, print) for size in (40, 80)]
        pool = Pool(convolves, 2)
        try:
            assert list(pool.map([40, 80])) == pytest.approx(due)
        finally:
            pool.close()
    finally:
        torch.set_num_threads(before)


def test_a_pool_that_was_left_early_gives_nothing_stale() -> None:
    pool = Pool(square, 2)
    results = pool.map(range(50))
    assert next(results)[0] == 0
    results.close()  # type: ignore[attr-defined]
    assert pool.closed
    with pytest.raises(RuntimeError, match="ended"):
        list(pool.map([1]))


def test_a_result_without_room_on_the_desk_comes_another_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "_DESK", 5000)
    pool = Pool(lambda size, tell: [bytes(size), size], 1)
    try:
        for size in (10, 4000, 6000, 1_000_000, 20):
            assert list(pool.map([size])) == [[bytes(size), size]]
    finally:
        pool.close()


class Stubborn:
    """A value whose own pickling fails as a full desk might."""

    def __reduce__(self) -> str:
        raise ValueError("data out of range")


class OwnError(DataError):
    def __init__(self, client: int, more: int) -> None:
        super().__init__(f"client {client}")


def unpicklable(x: int, tell: Tell) -> object:
    if x == 1:
        raise OwnError(7, 8)
    return Stubborn() if x == 3 else lambda: x


@pytest.mark.parametrize(
    ("x", "said"), [(1, "OwnError: client 7"), (2, "Traceback"), (3, "ValueError: data out")]
)
def test_what_can_not_be_sent_is_said_so(x: int, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        list(Pool(unpicklable, 1).map([x]))


def prints(x: int, tell: Tell) -> bool:
    logging.getLogger("tacit.tests").warning("said by %d", x % 2)
    return sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__


def test_workers_write_to_the_real_streams_and_log_here_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "tacit.tests"):
        pool = Pool(prints, 2)
        assert all(pool.map(range(10)))
        pool.close()
    assert sorted(record.getMessage() for record in caplog.records) == ["said by 0", "said by 1"]


def test_no_workers_are_refused() -> None:
    with pytest.raises(ConfigError, match="workers=0"):
        Pool(square, 0)


@given(st.integers(0, 2000))
def test_groups_split_a_cohort_evenly(size: int) -> None:
    items = [str(k) for k in range(size)]
    made = list(groups(items))
    assert [x for group in made for x in group] == items
    assert all(0 < len(group) <= 16 for group in made)
    if len(made) > 1:
        assert len(made) % 2 == 0
        assert max(map(len, made)) - min(map(len, made)) <= 1
