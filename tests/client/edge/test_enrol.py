"""Enrolment, certificates and their renewal at a real gateway; and what isn't believed."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path
from typing import Any

import agents
import pytest
from agents import enrolled, invitation, running
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tacit.client.edge import certificates, enrol
from tacit.client.edge.home import Bundle, Home
from tacit.client.edge.link import LinkError
from tacit.client.edge.peers import Entry, Peers
from tacit.privacy.errors import MessageError, RoundError, StorageError
from tacit.privacy.secagg.keys import Identity
from tacit.protocol import statements
from tacit.server.gateway.authority import Authority
from tacit.server.gateway.grid import GatewayGrid, opened
from tacit.server.gateway.settings import Settings
from tacit.server.home import Home as ServerHome


def bundle(grid: GatewayGrid, **changes: Any) -> Bundle:
    return Bundle(**{**invitation(grid), **changes})


def certificate(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificates(pem)[0]


def test_a_device_enrols_with_keys_of_its_own(grid: GatewayGrid, tmp_path: Path) -> None:
    home = Home(tmp_path / "device")
    who = enrol.enrol(home, bundle(grid))
    assert home.enrolled() == who
    assert who.client == 0
    files = {path.name: path.stat().st_mode & 0o777 for path in home.path.iterdir()}
    assert files == dict.fromkeys(("identity.key", "tls.pem", "device.json", "peers.sqlite"), 0o600)
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert "token" not in (home.path / "device.json").read_text()
    assert grid.devices.enrolled()[0].identity == home.identity().public
    assert not certificates.due(home.certificate(), dt.datetime.now(dt.UTC))
    peers = Peers(home.peers, who.population, bytes.fromhex(who.authority))
    assert peers.public(0) == home.identity().public
    peers.close()


def test_a_lost_reply_costs_nothing(grid: GatewayGrid, tmp_path: Path) -> None:
    home, given = Home(tmp_path / "device"), bundle(grid)
    first = enrol.enrol(home, given)
    (home.path / "device.json").unlink()
    assert enrol.enrol(home, given) == first
    with pytest.raises(LinkError, match="TOKEN_USED"):
        enrol.enrol(Home(tmp_path / "other"), given)


def test_another_gateway_is_not_believed(
    grid: GatewayGrid, tmp_path: Path, settings: Settings
) -> None:
    other = Authority(ServerHome(tmp_path / "other"), settings.population)
    for number, (changes, error, match) in enumerate(
        [
            ({"ca": other.certificate.decode()}, LinkError, "UNAVAILABLE"),
            ({"authority": other.public.hex()}, MessageError, "authority"),
            ({"population": "others"}, MessageError, "another population"),
            ({"token": "guessed"}, LinkError, "TOKEN_UNKNOWN"),
        ]
    ):
        home = Home(tmp_path / f"device-{number}")
        with pytest.raises(error, match=match):
            enrol.enrol(home, bundle(grid, **changes))
        assert not home.is_enrolled
        assert [path.name for path in home.path.iterdir()] == ["identity.key"]
    with pytest.raises(StorageError, match="isn't enrolled"):
        home.enrolled()


def issued(key: Any, by: Any, subject: str, issuer: str, ca: bool) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer)
    ]
    return (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(by, hashes.SHA256())
    )


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def test_chains_that_do_not_lead_to_the_ca_are_refused() -> None:
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
    root = issued(keys[0], keys[0], "root", "root", True)
    ca = root.public_bytes(serialization.Encoding.PEM).decode()
    middle = issued(keys[1], keys[0], "middle", "root", True)
    leaf = issued(keys[2], keys[1], "device", "middle", False)
    made = certificates.bound(keys[2], [der(leaf), der(middle)], ca)
    assert certificate(made) == leaf
    weak = issued(keys[1], keys[0], "middle", "root", False)
    forged = issued(keys[1], keys[3], "middle", "root", True)
    for chain in (
        [],
        [der(leaf)],
        [der(leaf), der(weak)],
        [der(leaf), der(forged)],
        [der(middle)],
        [b"no certificate"],
        [der(leaf)] * 6,
    ):
        with pytest.raises(MessageError):
            certificates.bound(keys[2], chain, ca)


@pytest.fixture
def brief(home: ServerHome, settings: Settings) -> Any:
    """A gateway whose certificates are as good as over when they are made."""
    with opened(home, dataclasses.replace(settings, certificate=30.0)) as made:
        yield made


def test_a_certificate_is_renewed_and_used(brief: GatewayGrid, tmp_path: Path) -> None:
    paths = {0: enrolled(brief, tmp_path, 0)}
    home = Home(paths[0])
    old = home.certificate()
    assert certificates.due(old, dt.datetime.now(dt.UTC))
    with running(paths) as crowd:
        agents.until(lambda: home.certificate() != old)
        assert certificate(home.certificate()).public_key() != certificate(old).public_key()
        assert crowd.agents[0].online
        crowd.stop(0)
        crowd.start(0)
        agents.until(lambda: crowd.agents[0].online)
    # The new one was used: the old one is over.
    home.certify(old)
    with running(paths) as crowd:
        agents.until(lambda: crowd.failures(0) > 0)
        assert not crowd.agents[0].online


def test_a_revoked_device_stays_out(grid: GatewayGrid, tmp_path: Path) -> None:
    paths = {0: enrolled(grid, tmp_path, 0)}
    with running(paths) as crowd:
        agents.until(lambda: crowd.agents[0].online)
        grid.devices.revoke(0)
        agents.until(lambda: crowd.failures(0) > 1)
        assert not crowd.agents[0].online


# Files


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"version": 2}, "version=2"),
        ({"authority": "00"}, "authority"),
        ({"coordinator": "x" * 64}, "coordinator"),
        ({"gateway": "somewhere"}, "gateway='somewhere'"),
        ({"enrol": ":443"}, "enrol=':443'"),
        ({"token": ""}, "token"),
        ({"ca": 3}, "ca"),
        ({"more": 1}, "TypeError"),
    ],
)
def test_bundles_that_are_not_are_refused(
    changes: dict[str, Any], match: str, tmp_path: Path
) -> None:
    key = Identity.generate().public.hex()
    whole = {
        "version": 1,
        "population": "p",
        "enrol": "localhost:1",
        "gateway": "localhost:2",
        "ca": "PEM",
        "authority": key,
        "coordinator": key,
        "token": "secret-token",
    }
    path = tmp_path / "bundle.json"
    path.write_text(json.dumps(whole))
    assert "secret-token" not in repr(Bundle.load(path))
    path.write_text(json.dumps({**whole, **changes}))
    with pytest.raises(StorageError, match=match) as caught:
        Bundle.load(path)
    assert "secret-token" not in str(caught.value)


def test_files_that_are_not_bundles_are_refused(tmp_path: Path) -> None:
    for text in ("", "[]", "{", "3"):
        (tmp_path / "b").write_text(text)
        with pytest.raises(StorageError):
            Bundle.load(tmp_path / "b")
    with pytest.raises(StorageError, match="can't be read"):
        Bundle.load(tmp_path / "nowhere")


# Peers


def test_identities_are_pinned_for_good(tmp_path: Path) -> None:
    authority, people = Identity.generate(), [Identity.generate() for _ in range(3)]

    def entry(client: int, who: Identity, population: str = "p") -> Entry:
        said = statements.attestation(population, client, who.public)
        return Entry(client, who.public, authority.sign(said))

    peers = Peers(tmp_path / "peers", "p", authority.public)
    peers.pin([entry(0, people[0]), entry(1, people[1]), entry(0, people[0])])
    assert peers.unknown([0, 1, 2]) == [2]
    for wrong, match in (
        ([entry(2, people[2]), entry(0, people[2])], "another identity"),
        ([entry(2, people[2]), entry(2, people[1])], "another identity"),
        ([entry(2, people[0])], "two clients"),
        ([entry(2, people[2], "q")], "authority's word"),
        ([Entry(2, people[2].public, bytes(64))], "authority's word"),
        ([Entry(2, b"short", authority.sign(b"x"))], "authority's word"),
    ):
        with pytest.raises(RoundError, match=match):
            peers.pin(wrong)
        assert peers.unknown([0, 1, 2]) == [2], "all or none"
    peers.agree("run", "plan")
    peers.close()
    again = Peers(tmp_path / "peers", "p", authority.public)
    assert again.public(0) == people[0].public
    with pytest.raises(RoundError, match="another identity"):
        again.pin([entry(0, people[2])])
    again.agree("run", "plan")
    with pytest.raises(RoundError, match="another plan"):
        again.agree("run", "other")
    again.close()
