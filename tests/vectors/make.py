"""Writes the golden vectors: what another implementation of tacit's protocol must reproduce.

``python tests/vectors/make.py`` writes the JSON files beside it from the Python code, with fixed
inputs; `test_current.py` checks that they are what the code says today. README.md lists them.
Bytes are hex throughout; words and shares are lists of integers.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rfc8785
import runs
import sessions
from numpy.typing import NDArray

from tacit.privacy import noise
from tacit.privacy.discrete import encoder, layers, pmf, rotation, table
from tacit.privacy.discrete.lattice import Lattice, Need, sized
from tacit.privacy.messages import EvaluateRequest, TrainRequest
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.secagg import graph, keys, masks, messages, secrets, shamir
from tacit.privacy.secagg.cohort import Rules, cohort
from tacit.privacy.secagg.words import Words
from tacit.privacy.units import ClientUnit, Evaluation, RecordUnit
from tacit.protocol import statements

HERE = Path(__file__).parent


def drawn(label: str, size: int = 32) -> bytes:
    """Fixed bytes that look random."""
    return noise.KeyedStream(keys.derive("vectors", label.encode())).read(size).tobytes()


def reals(label: str, size: int) -> NDArray[np.float64]:
    """Fixed doubles in (-1, 1), in steps of 2^-20."""
    return np.frombuffer(drawn(label, 4 * size), dtype="<i4").astype(np.float64) // 2048 / 2.0**20


def keyed() -> dict[str, Any]:
    """`tacit.privacy.secagg.keys`, and keys and commitments of a session."""
    one, two = (keys.KeyPair(drawn(name)) for name in ("one", "two"))
    identity = keys.Identity(drawn("identity"))
    share = np.arange(65530, 65537, dtype=np.uint32)
    sealed = drawn("key"), drawn("plain", 50), b"associated"
    stream = noise.KeyedStream(drawn("stream"))
    return {
        "derive": [
            {"tag": t, "parts": [p.hex() for p in parts], "digest": keys.derive(t, *parts).hex()}
            for t, parts in (("tag", ()), ("a", (b"", b"b")), ("reply", (drawn("x", 300),)))
        ],
        "hkdf": {
            "secret": drawn("secret").hex(),
            "info": b"info".hex(),
            "key": keys._hkdf(drawn("secret"), b"info").hex(),
        },
        "ed25519": {
            "seed": identity.private.hex(),
            "public": identity.public.hex(),
            "statement": drawn("statement").hex(),
            "signature": identity.sign(drawn("statement")).hex(),
        },
        "x25519": {
            "one": one.private.hex(),
            "two": two.private.hex(),
            "public": [one.public.hex(), two.public.hex()],
            "secret": one.exchange(two.public).hex(),
            "low_order": [bytes(32).hex(), (1).to_bytes(32, "little").hex()],
        },
        "seal": {
            "key": sealed[0].hex(),
            "plaintext": sealed[1].hex(),
            "associated": sealed[2].hex(),
            "sealed": keys.seal(*sealed).hex(),
        },
        "stream": {
            "key": drawn("stream").hex(),
            "first": stream.read(5).tobytes().hex(),
            "then": stream.read(45).tobytes().hex(),
        },
        "session": {
            "self_mask": secrets.self_mask(drawn("seed"), "5e55").hex(),
            "seed": drawn("seed").hex(),
            "pair_mask": secrets.pair_mask(one, two.public, b"roster", b"members", (9, 3)).hex(),
            "root": secrets.channel_root(one, two.public, "5e55", b"roster").hex(),
            "channel_key": secrets.channel_key(drawn("root"), 3, 9).hex(),
            "from": drawn("root").hex(),
            "share": share.tolist(),
            "commitment": secrets.commitments("5e55", 3, 9, share, {258: slice(1, 6)})[258].hex(),
        },
    }


def stated() -> dict[str, Any]:
    """`tacit.protocol.statements`, and those of secure aggregation."""
    nonce, body = drawn("nonce", 16), drawn("body", 99)
    return {
        "nonce": nonce.hex(),
        "body": body.hex(),
        "reply": statements.reply(nonce, "query.share", 7, body).hex(),
        "refusal": statements.refusal(nonce, "train", 7, 4, "below a floor: é").hex(),
        "enrolment": statements.enrolment("token", body).hex(),
        "renewal": statements.renewal(body).hex(),
        "attestation": statements.attestation("phones", 7, drawn("identity")).hex(),
        "identity": drawn("identity").hex(),
        "document": statements.document(body).hex(),
        "advertised": messages.advertised("5e55", 7, b"c" * 32, b"m" * 32).hex(),
        "agreement": messages.agreement("5e55", b"r" * 32, b"abcd", b"efgh").hex(),
    }


def requests() -> tuple[TrainRequest, EvaluateRequest]:
    """A request of either kind."""
    vector = reals("model", 6).astype(np.float32)
    train = TrainRequest("r\u00e9-1", 3, 1, "p" * 64, "f" * 64, 0.1, 5, b"\x01\0\0\0", vector)
    return train, EvaluateRequest("run", 1, 0, "p" * 64, "f" * 64, 0.0, 0, b"", vector)


def encoded() -> dict[str, Any]:
    """`tacit.privacy.messages`: whole messages, numbers, and what must be refused."""
    train, evaluate = requests()
    invitation = messages.Invitation.to(train, "train")
    data = train.encode()
    head = struct.unpack_from("<I", data, 4)[0]
    spaced = data[8 : 8 + head].replace(b":", b": ", 1)
    values = [0.1, 1.0, -0.0, 1e21, 1e-7, 123456789012345680.0, 5e-324, 2.0**-44, 1 / 3, 0.3]
    return {
        "train": data.hex(),
        "evaluate": evaluate.encode().hex(),
        "parameters": [float(v) for v in train.parameters],
        "task": train.task(),
        "invitation": invitation.encode().hex(),
        "session": invitation.session(),
        "numbers": [
            {"bits": struct.pack(">d", v).hex(), "text": rfc8785.dumps(v).decode()} for v in values
        ],
        "refused": {
            "another kind": evaluate.encode().hex(),
            "cut short": data[:-1].hex(),
            "too long": (data + b"\0").hex(),
            "not canonical": (
                b"TCT1" + struct.pack("<I", head + 1) + spaced + data[8 + head :]
            ).hex(),
            "a clip of 1e-1": data.replace(b'"clip":0.1', b'"clip":1e-1')
            .hex()
            .replace(struct.pack("<I", head).hex(), struct.pack("<I", head + 1).hex(), 1),
            "a negative round": data.replace(b'"round":3', b'"round":-3')
            .hex()
            .replace(struct.pack("<I", head).hex(), struct.pack("<I", head + 1).hex(), 1),
            "another magic": (b"TCT2" + data[4:]).hex(),
            "nothing": "",
        },
    }


def shared() -> dict[str, Any]:
    """`tacit.privacy.secagg.shamir`."""
    key, points = drawn("polynomials"), np.array([1, 2, 5, 300, 65536])
    secret = drawn("shared", 24)
    shares = shamir.share(shamir.to_words(secret), 3, points, key)
    # A coefficient of 65536 is rare: these have some.
    odd = np.array([65536, 0, 65535, 1, 65536, 7, 8, 9, 65536], dtype=np.uint32)
    return {
        "secret": secret.hex(),
        "threshold": 3,
        "points": points.tolist(),
        "key": key.hex(),
        "shares": shares.tolist(),
        "packed": [row.hex() for row in shamir.pack_all(shares)],
        "weights": shamir.weights(points[[0, 2, 4]]).astype(int).tolist(),
        "odd": odd.tolist(),
        "odd_packed": shamir.pack_shares(odd).hex(),
    }


def masked() -> dict[str, Any]:
    """`tacit.privacy.secagg.masks` and `.words`; long ones by their digest."""
    cases = []
    for bits in (16, 20, 32):
        words = Words(bits)
        whole = np.array([0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1)), 77, -12345])
        long = words.pack(masks.expand(drawn(f"mask {bits}"), words, 70_001))
        cases.append(
            {
                "bits": bits,
                "integers": whole.tolist(),
                "packed": words.pack(words.from_integers(whole)).hex(),
                "key": drawn(f"mask {bits}").hex(),
                "first": masks.expand(drawn(f"mask {bits}"), words, 9).tolist(),
                "size": 70_001,
                "sha256": hashlib.sha256(long).hexdigest(),
            }
        )
    return {"cases": cases}


def linked() -> dict[str, Any]:
    """`tacit.privacy.secagg.graph` and what a cohort follows from."""
    choices = [(5, 1, 0.3), (100, 10, 0.1), (300, 30, 0.1), (1000, 100, 0.1), (1000, 0, 0.0)]
    made = []
    for size, corrupted, dropout in choices:
        found = graph.choose(size, corrupted, dropout)
        made.append(
            {
                "size": size,
                "corrupted": corrupted,
                "dropout": dropout,
                "degree": found.degree,
                "threshold": found.threshold,
                "side": found.side,
            }
        )
    seed = drawn("circle")
    sides = graph.sides(17, 400, 60, seed)
    entries = [
        messages.Entry(k, drawn(f"c{k}"), drawn(f"m{k}"), drawn(f"s{k}", 64))
        for k in range(2, 40, 3)
    ]
    packed = messages.pack_roster(entries)
    group = cohort(packed, Rules(5, 60, 0.3, 1))
    return {
        "choices": made,
        "seed": seed.hex(),
        "sides": {"position": 17, "size": 400, "degree": 60, "before": sides[0], "after": sides[1]},
        "roster": packed.hex(),
        "rules": [5, 60, 0.3, 1],
        "digest": group.digest.hex(),
        "threshold": group.threshold,
        "layers": group.layers,
        "words": group.words,
        "fewest": group.fewest,
        "survivors": group.rules.survivors(group.size),
    }


def noised() -> dict[str, Any]:
    """`tacit.privacy.discrete.table` and `.layers`: bit for bit, since layers are regenerated."""
    laws = [("skellam", v) for v in (0.05, 3.7, 900.0, 20_000.0, 5e6)]
    laws += [("discrete_gaussian", v) for v in (0.3, 12.5, 40_000.0)]
    drawn_of = []
    for name, variance in laws:
        law, key = layers.LAWS[name](variance), drawn(f"{name} {variance}")
        whole = table.table(law).sample(100_000, key).astype("<i4")
        drawn_of.append(
            {
                "law": name,
                "variance": variance,
                "key": key.hex(),
                "first": whole[:40].tolist(),
                "size": whole.size,
                "sha256": hashlib.sha256(whole.tobytes()).hexdigest(),
                "survival": [f"{s:x}" for s in pmf.survival(law.weights())[:3]],
            }
        )
    shares = layers.Shares("skellam", 1000.0, 10, 3, 50)
    whole = np.zeros(50, dtype=np.int64)
    shares.add(whole, drawn("base"), drawn("chain", 16))
    return {
        "samples": drawn_of,
        "layers": {
            "law": "skellam",
            "variance": 1000.0,
            "clients": 10,
            "layers": 3,
            "base": drawn("base").hex(),
            "chain": drawn("chain", 16).hex(),
            "seeds": [seed.hex() for seed in layers.chain(drawn("chain", 16), 3)],
            "sum": whole.tolist(),
        },
    }


LATTICES = {
    "conditional, rotated, exact": Lattice(
        dimension=11, rotated=True, bits=16, norm=64.0, conditional=True, variance=9.0, vote=3
    ),
    "conditional, rotated": Lattice(
        dimension=200, rotated=True, bits=16, norm=500.0, conditional=True, variance=0.0
    ),
    "conditional, in doubles": Lattice(
        dimension=50, rotated=False, bits=32, norm=100_000.0, conditional=True, variance=0.0
    ),
    "one dither": Lattice(
        dimension=40, rotated=False, bits=20, norm=900.0, conditional=False, variance=4.0,
        record_norm=10.0,
    ),
}  # fmt: skip


def rounded() -> dict[str, Any]:
    """`tacit.privacy.discrete.encoder` and `.rotation`, whose floats are to a relative 1e-5."""
    cases = []
    for name, lattice in LATTICES.items():
        values, key = reals(name, lattice.dimension), drawn(f"dither {name}")
        signs = rotation.public_seed("train", 4)
        whole = encoder.encode(values, 2.0, lattice, signs, key)
        fields = {f: getattr(lattice, f) for f in lattice.__dataclass_fields__}
        cases.append(
            {
                "name": name,
                "lattice": fields,
                "values": values.tolist(),
                "bound": 2.0,
                "signs": signs.hex(),
                "key": key.hex(),
                "whole": whole.tolist(),
                "l2": lattice.l2,
                "record_l2": lattice.record_l2,
            }
        )
    turned = reals("turned", 100)
    return {
        "cases": cases,
        "rotation": {
            "purpose": "evaluate",
            "round": 12,
            "seed": rotation.public_seed("evaluate", 12).hex(),
            "values": turned.tolist(),
            "rotated": rotation.rotate(turned, rotation.public_seed("evaluate", 12)).tolist(),
        },
    }


def planned() -> dict[str, Any]:
    """`tacit.privacy.plan`: plans as run documents carry them, and their digests."""
    record = RecordUnit(1.0, 0.8, 0.25, 2, 6.0)
    need = Need(dimension=10, rotated=True, clients=24, noise_multiplier=1.0, conditional=True)
    plain = {"population": 20, "sampling_rate": 0.6, "rounds": 3, "client_delta": 1e-5}
    plain |= {"record_delta": 1e-6, "minimum_survivors": 5, "noise_source": "os-csprng"}
    evaluation = Evaluation(1, 100, 4.0, 1.0)
    counts = sized(
        Need(dimension=3, rotated=False, clients=24, noise_multiplier=1.0, conditional=True), None
    )
    secure: dict[str, Any] = {"mechanism": "skellam", "aggregation": "secure"}
    secure |= {"relation": "zero-out", "rules": Rules(5, 20, 0.3, 1)}
    both = PrivacyPlan(
        client=ClientUnit(0.5, 1.0),
        record=record,
        evaluation=evaluation,
        updates=sized(need, None),
        counts=counts,
        **plain,
        **secure,
    )
    central = PrivacyPlan(client=None, record=record, **plain)
    return {
        "plans": [
            {"name": name, "json": rfc8785.dumps(plan.to_json()).decode(), "digest": plan.digest()}
            for name, plan in (("secure", both), ("central", central))
        ]
    }


FILES: dict[str, Callable[[], dict[str, Any]]] = {
    "keys.json": keyed,
    "statements.json": stated,
    "messages.json": encoded,
    "shamir.json": shared,
    "masks.json": masked,
    "graph.json": linked,
    "noise.json": noised,
    "encoder.json": rounded,
    "plans.json": planned,
    "session.json": sessions.whole,
    "runs.json": lambda: runs.trained(reals),
}


def main() -> None:
    """Writes every file."""
    for name, made in FILES.items():
        (HERE / name).write_text(json.dumps(made(), indent=1) + "\n")


if __name__ == "__main__":
    main()
