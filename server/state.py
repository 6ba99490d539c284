"""What a coordinator carries from round to round, and how it is written down."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy

from tacit.privacy.errors import StorageError
from tacit.privacy.noise import Floats
from tacit.server.home import explained, write_durably
from tacit.server.optimizer import Moments
from tacit.server.registry import encode


@dataclass
class State:
    """The coordinator's memory.

    Attributes:
        round: last round released; 0 before the first.
        parameters: the global model, shape [d], float64 (the released version is its
            float32 rounding).
        clip: this round's clip; moves only with adaptive clipping.
        moments: the optimizer's.
    """

    round: int
    parameters: Floats
    clip: float
    moments: Moments = field(default_factory=dict)

    def save(self, folder: Path) -> str:
        """Writes the state durably into a run's folder; returns its SHA-256."""
        arrays = {f"moment.{name}": value for name, value in self.moments.items()}
        arrays["parameters"] = self.parameters
        arrays["clip"] = np.array([self.clip])
        arrays["round"] = np.array([self.round])
        data = encode(arrays)
        digest = hashlib.sha256(data).hexdigest()
        write_durably(file_of(folder, digest), data)
        return digest

    @classmethod
    def load(cls, folder: Path, digest: str) -> State:
        """Reads a state back.

        Raises:
            StorageError: the file is gone, or isn't what was written.
        """
        path = file_of(folder, digest)
        with explained(f"state {path} can't be read"):
            data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise StorageError(f"state {path} is corrupted", "restore it from a backup")
        arrays = safetensors.numpy.load(data)
        moments = {n.removeprefix("moment."): a for n, a in arrays.items() if "moment." in n}
        return cls(int(arrays["round"][0]), arrays["parameters"], float(arrays["clip"][0]), moments)


def forget(folder: Path, keep: str) -> None:
    """Deletes a run's states but the one the database names; safe at any time after commit."""
    for path in folder.glob("state-*.safetensors"):
        if path != file_of(folder, keep):
            path.unlink(missing_ok=True)


def file_of(folder: Path, digest: str) -> Path:
    """Where the state of this SHA-256 is."""
    return folder / f"state-{digest[:32]}.safetensors"
