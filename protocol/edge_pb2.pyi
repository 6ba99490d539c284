from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrolRequest(_message.Message):
    __slots__ = ("token", "csr", "identity", "proof", "agent")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    token: str
    csr: bytes
    identity: bytes
    proof: bytes
    agent: str
    def __init__(self, token: _Optional[str] = ..., csr: _Optional[bytes] = ..., identity: _Optional[bytes] = ..., proof: _Optional[bytes] = ..., agent: _Optional[str] = ...) -> None: ...

class EnrolReply(_message.Message):
    __slots__ = ("client", "population", "chain", "attestation", "not_after")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    client: int
    population: str
    chain: _containers.RepeatedScalarFieldContainer[bytes]
    attestation: Attestation
    not_after: int
    def __init__(self, client: _Optional[int] = ..., population: _Optional[str] = ..., chain: _Optional[_Iterable[bytes]] = ..., attestation: _Optional[_Union[Attestation, _Mapping]] = ..., not_after: _Optional[int] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr", "proof")
    CSR_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    proof: bytes
    def __init__(self, csr: _Optional[bytes] = ..., proof: _Optional[bytes] = ...) -> None: ...

class Attestation(_message.Message):
    __slots__ = ("client", "identity", "signature")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    client: int
    identity: bytes
    signature: bytes
    def __init__(self, client: _Optional[int] = ..., identity: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class DeviceFrame(_message.Message):
    __slots__ = ("hello", "check_in", "answer", "refusal", "lookup", "bye")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    CHECK_IN_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    BYE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    check_in: CheckIn
    answer: AnswerPart
    refusal: Refusal
    lookup: Lookup
    bye: Bye
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., check_in: _Optional[_Union[CheckIn, _Mapping]] = ..., answer: _Optional[_Union[AnswerPart, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., lookup: _Optional[_Union[Lookup, _Mapping]] = ..., bye: _Optional[_Union[Bye, _Mapping]] = ...) -> None: ...

class GatewayFrame(_message.Message):
    __slots__ = ("welcome", "accept", "retry_at", "task", "received", "cancel", "entries", "goodbye")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_FIELD_NUMBER: _ClassVar[int]
    RETRY_AT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    accept: Accept
    retry_at: RetryAt
    task: Task
    received: Received
    cancel: Cancel
    entries: Entries
    goodbye: Goodbye
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., accept: _Optional[_Union[Accept, _Mapping]] = ..., retry_at: _Optional[_Union[RetryAt, _Mapping]] = ..., task: _Optional[_Union[Task, _Mapping]] = ..., received: _Optional[_Union[Received, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., entries: _Optional[_Union[Entries, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "agent")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    agent: str
    def __init__(self, protocol: _Optional[int] = ..., agent: _Optional[str] = ...) -> None: ...

class CheckIn(_message.Message):
    __slots__ = ("eligible",)
    ELIGIBLE_FIELD_NUMBER: _ClassVar[int]
    eligible: bool
    def __init__(self, eligible: _Optional[bool] = ...) -> None: ...

class AnswerPart(_message.Message):
    __slots__ = ("task", "offset", "total", "data", "signature")
    TASK_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    task: str
    offset: int
    total: int
    data: bytes
    signature: bytes
    def __init__(self, task: _Optional[str] = ..., offset: _Optional[int] = ..., total: _Optional[int] = ..., data: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("task", "reason", "text", "signature")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNSPECIFIED: _ClassVar[Refusal.Reason]
        ROUNDS: _ClassVar[Refusal.Reason]
        EPSILON: _ClassVar[Refusal.Reason]
        SEPARATION: _ClassVar[Refusal.Reason]
        FLOOR: _ClassVar[Refusal.Reason]
        PLAN: _ClassVar[Refusal.Reason]
        UNSIGNED: _ClassVar[Refusal.Reason]
        UNSUPPORTED: _ClassVar[Refusal.Reason]
        PROTOCOL: _ClassVar[Refusal.Reason]
        MALFORMED: _ClassVar[Refusal.Reason]
        INELIGIBLE: _ClassVar[Refusal.Reason]
        FAILED: _ClassVar[Refusal.Reason]
    UNSPECIFIED: Refusal.Reason
    ROUNDS: Refusal.Reason
    EPSILON: Refusal.Reason
    SEPARATION: Refusal.Reason
    FLOOR: Refusal.Reason
    PLAN: Refusal.Reason
    UNSIGNED: Refusal.Reason
    UNSUPPORTED: Refusal.Reason
    PROTOCOL: Refusal.Reason
    MALFORMED: Refusal.Reason
    INELIGIBLE: Refusal.Reason
    FAILED: Refusal.Reason
    TASK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    task: str
    reason: Refusal.Reason
    text: str
    signature: bytes
    def __init__(self, task: _Optional[str] = ..., reason: _Optional[_Union[Refusal.Reason, str]] = ..., text: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Lookup(_message.Message):
    __slots__ = ("clients",)
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    clients: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, clients: _Optional[_Iterable[int]] = ...) -> None: ...

class Bye(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "client", "max_frame", "max_answer", "time_ms")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAME_FIELD_NUMBER: _ClassVar[int]
    MAX_ANSWER_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    client: int
    max_frame: int
    max_answer: int
    time_ms: int
    def __init__(self, protocol: _Optional[int] = ..., client: _Optional[int] = ..., max_frame: _Optional[int] = ..., max_answer: _Optional[int] = ..., time_ms: _Optional[int] = ...) -> None: ...

class Accept(_message.Message):
    __slots__ = ("again_ms",)
    AGAIN_MS_FIELD_NUMBER: _ClassVar[int]
    again_ms: int
    def __init__(self, again_ms: _Optional[int] = ...) -> None: ...

class RetryAt(_message.Message):
    __slots__ = ("after_ms", "why")
    AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    after_ms: int
    why: str
    def __init__(self, after_ms: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class Blob(_message.Message):
    __slots__ = ("inline", "ref")
    INLINE_FIELD_NUMBER: _ClassVar[int]
    REF_FIELD_NUMBER: _ClassVar[int]
    inline: bytes
    ref: BlobRef
    def __init__(self, inline: _Optional[bytes] = ..., ref: _Optional[_Union[BlobRef, _Mapping]] = ...) -> None: ...

class BlobRef(_message.Message):
    __slots__ = ("sha256", "size")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    size: int
    def __init__(self, sha256: _Optional[bytes] = ..., size: _Optional[int] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("id", "kind", "nonce", "deadline_ms", "body", "run")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    nonce: bytes
    deadline_ms: int
    body: Blob
    run: BlobRef
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., nonce: _Optional[bytes] = ..., deadline_ms: _Optional[int] = ..., body: _Optional[_Union[Blob, _Mapping]] = ..., run: _Optional[_Union[BlobRef, _Mapping]] = ...) -> None: ...

class Received(_message.Message):
    __slots__ = ("task", "accepted", "why")
    TASK_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    task: str
    accepted: bool
    why: str
    def __init__(self, task: _Optional[str] = ..., accepted: _Optional[bool] = ..., why: _Optional[str] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("task", "why")
    TASK_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    task: str
    why: str
    def __init__(self, task: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class Entries(_message.Message):
    __slots__ = ("entries", "unknown")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Attestation]
    unknown: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, entries: _Optional[_Iterable[_Union[Attestation, _Mapping]]] = ..., unknown: _Optional[_Iterable[int]] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("why", "after_ms")
    WHY_FIELD_NUMBER: _ClassVar[int]
    AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    why: str
    after_ms: int
    def __init__(self, why: _Optional[str] = ..., after_ms: _Optional[int] = ...) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("sha256", "offset")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    offset: int
    def __init__(self, sha256: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...
