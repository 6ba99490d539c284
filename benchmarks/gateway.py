"""The device gateway under load, beside a stock SuperLink, and bytes beside Flower's SecAgg+.

Gateway and coordinator run in this process, as `tacit serve` has them; simulated devices in two
others (`crowd.py` says what is real of them: protocol, cryptography, TLS and enrolment are).
All share this machine's cores, so that latencies include what the devices themselves compute:
a leg's is from its start to each answer, an arrival's from its start until the device has the
task. The gateway's processor seconds are this process's less the coordinator's thread's. Bytes
are those of the devices' TCP connections, as the kernel counts them, TLS included.

More and more devices enrol, twice as many each time, and a run is made with each number; the
cohort stays the same. The first number is kept idle for a while.

The SuperLink's side is `peers/superlink_pulls.py`: devices that poll every 3 s, and are
answered within a second. A gateway has served as many as got their tasks within that.

Run: python benchmarks/gateway.py [--quick] [--json] [--devices N] [--most N] [--minutes M]
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wire
from common import one_thread, show

from tacit import Task
from tacit.configs import build
from tacit.privacy.errors import RoundError
from tacit.privacy.messages import Message
from tacit.server import runs
from tacit.server.gateway.grid import GatewayGrid, opened
from tacit.server.gateway.settings import Limits, Settings
from tacit.server.home import Home
from tacit.server.legs import Legs, Reply
from tacit.server.store import Store
from tacit.tasks.device import bundle
from tacit.tasks.task import load

POPULATION = "benchmark"
HERE = Path(__file__).parent
# What a device that polls every 3 s, and is answered within a second, waits at most.
REACTION = 4.0
SETTINGS = ("experiment=digits", "seed=null", "attempts=1", "secure.protocol=full")


class Timed(Legs):
    """Legs that note when each reply came.

    Attributes:
        legs: kind, Unix seconds of the start, seconds until each answer.
    """

    legs: list[tuple[str, float, list[float]]]

    def exchange(self, kind: str, requests: Mapping[int, Message]) -> Iterator[Reply]:
        """See `Legs.exchange`."""
        began, started, took = time.monotonic(), time.time(), list[float]()
        self.legs.append((kind, started, took))
        for reply in super().exchange(kind, requests):
            if reply.message is not None:
                took.append(time.monotonic() - began)
            yield reply


class Directory:
    """Who is enrolled, read once."""

    def __init__(self, grid: GatewayGrid) -> None:
        self._known = {device.client: device.identity for device in grid.devices.enrolled()}

    def public(self, client: int) -> bytes | None:
        """A client's key."""
        return self._known.get(client)


class Crowds:
    """The processes with the devices.

    Args:
        grid: of their gateway.
        training: seconds that each sleeps for.
        processes: how many.
    """

    def __init__(self, grid: GatewayGrid, training: float, processes: int = 2) -> None:
        self.grid, self.devices = grid, 0
        command = [sys.executable, str(HERE / "crowd.py")]
        self._all = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(processes)
        ]
        authority = grid.authority
        place = {
            "gateway": f"127.0.0.1:{grid.port}",
            "population": POPULATION,
            "ca": authority.certificate.hex(),
            "authority": authority.public.hex(),
            "coordinator": authority.coordinator.public.hex(),
            "training": training,
        }
        self.tell([{"do": "place", "place": place}] * processes)

    def tell(self, commands: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One command for each process; what each says when it is done."""
        for one, command in zip(self._all, commands, strict=True):
            assert one.stdin is not None
            one.stdin.write(json.dumps(command) + "\n")
            one.stdin.flush()
        found = []
        for one in self._all:
            assert one.stdout is not None
            line = one.stdout.readline()
            if not line:
                raise RuntimeError("a crowd's process has ended")
            found.append(json.loads(line))
        return found

    def grow(self, devices: int) -> dict[str, float]:
        """Enrols devices until there are so many, all connected."""
        began, more = time.monotonic(), devices - self.devices
        tokens = [self.grid.devices.invite(3600.0) for _ in range(more)]
        address, parts = f"127.0.0.1:{self.grid.enrol_port}", len(self._all)
        self.tell(
            [{"do": "enrol", "address": address, "tokens": tokens[k::parts]} for k in range(parts)]
        )
        while self.grid.connected < devices:
            if time.monotonic() - began > 600:
                raise RuntimeError(f"{self.grid.connected} of {devices} devices are connected")
            time.sleep(0.1)
        self.devices = devices
        return {"seconds": time.monotonic() - began}

    def used(self) -> tuple[float, list[tuple[str, float]]]:
        """Processor seconds so far, and when tasks arrived since this was last asked."""
        said = self.tell([{"do": "used"}] * len(self._all))
        return sum(s["cpu"] for s in said), [(k, t) for s in said for k, t in s["arrived"]]

    def close(self) -> None:
        """Ends the processes."""
        for one in self._all:
            one.kill()
            one.wait()


@contextmanager
def coordinating(
    grid: GatewayGrid, task: Task, overrides: Sequence[str], home: Home
) -> Iterator[tuple[Any, Timed]]:
    """A coordinator of devices, and its legs."""
    store = Store(home)
    spec = build.compose(list(overrides))
    run = runs.create(spec, task, store)
    made = bundle.build(task, spec, run["id"], POPULATION)
    grid.attach(made.document.encode(grid.authority.coordinator), list(made.blobs.values()))
    directory = Directory(grid)
    legs = Timed(grid, grid.nodes(spec.clients), 120.0, 0.02, directory)
    legs.legs = []
    try:
        with runs.coordinator(run, task, store, home, legs, directory) as coordinator:
            yield coordinator, legs
    finally:
        store.close()


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that so large a part isn't above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def resident() -> int:
    """Bytes that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def moved(port: int) -> int:
    """Bytes that devices' connections to a port have carried, as the kernel counts them."""
    ss = shutil.which("ss")
    if ss is None:
        return 0
    found = subprocess.run(
        [ss, "-tinH", "dport", "=", f":{port}"], capture_output=True, text=True, check=True
    ).stdout
    words = (
        w.split(":") for w in found.split() if w.startswith(("bytes_acked:", "bytes_received:"))
    )
    return sum(int(count) for _, count in words)


def measured(
    grid: GatewayGrid, crowds: Crowds, home: Home, rounds: int, cohort: int, task: Task
) -> dict[str, Any]:
    """A run of some rounds with the devices that there are."""
    overrides = [
        *SETTINGS,
        f"clients={crowds.devices}",
        f"cohort={cohort}",
        f"rounds={rounds}",
        f"minimum_survivors={cohort * 3 // 5}",
    ]
    crowds.used()
    with coordinating(grid, task, overrides, home) as (coordinator, legs):
        carried = moved(grid.port)
        crowd, whole, own = crowds.used()[0], time.process_time(), time.thread_time()
        began, results, failed = time.monotonic(), [], ""
        try:
            results += list(coordinator.rounds())
        except RoundError as error:
            failed = str(error)
        seconds = time.monotonic() - began
        own, whole = time.thread_time() - own, time.process_time() - whole
        crowd_after, arrivals = crowds.used()
        carried = moved(grid.port) - carried
    asked = sum(len(took) for kind, _, took in legs.legs if kind == "query.advertise")
    return {
        "devices": crowds.devices,
        "rounds": len(results),
        "failed": failed,
        "seconds": seconds,
        "seconds_per_round": seconds / max(1, len(results)),
        "asked": asked,
        "accepted": sum(r.accepted for r in results),
        "legs": leg_times(legs.legs, arrivals),
        "arrival_p95": percentile(_waits(legs.legs, arrivals), 0.95),
        "gateway_cpu": whole - own,
        "coordinator_cpu": own,
        "devices_cpu": crowd_after - crowd,
        "gateway_cpu_per_device_hour": (whole - own) / crowds.devices / seconds * 3600,
        "bytes_per_device_and_round": carried / max(1, asked),
        "load": Path("/proc/loadavg").read_text().split()[0],
    }


def leg_times(
    legs: Sequence[tuple[str, float, list[float]]], arrivals: Sequence[tuple[str, float]]
) -> dict[str, dict[str, float]]:
    """By kind: when tasks arrived and answers came, and how many."""
    made = {}
    for kind in dict.fromkeys(kind for kind, _, _ in legs):
        took = [t for k, _, each in legs if k == kind for t in each]
        waits = _waits([leg for leg in legs if leg[0] == kind], arrivals)
        made[kind] = {
            "answers": len(took),
            "p50": percentile(took, 0.5),
            "p95": percentile(took, 0.95),
            "arrival_p50": percentile(waits, 0.5),
            "arrival_p95": percentile(waits, 0.95),
        }
    return made


def _waits(
    legs: Sequence[tuple[str, float, list[float]]], arrivals: Sequence[tuple[str, float]]
) -> list[float]:
    """Seconds from a leg's start to each arrival of its task."""
    found = []
    for kind, at in arrivals:
        starts = [start for k, start, _ in legs if k == kind and start <= at]
        if starts:
            found.append(at - max(starts))
    return found


def idle(crowds: Crowds, seconds: float) -> dict[str, float]:
    """What devices cost that do nothing but stay connected."""
    began, cpu = time.monotonic(), time.process_time()
    time.sleep(seconds)
    hours = crowds.devices * (time.monotonic() - began) / 3600
    return {"seconds": seconds, "gateway_cpu_per_device_hour": (time.process_time() - cpu) / hours}


def gateway(options: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Devices, twice as many each time, until a run fails or time is up."""
    end = time.monotonic() + 60 * options.minutes
    # Enrolment and downloads are as fast as they can be; all else as it comes.
    limits = Limits(enrolments_rate=1e6, enrolments_burst=1e6, connections=100_000)
    settings = Settings(population=POPULATION, limits=limits, drain=0.0)
    with tempfile.TemporaryDirectory() as folder, opened(Home(folder), settings) as grid:
        crowds = Crowds(grid, options.training)
        try:
            before, found, devices = resident(), list[dict[str, Any]](), options.devices
            enrolled = crowds.grow(devices)
            memory = (resident() - before) / devices
            resting = idle(crowds, 5.0 if options.quick else 75.0)
            while True:
                rounds = options.rounds if not found else max(1, options.rounds // 3)
                made = measured(grid, crowds, Home(folder), rounds, options.cohort, task)
                found.append(made)
                print(json.dumps(made), file=sys.stderr, flush=True)
                devices *= 2
                if made["failed"] or devices > options.most or time.monotonic() > end:
                    break
                crowds.grow(devices)
        except RuntimeError as error:
            found.append({"devices": devices, "failed": str(error), "rounds": 0})
        finally:
            crowds.close()
    whole = [f["devices"] for f in found if not f["failed"]]
    quick = [f["devices"] for f in found if not f["failed"] and f["arrival_p95"] <= REACTION]
    return {
        "cohort": options.cohort,
        "training": options.training,
        "enrol_seconds_per_device": enrolled["seconds"] / options.devices,
        "memory_per_device": memory,
        "idle": resting,
        "runs": found,
        "largest": max(whole, default=0),
        "served": max(quick, default=0),
    }


def superlink(quick: bool) -> list[dict[str, Any]]:
    """The peer, with TLS: state in memory, and in its database."""
    found = []
    for more in ([], ["--database"]):
        command = [sys.executable, str(HERE / "peers" / "superlink_pulls.py"), "--tls", *more]
        command += ["--seconds", "4", "--most", "256"] if quick else ["--seconds", "10"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found.append(json.loads(said.splitlines()[-1]))
    return found


def report(result: dict[str, Any], as_json: bool) -> None:
    """The tables."""
    made, rows = result["gateway"], []
    for run in made["runs"]:
        for kind, leg in run.get("legs", {}).items():
            ms = [1e3 * leg[k] for k in ("arrival_p50", "arrival_p95", "p50", "p95")]
            rows.append([f"{run['devices']}: {kind}", leg["answers"], *ms])
        rows.append(
            [
                f"{run['devices']}: {run['rounds']} rounds {run['failed'] or 'complete'}",
                run.get("accepted", 0),
                *[""] * 3,
                1e3 * run.get("seconds_per_round", float("nan")),
            ]
        )
    columns = ["devices: leg", "answers", "arrive p50 ms", "p95", "answer p50", "p95"]
    first = made["runs"][0]
    facts = [
        f"gateway CPU s per device-hour: idle {made['idle']['gateway_cpu_per_device_hour']:.2f}, "
        f"in rounds {first.get('gateway_cpu_per_device_hour', float('nan')):.2f}",
        f"memory per device {made['memory_per_device'] / 1024:.0f} KiB",
        f"bytes per device and round {first.get('bytes_per_device_and_round', 0):.0f}",
        f"largest that completes {made['largest']}, within {REACTION:g} s {made['served']}",
    ]
    for peer in result["superlink"]:
        state = "database" if peer["database"] else "memory"
        facts.append(
            f"SuperLink {peer['flwr']} ({state}, TLS): {peer['flat_out']['pulls_per_second']:.0f} "
            f"pulls/s, {peer['flat_out']['cpu_ms_per_pull']:.1f} ms CPU each; "
            f"{peer['served']} devices served; ratio {made['served'] / max(1, peer['served']):.1f}"
        )
    facts += [
        f"{row['model']}, cohort {row['cohort']}: {row['tacit']:.0f} bytes a device and round; "
        f"SecAgg+ {row['secaggplus']:.0f}; ratio {row['secaggplus'] / row['tacit']:.2f}"
        for row in result["wire"]
    ]
    show("gateway", columns, rows, result, False)
    print("\n".join(facts))
    if as_json:
        print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description="the gateway for devices, beside a SuperLink")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--devices", type=int, default=0, help="to begin with")
    parser.add_argument("--most", type=int, default=0, help="devices to end with")
    parser.add_argument("--cohort", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--training", type=float, default=1.0, help="seconds of the sleep")
    parser.add_argument("--minutes", type=float, default=20.0, help="after which no more is begun")
    parser.add_argument("--only", choices=("gateway", "superlink", "wire"))
    options = parser.parse_args()
    quick = options.quick
    options.devices = options.devices or (100 if quick else 2000)
    options.most = options.most or (200 if quick else 16_000)
    options.cohort = options.cohort or (20 if quick else 200)
    options.rounds = options.rounds or (2 if quick else 5)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Thousands of goodbyes at the end of it.
    logging.getLogger("tacit.gateway").setLevel(logging.ERROR)
    task = load(build.compose(list(SETTINGS)))
    only = options.only
    result = {
        "gateway": gateway(options, task) if only in (None, "gateway") else {},
        "superlink": superlink(quick) if only in (None, "superlink") else [],
        "wire": wire.compared(quick) if only in (None, "wire") else [],
    }
    if only:
        print(json.dumps(result))
    else:
        report(result, options.json)


if __name__ == "__main__":
    one_thread()
    main()
