"""Privacy statements of the versions in a store, and as a page.

Guarantees: a statement is made of leaves that the newest checkpoint covers, whatever else writes
meanwhile. The page is one file, opens without a network, and escapes every name and note.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml  # type: ignore[import-untyped]

from tacit.privacy.errors import ConfigError
from tacit.privacy.statement.statement import sections, statement
from tacit.server.home import explained
from tacit.server.store import Row, Store


def of_version(store: Store, row: Row, about: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The privacy statement of a version.

    Args:
        store: that has it.
        row: of the version.
        about: what the operator says (`read_about`).

    Raises:
        TacitError: as `tacit.privacy.statement.statement`.
    """
    # Leaves are only appended: those read after the checkpoint have all of its own.
    checkpoint = store.checkpoint()
    leaves = [(leaf["index"], leaf["body"]) for leaf in store.leaves()]
    return statement(leaves, row["release"], checkpoint, about)


def html(made: Mapping[str, Any]) -> str:
    """A statement as one page."""
    loader = jinja2.PackageLoader("tacit.server", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True)
    template = environment.get_template("statement.html")
    return template.render(made=made, sections=sections(made))


def read_about(path: Path) -> dict[str, str]:
    """What an operator says of a deployment: a TOML or YAML file of texts and lists of texts.

    Raises:
        StorageError: it can't be read.
        ConfigError: it isn't such a file.
    """
    with explained(f"about={path} can't be read"):
        data = path.read_bytes()
    try:
        text = data.decode()
        found = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"about={path} is neither TOML nor YAML: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"about={path} should have fields", "write `data_curators: ...`")
    return {str(name): _text(str(name), value) for name, value in found.items()}


def _text(name: str, value: object) -> str:
    items = value if isinstance(value, list) else [value]
    texts = [item for item in items if isinstance(item, str)]
    if not texts or len(texts) < len(items):
        raise ConfigError(f"about.{name}={value!r} must be a text, or a list of texts")
    return "; ".join(texts)
