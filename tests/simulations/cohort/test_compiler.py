"""The compiled engine's library: found again, from nowhere that others can write."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tacit.simulations.cohort.fused import compiler
from tacit.simulations.cohort.job import UnsupportedError

# Stands for the engine, which takes seconds to compile.
SOURCE = "int answer(void) { return ANSWER; }\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a small source, and no library loaded yet."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("TACIT_FUSED", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "source"
    source.mkdir()
    for name in compiler.SOURCES:
        (source / name).write_text(f"/* {name} */\n")
    (source / "kernel.c").write_text(SOURCE.replace("ANSWER", "41"))
    monkeypatch.setattr(compiler, "_source", source.joinpath)
    compiler._loaded.cache_clear()
    return tmp_path / "cache" / "tacit"


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def counting(tmp_path: Path) -> tuple[str, Path]:
    """A compiler that notes what it compiles."""
    real = shutil.which("cc") or shutil.which("gcc")
    assert real is not None
    log = tmp_path / "log"
    log.touch()
    note = f'[ "$1" = --version ] || echo "$@" >> {log}'
    return script(tmp_path / "counting", f'{note}\nexec {real} "$@"'), log


def test_compiles_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, log = counting(tmp_path)
    monkeypatch.setenv("CC", command)
    for _ in range(2):
        assert compiler.library().answer() == 41
        compiler._loaded.cache_clear()
    assert len(log.read_text().splitlines()) == 1
    assert [p.suffix for p in cache.iterdir()] == [".so"]
    assert cache.stat().st_mode & 0o777 == 0o700


def test_another_source_is_another_library(tmp_path: Path, cache: Path) -> None:
    assert compiler.library().answer() == 41
    (tmp_path / "source" / "kernel.c").write_text(SOURCE.replace("ANSWER", "42"))
    compiler._loaded.cache_clear()
    assert compiler.library().answer() == 42
    (tmp_path / "source" / "vec.h").write_text("/* changed */\n")
    compiler._loaded.cache_clear()
    assert compiler.library().answer() == 42
    assert len(list(cache.iterdir())) == 3


def test_another_compiler_flag_or_processor_is_another_library(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("cc") or shutil.which("gcc")
    names = {compiler._digest((str(real),)), compiler._digest((str(real), "-g"))}
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-DX"))
        names.add(compiler._digest((str(real),)))
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "_processor", lambda: "another")
        names.add(compiler._digest((str(real),)))
    version = script(tmp_path / "versioned", "echo $VERSION")
    for number in "12":
        monkeypatch.setenv("VERSION", number)
        names.add(compiler._digest((version,)))
    assert len(names) == 6


def test_processes_that_compile_at_once(tmp_path: Path, cache: Path) -> None:
    code = (
        "import sys, pathlib; from tacit.simulations.cohort.fused import compiler;"
        "compiler._source = pathlib.Path(sys.argv[1]).joinpath; print(compiler.library().answer())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "source")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in started] == ["41"] * 3
    assert [p.suffix for p in cache.iterdir()] == [".so"]


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o722])
def test_a_cache_that_others_can_write(cache: Path, mode: int) -> None:
    cache.mkdir(parents=True)
    cache.chmod(mode)
    with pytest.raises(UnsupportedError, match="can be written by others"):
        compiler.library()
    assert not list(cache.iterdir())


def test_a_cache_of_somebody_else(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: cache.parent.parent.stat().st_uid + 1)
    with pytest.raises(UnsupportedError, match="belongs to"):
        compiler.library()


def test_no_cache(cache: Path) -> None:
    cache.parent.write_text("a file")
    with pytest.raises(UnsupportedError, match="no cache"):
        compiler.library()


def test_a_relative_cache_counts_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert compiler.directory() == tmp_path / "home" / ".cache" / "tacit"


def test_a_compiler_that_fails(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = '[ "$1" = --version ] && exit 0\necho first >&2\necho second >&2\nexit 1'
    monkeypatch.setenv("CC", script(tmp_path / "broken", body))
    with pytest.raises(UnsupportedError, match=r"failed: first$"):
        compiler.library()
    assert not list(cache.iterdir())


def test_a_compiler_that_makes_no_library(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", script(tmp_path / "lazy", "exit 0"))
    with pytest.raises(UnsupportedError, match="can't be loaded"):
        compiler.library()
    assert not list(cache.iterdir())


def test_a_compiler_that_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(b"\x00\x01")
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))
    with pytest.raises(UnsupportedError, match="can't be run"):
        compiler.library()


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UnsupportedError, match="no C compiler"):
        compiler.library()
    monkeypatch.setenv("CC", "nowhere -m64")
    with pytest.raises(UnsupportedError, match="no C compiler: CC=nowhere"):
        compiler.library()


def test_which_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert compiler.compiler() == [sys.executable, "-m", "ziglang", "cc"]
    clang, gcc = script(tmp_path / "clang", ""), script(tmp_path / "gcc", "")
    assert compiler.compiler() == [gcc]
    Path(gcc).unlink()
    assert compiler.compiler() == [clang]
    monkeypatch.setenv("CC", "clang -m64")
    assert compiler.compiler() == [clang, "-m64"]


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACIT_FUSED", "0")
    with pytest.raises(UnsupportedError, match="TACIT_FUSED=0"):
        compiler.library()
