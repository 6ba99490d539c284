"""The device's records: an ``.npz`` file with ``inputs`` and ``targets``.

Guarantees: a file is refused by the types and shapes in it, never by its values; arrays of
objects, which could run code, aren't read. What the file has to look like comes from the
manifest of the graph. Errors name settings, types and shapes, and stay on the device.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.errors import DataError
from tacit.protocol.manifest import Manifest


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """What a device trains on.

    Attributes:
        inputs: records in dimension 0.
        targets: as many.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]

    def __post_init__(self) -> None:
        for name in ("inputs", "targets"):
            if getattr(self, name).ndim < 1:
                raise DataError(f"{name} of the device's data has no dimension of records")
        if len(self.inputs) != len(self.targets):
            raise DataError("the device's data has inputs and targets of different lengths")

    def __len__(self) -> int:
        return len(self.inputs)

    def fit(self, manifest: Manifest) -> None:
        """Whether a graph takes these records.

        Raises:
            DataError: a type or a shape isn't the graph's.
        """
        wanted = {tensor.name: tensor for tensor in manifest.inputs}
        for name in ("inputs", "targets"):
            found, tensor = getattr(self, name), wanted[name]
            if found.dtype != np.dtype(tensor.dtype) or found.shape[1:] != tensor.shape[1:]:
                raise DataError(
                    f"{name} of the device's data are {found.dtype}{list(found.shape[1:])} each, "
                    f"and the task's {tensor.dtype}{list(tensor.shape[1:])}"
                )


def load(path: Path) -> Records:
    """Reads a file of records.

    Raises:
        DataError: it can't be read, or isn't as above.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            return Records(held["inputs"], held["targets"])
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} can't be read as records: {type(error).__name__}",
            "it has to be an .npz with arrays named inputs and targets",
        ) from error
