"""A tiny federation with evaluations, its draws made again from its seed, and who withdraws."""

from __future__ import annotations

from tiny import TINY, make_tiny

from tacit import simulate
from tacit.privacy.noise import Randomness
from tacit.privacy.plan import PrivacyPlan
from tacit.server import runs
from tacit.server.cohort import Sampler
from tacit.server.erasure.proof import Asked
from tacit.server.home import Home
from tacit.server.store import Store
from tacit.tasks.task import plan

EVALUATED = [*TINY, "evaluation=federated"]


def asked(client: int, population: str = "tiny") -> Asked:
    return Asked(population, client, "simulated")


def train(home: Home, *more: str) -> str:
    """Runs a tiny federation; returns the run's id."""
    return simulate([*EVALUATED, *more], task=make_tiny(), home=home.root).run


def draws(store: Store, run: str) -> list[tuple[str, int, list[int]]]:
    """The cohorts of a run in which nothing failed, drawn again from its seed, without the home."""
    spec = runs.spec_of(store.run(run))
    settled: PrivacyPlan = plan(make_tiny(), spec)
    sampler = Sampler(settled, Randomness(spec.seed))
    purposes = ("train", "evaluate")
    places = [(p, n) for n in range(1, spec.rounds + 1) for p in purposes]
    return [(purpose, number, sampler.draw(purpose, number, 0)) for purpose, number in places]
