"""pfl's side of `engine.py`: its simulation with Opacus on each client, or with its own DP alone.

* opacus: pfl's federated averaging, whose local training hands pfl's network to a
  `PrivacyEngine` made anew for each client. pfl has no DP-SGD of its own.
* update: pfl's local SGD without DP-SGD; pfl clips each client's update and
  adds noise to their sum.

Two processes, which pfl joins with torch.distributed (gloo), as `PFL_WORKER_ADDRESSES` asks; each
trains half of a cohort of fixed size. pfl would evaluate all clients of the first round before
and after training; here it doesn't.

Takes a JSON object, prints one: when each round ended (the system's monotonic clock) and how many
updates were in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from typing import Any

from workloads import CLIP, LEARNING_RATE, NOISE, SEED, Clients, Workload, model


def join(count: int) -> None:
    """Starts the same command once for each rank, waits, and passes rank 0's output on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ranks = [
        subprocess.Popen(
            [sys.executable, *sys.argv],
            env={
                **os.environ,
                "PFL_WORKER_ADDRESSES": ",".join([address] * count),
                "PFL_WORKER_RANK": str(rank),
            },
        )
        for rank in range(count)
    ]
    codes = [rank.wait() for rank in ranks]
    if any(codes):
        raise SystemExit("a rank failed")


def simulate(asked: dict[str, Any]) -> dict[str, Any]:
    """One rank's rounds."""
    import numpy as np
    import torch
    from opacus import PrivacyEngine
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm import FederatedAveraging, NNAlgorithmParams
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Metrics, get_overall_value
    from pfl.model.pytorch import PyTorchModel
    from pfl.privacy import CentrallyAppliedPrivacyMechanism, GaussianMechanism
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(1)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    work, marks, updates = Workload(**asked["workload"]), [], []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model()

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.layers(inputs)

        def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(self(inputs), targets)

        def metrics(self, *_: torch.Tensor) -> dict[str, Any]:
            return {}

    class Averaging(FederatedAveraging):
        def get_next_central_contexts(self, model: Any, iteration: int, *rest: Any) -> Any:
            # Iteration 0 is the one that pfl always evaluates.
            return super().get_next_central_contexts(model, iteration + 1, *rest)

    class Private(Averaging):
        def train_one_user(self, initial: Any, model: Any, dataset: Any, _: Any) -> Any:
            network = model.pytorch_model
            private, optimizer, loader = PrivacyEngine(secure_mode=False).make_private(
                module=network,
                optimizer=torch.optim.SGD(network.parameters(), lr=LEARNING_RATE),
                data_loader=DataLoader(TensorDataset(*dataset.raw_data), batch_size=work.batch),
                noise_multiplier=NOISE,
                max_grad_norm=CLIP,
            )
            for inputs, targets in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(private(inputs), targets).backward()
                optimizer.step()
            optimizer.zero_grad()
            # The next client's engine finds the network as it was.
            private.to_standard_module()
            return model.get_model_difference(initial), Metrics()

    class Marks(TrainingProcessCallback):
        def after_central_iteration(self, found: Any, model: Any, *, central_iteration: int) -> Any:
            marks.append(time.monotonic())
            names = {str(name): value for name, value in found}
            updates.append(int(get_overall_value(names["train population | number of devices"])))
            return False, Metrics()

    network = Net()
    private = asked["what"] == "opacus"
    clients = Clients(asked["data"], work.examples)
    data = FederatedDataset(
        lambda user: PyTorchTensorDataset(clients(user), user_id=str(user)),
        get_user_sampler("random", list(range(work.clients))),
    )
    mechanism = CentrallyAppliedPrivacyMechanism(GaussianMechanism(CLIP, NOISE))
    (Private if private else Averaging)().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=asked["rounds"] + 1,
            evaluation_frequency=asked["rounds"] + 2,
            train_cohort_size=work.cohort,
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(data, data, postprocessors=[] if private else [mechanism]),
        model=PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), 1.0)),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=LEARNING_RATE, local_batch_size=work.batch
        ),
        callbacks=[Marks()],
        send_metrics_to_platform=False,
    )
    versions = {name: version(name) for name in ("pfl", "torch", "opacus")}
    return {"marks": marks, "updates": updates, "versions": versions}


def main() -> None:
    """Runs what the argument describes."""
    asked = json.loads(sys.argv[1])
    if "PFL_WORKER_RANK" not in os.environ:
        join(asked["cores"])
        return
    warnings.filterwarnings("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        result = simulate(asked)
    if os.environ["PFL_WORKER_RANK"] == "0":
        print(json.dumps(result))


if __name__ == "__main__":
    main()
