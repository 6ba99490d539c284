"""Enrolment and renewal: from a one-time token, or a certificate, to a certificate.

Guarantees: an enrolled identity belongs to whoever holds its key and had the token; the
certificate's key to whoever asked. What is logged of a refusal is its reason.
"""

from __future__ import annotations

import asyncio
import logging

import grpc

from tacit.privacy.secagg.keys import KEY_BYTES, verify
from tacit.protocol import edge_pb2 as pb
from tacit.protocol import statements
from tacit.server.gateway import authority as authorities
from tacit.server.gateway import wire
from tacit.server.gateway.authority import Authority
from tacit.server.gateway.devices import Device, Devices, Issued
from tacit.server.gateway.flow import Bucket
from tacit.server.gateway.refused import RefusedError
from tacit.server.gateway.settings import Settings

log = logging.getLogger("tacit.gateway")

MAX_REQUEST = 16 * 1024
_MAX_TOKEN, _MAX_AGENT = 128, 64
# Renewals that a device may ask for at once, and devices whose asking is remembered.
_ASKED, _ASKING = 4, 65536


class Enrolment:
    """The services that make certificates.

    Args:
        devices: the store.
        authority: the operator's keys.
        settings: of the gateway.
    """

    def __init__(self, devices: Devices, authority: Authority, settings: Settings) -> None:
        self._devices, self._authority, self._settings = devices, authority, settings
        limits = settings.limits
        self._bucket = Bucket(limits.enrolments_rate, limits.enrolments_burst)
        self._renewals: dict[int, Bucket] = {}

    def handler(self) -> wire.Handler:
        """The service of devices that have no certificate yet."""
        methods = {"Enrol": wire.unary(self.enrol)}
        return grpc.method_handlers_generic_handler("tacit.edge.v1.Enrolment", methods)

    async def enrol(self, data: bytes, context: wire.Context) -> pb.EnrolReply:
        """A certificate for a device with a token."""
        if not self._bucket.allow(1):
            raise RefusedError("BUSY", "too many enrol at once; come again later")
        if len(data) > MAX_REQUEST:
            raise RefusedError("TOO_LARGE", f"a request has at most {MAX_REQUEST} bytes")
        return await asyncio.to_thread(self._enrol, wire.parsed(pb.EnrolRequest, data))

    def _enrol(self, asked: pb.EnrolRequest) -> pb.EnrolReply:
        if not 0 < len(asked.token) <= _MAX_TOKEN:
            raise RefusedError("MALFORMED", "the token's length is wrong")
        if len(asked.agent.encode()) > _MAX_AGENT:
            raise RefusedError("MALFORMED", f"agent has more than {_MAX_AGENT} bytes")
        if len(asked.identity) != KEY_BYTES:
            raise RefusedError("MALFORMED", f"identity has {len(asked.identity)} bytes")
        csr = authorities.request(asked.csr)
        statement = statements.enrolment(asked.token, asked.csr)
        if not verify(asked.identity, asked.proof, statement):
            raise RefusedError("PROOF", "proof isn't the identity's signature of this request")
        device, issued = self._devices.enrol(
            asked.token,
            asked.identity,
            self._settings.clients,
            lambda client: self._authority.issue(csr, client, self._settings.certificate),
            lambda client: self._authority.attest(client, asked.identity),
        )
        log.info("client %d enrolled", device.client)
        return self._reply(device, issued)

    async def renew(self, data: bytes, context: wire.Context) -> pb.EnrolReply:
        """Another certificate for a device that has one."""
        der = wire.caller(context)
        client = self._authority.client_of(der)
        if client not in self._renewals:
            if len(self._renewals) >= _ASKING:
                self._renewals.clear()
            self._renewals[client] = Bucket(_ASKED / self._settings.limits.renewals, _ASKED)
        if not self._renewals[client].allow(1):
            raise RefusedError("BUSY", "too many renewals; come again later")
        fingerprint = authorities.fingerprint(der)
        asked = wire.parsed(pb.RenewRequest, data)
        return await asyncio.to_thread(self._renew, fingerprint, asked)

    def _renew(self, fingerprint: str, asked: pb.RenewRequest) -> pb.EnrolReply:
        device = self._devices.admit(fingerprint)
        csr = authorities.request(asked.csr)
        if not verify(device.identity, asked.proof, statements.renewal(asked.csr)):
            raise RefusedError("PROOF", "proof isn't the identity's signature of this request")
        issued = self._devices.renew(
            device.client,
            self._settings.limits.renewals,
            lambda client: self._authority.issue(csr, client, self._settings.certificate),
        )
        log.info("client %d renewed", device.client)
        return self._reply(device, issued)

    def _reply(self, device: Device, issued: Issued) -> pb.EnrolReply:
        return pb.EnrolReply(
            client=device.client,
            population=self._devices.population,
            chain=[issued.der],
            attestation=wire.attestation(device),
            not_after=issued.not_after,
        )
