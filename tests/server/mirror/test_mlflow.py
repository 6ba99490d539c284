"""A real MLflow server shows what the ledger says, whenever a mirror is killed."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mirroring
import pytest
import rolling
from commands import told
from mirroring import MlflowServer
from mlflow import MlflowClient
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.privacy.errors import StorageError
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.mirror.mlflow import UnreachableError, alias_name
from tacit.server.mirror.outbox import Outbox
from tacit.server.store import Store
from tacit.simulations.rollout import rollout

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["crashing", "mirroring"])
WHO = {"actor": "ann", "reason": "because"}
Shown = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    made = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three versions, aliases moved and taken away, and a retirement."""
    folder = tmp_path_factory.mktemp("mirror") / "home"
    simulate(TINY, task=make_tiny(), home=folder)
    store = Store(Home(folder))
    life = Lifecycle(store)
    first = life.move("tiny", "champion", 1, expected=None, **WHO)
    second = life.move("tiny", "champion", 2, expected=first.leaf, **WHO)
    shadow = life.move("tiny", "shadow", 3, expected=None, **WHO)
    life.rollback("tiny", "champion", expected=second.leaf, **WHO)
    life.move("tiny", "shadow", None, expected=shadow.leaf, **WHO)
    life.move("tiny", "latest", 2, expected=None, **WHO)
    life.retire("tiny", 3, **WHO)
    store.close()
    return folder


def shown(uri: str, experiment: str, prefix: str) -> Shown:
    """Everything that MLflow shows of a mirror, but ids and times that it makes itself."""
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    place = client.get_experiment_by_name(experiment)
    assert place is not None
    runs = {}
    for run in client.search_runs([place.experiment_id]):
        history = {
            key: [
                (m.step, m.value, m.timestamp)
                for m in client.get_metric_history(run.info.run_id, key)
            ]
            for key in run.data.metrics
        }
        times = (run.info.status, run.info.start_time, run.info.end_time)
        runs[run.data.tags["tacit.run"]] = (times, run.data.params, run.data.tags, history)
    model = client.get_registered_model(f"{prefix}tiny")
    versions = client.search_model_versions(f"name = '{prefix}tiny'")
    return {
        "runs": runs,
        "aliases": model.aliases,
        "tags": model.tags,
        "versions": sorted(
            (v.version, v.tags["tacit.version"], v.tags, v.source) for v in versions
        ),
    }


def test_everything_that_may_be_shown_is_shown(server: MlflowServer, root: Path) -> None:
    places = ("whole", "whole-")
    store = Store(Home(root))
    assert mirroring.once(str(root), server.uri, places) == len(store.leaves())
    assert mirroring.once(str(root), server.uri, places) == 0
    found = shown(server.uri, *places)
    (run,) = store.runs()
    (status, started, ended), params, tags, history = found["runs"][run["id"]]
    assert status == "FINISHED"
    assert started <= ended
    assert params["clients"] == "20"
    assert params["privacy.client.noise_multiplier"] == "1.0"
    assert "seed" not in params
    assert tags["tacit.plan"] == run["plan_digest"]
    releases = store.leaves(kinds=("RELEASE",))
    assert [value for _, value, _ in history["accuracy"]] == [
        leaf["body"]["metrics"]["accuracy"] for leaf in releases
    ]
    assert [(step, value) for step, value, _ in history["epsilon.client"]] == [
        (leaf["body"]["round"], leaf["body"]["epsilon"]["client"]) for leaf in releases
    ]
    assert "client_coordinator" in tags["tacit.not_claimed"]
    assert not any("asked" in key or "accepted" in key for key in (*tags, *params, *history))
    assert [v[2]["tacit.artifact"] for v in found["versions"]] == [
        leaf["body"]["artifact"] for leaf in releases
    ]
    assert found["aliases"] == {"champion": "1", "alias-latest": "2"}
    assert "tacit.retired" in found["versions"][2][2]
    store.close()


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("told PLAN", 1),
        ("tell version", 2),
        ("told RELEASE", 3),
        ("told DEPLOY", 4),
        ("tell alias", 3),
        ("told RETIRE", 1),
    ],
)
def test_a_mirror_killed_between_delivery_and_its_place_ends_the_same(
    server: MlflowServer, root: Path, line: str, count: int
) -> None:
    name = f"{line}-{count}".replace(" ", "-")
    places, sound = (name, f"{name}-"), ("sound", "sound-")
    mirroring.once(str(root), server.uri, sound)
    args = (str(root), server.uri, line, count, places)
    process = _FORKS.Process(target=mirroring.dying, args=args)
    process.start()
    process.join()
    assert process.exitcode == -9
    assert mirroring.once(str(root), server.uri, places) > 0
    assert _named(shown(server.uri, *places)) == _named(shown(server.uri, *sound))


def _named(found: Shown) -> Shown:
    return json.loads(json.dumps(found, sort_keys=True))


def test_what_was_changed_there_is_reported_and_put_back_only_when_asked(
    server: MlflowServer, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["mirror", "mlflow", "--to", server.uri, "--prefix", "hand-", "--json"]
    line += ["--experiment", "hand", "--home", str(root)]

    def said(*more: str) -> Any:
        assert told([*line, *more]) == 0
        return json.loads(capsys.readouterr().out)

    assert said("--artifacts")["changed"] == []
    client = MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)
    (version,) = client.search_model_versions("name = 'hand-tiny' AND tags.`tacit.version` = '1'")
    files = client.list_artifacts(version.run_id, "versions/1")
    assert [Path(f.path).stem for f in files] == [version.tags["tacit.artifact"]]
    client.set_registered_model_alias("hand-tiny", "champion", "3")
    client.set_registered_model_alias("hand-tiny", "mine", "3")
    client.set_model_version_tag("hand-tiny", "3", "tacit.artifact", "0" * 64)
    client.delete_model_version("hand-tiny", "2")  # And with it alias-latest, which named it.
    changed = "\n".join(said()["changed"])
    assert "hand-tiny@mine isn't an alias of this ledger" in changed
    assert "hand-tiny@champion names 3 there, 1 by the ledger" in changed
    assert "hand-tiny@alias-latest isn't there" in changed
    assert "names the artifact 000" in changed
    assert "hand-tiny has no version for tiny@2" in changed
    again = said("--anew")
    assert again["leaves"] > 0
    assert "no version" not in "\n".join(again["changed"])
    assert client.get_registered_model("hand-tiny").aliases["champion"] == "1"


def test_a_rollout_is_a_run_with_its_arms(server: MlflowServer, tmp_path: Path) -> None:
    home, places = tmp_path / "home", ("rollout", "rollout-")
    rolling.trained(home, "central")
    done = rollout("tiny", challenger=6, mode="ab", rounds=2, task=rolling.task(), home=home)
    mirroring.once(str(home), server.uri, places)
    _, _, tags, history = shown(server.uri, *places)["runs"][done.run]
    assert tags["tacit.kind"] == "rollout"
    assert json.loads(tags["tacit.rollout"])["model"] == "tiny"
    store = Store(Home(home))
    for number in (1, 6):
        assert [(step, value) for step, value, _ in history[f"version_{number}.accuracy"]] == [
            (leaf["body"]["round"], arm["metrics"]["accuracy"])
            for leaf in store.leaves(done.run, ("RELEASE",))
            for arm in leaf["body"]["arms"]
            if arm["number"] == number
        ]
    store.close()


def test_another_ledgers_model_isnt_touched(
    server: MlflowServer, root: Path, tmp_path: Path
) -> None:
    places = ("two", "two-")
    mirroring.once(str(root), server.uri, places)
    before = shown(server.uri, *places)
    simulate([*TINY, "rounds=1"], task=make_tiny(), home=tmp_path)
    with pytest.raises(StorageError, match="is of the ledger"):
        mirroring.once(str(tmp_path), server.uri, places)
    after = shown(server.uri, *places)
    assert after["versions"] == before["versions"]
    assert after["tags"] == before["tags"]


def test_a_server_that_is_down_is_told_later(root: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(root, home)
    with pytest.raises(UnreachableError, match="doesn't answer"):
        mirroring.once(str(home), "http://127.0.0.1:9", ("down", ""))
    store = Store(Home(home))
    assert Outbox(store, "http://127.0.0.1:9 ('down', '')").position() == 0
    store.close()


def test_a_place_that_isnt_of_this_ledger_is_none(root: Path, tmp_path: Path) -> None:
    store = Store(Home(root))
    outbox = Outbox(store, "somebody")
    with outbox.alone():
        outbox.delivered(4)
        assert outbox.position() == 5
        assert next(outbox.waiting())[0] == 5
        with (
            pytest.raises(StorageError, match="another process"),
            Outbox(store, "somebody").alone(),
        ):
            pass
    (file,) = (p for p in (root / "mirrors").glob("*.json") if '"position": 5' in p.read_text())
    other = Store(Home(tmp_path / "other"))
    (tmp_path / "other" / "mirrors").mkdir()
    shutil.copy(file, tmp_path / "other" / "mirrors" / file.name)
    assert Outbox(other, "somebody").position() == 0
    other.close()
    store.close()


@pytest.mark.parametrize(
    ("uri", "said"), [("ftp://x", "isn't the address"), ("http://a:b@127.0.0.1", "password")]
)
def test_an_address_that_wont_do_is_refused(
    uri: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(["mirror", "mlflow", "--to", uri]) != 0
    err = capsys.readouterr().err
    assert said in err
    assert "a:b" not in err


def test_names_that_mlflow_keeps_are_made_others() -> None:
    assert [alias_name(a) for a in ("latest", "v1", "champion")] == [
        "alias-latest",
        "alias-v1",
        "champion",
    ]
