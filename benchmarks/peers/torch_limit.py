"""The limit of `engine.py`: what torch itself takes for the examples of a cohort's steps.

No privacy, no clients: the examples of all clients of a step are one batch, forward and
backward through one network, no per-example gradients and no optimizer. Two processes of one
thread with half of the cohort each, or one process of two threads; the caller takes the faster.
Measured too: the same in pieces of 250 examples, whose activations stay in the caches, and both
with a draw of torch's normals, of the model's size, for every client-step.

Takes a JSON object, prints one.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from torch import nn
from workloads import PARAMETERS, SEED, Workload, model, read

_PIECE = 250


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to go through a step's examples.

    Attributes:
        piece: most examples in one forward and backward; None for one big batch.
        noise: whether each client-step draws its noise.
    """

    piece: int | None
    noise: bool

    @property
    def name(self) -> str:
        """As the result has it."""
        how = "one batch" if self.piece is None else f"pieces of {self.piece}"
        return how + (", noise" if self.noise else "")


def rate(variant: Variant, work: Workload, folder: str, share: int, seconds: float) -> float:
    """Client updates a second of one of ``share`` processes.

    Args:
        variant: how a step is done.
        work: the workload.
        folder: of the data.
        share: processes among which the cohort is divided.
        seconds: to measure for, after one step that isn't counted.
    """
    torch.manual_seed(SEED)
    network, clients = model(), work.cohort // share
    rows = clients * work.batch
    batches = [
        (inputs.clone(), targets.clone())
        for inputs, targets in zip(
            *(part[:rows].split(variant.piece or rows) for part in read(folder)), strict=True
        )
    ]
    drawn = torch.empty(PARAMETERS)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        for inputs, targets in batches:
            nn.functional.cross_entropy(network(inputs), targets).backward()
        for _ in range(clients if variant.noise else 0):
            drawn.normal_()

    step()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step()
        steps += 1
    return steps * clients / work.steps / (time.perf_counter() - began)


def part(ready: Barrier, found: Any, *arguments: Any) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    ready.wait()
    found.put(rate(*arguments))


def processes(count: int, *arguments: Any) -> float:
    """`rate` of processes side by side, added up."""
    context = multiprocessing.get_context("fork")
    ready, found = context.Barrier(count), context.SimpleQueue()
    started = [context.Process(target=part, args=(ready, found, *arguments)) for _ in range(count)]
    for process in started:
        process.start()
    total = sum(found.get() for _ in started)
    for process in started:
        process.join()
    return float(total)


def main() -> None:
    """Measures every variant."""
    asked = json.loads(sys.argv[1])
    work, count, seconds = Workload(**asked["workload"]), asked["cores"], asked["seconds"]
    variants = [Variant(piece, noise) for piece in (None, _PIECE) for noise in (False, True)]
    # First the forks: a process that has run threads can't be forked safely.
    result = {
        variant.name: {"processes": processes(count, variant, work, asked["data"], count, seconds)}
        for variant in variants
    }
    torch.set_num_threads(count)
    for variant in variants:
        # Nobody would cut a batch into pieces and those among threads.
        if variant.piece is None:
            result[variant.name]["threads"] = rate(variant, work, asked["data"], 1, seconds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
