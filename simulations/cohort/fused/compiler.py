"""Compiles the engine's C source on first use, and keeps the library for the next process.

The library is in ``$XDG_CACHE_HOME/tacit`` (``~/.cache/tacit``), named by everything that it
depends on: sources, flags, the compiler and the processor. Guarantees: only a directory that
belongs to this user and that nobody else can write is read from, because what is in it gets
executed; a library appears whole or not at all, however many processes compile at once.

``TACIT_FUSED=0`` in the environment switches the compiled engine off.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from tacit.simulations.cohort.job import UnsupportedError

SOURCES = ("kernel.c", "steps.h", "plan.h", "layers.h", "tiles.h", "vec.h")

# No -ffast-math: a gradient that isn't finite has to be seen.
FLAGS = (
    "-std=gnu11",
    # As fast as -O3 here, compiled in two thirds of the time.
    "-O2",
    "-ftree-vectorize",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
    "-w",
)
_COMPILERS = ("cc", "gcc", "clang")
_PATIENCE = 120.0


def library() -> ctypes.CDLL:
    """The compiled engine.

    Raises:
        UnsupportedError: it is switched off, there is no compiler, the source can't be
            compiled, or the cache isn't this user's alone.
    """
    if os.environ.get("TACIT_FUSED") == "0":
        raise UnsupportedError("TACIT_FUSED=0 switches the compiled engine off")
    return _loaded(tuple(compiler()), directory())


def compiler() -> list[str]:
    """The command of a C compiler: ``$CC``, or the first there is.

    Raises:
        UnsupportedError: there is none.
    """
    wanted = shlex.split(os.environ.get("CC", ""))
    for command in [wanted] if wanted else [[name] for name in _COMPILERS]:
        found = shutil.which(command[0])
        if found is not None:
            return [found, *command[1:]]
    if not wanted and importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    if wanted:
        raise UnsupportedError(f"no C compiler: CC={wanted[0]} isn't there")
    raise UnsupportedError("no C compiler (cc, gcc or clang)")


def directory() -> Path:
    """Where libraries are kept; made if it isn't there.

    Raises:
        UnsupportedError: somebody else could have put something there.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # As the XDG specification has it: what isn't absolute counts as unset.
    path = Path(base if os.path.isabs(base) else Path.home() / ".cache") / "tacit"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise UnsupportedError(f"no cache for the compiled engine: {error}") from error
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise UnsupportedError(f"the cache {path} belongs to or can be written by others")
    return path


@functools.cache
def _loaded(command: tuple[str, ...], where: Path) -> ctypes.CDLL:
    path = where / f"fused-{_digest(command)}.so"
    if not path.exists():
        _compile(command, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        # Not for the next process to stumble over.
        path.unlink(missing_ok=True)
        raise UnsupportedError(f"the compiled engine can't be loaded: {error}") from error


def _digest(command: tuple[str, ...]) -> str:
    parts = [*command, *FLAGS, _run([*command, "--version"]), _processor()]
    hasher = hashlib.sha256("\x00".join(parts).encode())
    for name in SOURCES:
        text = _source(name).read_bytes()
        hasher.update(f"\x00{name}\x00{len(text)}\x00".encode() + text)
    return hasher.hexdigest()


def _processor() -> str:
    """Model and features: what -march=native depends on."""
    known = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "\n".join(known)
    wanted = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU part")
    return "\n".join([*known, *sorted({x for x in lines if x.split("\t")[0] in wanted})])


def _compile(command: tuple[str, ...], path: Path) -> None:
    handle, name = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        _run([*command, *FLAGS, str(_source("kernel.c")), "-o", name, "-lm"])
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsupportedError(f"the C compiler can't be run: {error}") from error
    if done.returncode != 0:
        said = next(iter(done.stderr.strip().splitlines()), f"status {done.returncode}")
        raise UnsupportedError(f"the C compiler failed: {said}")
    return done.stdout


def _source(name: str) -> Path:
    return Path(__file__).parent / name
