"""`tacit.tasks.kjv`: a SWORD module is read exactly, or refused; a chapter is a client."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
import torch
from torch import nn

import tacit
from tacit.configs import build
from tacit.privacy.errors import ConfigError, DataError
from tacit.tasks import kjv
from tacit.tasks.task import Task, load

GENESIS = (
    '<div osisID="Gen" sID="gen2" type="book"/><title>The First Book</title> '
    '<chapter n="1" osisID="Gen.1" sID="Gen.1"/> In the <w lemma="strong:H7225">beginning</w> '
    "God<note>1.1 <reference>a: b</reference>not\nthis</note> created &amp; Adam\u2019s "
    '<foreign>\u05d0</foreign> C\u00e6sar;<chapter eID="Gen.1" osisID="Gen.1"/> \u00b6 between '
    '<chapter n="2" osisID="Gen.2" sID="Gen.2"/>THUS--<lb/>\u2014said he. '
)
PLAIN = {"Gen.1": "in the beginning god created adam's caesar;", "Gen.2": "thus-- said he."}


def task(*overrides: str) -> Task:
    return load(build.compose(["experiment=kjv", *overrides]))


def written(at: Path, part: str, *blocks: bytes) -> None:
    packed = [zlib.compress(block) for block in blocks]
    index, start = b"", 0
    for block, small in zip(blocks, packed, strict=True):
        index += struct.pack("<III", start, len(small), len(block))
        start += len(small)
    (at / f"{part}.bzs").write_bytes(index)
    (at / f"{part}.bzz").write_bytes(b"".join(packed))


def many(count: int, text: str = "abcdefghij" * 10) -> bytes:
    return "".join(
        f'<chapter n="{k}" osisID="Book.{k}" sID="x"/>{text}<chapter eID="x" osisID="Book.{k}"/>'
        for k in range(count)
    ).encode()


def text(codes: torch.Tensor) -> str:
    return "".join(kjv.ALPHABET[code] for code in codes.tolist())


def test_chapters_are_plain_text_without_tags_and_footnotes() -> None:
    assert kjv.chapters(GENESIS) == PLAIN


def test_a_chapter_may_be_in_several_blocks(tmp_path: Path) -> None:
    raw = GENESIS.encode()
    # Within a letter of two bytes.
    at = raw.index("\u2019".encode()) + 1
    written(tmp_path, "ot", b"", raw[:at], raw[at:])
    assert kjv.read_blocks(tmp_path, "ot") == GENESIS


def test_a_chapter_that_comes_twice_is_refused() -> None:
    with pytest.raises(DataError, match=r"Gen\.1 comes twice"):
        kjv.chapters(GENESIS + GENESIS)


def test_targets_are_the_characters_after_the_inputs() -> None:
    made = kjv.sequences({"b": "x" * 40, "a": "abcdefghij" * 9, "c": "", "d": "y" * 41})
    inputs, targets = made.records()
    assert made.chapters.tolist() == ["a", "a", "d"]
    assert [text(x) for x in inputs] == ["abcdefghij" * 4] * 2 + ["y" * 40]
    assert [text(y) for y in targets] == ["bcdefghija" * 4] * 2 + ["y" * 40]
    assert inputs.dtype == targets.dtype == torch.int64


def test_the_loss_is_the_mean_over_records_of_their_means() -> None:
    outputs = torch.randn(3, 40, 35, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(120).reshape(3, 40) % 35
    each = [nn.functional.cross_entropy(o, t) for o, t in zip(outputs, targets, strict=True)]
    torch.testing.assert_close(kjv.next_character(outputs, targets), torch.stack(each).mean())


@pytest.mark.parametrize("missing", ["ot.bzs", "ot.bzz", "nt.bzs", "nt.bzz"])
def test_a_missing_file_is_named_with_what_to_install(tmp_path: Path, missing: str) -> None:
    for part in ("ot", "nt"):
        written(tmp_path, part, many(2))
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=f"no .*{missing}") as caught:
        task(f"data.root={tmp_path}")
    assert "apt-get install sword-text-kjv" in caught.value.hint
    assert "data.root=" in caught.value.hint


def test_without_debians_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kjv, "DEBIAN", tmp_path / "absent")
    kjv._load.cache_clear()
    with pytest.raises(DataError, match="isn't here") as caught:
        task()
    assert "apt-get" in caught.value.hint


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("index cut", "no index of blocks"),
        ("index empty", "no index of blocks"),
        ("blocks cut", "cut short or damaged"),
        ("blocks flipped", "cut short or damaged"),
        ("another length", "bytes where"),
        ("not text", "is not text"),
    ],
)
def test_a_damaged_module_is_refused_by_its_path(tmp_path: Path, damage: str, why: str) -> None:
    written(tmp_path, "ot", many(3) + (b"\xff" if damage == "not text" else b""))
    index, blocks = tmp_path / "ot.bzs", tmp_path / "ot.bzz"
    if damage == "index cut":
        index.write_bytes(index.read_bytes()[:-1])
    elif damage == "index empty":
        index.write_bytes(b"")
    elif damage == "blocks cut":
        blocks.write_bytes(blocks.read_bytes()[:-5])
    elif damage == "blocks flipped":
        raw = bytearray(blocks.read_bytes())
        raw[-1] ^= 0xFF
        blocks.write_bytes(raw)
    elif damage == "another length":
        raw = bytearray(index.read_bytes())
        raw[8] ^= 1
        index.write_bytes(raw)
    with pytest.raises(DataError, match=why) as caught:
        kjv.read_blocks(tmp_path, "ot")
    assert str(tmp_path) in caught.value.message


def test_too_few_chapters_are_refused(tmp_path: Path) -> None:
    written(tmp_path, "ot", many(kjv.TEST_CHAPTERS))
    written(tmp_path, "nt", b"something else")
    with pytest.raises(DataError, match="189 chapters; 189 are for the test set"):
        task(f"data.root={tmp_path}", "clients=1", "cohort=1")


def test_a_folder_of_ones_own_is_split_over_the_clients(tmp_path: Path) -> None:
    written(tmp_path, "ot", many(kjv.TEST_CHAPTERS))
    written(tmp_path, "nt", many(5).replace(b"Book", b"Other"))
    made = task(f"data.root={tmp_path}", "clients=5", "cohort=5")
    assert made.test is not None
    assert [len(made.data(k)[1]) for k in range(5)] == [2] * 5
    assert len(made.test()[1]) == 2 * kjv.TEST_CHAPTERS


def test_debians_package_is_1189_chapters() -> None:
    made = task()
    assert made.test is not None
    parts = [made.data(k) for k in range(1000)]
    test_inputs, test_targets = made.test()
    counts = [len(y) for _, y in parts]
    assert min(counts) >= 1
    assert sum(counts) + len(test_targets) == 102_966
    for x, y in (*parts[:3], (test_inputs, test_targets)):
        assert x.shape == y.shape == (len(y), kjv.LENGTH)
        assert torch.equal(x[:, 1:], y[:, :-1])
    # Each chapter is one client's or public.
    private, public = kjv._load(None)
    assert len(set(private.chapters)) == 1000
    assert len(set(public.chapters)) == kjv.TEST_CHAPTERS
    assert not set(private.chapters) & set(public.chapters)
    first = private if "Gen.1" in set(private.chapters) else public
    start = first.codes[torch.from_numpy(first.chapters == "Gen.1")][0]
    assert text(start) == "in the beginning god created the heaven a"
    assert made.examples_per_client == kjv.NOMINAL


def test_the_test_set_is_the_same_for_every_seed_and_partition() -> None:
    one = task("seed=1", "partition.column=book", "clients=9", "cohort=9")
    other = task("seed=2", "partition=iid", "clients=30", "cohort=9")
    assert one.test is not None
    assert other.test is not None
    assert torch.equal(one.test()[0], other.test()[0])
    assert other.examples_per_client == sum(len(other.data(k)[1]) for k in range(30)) // 30


def test_books_may_be_clients() -> None:
    # One book is a single chapter, which is public.
    books = task("partition.column=book", "clients=65", "cohort=65")
    assert min(len(books.data(k)[1]) for k in range(65)) > 0


def test_a_partition_by_label_is_refused_since_there_is_none() -> None:
    with pytest.raises(DataError, match="the data has book, client"):
        task("partition=dirichlet")


@pytest.mark.parametrize("model", list(kjv.MODELS))
def test_each_model_sees_the_text_up_to_a_character_and_no_later(model: str) -> None:
    net = kjv.MODELS[model][0]()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(generator=generator)
    x = torch.randint(0, 35, (2, kjv.LENGTH), generator=generator)
    changed = x.clone()
    changed[:, 20] = (x[:, 20] + 1) % 35
    before, after = net(x), net(changed)
    assert before.shape == (2, kjv.LENGTH, len(kjv.ALPHABET))
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20], after[:, 20])


def test_a_model_it_doesnt_have_lists_those_it_has() -> None:
    with pytest.raises(ConfigError, match="must be one of window, convolution, lstm"):
        task("model=transformer")


@pytest.mark.parametrize(
    ("model", "parameters"), [("window", 4_935), ("convolution", 9_043), ("lstm", 23_827)]
)
def test_models_have_the_promised_size_and_start_from_even_odds(
    model: str, parameters: int
) -> None:
    net = kjv.MODELS[model][0]()
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert torch.equal(net(torch.zeros(2, 7, dtype=torch.int64)), torch.zeros(2, 7, 35))


@pytest.mark.parametrize("model", list(kjv.MODELS))
def test_each_model_trains_under_dp_sgd(tmp_path: Path, model: str) -> None:
    written(tmp_path, "ot", many(kjv.TEST_CHAPTERS + 4))
    written(tmp_path, "nt", b"nothing")
    small = ["experiment=kjv", "clients=4", "cohort=4", "rounds=2", "mechanism=central"]
    small += ["aggregation=plain", "privacy.client=none", "privacy.record.noise_multiplier=1.0"]
    result = tacit.simulate(
        [*small, f"data.root={tmp_path}", f"model={model}"],
        home=tmp_path / "home",
    )
    assert result.epsilon["record"] is not None
    assert 0 <= result.metrics["accuracy"] <= 1
