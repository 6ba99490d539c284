"""Aliases move by compare-and-swap, each move is a leaf, and the verifier follows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.privacy.errors import ConfigError, ConflictError, StorageError
from tacit.server import check
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store

WHO = {"actor": "ann", "reason": "because"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("life")
    simulate(TINY, task=make_tiny(), home=folder)
    return folder


def test_a_version_is_promoted_replaced_and_taken_back(root: Path) -> None:
    store = Store(Home(root))
    life = Lifecycle(store)
    assert life.current("tiny", "champion") is None
    first = life.move("tiny", "champion", 1, expected=None, **WHO)
    second = life.move("tiny", "champion", 2, expected=first.leaf, **WHO)
    third = life.move("tiny", "champion", 3, expected=second.leaf, **WHO)
    with pytest.raises(ConflictError) as caught:
        life.move("tiny", "champion", 1, expected=first.leaf, **WHO)
    assert caught.value.current == third
    back = life.rollback("tiny", "champion", expected=third.leaf, **WHO)
    assert (back.kind, back.number, back.previous) == ("ROLLBACK", 2, third.leaf)
    # What was rolled back from isn't gone back to.
    again = life.rollback("tiny", "champion", expected=back.leaf, **WHO)
    assert again.number == 1
    with pytest.raises(StorageError, match="named no version before"):
        life.rollback("tiny", "champion", expected=again.leaf, **WHO)
    with pytest.raises(StorageError, match="is what champion names"):
        life.retire("tiny", 1, **WHO)
    life.retire("tiny", 3, **WHO)
    with pytest.raises(StorageError, match="was retired"):
        life.move("tiny", "shadow", 3, expected=None, **WHO)
    assert life.stages("tiny") == {1: "champion", 2: "released", 3: "retired"}
    assert set(life.aliases("tiny")) == {"champion"}
    kinds = [row["body"]["kind"] for row in life.history("tiny", 3)]
    assert kinds == ["DEPLOY", "ROLLBACK", "RETIRE"]
    assert ModelRegistry(store.home, store).find("tiny@champion")["number"] == 1
    assert check.verify(store).findings == []
    store.close()


@pytest.mark.parametrize("alias", ["", "1", "Champion", "a b", "a" * 65])
def test_what_cant_be_an_alias_is_refused(root: Path, alias: str) -> None:
    store = Store(Home(root))
    with pytest.raises(ConfigError, match="alias="):
        Lifecycle(store).move("tiny", alias, 1, expected=None, **WHO)
    store.close()
