"""Records and scores in files: .npy, .npz, .csv and .jsonl.

Guarantees: nothing in a file is run (pickles are refused), and what isn't records of the asked
shape is an error that names file and row. A file is read whole, `LARGEST` bytes at most.
"""

from __future__ import annotations

import csv
import io
import json
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tacit.privacy.errors import ConfigError, DataError, StorageError
from tacit.server.scoring.model import Served
from tacit.server.scoring.router import labels
from tacit.tasks.scoring import Array

LARGEST = 1 << 31
# What numpy, zipfile, json and csv raise at what isn't theirs; RecursionError is a RuntimeError,
# as is what zipfile says of a file that needs a password.
_BROKEN = (
    *(ValueError, KeyError, TypeError, EOFError, OSError, MemoryError, RuntimeError),
    *(OverflowError, csv.Error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def read(path: Path, served: Served) -> Array:
    """Records as a version takes them; flat rows get the record's shape.

    Raises:
        DataError: the file isn't of a known kind, or holds something else.
        StorageError: it can't be read.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise DataError(f"{path}: its name must end in {', '.join(_READERS)}")
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path} has more than {LARGEST} bytes", "score it in parts")
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    try:
        found = np.asarray(reader(data))
        shape = served.graph.shape
        if found.ndim == 2 and found.shape[1] == math.prod(shape):
            found = found.reshape(len(found), *shape)
        if np.dtype(served.graph.dtype).kind in "iu" and found.dtype.kind == "f":
            # A table of text has one kind of number.
            whole = found.astype(np.int64)
            found = whole if np.array_equal(whole, found) else found
        return served.records(found)
    except ConfigError as error:
        raise DataError(f"{path}: {error.message}", error.hint) from error
    except _BROKEN as error:
        raise DataError(f"{path} doesn't hold records: {error}") from error


def written(suffix: str, outputs: Array) -> bytes:
    """Scores as a file's bytes: outputs as they are, and labels where there are any.

    Raises:
        DataError: there is no such kind of file.
    """
    writer = _WRITERS.get(suffix)
    if writer is None:
        raise DataError(f"--to: its name must end in {', '.join(_WRITERS)}")
    return writer(outputs)


def _npy(data: bytes) -> Any:
    return np.load(io.BytesIO(data), allow_pickle=False)


def _npz(data: bytes) -> Any:
    with np.load(io.BytesIO(data), allow_pickle=False) as held:
        if "inputs" not in held.files and len(held.files) != 1:
            raise ValueError(f"of arrays {held.files} none is called inputs")
        return held["inputs" if "inputs" in held.files else held.files[0]]


def _csv(data: bytes) -> Any:
    lines = [
        line for line in csv.reader(io.StringIO(data.decode("utf-8-sig")), strict=True) if line
    ]
    if lines and not _numbers(lines[0]):
        lines = lines[1:]
    made = []
    for row, line in enumerate(lines):
        if len(line) != len(lines[0]) or not _numbers(line):
            raise ValueError(f"record {row} isn't {len(lines[0])} numbers")
        made.append([float(cell) for cell in line])
    return made


def _numbers(line: list[str]) -> bool:
    try:
        return bool([float(cell) for cell in line])
    except ValueError:
        return False


def _jsonl(data: bytes) -> Any:
    lines = [json.loads(line) for line in data.decode().splitlines() if line.strip()]
    return [line["inputs"] if isinstance(line, Mapping) else line for line in lines]


def _to_npy(outputs: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, outputs)
    return file.getvalue()


def _to_npz(outputs: Array) -> bytes:
    file, found = io.BytesIO(), labels(outputs)
    if found is None:
        np.savez(file, outputs=outputs)
    else:
        np.savez(file, outputs=outputs, labels=np.asarray(found, dtype=np.int64))
    return file.getvalue()


def _to_csv(outputs: Array) -> bytes:
    flat, found = outputs.reshape(len(outputs), -1), labels(outputs)
    label = found if outputs.ndim == 2 and found is not None else None
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head = [f"output_{k}" for k in range(flat.shape[1])]
    writer.writerow([*(["label"] if label is not None else []), *head])
    for row, numbers in enumerate(flat):
        # What float32 prints as reads back as itself.
        cells = [str(number) for number in numbers]
        writer.writerow([*([label[row]] if label is not None else []), *cells])
    return file.getvalue().encode()


def _to_jsonl(outputs: Array) -> bytes:
    found = labels(outputs)
    lines = []
    for row, numbers in enumerate(outputs.tolist()):
        lines.append({"outputs": numbers, "label": None if found is None else found[row]})
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()


_READERS: dict[str, Callable[[bytes], Any]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".csv": _csv,
    ".jsonl": _jsonl,
}
_WRITERS: dict[str, Callable[[Array], bytes]] = {
    ".npy": _to_npy,
    ".npz": _to_npz,
    ".csv": _to_csv,
    ".jsonl": _to_jsonl,
}
