"""Secure aggregation: seconds, bytes and memory; Flower's SecAgg+ beside it in the same process.

Each side runs whole sessions with real clients on the same float32 updates; Flower's functions
are called as installed, its server driven by a Grid that answers from memory, so that a server's
seconds hold no client's. A client's seconds are all it computes in a round, from a float32 update
to its last message, without noise, which Flower's has none of; ours pays in them for every
signature and for the roster, whose checks one process would otherwise remember for all. A
server's seconds are the checks of answers, the sum, the unmasking and the way back to floats;
reading messages off the wire is in neither's. Sums are checked.

Seconds are of the processor, one thread, so that others on the machine disturb less. Sessions
alternate; figures are medians over clients and sessions for clients, the least of the sessions
for servers. Updates and dropouts have seed 0; keys are the operating system's.

Not the same product: Flower's masks come from a Mersenne twister with 32 bits of seed, its words
travel as 64-bit integers and nothing is signed; ours are AES-256, of 16-bit words.

Larger cohorts are ours alone: clients leave their messages in a file and a process with nothing
but the server reads them one by one, so that its peak memory is its own. The seconds of taking
surplus noise off are those of one client's layers, times how many are surplus. The quarter that may
drop out among 1,000 would need the complete graph and 8 GB of shares; there it is a tenth.

Run: python benchmarks/secagg.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from common import one_thread, show
from flower import Peer
from sessions import BITS, SEED, SHARED, SIGNS, Seconds, Setting, Spool, answers, serve

from tacit.privacy.discrete import encoder
from tacit.privacy.discrete.lattice import Lattice
from tacit.privacy.discrete.layers import Shares
from tacit.privacy.noise import SystemSource
from tacit.privacy.secagg.cohort import KEY_WORDS, SEED_WORDS, Rules
from tacit.privacy.secagg.secrets import COMMITMENT_BYTES, TAG_BYTES
from tacit.privacy.secagg.shamir import packed_size


def median_client(seconds: list[Seconds]) -> tuple[float, Seconds]:
    """The median of clients' totals, and of each leg."""
    legs = {leg: statistics.median(s[leg] for s in seconds) for leg in seconds[0]}
    return statistics.median(sum(s.values()) for s in seconds), legs


def least(runs: list[Seconds]) -> Seconds:
    """The run with the least total."""
    return min(runs, key=lambda run: sum(run.values()))


def side_by_side(clients: int, parameters: int, repetitions: int) -> dict[str, Any]:
    """Both sides' clients and servers, in turns."""
    rng = np.random.default_rng(SEED)
    updates = rng.normal(scale=0.01, size=(clients, parameters)).astype(np.float32)
    lost = clients // 5
    ours: dict[str, list[Seconds]] = defaultdict(list)
    theirs: dict[str, list[Seconds]] = defaultdict(list)
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as home:
            spools = {}
            for name, number in (("all", 0), ("dropout", lost)):
                setting = Setting(clients, parameters, number)
                lattice = setting.lattice
                spools[name] = Spool(Path(home, name))
                spools[name].folder.mkdir()

                def encoded(k: int, lattice: Lattice = lattice) -> np.ndarray:
                    return encoder.encode(updates[k], 1.0, lattice, SIGNS, SystemSource().key())

                found = answers(setting, encoded, spools[name], clients)
                ours["client"] += found[0]
            peer = Peer(updates)
            for _ in range(2):
                for name, gone in (("all", set()), ("dropout", Setting(clients, 1, lost).dropped)):
                    ours[name].append(serve(spools[name])[0])
                    theirs[name].append(peer.serve(gone))
            theirs["client"] += peer.seconds.values()
            sent = spools["dropout"].sent()
    return {
        "ours": ours,
        "theirs": theirs,
        "sent": sent,
        "sent_theirs": {stage: statistics.median(size) for stage, size in peer.sent.items()},
        "noise": noise(Setting(clients, parameters, 0)),
    }


def noise(setting: Setting) -> dict[str, float]:
    """Seconds of a client's whole share of the noise, and of regenerating one client's layers."""
    lattice, layers = setting.lattice, setting.rules.layers(setting.clients)
    shares = Shares("skellam", lattice.variance, setting.clients, layers, lattice.length)
    vector = np.zeros(lattice.length, dtype=np.int64)
    shares.surplus(1, [bytes(16)])
    added, removed = [], []
    for _ in range(5):
        began = time.process_time()
        shares.add(vector, bytes(32), bytes(16))
        added.append(time.process_time() - began)
        began = time.process_time()
        shares.surplus(1, [bytes(16)])
        removed.append(time.process_time() - began)
    return {
        "layers": layers,
        "client_seconds": min(added),
        "surplus_seconds_per_client": min(removed),
        "surplus_seconds": min(removed) * setting.clients,
    }


def grown(clients: int, parameters: int, repetitions: int) -> dict[str, Any]:
    """Ours alone, with dropouts: the server in a process of its own, the least of some runs."""
    lost, dropout = (clients // 5, 0.25) if clients < 300 else (clients // 10, 0.1)
    setting = Setting(clients, parameters, lost, dropout)
    length = setting.lattice.length
    with tempfile.TemporaryDirectory() as home:
        spool = Spool(Path(home))

        def integers(k: int) -> np.ndarray:
            return np.random.default_rng([SEED, k]).integers(-100, 100, length)

        measured, layers = answers(setting, integers, spool, 3)
        command = [sys.executable, __file__, "--serve", home]
        runs = []
        for _ in range(repetitions):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout))
    total, legs = median_client(measured)
    drawn, surplus = noise(setting), runs[0]["memory"]["surplus"]
    seconds = least([run["seconds"] for run in runs])
    return {
        "seconds": sum(seconds.values()),
        "steps": seconds,
        "client_seconds_without_encoding": total,
        "client_legs": legs,
        "layers": layers,
        "noise": drawn,
        "surplus_seconds": drawn["surplus_seconds_per_client"] / layers * surplus,
        "lost": lost,
        "sent": spool.sent(),
        **runs[0]["memory"],
        "peak_mb": max(run["memory"]["peak_mb"] for run in runs),
    }


def parts(steps: Seconds, column: int) -> list[tuple[Any, ...]]:
    """Rows of the steps that take more than a fiftieth of all, in their column."""
    total = sum(steps.values())
    shown = [(f"  {step}", ["", "", ""], value) for step, value in steps.items()]
    rows = []
    for step, cells, value in shown:
        if value > total / 50:
            cells[column] = value
            rows.append((step, *cells))
    return rows


def share_bytes(clients: int, dropout: float) -> int:
    """Bytes of ciphertexts and commitments that one client sends."""
    rules = Rules(max(4, clients // 2), clients, dropout, 0)
    layers = rules.layers(clients)
    sealed = packed_size(2 * KEY_WORDS + layers * SEED_WORDS) + TAG_BYTES
    return rules.choice(clients).degree * (sealed + (2 + layers) * COMMITMENT_BYTES)


def table(found: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Rows and the result of the two sides' seconds."""
    rows: list[Any] = []
    result: dict[str, Any] = {}
    for name, who, tail in (
        ("client", "client", ""),
        ("all", "server", ""),
        ("dropout", "server", "_dropout"),
    ):
        both = [found["ours"][name], found["theirs"][name]]
        if name == "client":
            (mine, steps), (other, others) = map(median_client, both)
        else:
            steps, others = map(least, both)
            mine, other = sum(steps.values()), sum(others.values())
        seconds, ratio = f"{who}_seconds{tail}", f"{who}_ratio{tail}"
        result |= {seconds: mine, ratio: other / mine, f"{seconds}_flower": other}
        result |= {f"{who}_steps{tail}": steps, f"{who}_steps{tail}_flower": others}
        rows += [(seconds, mine, other, other / mine), *parts(steps, 0), *parts(others, 1)]
    return rows, result


def details(
    found: dict[str, Any], points: dict[str, Any], parameters: int
) -> tuple[list[Any], dict[str, Any]]:
    """Bytes, noise and larger cohorts."""
    sent, others, drawn = found["sent"], found["sent_theirs"], found["noise"]
    masked = max(others.values())
    rows: list[Any] = [
        ("upload, bytes per parameter", sent["mask"] / parameters, masked / parameters, ""),
        ("upload of a client, bytes", int(sum(sent.values())), int(sum(others.values())), ""),
        *((f"  {leg}", int(size), "", "") for leg, size in sent.items()),
        (f"a client's noise, {drawn['layers']} layers", drawn["client_seconds"], "none", ""),
        ("surplus noise off, none lost", drawn["surplus_seconds"], "none", ""),
    ]
    for name, point in points.items():
        rows += [
            (f"{name}, {point['lost']} lost: server", point["seconds"], "", ""),
            *parts(point["steps"], 0),
            ("  a client, without encoding", point["client_seconds_without_encoding"], "", ""),
            ("  a client's noise", point["noise"]["client_seconds"], "", ""),
            ("  surplus noise off", point["surplus_seconds"], "", ""),
            ("  neighbours of a client", int(point["degree"]), "", ""),
            ("  server's peak, MB", point["peak_mb"], "", ""),
            ("  of it shares and commitments", point["shares_mb"], "", ""),
            ("  upload of a client, bytes", int(sum(point["sent"].values())), "", ""),
        ]
    planned = {f"{n} x {p:g}": n * share_bytes(n, p) / 2**20 for n in SHARED for p in (0.1, 0.25)}
    rows += [(f"shares a server keeps, MB: {name}", size, "", "") for name, size in planned.items()]
    return rows, {
        "shares_mb": planned,
        "bytes_per_parameter": sent["mask"] / parameters,
        "upload_bytes": sent,
        "noise": drawn,
        "points": points,
    }


def main() -> None:
    """Measures both sides and larger cohorts, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="100,000 parameters, 8 clients")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        seconds, memory = serve(Spool(Path(arguments.serve)))
        print(json.dumps({"seconds": seconds, "memory": memory}))
        return
    one_thread()
    quick = arguments.quick
    clients, parameters = (8, 100_000) if quick else (32, 1_000_000)
    sizes = [(20, 100_000, 1)] if quick else [(100, 1_000_000, 3), (1000, 100_000, 2)]
    found = side_by_side(clients, parameters, 1 if quick else 2)
    points = {f"{n} x {d}": grown(n, d, times) for n, d, times in sizes}
    rows, result = table(found)
    extra, more = details(found, points, parameters)
    show(
        f"{clients} clients, {parameters} parameters, complete graph; dropout: a fifth lost after "
        f"shares were dealt; {BITS}-bit words; Flower's defaults; 1 thread; seconds",
        ["", "tacit", "Flower SecAgg+", "ratio"],
        rows + extra,
        {**result, **more},
        arguments.json,
    )


if __name__ == "__main__":
    main()
