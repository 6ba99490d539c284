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
import dataclasses
import importlib
import json
import logging
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from common import one_thread, show

from tacit.privacy.discrete import encoder
from tacit.privacy.discrete.lattice import Lattice, Need, sized
from tacit.privacy.discrete.layers import Shares
from tacit.privacy.noise import SystemSource
from tacit.privacy.secagg import keys
from tacit.privacy.secagg.client import MaskingClient
from tacit.privacy.secagg.cohort import KEY_WORDS, SEED_WORDS, Rules, cohort
from tacit.privacy.secagg.directory import LocalDirectory, PinnedDirectory
from tacit.privacy.secagg.messages import Answer, Invitation
from tacit.privacy.secagg.secrets import COMMITMENT_BYTES, TAG_BYTES, packed_size
from tacit.privacy.secagg.server import AggregatingServer
from tacit.privacy.secagg.vault import Vault
from tacit.privacy.secagg.words import Words

BITS, SEED = 16, 0
LEGS = ("advertise", "share", "mask", "confirm", "reveal")
SIGNS = bytes(32)
SHARED = (32, 100, 300, 1000)
Seconds = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One session's size; ``lost`` clients drop after shares were dealt, before their vectors."""

    clients: int
    parameters: int
    lost: int
    dropout: float = 0.25

    @property
    def rules(self) -> Rules:
        """What the plan fixes."""
        return Rules(max(4, self.clients // 2), self.clients, self.dropout, 0)

    @property
    def lattice(self) -> Lattice:
        """On which updates are encoded."""
        need = Need(
            dimension=self.parameters,
            rotated=True,
            clients=self.clients,
            noise_multiplier=1.0,
            conditional=True,
        )
        return sized(need, BITS)

    @property
    def dropped(self) -> set[int]:
        """Who drops out."""
        chosen = np.random.default_rng(SEED).choice(self.clients, self.lost, replace=False)
        return {int(k) for k in chosen}

    def server(self, directory: PinnedDirectory) -> AggregatingServer:
        """A server at the beginning of the session."""
        invitation = Invitation("benchmark", 1, 0, "train", "plan", "task")
        everybody = list(range(self.clients))
        length = self.lattice.length
        return AggregatingServer(invitation, self.rules, directory, Words(BITS), length, everybody)


class Spool:
    """Clients' answers in files, one a leg, and who is in the directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes: dict[str, list[int]] = defaultdict(list)

    def put(self, leg: str, answer: Answer) -> None:
        """Appends an answer."""
        self.sizes[leg].append(len(answer.encode()))
        with open(self.folder / leg, "ab") as file:
            pickle.dump(answer, file)

    def read(self, leg: str) -> Iterator[Answer]:
        """One answer after the other."""
        with open(self.folder / leg, "rb") as file:
            while True:
                try:
                    yield pickle.load(file)
                except EOFError:
                    return

    def sent(self) -> dict[str, float]:
        """Bytes that a client sends, by leg; the median client that sends."""
        return {leg: statistics.median(self.sizes[leg]) for leg in LEGS}


def forget() -> None:
    """Clears what one process remembers for all clients, and a lone client wouldn't know."""
    keys.verify.cache_clear()
    cohort.cache_clear()


def takes(server: AggregatingServer, leg: str) -> Callable[[Any], Any]:
    """The server's method for a leg's answers."""
    return {
        "advertise": server.advertised,
        "share": server.shared,
        "mask": server.masked,
        "confirm": server.confirmed,
        "reveal": server.revealed,
    }[leg]


def closes(server: AggregatingServer, leg: str) -> Callable[[], Any]:
    """The server's method that ends a leg."""
    return {
        "advertise": server.roster,
        "share": server.close_shares,
        "mask": server.close_masked,
        "confirm": server.close_confirmed,
        "reveal": server.total,
    }[leg]


# Ours


class Crowd:
    """Real clients of one process, and the integers that they sent.

    Args:
        setting: of the session.
        local: their identities.
        directory: everybody's keys.
        vector: makes a client's integers.
    """

    def __init__(
        self,
        setting: Setting,
        local: LocalDirectory,
        directory: PinnedDirectory,
        vector: Callable[[int], np.ndarray],
    ) -> None:
        vault, rules = Vault(None), setting.rules
        self.clients = {
            k: MaskingClient(k, local.identity(k), directory, rules, vault)
            for k in range(setting.clients)
        }
        self._vector, self.sent = vector, {}

    def answer(self, leg: str, k: int, said: Any, session: str) -> Any:
        """A client's answer to what the server said."""
        client = self.clients[k]
        if leg == "advertise":
            return client.advertise(said)
        if leg == "share":
            return client.share(said, SystemSource())
        if leg == "confirm":
            return client.confirm(said)
        if leg == "reveal":
            return client.reveal(said[k])
        client.join(session, said)
        self.sent[k], words = self._vector(k), Words(BITS)
        return client.mask(session, said, words.from_integers(self.sent[k]), words)


def answers(
    setting: Setting, vector: Callable[[int], np.ndarray], spool: Spool, measured: int
) -> tuple[list[Seconds], int]:
    """Runs a session of real clients and keeps their answers.

    Args:
        setting: its size.
        vector: makes a client's integers; inside the time of the mask leg.
        spool: where answers go.
        measured: how many clients pay for all that they check.

    Returns:
        Seconds by leg of those measured that didn't drop out, and the layers of noise.
    """
    local = LocalDirectory(bytes(32))
    table = {k: local.public(k) or b"" for k in range(setting.clients)}
    directory = PinnedDirectory(table)
    server, crowd = setting.server(directory), Crowd(setting, local, directory, vector)
    (spool.folder / "setting").write_bytes(pickle.dumps((setting, table)))
    dropped, session = setting.dropped, server.session
    seconds: dict[int, Seconds] = {k: {} for k in sorted(crowd.clients.keys() - dropped)[:measured]}
    expected = np.zeros(setting.lattice.length, dtype=np.int64)
    said: Any = server.invitation
    for leg in LEGS:
        for k in sorted(crowd.clients.keys() - (set() if leg in LEGS[:2] else dropped)):
            if k in seconds:
                keys.verify.cache_clear()
                if leg == "share":
                    cohort.cache_clear()
            began = time.process_time()
            answer = crowd.answer(leg, k, said, session)
            if k in seconds:
                seconds[k][leg] = time.process_time() - began
            if leg == "mask":
                expected += crowd.sent.pop(k)
            spool.put(leg, answer)
            takes(server, leg)(answer)
        said = closes(server, leg)()
    assert np.array_equal(said[0], expected)
    np.save(spool.folder / "expected.npy", expected)
    return list(seconds.values()), server.cohort.layers


def serve(spool: Spool) -> tuple[Seconds, dict[str, float]]:
    """A server alone on answers that were kept: its seconds by step, and its memory in MB."""
    setting, table = pickle.loads((spool.folder / "setting").read_bytes())
    server = setting.server(PinnedDirectory(table))
    seconds: Seconds = defaultdict(float)
    lattice = setting.lattice
    shared, before = 0, resident()
    forget()
    for leg in LEGS:
        for answer in spool.read(leg):
            began = time.process_time()
            takes(server, leg)(answer)
            seconds[f"{leg}: answers"] += time.process_time() - began
            if leg == "share":
                shared += len(answer.ciphertexts) + len(answer.commitments)
        answer = None
        began = time.process_time()
        # The questions are kept, as they are while they are sent.
        said = closes(server, leg)()
        seconds[f"{leg}: close"] += time.process_time() - began
    began = time.process_time()
    encoder.decode(said[0], 1.0, lattice, SIGNS)
    seconds["decode"] = time.process_time() - began
    peak = resident()
    assert np.array_equal(said[0], np.load(spool.folder / "expected.npy"))
    memory = {
        "peak_mb": peak["VmHWM"] - before["VmRSS"],
        "shares_mb": shared / 2**20,
        "vector_mb": said[0].nbytes / 2**20,
        "degree": float(server.cohort.choice.degree),
        "surplus": float(len(server.survivors) * (server.cohort.layers - said[1] + 1)),
    }
    return dict(seconds), memory


def resident() -> dict[str, float]:
    """MB that this process holds (VmRSS), and at most held (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return {name: int(found[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}


# Flower's


class Peer:
    """Flower's SecAgg+ with clients that answer from memory.

    Args:
        updates: each client's update, shape [clients, parameters].
    """

    EXAMPLES = 1000  # The workflow's default max_weight: weights of one.

    def __init__(self, updates: np.ndarray) -> None:
        from flwr.common import ndarrays_to_parameters
        from flwr.supercore.task_identity import TaskIdentity

        # A message asks for these, which a ServerApp's process has.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
        # The package has a function of the module's name.
        secaggplus_mod = importlib.import_module(
            "flwr.client.mod.secure_aggregation.secaggplus_mod"
        )

        logging.getLogger("flwr").setLevel(logging.CRITICAL)
        self._mod, self._updates = secaggplus_mod, updates
        self._states = {k + 1: secaggplus_mod.SecAggPlusState() for k in range(len(updates))}
        for node, state in self._states.items():
            state.nid = node
        self._parameters = lambda node: ndarrays_to_parameters([updates[node - 1]])
        self._known: dict[tuple[Any, ...], Any] = {}
        self._dropped: set[int] = set()
        self._away = 0.0
        self.seconds: dict[int, Seconds] = defaultdict(dict)
        self.sent: dict[str, list[int]] = defaultdict(list)

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Any]:
        """What Flower's Grid does; each client computes an answer once."""
        began = time.process_time()
        replies = [self._reply(message) for message in messages]
        self._away += time.process_time() - began
        return replies

    def _reply(self, message: Any) -> Any:
        from flwr.app import ConfigRecord, Error, Message, RecordDict
        from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Stage

        node = message.metadata.dst_node_id
        configs = dict(message.content.config_records[RECORD_KEY_CONFIGS])
        stage = configs.pop("stage")
        if stage == Stage.COLLECT_MASKED_VECTORS and node in self._dropped:
            return Message(Error(code=0, reason="dropped"), reply_to=message)
        place = (stage, node, len(self._dropped) if stage == Stage.UNMASK else 0)
        if place not in self._known:
            content, found = RecordDict(), self._answer(stage, node, configs)
            if stage == Stage.COLLECT_MASKED_VECTORS:
                content = self._fitted()
            content.config_records[RECORD_KEY_CONFIGS] = ConfigRecord(found)
            self._known[place] = Message(content, reply_to=message)
        return self._known[place]

    def _fitted(self) -> Any:
        from flwr.common import Code, FitRes, Parameters, Status
        from flwr.compat.common import recorddict_compat

        empty, done = Parameters([], "numpy.ndarray"), Status(Code.OK, "")
        return recorddict_compat.fitres_to_recorddict(
            FitRes(done, empty, self.EXAMPLES, {}), keep_input=False
        )

    def _answer(self, stage: str, node: int, configs: dict[str, Any]) -> dict[str, Any]:
        from flwr.common.secure_aggregation.secaggplus_constants import Stage

        extra = ()
        if stage == Stage.COLLECT_MASKED_VECTORS:
            extra = (self.EXAMPLES, self._parameters(node))
        call = {
            Stage.SETUP: self._mod._setup,
            Stage.SHARE_KEYS: self._mod._share_keys,
            Stage.COLLECT_MASKED_VECTORS: self._mod._collect_masked_vectors,
            Stage.UNMASK: self._mod._unmask,
        }[stage]
        began = time.process_time()
        found = call(self._states[node], configs, *extra)
        self.seconds[node][stage] = time.process_time() - began
        self.sent[stage].append(sum(map(_size, found.values())))
        return dict(found)

    # What the workflow asks of a strategy.

    def configure_fit(self, *_: Any) -> list[Any]:
        """Everybody is asked; the model isn't sent, so it isn't timed."""
        from flwr.common import FitIns, Parameters

        fitins = FitIns(Parameters([], "numpy.ndarray"), {})
        return [(SimpleNamespace(node_id=node), fitins) for node in self._states]

    def aggregate_fit(self, _: int, results: Any, failures: Any) -> tuple[None, dict[str, Any]]:
        """Takes the mean, which is checked later."""
        self._mean = results[0][1].parameters
        return None, {}

    def serve(self, dropped: set[int]) -> Seconds:
        """Runs the workflow and returns its server's seconds by stage."""
        from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
        from flwr.common import parameters_to_ndarrays
        from flwr.server import LegacyContext
        from flwr.server.workflow.constant import (
            MAIN_CONFIGS_RECORD,
            MAIN_PARAMS_RECORD,
            Key,
        )
        from flwr.server.workflow.secure_aggregation import secaggplus_workflow

        self._dropped = {k + 1 for k in dropped}
        records = RecordDict()
        records.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
        records.array_records[MAIN_PARAMS_RECORD] = ArrayRecord()
        bare = Context(run_id=1, node_id=0, node_config={}, state=records, run_config={})
        context = LegacyContext(bare, strategy=self)
        workflow = secaggplus_workflow.SecAggPlusWorkflow(1.0, 2 / 3)
        state, seconds = secaggplus_workflow.WorkflowState(), {}
        for name in ("setup", "share_keys", "collect_masked_vectors", "unmask"):
            self._away, began = 0.0, time.process_time()
            assert getattr(workflow, f"{name}_stage")(self, context, state)
            seconds[name] = time.process_time() - began - self._away
        alive = [k for k in range(len(self._updates)) if k not in dropped]
        step = 2 * workflow.clipping_range / workflow.quantization_range
        wanted = self._updates[alive].mean(axis=0, dtype=np.float64)
        off = np.abs(parameters_to_ndarrays(self._mean)[0] - wanted).max()
        assert off < 2 * step, f"the mean is off by {off / step} steps"
        return seconds


def _size(value: Any) -> int:
    """Bytes of a value, integers as 8."""
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(value) if isinstance(value, bytes) else 8


# Measuring


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
