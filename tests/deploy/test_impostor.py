"""One authenticated node can't answer for another: real SuperNodes, real keys, a real SuperLink."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from superlink import SILOS, Deployment, check_books

from tacit.privacy.secagg.keys import Identity, KeyPair
from tacit.privacy.secagg.messages import Advertisement
from tacit.protocol import statements
from tacit.server.deploy.silo import identity_of
from tacit.server.home import Home
from tacit.server.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def silos(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path / "all", f"{SILOS} rounds=1", 3, 60.0)
    try:
        yield made
    finally:
        made.down()


@pytest.mark.skipif(os.environ.get("TACIT_DEEP") != "1", reason="TACIT_DEEP=1 runs it")
def test_a_node_with_a_key_of_its_own_isnt_another_client(silos: Deployment) -> None:
    """Silo 2 says that it is client 1, in a folder that it has arranged for that."""
    home = silos.folder / "silo-2" / "client"
    shutil.copy(home / "2.key", home / "1.key")
    keys = json.loads((home / "directory.json").read_text())
    keys["1"], keys["2"] = keys["2"], keys["1"]
    (home / "directory.json").write_text(json.dumps(keys))
    script = silos.script("silo-2")
    script.write_text(script.read_text().replace("partition-id=2", "partition-id=1"))
    settings = silos.coordinator.root / "run.toml"
    settings.write_text(settings.read_text().replace("wait = 120.0", "wait = 25.0"))
    silos.up()
    silos.start("run")

    def said() -> str:
        return silos.log("run") + silos.log("superexec")

    silos.wait(lambda: "2 of 3 nodes answered" in said(), "the census", 200)
    assert "its client didn't sign" in said()
    # Nobody was asked for anything, so nothing was charged.
    assert silos.rows() == []


class Attacker:
    """Silo 2, with its own node key and identity, which has seen the messages of the run.

    It doesn't know the nonce of another's request; the coordinator draws one a client.
    """

    def __init__(self, silos: Deployment) -> None:
        self.silos = silos
        data = (silos.folder / "silo-2" / "node.key").read_bytes()
        key = load_ssh_private_key(data, None)
        interceptors = [
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key, key.public_key()),  # type: ignore[arg-type]
        ]
        self.client = FleetHttpClient.from_server_address(
            f"127.0.0.1:{silos.port}",
            False,
            str(silos.coordinator.root_certificate),
            interceptors=interceptors,  # type: ignore[arg-type]
        )
        self.identity: Identity = identity_of(silos.folder / "silo-2", 2)
        self.node = self.number("silo-2")

    def number(self, name: str) -> int:
        found = re.search(r"SuperNode ID: (\d+)", self.silos.log(name))
        assert found is not None
        return int(found.group(1))

    def request(self, name: str, kind: str) -> sqlite3.Row:
        """What the SuperLink keeps for a silo."""
        node = self.number(name)
        signed = node - 2**64 if node >= 2**63 else node
        path = self.silos.coordinator.state / "superlink.db"

        def found() -> sqlite3.Row | None:
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                db.row_factory = sqlite3.Row
                row: sqlite3.Row | None = db.execute(
                    "SELECT * FROM message_ins WHERE dst_node_id = ? AND message_type = ?",
                    (signed, kind),
                ).fetchone()
                return row

        return self.silos.wait(found, f"a {kind} for {name}")

    def forge(self, name: str, client: int, session: str) -> None:
        """Answers another silo's invitation with keys of its own, through its own door."""
        asked = self.request(name, "query.advertise")
        run = asked["run_id"] % 2**64
        bare = Advertisement(
            self.silos.rows()[-1]["id"],
            1,
            0,
            session,
            client,
            b"",
            KeyPair.generate().public,
            KeyPair.generate().public,
        )
        signature = self.identity.sign(bare.statement())
        body = dataclasses.replace(bare, signature=signature).encode()
        said = statements.reply(os.urandom(16), "query.advertise", client, body)
        record = ConfigRecord({"body": body, "signature": self.identity.sign(said)})
        now = time.time()
        reply = make_message(
            metadata=Metadata(
                run_id=run,
                message_id="",
                src_node_id=self.number(name),
                dst_node_id=asked["src_node_id"] % 2**64,
                reply_to_message_id=asked["message_id"],
                group_id=asked["group_id"],
                created_at=now,
                ttl=asked["created_at"] + asked["ttl"] - now,
                message_type="query.advertise",
            ),
            content=RecordDict({"tacit": record}),
        )
        reply.metadata.__dict__["_message_id"] = reply.object_id
        self.push(reply, run)

    def push(self, reply: Message, run: int) -> None:
        node = Node(node_id=self.node)
        objects = get_all_nested_objects(reply)
        answer = self.client.PushMessages(
            PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[0.1],
            )
        )
        assert answer.objects_to_push, "the SuperLink took the forged reply"
        for identifier in answer.objects_to_push:
            stored = self.client.PushObject(
                PushObjectRequest(
                    node=node,
                    run_id=run,
                    session_id=answer.session_id,
                    object_id=identifier,
                    object_content=objects[identifier].deflate(),
                )
            )
            assert stored.stored


def test_a_reply_through_another_nodes_door_costs_nothing(silos: Deployment) -> None:
    """Flower believes who a reply says it is from; the coordinator doesn't."""
    silos.up()
    silos.start("run")
    # Silo 1 said who it is, and then is slow.
    silos.wait(lambda: "Sent successfully" in silos.log("silo-1"), "the census")
    os.kill(silos.processes["silo-1"].pid, signal.SIGSTOP)
    try:
        silos.wait(lambda: any(x.startswith("said query.advertise 2 ") for x in silos.told()), "2")
        (line,) = [x for x in silos.told() if x.startswith("said query.advertise 2 ")]
        Attacker(silos).forge("silo-1", 1, line.split()[3])
        silos.wait_for_step(
            "query.advertise: a reply was refused: a reply that its client didn't sign, or not "
            "to this request"
        )
    finally:
        os.kill(silos.processes["silo-1"].pid, signal.SIGCONT)
    row = silos.wait(
        lambda: next((r for r in silos.rows() if r["status"] == "finished"), None), "end"
    )
    store = Store(Home(silos.coordinator.home))
    (released,) = store.rounds(row["id"])
    charges = [leaf for leaf in store.spending() if leaf["kind"] == "CHARGE"]
    store.close()
    # Silo 1 has its place, in the first attempt.
    assert (released["accepted"], len(charges)) == (3, 1)
    check_books(silos)


def test_a_node_without_a_registered_key_stays_out(silos: Deployment) -> None:
    silos.start("superlink")
    silos.wait(silos.listens, "the SuperLink to listen")
    silos.start("silo-0").wait(60)
    assert (
        "could not be activated" in silos.log("silo-0")
        or "exit code" in silos.log("silo-0").lower()
    )
