"""Enrolment and renewal: a token, or a certificate, becomes a certificate.

Guarantees: the bundle's CA is the only one trusted, for the connection and for what comes
back; a reply counts only if the pinned authority attested this device's identity for the number
and population in it. Nothing is written before that, but this device's own signing key.
"""

from __future__ import annotations

import grpc

from tacit.client.edge import certificates
from tacit.client.edge.home import Bundle, Enrolled, Home
from tacit.client.edge.link import AGENT, LinkError, said
from tacit.client.edge.peers import Entry, Peers
from tacit.privacy.errors import MessageError
from tacit.privacy.secagg.keys import Identity
from tacit.protocol import edge_pb2 as pb
from tacit.protocol import statements
from tacit.protocol.edge_pb2_grpc import EnrolmentStub, GatewayStub

_SECONDS = 60.0


def enrol(home: Home, bundle: Bundle) -> Enrolled:
    """Enrols a device; asked again after a lost reply, it is the same device.

    Args:
        home: of the device.
        bundle: that it was given.

    Raises:
        LinkError: the service can't be reached, or refused.
        MessageError: the reply isn't what the bundle's keys sign.
        StorageError: the home can't be written.
    """
    identity = home.identity(make=True)
    key, csr = certificates.request()
    request = pb.EnrolRequest(
        token=bundle.token,
        csr=csr,
        identity=identity.public,
        proof=identity.sign(statements.enrolment(bundle.token, csr)),
        agent=AGENT,
    )
    trust = grpc.ssl_channel_credentials(bundle.ca.encode())
    with grpc.secure_channel(bundle.enrol, trust) as channel:
        try:
            reply = EnrolmentStub(channel).Enrol(request, timeout=_SECONDS)
        except grpc.RpcError as error:
            raise LinkError(f"enrolment at {bundle.enrol} failed: {said(error)}") from error
    who = Enrolled(
        client=reply.client,
        population=bundle.population,
        gateway=bundle.gateway,
        ca=bundle.ca,
        authority=bundle.authority,
        coordinator=bundle.coordinator,
    )
    pem = certificates.bound(key, reply.chain, bundle.ca)
    own = _attested(reply, who, identity)
    peers = Peers(home.peers, who.population, bytes.fromhex(who.authority))
    try:
        peers.pin([own])
    finally:
        peers.close()
    home.certify(pem)
    home.enrol(who)
    return who


async def renew(home: Home, who: Enrolled, gateway: GatewayStub) -> None:
    """Replaces the certificate of an enrolled device; the old one is good until it is used.

    Args:
        home: of the device.
        who: it is.
        gateway: as called with the old certificate.

    Raises:
        LinkError: the gateway refused.
        MessageError: the reply isn't what the pinned keys sign.
        StorageError: the home can't be read or written.
    """
    identity = home.identity()
    key, csr = certificates.request()
    request = pb.RenewRequest(csr=csr, proof=identity.sign(statements.renewal(csr)))
    try:
        reply = await gateway.Renew(request, timeout=_SECONDS)
    except grpc.aio.AioRpcError as error:
        raise LinkError(f"renewal failed: {said(error)}") from error
    if reply.client != who.client:
        raise MessageError("a certificate was renewed for another client")
    _attested(reply, who, identity)
    home.certify(certificates.bound(key, reply.chain, who.ca))


def _attested(reply: pb.EnrolReply, who: Enrolled, identity: Identity) -> Entry:
    """This device's own entry among identities, as the authority signed it."""
    said_of = reply.attestation
    if reply.population != who.population:
        raise MessageError("the reply is for another population than the bundle")
    if (said_of.client, said_of.identity) != (who.client, identity.public):
        raise MessageError("the reply attests another identity than this device's")
    entry = Entry(said_of.client, said_of.identity, said_of.signature)
    if not entry.signed(who.population, bytes.fromhex(who.authority)):
        raise MessageError("the reply isn't signed by the authority that the bundle names")
    return entry
