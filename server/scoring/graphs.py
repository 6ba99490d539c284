"""Graphs that are kept in a home, and the process that makes them.

Guarantees: `Kept.read` gives a graph only if the ledger's key signed its digest, shape and type
under this very name, which binds artifact, spec, code and the exporters' versions. Whatever else
lies there is passed over, with a line in the log.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import rfc8785

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ModelError, StorageError
from tacit.server import runs
from tacit.server.home import Home, explained, write_durably
from tacit.server.store import Row, Store
from tacit.tasks import scoring
from tacit.tasks.scoring import Graph

log = logging.getLogger("tacit.scoring")

_DOMAIN = b"tacit scoring graph v1\n"
_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")
# Files that are kept: the newest.
_MOST = 64
_PATIENCE = 600


class Kept:
    """The file of one version's graph.

    Args:
        store: of the home.
        spec: of the version's run.
        artifact: the version's, its digest.
    """

    def __init__(self, store: Store, spec: RunSpec, artifact: str) -> None:
        made_by = {"code": runs.code_version(), **{name: version(name) for name in _PACKAGES}}
        of = {"spec": spec.digest(), "artifact": artifact, **made_by}
        self._name = hashlib.sha256(rfc8785.dumps(of)).hexdigest()
        self.path = store.home.root / "scoring" / f"{self._name}.json"
        self._signer = store.signer

    def read(self) -> Graph | None:
        """The graph, if it is there and was signed."""
        if not self.path.is_file():
            return None
        try:
            found = json.loads(self.path.read_bytes())
            data = base64.b64decode(found["graph"], validate=True)
            body = {name: found[name] for name in ("dtype", "shape", "rows")}
            digest = hashlib.sha256(data).hexdigest()
            signature = base64.b64decode(found["signature"], validate=True)
            if not self._signer.verifier.verify(signature, self._signed(digest, body)):
                raise ValueError("its signature is wrong")
            return Graph(
                graph=data,
                digest=digest,
                dtype=found["dtype"],
                shape=tuple(found["shape"]),
                rows=found["rows"],
                runtime=scoring.session(data),
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("the graph kept in %s isn't used: %s", self.path, error)
            return None

    def write(self, made: Graph) -> None:
        """Keeps a graph, if the disk lets it."""
        body = {"dtype": made.dtype, "shape": list(made.shape), "rows": made.rows}
        signature = base64.b64encode(self._signer.sign(self._signed(made.digest, body))).decode()
        graph = base64.b64encode(made.graph).decode()
        folder = self.path.parent
        try:
            with explained(f"{folder} can't be written"):
                folder.mkdir(mode=0o700, exist_ok=True)
                data = json.dumps({**body, "graph": graph, "signature": signature})
                write_durably(self.path, data.encode())
                files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
                for path in files[:-_MOST]:
                    path.unlink(missing_ok=True)
        except StorageError as error:
            log.warning("a graph isn't kept: %s", error.message)

    def _signed(self, digest: str, body: dict[str, Any]) -> bytes:
        return _DOMAIN + rfc8785.dumps({"name": self._name, "digest": digest, **body})


def made_apart(home: Home, row: Row) -> None:
    """Has a version's graph made and kept by another process.

    Raises:
        ModelError: it couldn't; what the process said is quoted.
    """
    environment = {**os.environ, "TACIT_HOME": str(home.root)}
    environment.pop("TACIT_DATABASE", None)
    if home.url is not None:
        environment["TACIT_DATABASE"] = home.url
    words = [sys.executable, "-m", "tacit.server.scoring.export", f"{row['name']}@{row['number']}"]
    try:
        done = subprocess.run(  # noqa: S603 - this program, with names of the registry
            words, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"the graph can't be made: {type(error).__name__}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ModelError(
            said[-1][:300] if said else f"making the graph ended with {done.returncode}"
        )
