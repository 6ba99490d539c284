"""The report is one file, opens offline, and shows nothing that wasn't released."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tacit import Result, Task, simulate
from tacit.server.home import Home
from tacit.simulations import report

MakeTask = Callable[..., Task]


@pytest.fixture
def result(tiny: MakeTask, overrides: list[str], home: Home) -> Result:
    return simulate(overrides, task=tiny(), home=home.root)


class Links(HTMLParser):
    """Collects what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v for k, v in attrs if k in ("src", "href") and v]


def test_the_page_loads_nothing_from_outside(result: Result) -> None:
    page = (result.folder / "report.html").read_text()
    links = Links()
    links.feed(page)
    assert links.found
    assert all(link.startswith("data:image/png;base64,") for link in links.found)
    assert "http://" not in page
    assert "https://" not in page


def test_the_page_has_every_claim_and_names_the_simulation(result: Result) -> None:
    page = (result.folder / "report.html").read_text()
    for claim in result.claims:
        if claim["epsilon"] is not None:
            assert f"{claim['epsilon']:.4f}" in page
    assert "protects nobody" in page
    assert result.artifact_sha256 in page


def test_the_page_has_no_operators_counts(result: Result) -> None:
    page = (result.folder / "report.html").read_text()
    assert not re.search(r"accepted|rejected|asked", page)


def test_the_plots_are_pngs(result: Result) -> None:
    for name in ("accuracy.png", "epsilon.png"):
        assert (result.folder / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_model_name_is_escaped(tiny: MakeTask, overrides: list[str], home: Home) -> None:
    made = simulate([*overrides, "name='<script>alert(1)</script>'"], task=tiny(), home=home.root)
    assert "<script>" not in (made.folder / "report.html").read_text()


def test_a_run_without_epsilon_or_accuracy_has_a_report(
    tiny: MakeTask, overrides: list[str], home: Home
) -> None:
    settings = [*overrides, "privacy.client=none", "privacy.record=none", "evaluation=none"]
    made = simulate(settings, task=tiny(), home=home.root)
    assert "not claimed" in (made.folder / "report.html").read_text()
    assert set(made.epsilon.values()) == {None}
    assert made.metrics == {}


def test_a_frontier_is_what_nothing_beats() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (2.5, 0.7), (1.0, 0.3), (4.0, 0.9)]
    assert report.frontier(points) == [(1.0, 0.5), (2.5, 0.7), (3.0, 0.9)]
    assert report.frontier([]) == []


def test_a_sweep_in_processes_is_the_sweep_in_one(tmp_path: Path) -> None:
    from tacit.configs.build import sweep
    from tacit.simulations.sweep import run_all

    class Watch:
        def __init__(self) -> None:
            self.heard: list[tuple[str, int]] = []

        def started(self, place: int, *rest: object) -> None:
            self.heard.append(("started", place))

        def progress(self, place: int, *rest: object) -> None:
            self.heard.append(("progress", place))

        def ended(self, place: int, *rest: object) -> None:
            self.heard.append(("ended", place))

    settings = ["rounds=2", "cohort=10", "model=pixels", "budget.epsilon=4", "seed=0,1"]
    lines = sweep([*settings, "privacy.client.noise_multiplier=0.1,2"])
    made, heard = [], []
    for workers in (1, 2):
        watch = Watch()
        folder, results = run_all(lines, str(tmp_path / str(workers)), watch, workers)
        keep = ("artifact_sha256", "status", "rounds", "epsilon")
        made.append([(label, [row[key] for key in keep]) for label, row in results])
        heard.append(watch.heard)
        assert (folder / "report.html").is_file()
    assert made[0] == made[1]
    assert [label for label, _ in made[0]] == [
        f"seed={s} privacy.client.noise_multiplier=2" for s in (0, 1)
    ]
    for k in range(4):
        said = [kind for kind, place in heard[1] if place == k]
        assert said == [kind for kind, place in heard[0] if place == k]
        assert said[0] == "started"
        assert said[-1] == "ended"


def test_a_sweep_is_compared(home: Home, tmp_path: Path) -> None:
    from tacit.configs.build import sweep
    from tacit.simulations.sweep import run_all

    lines = sweep(["rounds=2", "cohort=10", "privacy.client.noise_multiplier=1,2", "seed=0,1"])
    folder, results = run_all(lines, str(home.root))
    assert len(results) == 4
    assert {label for label, _ in results} == {
        f"privacy.client.noise_multiplier={z} seed={s}" for z in (1, 2) for s in (0, 1)
    }
    page = (folder / "report.html").read_text()
    for _, row in results:
        assert row["run"] in page
    assert (folder / "accuracy_epsilon.png").read_bytes()[:4] == b"\x89PNG"
    epsilons = {row["epsilon"]["client"] for _, row in results}
    assert len(epsilons) == 2


def test_a_sweep_leaves_out_what_its_budget_refuses(home: Home) -> None:
    from tacit.configs.build import sweep
    from tacit.simulations.sweep import run_all

    settings = ["rounds=1", "cohort=10", "model=pixels", "budget.epsilon=0.3"]
    lines = sweep([*settings, "privacy.client.noise_multiplier=0.5,5"])
    _, results = run_all(lines, str(home.root))
    assert [label for label, _ in results] == ["privacy.client.noise_multiplier=5"]
