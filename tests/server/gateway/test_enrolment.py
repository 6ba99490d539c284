"""Enrolment and who is let in, over real TLS with real certificates."""

from __future__ import annotations

import concurrent.futures
import logging
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import edge
import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from edge import Gateway

from tacit.privacy.errors import StorageError
from tacit.privacy.secagg.keys import Identity, verify
from tacit.protocol import edge_pb2 as pb
from tacit.protocol import statements
from tacit.server.gateway.authority import Authority, request
from tacit.server.home import Home


def refused(call: Any) -> tuple[str, str]:
    """Status and details of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code().name, error.details()


def test_a_token_becomes_a_certificate_that_says_no_more_than_it_must(gateway: Gateway) -> None:
    with gateway() as place:
        device = place.device()
        found = x509.load_der_x509_certificate(device.reply.chain[0])
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["tacit:tests:0"]
        assert found.subject.rfc4514_string() == "CN=client 0"
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert not constraints.ca
        usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
        now = datetime.now(UTC)
        assert found.not_valid_before_utc < now - timedelta(minutes=4)
        assert found.not_valid_after_utc > now + timedelta(days=89)
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(place.ca))
        said = device.reply.attestation
        assert (device.client, said.client, said.identity) == (0, 0, device.identity.public)
        statement = statements.attestation("tests", 0, device.identity.public)
        assert verify(place.grid.authority.public, said.signature, statement)
        with place.ready(device):
            assert place.grid.connected == 1


def test_a_replayed_token_is_refused_and_never_logged(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tacit")
    with gateway() as place:
        token = place.grid.devices.invite(60)
        first = edge.enrol(place.grid.enrol_port, place.ca, token)
        code, why = refused(lambda: edge.enrol(place.grid.enrol_port, place.ca, token))
        assert (code, why.split(":")[0]) == ("PERMISSION_DENIED", "TOKEN_USED")
        # Who was first may ask again, and both of its certificates are good until one is used.
        again = edge.enrol(place.grid.enrol_port, place.ca, token, first.identity)
        assert again.client == first.client
        with place.ready(again):
            pass
        with place.stream(first) as late:
            assert late.ended()[1] == "PERMISSION_DENIED"
    assert "refused: TOKEN_USED" in caplog.text
    assert token not in caplog.text


def test_of_two_that_race_with_one_token_one_enrols(gateway: Gateway) -> None:
    with gateway() as place, concurrent.futures.ThreadPoolExecutor(6) as pool:
        token = place.grid.devices.invite(60)

        def race(_: int) -> str:
            try:
                return f"client {edge.enrol(place.grid.enrol_port, place.ca, token).client}"
            except grpc.RpcError as error:
                return str(error.details()).split(":")[0]  # type: ignore[attr-defined]

        assert sorted(pool.map(race, range(6))) == [*["TOKEN_USED"] * 5, "client 0"]
        assert len(place.grid.devices.enrolled()) == 1


def test_requests_that_are_not_what_they_should_be(gateway: Gateway) -> None:
    with gateway() as place:
        token, identity = place.grid.devices.invite(60), Identity.generate()

        def reason(**changes: Any) -> str:
            asked = edge.request(token, identity, edge.key())
            for name, value in changes.items():
                setattr(asked, name, value)
            details = refused(lambda: edge.call_enrol(place.grid.enrol_port, place.ca, asked))[1]
            return details.split(":")[0]

        assert reason(token="") == "MALFORMED"
        assert reason(token="x" * 200) == "MALFORMED"
        assert reason(identity=b"short") == "MALFORMED"
        assert reason(csr=b"") == "MALFORMED"
        assert reason(csr=b"0" * 300) == "MALFORMED"
        assert reason(agent="x" * 65) == "MALFORMED"
        assert reason(proof=b"") == "PROOF"
        assert reason(identity=Identity.generate().public) == "PROOF"
        assert reason(csr=edge.csr(edge.key())) == "PROOF"  # signed another
        for private in (
            ec.generate_private_key(ec.SECP384R1()),
            ed25519.Ed25519PrivateKey.generate(),
        ):
            wrong = edge.csr(private)
            proof = identity.sign(statements.enrolment(token, wrong))
            assert reason(csr=wrong, proof=proof) == "KEY"
        tampered = edge.csr(edge.key())
        tampered = tampered[:-1] + bytes([tampered[-1] ^ 1])
        proof = identity.sign(statements.enrolment(token, tampered))
        assert reason(csr=tampered, proof=proof) in ("PROOF", "MALFORMED")
        # The token is as good as before.
        assert edge.enrol(place.grid.enrol_port, place.ca, token).client == 0


def test_nobody_enrols_faster_than_the_limit(gateway: Gateway) -> None:
    with gateway(enrolments_rate=0.001, enrolments_burst=2.0) as place:
        place.device()
        place.device()
        code, why = refused(place.device)
        assert (code, why.split(":")[0]) == ("RESOURCE_EXHAUSTED", "BUSY")


# Who is let in


def test_another_authority_is_not_believed_by_either_side(gateway: Gateway, tmp_path: Path) -> None:
    with gateway() as place:
        device = place.device()
        other = Authority(Home(tmp_path / "other"), "tests")
        # Its certificate is another's: the gateway's TLS refuses.
        private = edge.key()
        forged = other.issue(request(edge.csr(private)), 0, 3600.0)
        reply = pb.EnrolReply(client=0, chain=[forged.der])
        stranger = edge.Credentials(place.ca, device.identity, private, reply)
        with edge.stream(stranger, place.port) as refused_:
            assert refused_.ended()[1] == "UNAVAILABLE"
        # It trusts another: it doesn't take this gateway for its own.
        wary = edge.Credentials(other.certificate, device.identity, device.private, device.reply)
        with edge.stream(wary, place.port) as refused_:
            assert refused_.ended()[1] == "UNAVAILABLE"
        assert place.grid.connected == 0
        code, _ = refused(
            lambda: edge.call_enrol(
                place.grid.enrol_port,
                other.certificate,
                edge.request("t", device.identity, private),
            )
        )
        assert code == "UNAVAILABLE"


def test_without_a_certificate_there_is_no_gateway(gateway: Gateway) -> None:
    with gateway() as place:
        credentials = grpc.ssl_channel_credentials(place.ca)
        with grpc.secure_channel(f"127.0.0.1:{place.port}", credentials) as channel:
            call = channel.stream_stream("/tacit.edge.v1.Gateway/Connect")
            code, _ = refused(lambda: list(call(iter([b""]), timeout=edge.PATIENCE)))
            assert code == "UNAVAILABLE"


def test_a_certificate_that_the_store_does_not_know_is_none(gateway: Gateway) -> None:
    """Not even if the authority itself signed it."""
    with gateway() as place:
        device = place.device()
        issued = place.grid.authority.issue(request(edge.csr(device.private)), 0, 3600.0)
        reply = pb.EnrolReply(client=0, chain=[issued.der])
        twin = edge.Credentials(place.ca, device.identity, device.private, reply)
        with place.stream(twin) as stream:
            assert stream.ended()[1] == "PERMISSION_DENIED"
        # Nor is a server's certificate one to call with.
        key, certificate = place.grid.authority.server(["127.0.0.1"])
        made = grpc.ssl_channel_credentials(place.ca, key, certificate)
        with grpc.secure_channel(f"127.0.0.1:{place.port}", made) as channel:
            call = channel.stream_stream("/tacit.edge.v1.Gateway/Connect")
            assert refused(lambda: list(call(iter([b""]), timeout=edge.PATIENCE)))[0] in (
                "UNAVAILABLE",
                "PERMISSION_DENIED",
            )


def test_an_expired_certificate_is_refused_and_ends_a_live_stream(gateway: Gateway) -> None:
    with gateway(certificate=2.0) as place:
        device = place.device()
        with place.ready(device) as stream:
            why, code = stream.ended()
            assert (why.split(":")[0], code) == ("EXPIRED", "PERMISSION_DENIED")
        with place.stream(device) as stream:
            assert stream.ended()[1] == "UNAVAILABLE"  # TLS


def test_a_revocation_ends_a_live_stream(gateway: Gateway) -> None:
    with gateway() as place:
        device, other = place.device(), place.device()
        with place.ready(device) as stream, place.ready(other) as stays:
            place.grid.devices.revoke(0)
            why, code = stream.ended()
            assert (why.split(":")[0], code) == ("REVOKED", "PERMISSION_DENIED")
            edge.until(lambda: place.grid.connected == 1)
            stays.ready()
        with place.stream(device) as stream:
            assert stream.ended()[1] == "PERMISSION_DENIED"
        assert refused(lambda: edge.renew(place.port, device))[0] == "PERMISSION_DENIED"


def test_who_asks_for_renewals_again_and_again_is_refused_early(gateway: Gateway) -> None:
    with gateway() as place:
        device = place.device()
        edge.renew(place.port, device)
        why = [refused(lambda: edge.renew(place.port, device))[1] for _ in range(4)]
        assert [w.split(":")[0] for w in why] == ["TOO_SOON"] * 3 + ["BUSY"]


def test_a_renewed_certificate_replaces_the_old_one(gateway: Gateway) -> None:
    with gateway() as place:
        device = place.device()
        renewed = edge.renew(place.port, device)
        assert renewed.reply.attestation == device.reply.attestation
        with place.ready(device):
            pass
        with place.ready(renewed):
            pass
        with place.stream(device) as stream:
            assert stream.ended()[1] == "PERMISSION_DENIED"
        assert refused(lambda: edge.renew(place.port, renewed))[1].startswith("TOO_SOON")
        thief = edge.Credentials(place.ca, Identity.generate(), renewed.private, renewed.reply)
        assert refused(lambda: edge.renew(place.port, thief))[1].startswith("PROOF")


def test_clocks_that_are_off_by_an_hour_are_no_problem(gateway: Gateway, home: Home) -> None:
    """A device's certificate begins before now, the server's a day before.

    The machine's clock can't be moved in a test, so the authority's is: keys made by a clock
    an hour fast are what a device whose clock is an hour slow sees.
    """
    Authority(home, "tests", lambda: time.time() + 3600)
    with gateway() as place:
        own = x509.load_pem_x509_certificate(place.ca)
        hour_ago = datetime.now(UTC) - timedelta(hours=1)
        assert own.not_valid_before_utc < hour_ago
        _, pem = place.grid.authority.server(["127.0.0.1"])
        assert x509.load_pem_x509_certificate(pem).not_valid_before_utc < hour_ago
        with place.ready(place.device()) as stream:
            identifier = place.push(b"what")
            task = stream.receive("task")
            assert 0 < task.deadline_ms <= 1000 * edge.PATIENCE  # from now, whatever now is
            stream.answer(task, b"that")
            place.pull(identifier)


# Keys


def test_keys_are_the_owners_and_are_never_made_anew(home: Home) -> None:
    first = Authority(home, "tests")
    again = Authority(home, "tests")
    assert first.certificate == again.certificate
    assert first.public == again.public
    assert first.coordinator.public == again.coordinator.public
    for name in ("ca.key", "authority.key", "coordinator.key"):
        path = home.keys / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o644)
        with pytest.raises(StorageError, match="others"):
            Authority(home, "tests")
        path.chmod(0o600)
    (home.keys / "ca.key").rename(home.keys / "away")
    with pytest.raises(StorageError, match="gone"):
        Authority(home, "tests")
    (home.keys / "away").rename(home.keys / "ca.key")
    (home.keys / "authority.key").write_text("rubbish")
    with pytest.raises(StorageError, match="isn't a key"):
        Authority(home, "tests")


def test_a_restarted_gateway_knows_its_devices(gateway: Gateway) -> None:
    with gateway() as place:
        device = place.device()
        with place.ready(device):
            pass
    with gateway() as place, place.ready(device) as stream:
        identifier = place.push(b"what")
        stream.answer(stream.receive("task"), b"that")
        assert place.pull(identifier).has_content()
