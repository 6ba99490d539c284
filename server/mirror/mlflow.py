"""An MLflow server as it is told things: each call here may be repeated and changes nothing twice.

Guarantees: what is made is found again by tags that were made with it, in one request, so a call
whose answer was lost isn't made twice; times are the ledger's hours, so a metric told again is the
same metric. Another ledger's models and runs are never touched.

It doesn't guarantee that what is there was written by a mirror: see
`tacit.server.mirror.differences`. Stores that keep duplicate metrics (MLflow's old files) aren't
served: the address is a server's.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tacit.privacy.errors import ConfigError, MissingError, StorageError

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow's error codes that may be over when the call is made again.
_PASSING = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
_LONGEST = 5000
# Names that MLflow keeps for itself.
_TAKEN = re.compile(r"latest|v\d+")
_AT_ONCE = 90


class UnreachableError(StorageError):
    """The server doesn't answer, or not now; trying again later may help."""


class Server:
    """One MLflow server, for one ledger.

    Args:
        uri: ``http://`` or ``https://``; who it is that calls, MLflow's own variables say
            (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_TOKEN).
        origin: the ledger's name.
        experiment: where its runs go.
        prefix: of its models' names.

    Raises:
        ConfigError: the address isn't one, or MLflow's client isn't installed.
    """

    def __init__(self, uri: str, origin: str, experiment: str = "tacit", prefix: str = "") -> None:
        check_uri(uri)
        self.uri, self.origin, self._prefix = uri, origin, prefix
        self._client, self._experiment = _client(uri), experiment
        self._place: str | None = None
        self._runs: dict[str, str | None] = {}
        self._numbers: dict[tuple[str, int], str] = {}

    def name(self, model: str) -> str:
        """What a model is called there: MLflow's names have no slash or colon."""
        return self._prefix + re.sub(r"[/:]", "-", model)

    # Runs

    def run(self, run: str) -> str | None:
        """MLflow's id of a run; None if there is none, or it was deleted there."""
        if self._runs.get(run) is None:
            with _explained(self.uri):
                found = self._client.search_runs(
                    [self._where()], f"{_tag('tacit.run', run)} AND {self._ours()}", max_results=1
                )
            self._runs[run] = found[0].info.run_id if found else None
        return self._runs[run]

    def make_run(self, run: str, name: str, at: str, tags: Mapping[str, str]) -> None:
        """A run, unless it is there, deleted or not."""
        if self.run(run) is not None or self._deleted(run):
            return
        marks = {**tags, "tacit.run": run, "tacit.ledger": self.origin}
        with _explained(self.uri):
            made = self._client.create_run(
                self._where(), start_time=milliseconds(at), tags=_cut(marks), run_name=name
            )
        self._runs[run] = made.info.run_id

    def log(
        self,
        run: str,
        at: str,
        step: int = 0,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """What is known of a run; nothing happens if it was deleted there."""
        from mlflow.entities import Metric, Param, RunTag

        there, when = self.run(run), milliseconds(at)
        if there is None:
            return
        said = [Metric(k, float(v), when, step) for k, v in (metrics or {}).items()]
        marks = [RunTag(k, v) for k, v in _cut(tags or {}).items()]
        given = [Param(k, v) for k, v in _cut(params or {}).items()]
        with _explained(self.uri):
            if said or marks:
                self._client.log_batch(there, metrics=said, tags=marks)
            for start in range(0, len(given), _AT_ONCE):
                self._client.log_batch(there, params=given[start : start + _AT_ONCE])

    def status(self, run: str, status: str, at: str, ended: bool) -> None:
        """A run's status in MLflow's words."""
        there = self.run(run)
        if there is None:
            return
        with _explained(self.uri):
            if ended:
                self._client.set_terminated(there, status, end_time=milliseconds(at))
            else:
                self._client.update_run(there, status=status)

    # Models

    def make_model(self, model: str) -> None:
        """A registered model of this ledger.

        Raises:
            StorageError: there is one of that name, which isn't this ledger's.
        """
        from mlflow.exceptions import MlflowException

        name = self.name(model)
        with _explained(self.uri):
            try:
                self._client.create_registered_model(
                    name, tags={"tacit.ledger": self.origin, "tacit.model": model}
                )
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                self._refuse_others(name)

    def number(self, model: str, number: int) -> str | None:
        """MLflow's number of a version, which may be another; None if there is none."""
        place = (model, number)
        if place not in self._numbers:
            where = f"name = '{_quoted(self.name(model))}' AND {_tag('tacit.version', str(number))}"
            with _explained(self.uri):
                found = self._client.search_model_versions(where, max_results=1)
            if not found:
                return None
            self._numbers[place] = str(found[0].version)
        return self._numbers[place]

    def make_version(
        self, model: str, number: int, run: str, source: str, tags: Mapping[str, str]
    ) -> None:
        """A version, unless it is there."""
        if self.number(model, number) is not None:
            return
        marks = {**tags, "tacit.version": str(number), "tacit.ledger": self.origin}
        with _explained(self.uri):
            made = self._client.create_model_version(
                self.name(model),
                source,
                run_id=self.run(run),
                tags=_cut(marks),
                await_creation_for=0,
            )
        self._numbers[model, number] = str(made.version)

    def upload(self, run: str, path: str, folder: str) -> str | None:
        """Puts a file among a run's artifacts; returns the folder's URI."""
        there = self.run(run)
        if there is None:
            return None
        with _explained(self.uri):
            self._client.log_artifact(there, path, folder)
            base: str = self._client.get_run(there).info.artifact_uri
        return f"{base}/{folder}"

    def mark_version(self, model: str, number: int, tags: Mapping[str, str]) -> None:
        """Tags of a version, if it is there."""
        there = self.number(model, number)
        if there is not None:
            with _explained(self.uri):
                for key, value in _cut(tags).items():
                    self._client.set_model_version_tag(self.name(model), there, key, value)

    def mark_model(self, model: str, tags: Mapping[str, str]) -> None:
        """Tags of a model."""
        with _explained(self.uri):
            for key, value in _cut(tags).items():
                self._client.set_registered_model_tag(self.name(model), key, value)

    def point(self, model: str, alias: str, number: int | None) -> None:
        """An alias names a version from here on, or nothing."""
        name, there = self.name(model), alias_name(alias)
        version = None if number is None else self.number(model, number)
        with _explained(self.uri):
            if version is not None:
                self._client.set_registered_model_alias(name, there, version)
            else:
                self._client.delete_registered_model_alias(name, there)

    def model(self, model: str) -> Any:
        """The registered model, with its aliases and tags.

        Raises:
            MissingError: there is none.
        """
        with _explained(self.uri):
            return self._client.get_registered_model(self.name(model))

    def versions(self, model: str) -> list[Any]:
        """All its versions there."""
        found: list[Any] = []
        token: str | None = None
        where = f"name = '{_quoted(self.name(model))}'"
        while True:
            with _explained(self.uri):
                page = self._client.search_model_versions(where, 200, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _where(self) -> str:
        """The experiment's id."""
        from mlflow.exceptions import MlflowException

        if self._place is None:
            with _explained(self.uri):
                found = self._client.get_experiment_by_name(self._experiment)
                if found is None:
                    try:
                        self._place = str(self._client.create_experiment(self._experiment))
                    except MlflowException as error:
                        if error.error_code != "RESOURCE_ALREADY_EXISTS":
                            raise
                        found = self._client.get_experiment_by_name(self._experiment)
            if found is not None:
                if found.lifecycle_stage != "active":
                    raise StorageError(
                        f"experiment={self._experiment} was deleted in MLflow",
                        "restore it there, or name another with --experiment",
                    )
                self._place = str(found.experiment_id)
        assert self._place is not None
        return self._place

    def _deleted(self, run: str) -> bool:
        from mlflow.entities import ViewType

        with _explained(self.uri):
            found = self._client.search_runs(
                [self._where()],
                f"{_tag('tacit.run', run)} AND {self._ours()}",
                ViewType.DELETED_ONLY,
                max_results=1,
            )
        return bool(found)

    def _ours(self) -> str:
        return _tag("tacit.ledger", self.origin)

    def _refuse_others(self, name: str) -> None:
        owner = self._client.get_registered_model(name).tags.get("tacit.ledger")
        if owner != self.origin:
            whose = "no ledger's" if owner is None else f"of the ledger {owner}"
            raise StorageError(
                f"model={name} is in MLflow already and is {whose}, not of {self.origin}",
                "give this ledger's models other names with --prefix",
            )


def check_uri(uri: str) -> None:
    """Raises `ConfigError` for what isn't the address of an MLflow server."""
    try:
        parts = urlsplit(uri)
        host = parts.hostname
    except ValueError:
        raise ConfigError("--to isn't a URI", "such as http://127.0.0.1:5000") from None
    if "@" in parts.netloc:
        raise ConfigError(
            "--to has a password in it, which others see",
            "MLflow's client takes it from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(
            f"--to={uri} isn't the address of an MLflow server", "such as http://127.0.0.1:5000"
        )


def alias_name(alias: str) -> str:
    """What an alias is called there."""
    return f"alias-{alias}" if _TAKEN.fullmatch(alias) else alias


def milliseconds(at: str) -> int:
    """A leaf's hour as MLflow counts time."""
    return int(datetime.fromisoformat(at).timestamp() * 1000)


def _client(uri: str) -> MlflowClient:
    # One retry of its own: waiting longer is `deliver.follow`'s, which says that it waits.
    for name, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "30"),
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
    ):
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise ConfigError(
            f"MLflow's client isn't installed: {error}", "pip install 'tacit[mlflow]'"
        ) from error
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turns MLflow's errors into tacit's."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        said = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        if error.error_code in _PASSING:
            raise UnreachableError(
                f"the MLflow server at {uri} doesn't answer: {said}",
                "start it, and mirror again: nothing is lost, the ledger is what is delivered from",
            ) from error
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise MissingError(f"the MLflow server at {uri}: {said}") from error
        raise StorageError(f"the MLflow server at {uri} refused: {said}") from error
    except OSError as error:
        raise UnreachableError(f"the MLflow server at {uri} doesn't answer: {error}") from error


def _cut(values: Mapping[str, str]) -> dict[str, str]:
    """MLflow limits a value's length; a longer one ends in dots there."""
    return {k: v if len(v) <= _LONGEST else f"{v[:_LONGEST]}..." for k, v in values.items()}


def _tag(name: str, value: str) -> str:
    return f"tags.`{name}` = '{_quoted(value)}'"


def _quoted(value: str) -> str:
    if "'" in value or "\\" in value:
        raise ConfigError(f"{value[:80]!r} can't be looked for in MLflow: it has a quote in it")
    return value
