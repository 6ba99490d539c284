"""``experiment=kjv``: the next character of the King James Bible, a chapter a client.

Debian packages the text (``sword-text-kjv``, public domain, 4.1 million characters). A client
is a chapter, as a person would be by what they write; 189 of the 1,189 chapters are the public
test set. A record is 40 characters in a row, its targets the character after each. The
alphabet is fixed beforehand: what isn't in it becomes a space.
"""

from __future__ import annotations

import functools
import html
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import DataError
from tacit.privacy.noise import Randomness
from tacit.tasks import models, partition
from tacit.tasks.task import Records, Task

DEBIAN = Path("/usr/share/sword/modules/texts/ztext/engKJV2006eb")
HINT = "apt-get install sword-text-kjv; or data.root=FOLDER with its ot.bzs, ot.bzz, nt.bzs, nt.bzz"
ALPHABET = " abcdefghijklmnopqrstuvwxyz,.:;?!'-"
LENGTH = 40
TEST_CHAPTERS = 189
# Records of a chapter: the text's known length over 1,189 chapters and 40 characters.
NOMINAL = 80
MODELS: dict[str, models.Choice] = {
    "window": (lambda: models.window(len(ALPHABET)), models.as_it_is),
    "convolution": (lambda: models.causal_cnn(len(ALPHABET)), models.as_it_is),
    "lstm": (lambda: models.lstm(len(ALPHABET)), models.as_it_is),
}
CHAPTER = re.compile(r'<chapter\b[^>]*?\bosisID="([^"]+)"[^>]*?\bsID="[^"]*"[^>]*>')
END = re.compile(r"<chapter\b[^>]*?\beID=")
FOOTNOTE = re.compile(r"<note\b.*?</note>", re.DOTALL)
LIGATURES = str.maketrans({"æ": "ae", "œ": "oe", "\u2019": "'"})
FOREIGN = re.compile(f"[^{re.escape(ALPHABET)}]+")


@dataclass(frozen=True, eq=False)
class Sequences:
    """Records: stretches of chapters.

    Attributes:
        codes: indices into `ALPHABET`, int64, shape [records, LENGTH + 1].
        chapters: of each record, such as "Gen.1".
    """

    codes: Tensor
    chapters: NDArray[np.str_]

    def records(self) -> tuple[Tensor, Tensor]:
        """All but the last character of each, and all but the first."""
        return self.codes[:, :-1].contiguous(), self.codes[:, 1:].contiguous()


def kjv(spec: RunSpec) -> Task:
    """Chapters over ``spec.clients`` clients, or pooled records dealt out.

    Columns for ``partition.column``: "client" (the chapter), "book". Which chapters
    are the test set is fixed, so that seeds are comparable. Models: "window", a softmax on
    the last four characters; "convolution"; "lstm", several times slower.
    """
    model, _ = models.choose(MODELS, spec.model)
    text, test = _load(spec.data.root)
    inputs, targets = text.records()
    columns = {
        "client": text.chapters,
        "book": [chapter.partition(".")[0] for chapter in text.chapters],
    }
    seed = Randomness(spec.seed or 0).number("partition")
    parts = partition.split(columns, spec.clients, spec.partition, seed)
    natural = spec.partition.kind == "natural" and spec.partition.column == "client"

    def data(client: int) -> Records:
        rows = torch.from_numpy(parts[client])
        return inputs[rows], targets[rows]

    return Task(
        name="kjv",
        model=model,
        data=data,
        loss=next_character,
        clients=spec.clients,
        examples_per_client=NOMINAL if natural else max(1, len(inputs) // spec.clients),
        test=test.records,
    )


def next_character(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over records of the mean over their characters, in nats.

    Args:
        outputs: shape [B, LENGTH, len(ALPHABET)].
        targets: shape [B, LENGTH].
    """
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


@functools.lru_cache(maxsize=2)
def _load(root: str | None) -> tuple[Sequences, Sequences]:
    """The clients' records, and those of the test set's chapters."""
    folder = DEBIAN if root is None else Path(root)
    found = chapters("".join(read_blocks(folder, part) for part in ("ot", "nt")))
    if len(found) <= TEST_CHAPTERS:
        raise DataError(
            f"{folder} has {len(found)} chapters; {TEST_CHAPTERS} are for the test set", HINT
        )
    held = set(np.random.default_rng(0).permutation(sorted(found))[:TEST_CHAPTERS].tolist())
    private = sequences({name: text for name, text in found.items() if name not in held})
    return private, sequences({name: text for name, text in found.items() if name in held})


def read_blocks(folder: Path, part: str) -> str:
    """The marked-up text of a testament in a SWORD module (zText, zlib).

    ``part.bzs`` has for each block where it begins in ``part.bzz``, its compressed and its
    plain length, three little-endian 32-bit integers.

    Raises:
        DataError: a file is missing, cut short or something else.
    """
    index, blocks = folder / f"{part}.bzs", folder / f"{part}.bzz"
    try:
        entries, packed = index.read_bytes(), blocks.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"the King James Bible isn't here: no {error.filename}", HINT) from error
    except OSError as error:
        raise DataError(f"the King James Bible can't be read: {error}", HINT) from error
    if not entries or len(entries) % 12:
        raise DataError(f"{index} is cut short or no index of blocks", HINT)
    texts = []
    for start, size, length in struct.iter_unpack("<III", entries):
        try:
            text = zlib.decompress(packed[start : start + size])
        except zlib.error as error:
            raise DataError(f"{blocks} is cut short or damaged: {error}", HINT) from error
        if len(text) != length:
            raise DataError(f"{blocks} has {len(text)} bytes where {length} were promised", HINT)
        texts.append(text)
    try:
        return b"".join(texts).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{blocks} is not text: {error}", HINT) from error


def chapters(marked_up: str) -> dict[str, str]:
    """Each chapter's text in the letters of `ALPHABET`, without footnotes, by OSIS name.

    Raises:
        DataError: a chapter comes twice.
    """
    pieces = CHAPTER.split(marked_up)
    found: dict[str, str] = {}
    for name, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        if name in found:
            raise DataError(f"chapter {name} comes twice", HINT)
        found[name] = plain(END.split(piece)[0])
    return found


def plain(marked_up: str) -> str:
    """OSIS as text: no tags, no footnotes, lower case, only letters of `ALPHABET`."""
    text = html.unescape(re.sub(r"<[^>]*>", "", FOOTNOTE.sub("", marked_up)))
    return " ".join(FOREIGN.sub(" ", text.lower().translate(LIGATURES)).split())


def sequences(texts: dict[str, str]) -> Sequences:
    """Stretches of LENGTH + 1 characters, each beginning where the one before ends.

    A chapter's last characters, too few for a stretch, are left out.
    """
    code = {letter: number for number, letter in enumerate(ALPHABET)}
    rows, names = [np.zeros((0, LENGTH + 1), dtype=np.int64)], []
    for name in sorted(texts):
        codes = np.array([code[letter] for letter in texts[name]], dtype=np.int64)
        count = max(0, len(codes) - 1) // LENGTH
        rows.append(codes[np.arange(count)[:, None] * LENGTH + np.arange(LENGTH + 1)])
        names += [name] * count
    return Sequences(torch.from_numpy(np.concatenate(rows)), np.array(names, dtype=str))
