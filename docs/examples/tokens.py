"""Token sequences: next characters of Python's own reference manual, with an Opacus LSTM."""

from pydoc_data.topics import topics

import numpy as np
import torch
from opacus.layers import DPLSTM

import tacit

CLIENTS, LENGTH = 50, 32
text = "".join(topics[name] for name in sorted(topics))[: CLIENTS * 50 * LENGTH]
alphabet = sorted(set(text))
codes = np.array([alphabet.index(c) for c in text]).reshape(CLIENTS, 50, LENGTH)


class NextCharacter(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(len(alphabet), 16)
        self.lstm = DPLSTM(16, 64, batch_first=True)
        self.head = torch.nn.Linear(64, len(alphabet))

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[0])


task = tacit.Task(
    name="next_character",
    model=NextCharacter,
    data=lambda client: (codes[client, :, :-1], codes[client, :, 1:]),
    clients=CLIENTS,
    examples_per_client=50,
    loss=lambda out, y: torch.nn.functional.cross_entropy(out.flatten(0, -2), y.flatten()),
)
