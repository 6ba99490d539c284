"""Flower's side of `engine.py`: its simulation on Ray, clients with Opacus as its docs show.

A client makes a network, an optimizer, a DataLoader and a `PrivacyEngine` anew each time it is
asked, as in Flower's own example with Opacus; left out of that example, in Flower's favour, are
its evaluation on each client and the epsilon that each client computes. FedAvg, cohorts of fixed
size, one core a client.

Takes a JSON object, prints one: when each round was aggregated (the system's monotonic clock)
and how many updates were in it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from importlib.metadata import version
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.utils.data import DataLoader, TensorDataset
from workloads import CLIP, LEARNING_RATE, NOISE, SEED, Clients, Workload, model

# Opacus turns other loggers up when it is imported; it is, in the clients.
logging.getLogger("flwr").setLevel(logging.ERROR)


def client_app(work: Workload, folder: str) -> ClientApp:
    """The app that Ray's actors run for every client."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        from opacus import PrivacyEngine

        warnings.filterwarnings("ignore")
        torch.set_num_threads(1)
        network = model()
        network.load_state_dict(message.content["arrays"].to_torch_state_dict())
        data = Clients(folder, work.examples)(int(context.node_config["partition-id"]))
        private, optimizer, loader = PrivacyEngine(secure_mode=False).make_private(
            module=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=LEARNING_RATE),
            data_loader=DataLoader(TensorDataset(*data), batch_size=work.batch, shuffle=True),
            noise_multiplier=NOISE,
            max_grad_norm=CLIP,
        )
        private.train()
        for inputs, targets in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(private(inputs), targets).backward()
            optimizer.step()
        content = RecordDict(
            {
                "arrays": ArrayRecord(private._module.state_dict()),
                "metrics": MetricRecord({"num-examples": work.examples}),
            }
        )
        return Message(content=content, reply_to=message)

    return app


class Counted(FedAvg):
    """FedAvg that counts the updates it got."""

    updates: list[int]

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        """Counts, and averages."""
        known = list(replies)
        self.updates.append(sum(not reply.has_error() for reply in known))
        return super().aggregate_train(server_round, known)


def main() -> None:
    """Runs what the argument describes."""
    asked = json.loads(sys.argv[1])
    work, cores = Workload(**asked["workload"]), asked["cores"]
    marks: list[float] = []
    strategy = Counted(
        fraction_train=work.cohort / work.clients,
        fraction_evaluate=0.0,
        min_available_nodes=work.clients,
    )
    strategy.updates = []
    server = ServerApp()

    @server.main()
    def serve(grid: Grid, _: Context) -> None:
        torch.manual_seed(SEED)
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(model().state_dict()),
            num_rounds=asked["rounds"],
            evaluate_fn=lambda number, _: marks.append(time.monotonic()) if number else None,
        )

    run_simulation(
        server_app=server,
        client_app=client_app(work, asked["data"]),
        num_supernodes=work.clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": cores, "num_gpus": 0},
        },
    )
    versions = {name: version(name) for name in ("flwr", "ray", "torch", "opacus")}
    print(json.dumps({"marks": marks, "updates": strategy.updates, "versions": versions}))


if __name__ == "__main__":
    main()
