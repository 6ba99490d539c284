"""Tabular rows: breast-cancer diagnoses of scikit-learn, 40 hospitals, one logistic model."""

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer

import tacit

x, y = load_breast_cancer(return_X_y=True)
order = np.random.default_rng(0).permutation(len(y))
# Constants from the data's documentation, not statistics of the clients' rows.
x = (np.log1p(x[order]) - 1.5).astype(np.float32)
y = y[order]
TRAIN, CLIENTS = 440, 40


def data(client):
    """Rows client, client + 40, client + 80, ..."""
    return x[client:TRAIN:CLIENTS], y[client:TRAIN:CLIENTS]


task = tacit.Task(
    name="breast_cancer",
    model=lambda: torch.nn.Linear(30, 2),
    data=data,
    clients=CLIENTS,
    examples_per_client=TRAIN // CLIENTS,
    test=lambda: (x[TRAIN:], y[TRAIN:]),
)
