"""What starts each process of a deployment: scripts, units for systemd, Flower's settings.

They are made from `templates` once and then belong to whoever runs them: one that is there is
left as it is, however it differs. They find their folder by themselves, so a folder can be
moved to another machine, and Flower's programs beside the Python that wrote them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jinja2

from tacit.server.deploy import files
from tacit.server.deploy.coordinator import CoordinatorFolder, Federation
from tacit.server.deploy.silo import SiloFolder

# Each SuperNode of a machine has a port of its own on loopback, for its own processes.
RUNTIME_PORT = 9100

_COORDINATOR = {
    "environment.sh": "environment.sh",
    "superlink.sh": "superlink.sh",
    "superexec.sh": "superexec.sh",
    "register.sh": "register.sh",
    "run.sh": "run.sh",
    "run.toml": "run.toml",
    "app/pyproject.toml": "app.toml",
    "flwr/config.toml": "config.toml",
    "systemd/tacit-superlink.service": "superlink.service",
    "systemd/tacit-superexec.service": "superexec.service",
    "README.md": "coordinator.md",
}
_SILO = {
    "environment.sh": "environment.sh",
    "supernode.sh": "supernode.sh",
    "systemd/tacit-supernode-{client}.service": "supernode.service",
    "README.md": "silo.md",
}


def coordinator(place: CoordinatorFolder) -> list[Path]:
    """Writes the coordinator's scripts; returns those that are new."""
    settings = place.settings()
    return _write(
        place.root,
        _COORDINATOR,
        population=settings.population,
        superlink=settings.superlink,
        port=settings.port,
        listen=settings.listen,
    )


def silo(place: SiloFolder, client: int, runtime_port: int | None = None) -> list[Path]:
    """Writes a silo's scripts; returns those that are new.

    Args:
        place: of the silo, which has joined.
        client: its number.
        runtime_port: of the SuperNode on loopback; None takes one by the client's number.
    """
    federation = Federation.load(place.federation)
    return _write(
        place.root,
        {name.format(client=client): template for name, template in _SILO.items()},
        population=federation.population,
        superlink=federation.superlink,
        client=client,
        runtime_port=RUNTIME_PORT + client if runtime_port is None else runtime_port,
    )


def render(template: str, **values: Any) -> str:
    """One of the templates, filled in; a value that is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tacit.server.deploy"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # shell and TOML, of values that were checked
    )
    return environment.get_template(template).render(**values)


def _write(root: Path, wanted: dict[str, str], **values: Any) -> list[Path]:
    made = []
    for name, template in wanted.items():
        path = root / name
        files.folder(path.parent)
        text = render(template, python=sys.executable, root=str(root.absolute()), **values)
        mode = files.PROGRAM if path.suffix == ".sh" else files.PUBLIC
        if files.create(path, text.encode(), mode):
            made.append(path)
    return made
