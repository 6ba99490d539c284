"""Latency of scoring with receipts: a slow shadow, a champion swapped under load, the budget kept.

    python benchmarks/score.py [--rate 60] [--blocks 8] [--seconds 5] [--json]

A real server (uvicorn, SQLite, a durable receipt an answer) in a process of its own, asked from
another over loopback at a fixed rate: a request's time counts from when it was due, so that one
that had to wait for the one before it isn't flattered. With and without a shadow that takes 1 s
more a run, in turns, so that a busy machine is busy for both; then with a champion that is swapped
every 200 ms; then with a champion that takes 1 s, whose last good version answers in time.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import common
import numpy as np

MODEL = "digits"
RUN = ["experiment=digits", "clients=100", "cohort=40", "minimum_survivors=10", "rounds=4"]
RUN += ["mechanism=central", "aggregation=plain", "seed=1"]
SLOW, ALWAYS = 2, 3
BUDGET = 0.1
SEED = 0


def main() -> None:
    """Runs the benchmark, or one of its processes."""
    if len(sys.argv) > 1 and sys.argv[1] in ("serve", "load"):
        (serve if sys.argv[1] == "serve" else load)(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=float, default=60.0, help="requests a second")
    parser.add_argument("--blocks", type=int, default=8, help="of each kind, in turns")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a block")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tacit-score-") as folder:
        result = measured(Path(folder) / "home", asked)
    rows = [
        (name, *(case[key] for key in ("requests", "answered", "p50", "p99", "max", "within")))
        for name, case in result["cases"].items()
    ]
    columns = ["case", "requests", "answered", "p50 ms", "p99 ms", "max ms", "within 100 ms"]
    common.show("scoring", columns, rows, result, False)
    print(
        f"p99 with a slow shadow / without: {result['ratio']:.3f} pooled, "
        f"{result['median_ratio']:.3f} the median of {asked.blocks} pairs; "
        f"without it, one half of the blocks / the other: {result['null_ratio']:.3f}"
    )
    print(f"a shadow's runs: {result['shadow']}; roles while swapped: {result['swapped_roles']}")
    print(f"roles with a slow champion: {result['slow_roles']}; seed={SEED}")
    if asked.json:
        print(json.dumps({**result, "machine": common.machine()}))


def measured(root: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """All cases, on one server."""
    from tacit import simulate
    from tacit.server.access.tenants import DEFAULT
    from tacit.server.access.tokens import Tokens
    from tacit.server.home import Home
    from tacit.server.lifecycle import Lifecycle
    from tacit.server.registry import ModelRegistry
    from tacit.server.scoring.model import Loader
    from tacit.server.store import Store

    simulate([*RUN, "name=digits"], home=root)
    store, tokens = Store(Home(root)), Tokens(root)
    life = Lifecycle(store)
    token, _ = tokens.issue("benchmark", "viewer", tenant=DEFAULT, lifetime=timedelta(days=1))

    def move(alias: str, number: int | None) -> None:
        before = life.current(MODEL, alias)
        leaf = before.leaf if before else None
        life.move(MODEL, alias, number, expected=leaf, actor="benchmark", reason="measured")

    registry = ModelRegistry(store.home, store)
    loader = Loader(store, registry)
    for row in registry.list(MODEL):
        # Its graph, which a server would have made beside it the first time.
        loader.load(row)
    move("champion", 1)
    server = subprocess.Popen(
        [sys.executable, __file__, "serve", str(root)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()

        def ask(seconds: float) -> list[dict[str, Any]]:
            words = [sys.executable, __file__, "load", port, token, str(asked.rate), str(seconds)]
            said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            found: list[dict[str, Any]] = json.loads(said)
            return found

        while ask(2.0)[-1]["status"] != 200:
            pass  # It is being loaded.
        return _cases(move, ask, asked, lambda: _state(int(port), token))
    finally:
        server.terminate()
        server.wait(30)
        store.close()
        tokens.close()


def _cases(move: Any, ask: Any, asked: argparse.Namespace, state: Any) -> dict[str, Any]:
    alone, shadowed = [], []
    for block in range(asked.blocks):
        # Which comes first changes, so that a drift of the machine is for both.
        for with_shadow in (False, True) if block % 2 == 0 else (True, False):
            if with_shadow:
                move("shadow", SLOW)
                time.sleep(0.5)
                shadowed.append(ask(asked.seconds))
                move("shadow", None)
            else:
                alone.append(ask(asked.seconds))
            time.sleep(0.5)
    shadow = state()["beside"]["shadow"]
    swapping = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not swapping.wait(0.2):
            swaps += 1
            move("champion", (4, 1)[swaps % 2])

    thread = threading.Thread(target=swap)
    thread.start()
    swapped = ask(2 * asked.seconds)
    swapping.set()
    thread.join()
    move("champion", ALWAYS)
    time.sleep(1.0)
    slow = ask(2 * asked.seconds)
    flat = {"alone": _joined(alone), "beside a shadow slowed by 1 s": _joined(shadowed)}
    flat |= {f"champion swapped {swaps} times": swapped, "champion slowed by 1 s": slow}
    pairs = [_p99(b) / _p99(a) for a, b in zip(alone, shadowed, strict=True)]
    halves = [_p99(_joined(alone[k::2])) for k in (0, 1)]
    return {
        "cases": {name: _summed(answers) for name, answers in flat.items()},
        "ratio": _p99(_joined(shadowed)) / _p99(_joined(alone)),
        "median_ratio": float(np.median(pairs)),
        "null_ratio": halves[1] / halves[0],
        "shadow": shadow,
        "swapped_roles": _roles(swapped),
        "slow_roles": _roles(slow),
        "seed": SEED,
        "rate": asked.rate,
    }


def _joined(blocks: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [each for block in blocks for each in block]


def _p99(answers: list[dict[str, Any]]) -> float:
    return float(np.quantile([a["seconds"] for a in answers], 0.99))


def _roles(answers: list[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in answers:
        name = f"{each['role']} {each['version']}" if each["status"] == 200 else str(each["status"])
        found[name] = found.get(name, 0) + 1
    return found


def _summed(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """In milliseconds; ``within`` is the share of all requests answered within the budget."""
    times = np.array([a["seconds"] for a in answers]) * 1e3
    good = np.array([a["status"] == 200 for a in answers])
    return {
        "requests": len(answers),
        "answered": int(good.sum()),
        "p50": float(np.quantile(times, 0.5)),
        "p99": float(np.quantile(times, 0.99)),
        "max": float(times.max()),
        "within": float((good & (times <= BUDGET * 1e3)).mean()),
    }


def serve(root: str) -> None:
    """The server's process."""
    import uvicorn

    from tacit.server.api.app import make_app
    from tacit.server.api.settings import Limits, Settings
    from tacit.server.scoring.model import Loader, Served
    from tacit.server.scoring.router import Router

    class Slow(Served):
        def run(self, inputs: Any, options: Any = None) -> np.ndarray:
            time.sleep(1.0)
            return super().run(inputs, options)

    class Slowing(Loader):
        def load(self, row: Any) -> Served:
            served = super().load(row)
            names = served.__dataclass_fields__
            slowed = Slow(**{name: getattr(served, name) for name in names})
            return slowed if row["number"] in (SLOW, ALWAYS) else served

    app = make_app(Path(root), Settings(limits=Limits(rate=1e6, burst=1e6)))
    app.state.scorer = lambda place, settings: _router(Router, Slowing, place, settings)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", access_log=False)
    server = uvicorn.Server(config)

    def announce() -> None:
        while not server.started:
            time.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)

    threading.Thread(target=announce, daemon=True).start()
    server.run()


def _router(router: Any, loader: Any, place: Any, settings: Any) -> Any:
    made = loader(place.store, place.registry, apart=True)
    return router(place.store, place.registry, place.lifecycle, place.recorder, settings, made)


def _state(port: int, token: str) -> dict[str, Any]:
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Authorization": f"Bearer {token}"}
    c.request("GET", f"/v1/models/{MODEL}/champion/serving", headers=headers)
    found: dict[str, Any] = json.loads(c.getresponse().read())
    c.close()
    return found


def load(port: str, token: str, rate: str, seconds: str, connections: int = 32) -> None:
    """The asking process: requests at a fixed rate, over as many connections as it takes."""
    records = np.random.default_rng(SEED).random((64, 1, 128)).round(4)
    bodies = [json.dumps({"inputs": record.tolist()}) for record in records]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    path, count = f"/v1/models/{MODEL}/champion/score", int(float(rate) * float(seconds))
    began, lock, place = time.perf_counter() + 0.2, threading.Lock(), iter(range(count))
    found: list[dict[str, Any]] = []

    def ask() -> None:
        c = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
        while True:
            with lock:
                turn = next(place, None)
            if turn is None:
                return
            due = began + turn / float(rate)
            time.sleep(max(0.0, due - time.perf_counter()))
            c.request("POST", path, bodies[turn % len(bodies)], headers)
            answer = c.getresponse()
            said = json.loads(answer.read())
            line = {"status": answer.status, "seconds": time.perf_counter() - due}
            line |= {"role": said.get("role"), "version": said.get("version")}
            with lock:
                found.append(line)

    workers = [threading.Thread(target=ask) for _ in range(connections)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
