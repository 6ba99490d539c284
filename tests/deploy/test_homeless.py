"""A real SuperNode whose client-home was forgotten: it is nobody's simulation."""

from __future__ import annotations

from pathlib import Path

import pytest
from superlink import SILOS, Deployment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_supernode_without_a_folder_answers_nobody(tmp_path: Path) -> None:
    """Whatever its node-config says: what Flower's tutorials write is what a simulation has."""
    overrides = SILOS.replace("=3", "=2")
    made = Deployment(tmp_path / "all", f"{overrides} rounds=1", 2, 60.0)
    script = made.script("silo-1")
    text = script.read_text()
    assert "client-home='$PWD/client'" in text
    script.write_text(text.replace("client-home='$PWD/client'", "num-partitions=2"))
    settings = made.coordinator.root / "run.toml"
    settings.write_text(settings.read_text().replace("wait = 120.0", "wait = 20.0"))
    try:
        made.up()
        made.start("run")
        made.wait(lambda: "1 of 2 nodes answered" in made.log("run"), "the census", 120)
        assert "isn't a simulation's" in made.log("run"), made.tail()
        assert made.rows() == []
    finally:
        made.down()
