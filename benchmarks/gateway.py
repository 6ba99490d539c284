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
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wire
from common import one_thread, show
from devices import GATEWAY, Crowds, coordinating, moved

from tacit import Task
from tacit.configs import build
from tacit.privacy.errors import RoundError
from tacit.server.gateway.grid import GatewayGrid, opened
from tacit.server.home import Home
from tacit.tasks.task import load

HERE = Path(__file__).parent
# What a device that polls every 3 s, and is answered within a second, waits at most.
REACTION = 4.0
SETTINGS = ("experiment=digits", "seed=null", "attempts=1", "secure.protocol=full")


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that so large a part isn't above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def resident() -> int:
    """Bytes that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


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
    with tempfile.TemporaryDirectory() as folder, opened(Home(folder), GATEWAY) as grid:
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
                if made["failed"] or devices >= options.most or time.monotonic() > end:
                    break
                devices = min(2 * devices, options.most)
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
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A descriptor for each; this process has all of the gateway's.
    options.most = options.most or (200 if quick else min(32_000, hard - 1000))
    options.cohort = options.cohort or (20 if quick else 200)
    options.rounds = options.rounds or (2 if quick else 5)
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
