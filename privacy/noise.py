"""Where randomness comes from: the operating system, or, in simulations, a seed.

Guarantees: `SystemSource` expands a fresh 256-bit key from the operating system's CSPRNG
with AES-256-CTR; its Gaussians sum four Box-Muller normals and halve (Holohan and Braghin
2021, arXiv:2107.10138, section 5.1), so that the low bits of one output don't betray the
noise the way those of a single transform do. `SimulationSource` is a seeded Philox
generator: reproducible, guessable, and named "seeded-simulation" in the ledger.

A `SystemSource` that finds itself in a forked process takes a new key.
It doesn't guarantee exact Gaussians: outputs are doubles, and the proofs of the Gaussian
mechanism are about real numbers. Mechanisms on integers carry no such gap.
"""

from __future__ import annotations

import hashlib
import math
import os
from typing import Protocol

import numpy as np
import rfc8785
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]


class Source(Protocol):
    """A stream of random numbers with a name that the ledger records."""

    name: str

    def uniform(self, size: int) -> Floats:
        """``size`` doubles, uniform on [0, 1) in steps of 2^-53."""

    def normal(self, size: int) -> Floats:
        """``size`` standard normal doubles."""

    def normal32(self, size: int) -> Singles:
        """``size`` standard normals in single precision."""

    def key(self) -> bytes:
        """32 bytes to key a `KeyedStream` with."""


class KeyedStream:
    """Bytes that are a function of a 256-bit key: the keystream of AES-256-CTR from block 0.

    A key is for one purpose and one stream; whoever has it can make the stream again.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError(f"a stream's key has {len(key)} bytes, not 32")
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def read(self, size: int) -> NDArray[np.uint8]:
        """The next ``size`` bytes, read-only."""
        return np.frombuffer(self._stream.update(bytes(size)), dtype=np.uint8)


class SystemSource:
    """Cryptographic randomness; every instance has its own key, used once and forgotten."""

    name = "os-csprng"

    def __init__(self) -> None:
        self._key()

    def _key(self) -> None:
        cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16)))
        self._stream, self._process = cipher.encryptor(), os.getpid()

    def _words(self, size: int) -> NDArray[np.uint64]:
        if os.getpid() != self._process:
            self._key()
        return np.frombuffer(self._stream.update(bytes(8 * size)), dtype=np.uint64)

    def uniform(self, size: int) -> Floats:
        """``size`` doubles, uniform on [0, 1) in steps of 2^-53."""
        return (self._words(size) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, size: int) -> Floats:
        """``size`` standard normals, each half the sum of four."""
        total = np.zeros(size)
        for _ in range(4):
            total += self._box_muller(size)
        return total / 2.0

    def normal32(self, size: int) -> Singles:
        """`normal`, rounded."""
        return self.normal(size).astype(np.float32)

    def key(self) -> bytes:
        """32 bytes to key a `KeyedStream` with."""
        return self._words(4).tobytes()

    def _box_muller(self, size: int) -> Floats:
        half = (size + 1) // 2
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(half)))
        angle = 2.0 * np.pi * self.uniform(half)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]


class SimulationSource:
    """A reproducible stream for simulations only.

    Args:
        seed: the run's seed.
        labels: what the stream is for; another label is another, independent stream.
    """

    name = "seeded-simulation"

    def __init__(self, seed: int, *labels: str | int) -> None:
        text = rfc8785.dumps(["tacit", seed, *labels])
        key = hashlib.blake2b(text, digest_size=16).digest()
        bits = np.random.Philox(key=np.frombuffer(key, dtype=np.uint64))
        self._generator = np.random.Generator(bits)
        self._single: KeyedStream | None = None

    def uniform(self, size: int) -> Floats:
        """``size`` doubles, uniform on [0, 1) in steps of 2^-53."""
        return self._generator.random(size)

    def normal(self, size: int) -> Floats:
        """``size`` standard normals."""
        return self._generator.standard_normal(size)

    def normal32(self, size: int) -> Singles:
        """``size`` standard normals in single precision, at most 6.8: Box-Muller transforms.

        Five times as fast as `normal`; from an AES stream that this one keys at the first call.
        """
        uniform = self.words32(size).astype(np.float32)
        # (w + 1/2) / 2^32: never 0, and as fine as singles are near it.
        uniform *= np.float32(2.0**-32)
        uniform += np.float32(2.0**-33)
        half = len(uniform) // 2
        radius = np.log(uniform[:half])
        radius *= np.float32(-2.0)
        np.sqrt(radius, out=radius)
        angle = np.float32(2.0 * np.pi) * uniform[half:]
        drawn = np.concatenate([np.cos(angle), np.sin(angle)])
        drawn[:half] *= radius
        drawn[half:] *= radius
        return drawn[:size]

    def words32(self, size: int) -> NDArray[np.uint32]:
        """The words that `normal32` would make ``size`` normals of, in its place: two a pair.

        The first half gives the pairs' radii, the second their angles; an odd ``size`` leaves
        the last pair's second normal unused.
        """
        if self._single is None:
            self._single = KeyedStream(self.key())
        return self._single.read(8 * ((size + 1) // 2)).view("<u4")

    def key(self) -> bytes:
        """32 bytes to key a `KeyedStream` with; as guessable as the seed."""
        return self._generator.bytes(32)


def coins(source: Source, size: int, rate: float) -> NDArray[np.bool_]:
    """Independent coins for a Poisson draw.

    Args:
        source: of the numbers.
        size: how many.
        rate: in [0, 1].

    Returns:
        Shape [size], each true with a probability in (rate - 2^-53, rate]: a number is one of
        2^53 that are equally likely, and the rate is rounded down to such steps.
    """
    return source.uniform(size) < math.floor(rate * 2.0**53) * 2.0**-53


class Randomness:
    """Gives every purpose its stream.

    Args:
        seed: of a simulation, at least 0; None draws everything from the operating system.
    """

    def __init__(self, seed: int | None) -> None:
        if seed is not None:
            validate.at_least("seed", seed, 0)
            if seed >= 2**53:
                raise ConfigError(f"seed={seed} must be below 2^53")
        self.seed = seed

    @property
    def name(self) -> str:
        """The kind of source, as the ledger names it."""
        return SystemSource.name if self.seed is None else SimulationSource.name

    def source(self, *labels: str | int) -> Source:
        """The stream for one purpose; labels only matter in a simulation."""
        if self.seed is None:
            return SystemSource()
        return SimulationSource(self.seed, *labels)

    def number(self, *labels: str | int) -> int:
        """A 53-bit number, for libraries that want a seed of their own and protect nobody."""
        return int(self.source(*labels).uniform(1)[0] * 2**53)
