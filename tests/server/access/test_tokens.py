"""Tokens at rest, and who is let in with one."""

from __future__ import annotations

import base64
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tacit.privacy.errors import AccessError, ConfigError, MissingError, StorageError
from tacit.server.access.roles import Caller
from tacit.server.access.tenants import Tenants
from tacit.server.access.tokens import FILE, LONGEST, Tokens, days

DAY = timedelta(days=1)


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(tmp_path: Path, clock: Clock) -> Tokens:
    for name in ("acme", "beta"):
        Tenants(tmp_path).create(name)
    return Tokens(tmp_path, clock)


def refusal(tokens: Tokens, text: str) -> str:
    with pytest.raises(AccessError) as caught:
        tokens.authenticate(text)
    return str(caught.value)


def test_a_token_is_who_it_was_issued_to(tokens: Tokens) -> None:
    text, row = tokens.issue("ann", "operator", tenant="acme", models=["d*"], lifetime=DAY)
    assert tokens.authenticate(text) == Caller("acme", "ann", "operator", ("d*",), row["id"])
    assert text.startswith(f"tacit_{row['id']}_")
    assert len(base64.urlsafe_b64decode(text.split("_", 2)[2] + "=")) == 32
    assert not {"salt", "digest"} & set(row)


def test_the_database_has_no_secret(tokens: Tokens, tmp_path: Path) -> None:
    texts = [tokens.issue("a", "viewer", tenant="acme", lifetime=DAY)[0] for _ in range(20)]
    for text in texts:
        tokens.authenticate(text)
    files = list(tmp_path.glob(f"{FILE}*"))
    data = b"".join(path.read_bytes() for path in files)
    for text in texts:
        secret = text.split("_", 2)[2]
        raw = base64.urlsafe_b64decode(secret + "=")
        for form in (secret.encode(), raw, raw.hex().encode()):
            assert form not in data
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_equal_secrets_would_not_look_equal(tokens: Tokens, tmp_path: Path) -> None:
    for _ in range(5):
        tokens.issue("a", "viewer", tenant="acme", lifetime=DAY)
    with closing(sqlite3.connect(tmp_path / FILE)) as c:
        salts = [salt for (salt,) in c.execute("SELECT salt FROM tokens")]
    assert len(set(salts)) == 5
    assert {len(salt) for salt in salts} == {16}


def test_whatever_isnt_valid_is_told_the_same(tokens: Tokens, clock: Clock) -> None:
    expired, _ = tokens.issue("a", "viewer", tenant="acme", lifetime=timedelta(hours=1))
    clock.at += DAY
    valid, row = tokens.issue("b", "viewer", tenant="acme", lifetime=DAY)
    revoked, gone = tokens.issue("c", "viewer", tenant="acme", lifetime=DAY)
    tokens.revoke(gone["id"])
    wrong = valid[:-1] + ("A" if valid[-1] != "A" else "Q")
    unknown = f"tacit_{'0' * 16}_{'A' * 43}"
    others = [expired, revoked, wrong, unknown, "", "tacit", f"tacit_{row['id']}_", "x" * 10**5]
    assert len({refusal(tokens, text) for text in others}) == 1
    tokens.authenticate(valid)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_other_text_is_a_token(tokens: Tokens, data: st.DataObject) -> None:
    text, _ = tokens.issue("a", "viewer", tenant="acme", lifetime=DAY)
    place = data.draw(st.integers(0, len(text) - 1))
    sign = data.draw(st.characters())
    changed = text[:place] + sign + text[place + 1 :]
    if changed != text:
        refusal(tokens, changed)
    refusal(tokens, text + sign)
    refusal(tokens, sign + text)
    refusal(tokens, text[:place])


def test_it_expires_to_the_second(tokens: Tokens, clock: Clock) -> None:
    text, row = tokens.issue("a", "viewer", tenant="acme", lifetime=DAY)
    clock.at += DAY - timedelta(seconds=1)
    tokens.authenticate(text)
    clock.at += timedelta(seconds=1)
    refusal(tokens, text)
    assert [r["valid"] for r in tokens.list()] == [False]
    assert row["expires"] == "2026-03-02T12:00:00Z"


def test_it_is_revoked_at_once_in_every_process(tokens: Tokens, tmp_path: Path) -> None:
    text, row = tokens.issue("a", "viewer", tenant="acme", lifetime=DAY)
    other = Tokens(tmp_path, tokens.clock)
    tokens.authenticate(text)
    first = other.revoke(row["id"])
    refusal(tokens, text)
    assert tokens.revoke(row["id"])["revoked"] == first["revoked"]


def test_one_tenants_are_not_anothers_to_end(tokens: Tokens) -> None:
    text, row = tokens.issue("a", "viewer", tenant="acme", lifetime=DAY)
    with pytest.raises(MissingError) as theirs:
        tokens.revoke(row["id"], "beta")
    with pytest.raises(MissingError) as nobodys:
        tokens.revoke("f" * 16, "beta")
    assert theirs.value.message.replace(row["id"], "") == (
        nobodys.value.message.replace("f" * 16, "")
    )
    tokens.authenticate(text)
    assert tokens.list("beta") == []


def test_the_day_it_was_used_is_noted(tokens: Tokens, clock: Clock) -> None:
    text, _ = tokens.issue("a", "viewer", tenant="acme", lifetime=9 * DAY)
    assert tokens.list()[0]["used"] is None
    tokens.authenticate(text)
    assert tokens.list()[0]["used"] == "2026-03-01"
    clock.at += 2 * DAY
    tokens.authenticate(text)
    assert tokens.list()[0]["used"] == "2026-03-03"


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"name": "x" * 65},
        {"role": "root"},
        {"models": []},
        {"lifetime": timedelta(0)},
        {"lifetime": LONGEST + timedelta(seconds=1)},
        {"tenant": "nobody"},
        {"tenant": "../acme"},
    ],
)
def test_values_that_no_token_has(tokens: Tokens, change: dict[str, object]) -> None:
    given = {"name": "a", "role": "viewer", "tenant": "acme", "lifetime": DAY, **change}
    name, role = str(given.pop("name")), str(given.pop("role"))
    with pytest.raises((ConfigError, MissingError)):
        tokens.issue(name, role, **given)  # type: ignore[arg-type]
    assert tokens.list() == []


@pytest.mark.parametrize("value", [0, -1, 367])
def test_days_that_no_token_lives(value: int) -> None:
    with pytest.raises(ConfigError, match="days="):
        days(value)


def test_a_newer_tacits_database_is_left_alone(tokens: Tokens, tmp_path: Path) -> None:
    tokens.close()
    with closing(sqlite3.connect(tmp_path / FILE)) as c:
        c.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="newer"):
        Tokens(tmp_path)
