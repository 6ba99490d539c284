"""Tenants apart: by folder, by database, by key; and names that lead nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from postgres import Postgres

from tacit.privacy.errors import ConfigError, MissingError, StorageError, TacitError
from tacit.server import check
from tacit.server.access.tenants import DEFAULT, Tenants
from tacit.server.home import Home
from tacit.server.store import Store

ODD = ["", ".", "..", "../b", "a/b", "a\\b", "/etc", "A", "a.b", "-a", "1a", "a" * 64, "a\x00", "ä"]


def test_each_has_a_ledger_and_a_key_of_its_own(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path / "root")
    assert tenants.list() == []
    stores = [Store(tenants.create(name)) for name in ("beta", "alpha")]
    assert tenants.list() == ["alpha", "beta"]
    assert len({str(store.signer.verifier) for store in stores}) == 2
    assert len({store.home.root for store in stores}) == 2
    stores[0].append({"kind": "POLICY", "run": "", "policy": {}})
    assert [len(store.leaves()) for store in stores] == [2, 1]
    for store in stores:
        assert store.home.root.stat().st_mode & 0o077 == 0
        store.close()


@pytest.mark.parametrize("name", ODD)
def test_names_that_lead_elsewhere_are_none(tmp_path: Path, name: str) -> None:
    tenants = Tenants(tmp_path / "root")
    tenants.create("a")
    with pytest.raises(ConfigError, match="tenant="):
        tenants.create(name)
    with pytest.raises(MissingError):
        tenants.home(name)
    assert tenants.list() == ["a"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["root"]


def test_a_link_is_no_tenant(tmp_path: Path) -> None:
    tenants, elsewhere = Tenants(tmp_path / "root"), Tenants(tmp_path / "elsewhere")
    tenants.create("a")
    (tmp_path / "root" / "tenants" / "b").symlink_to(elsewhere.create("b").root)
    assert tenants.list() == ["a"]
    with pytest.raises(MissingError):
        tenants.home("b")
    with pytest.raises(StorageError):
        tenants.create("b")


def test_a_home_has_one_tenant(tmp_path: Path) -> None:
    Store(Home(tmp_path)).close()
    tenants = Tenants(tmp_path)
    assert tenants.list() == [DEFAULT]
    assert tenants.home(DEFAULT).root == tmp_path
    with pytest.raises(MissingError):
        tenants.home("other")
    with pytest.raises(ConfigError, match="one tenant itself"):
        tenants.create("other")


def test_one_that_is_there_isnt_made_again(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    tenants.create("a")
    with pytest.raises(StorageError, match="there already"):
        tenants.create("a")


def test_one_that_was_begun_is_finished(tmp_path: Path) -> None:
    (tmp_path / "tenants" / "a").mkdir(parents=True)
    tenants = Tenants(tmp_path)
    assert tenants.list() == []
    tenants.create("a")
    assert tenants.list() == ["a"]


def test_a_shared_database_is_nobodys(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TACIT_DATABASE would have all tenants answer from one ledger."""
    url = postgres.fresh()
    monkeypatch.setenv("TACIT_DATABASE", url)
    tenants = Tenants(tmp_path)
    for name in ("a", "b"):
        store = Store(tenants.create(name))
        assert store.database.url.get_backend_name() == "sqlite"
        store.close()
    assert Store(tenants.home("a")).database.url.get_backend_name() == "sqlite"
    postgres.recycle(url)


def test_a_tenant_in_postgresql_keeps_it_to_itself(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.fresh()
    tenants = Tenants(tmp_path)
    store = Store(tenants.create("a", url))
    assert store.database.url.get_backend_name() == "postgresql"
    assert check.verify(store).findings == []
    store.close()
    with pytest.raises(TacitError):
        tenants.create("b", url)
    assert tenants.list() == ["a"]
    again = Store(tenants.home("a"))
    assert again.database.url.get_backend_name() == "postgresql"
    again.close()
    postgres.recycle(url)
