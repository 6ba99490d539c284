"""When a device may be asked: its owner's conditions, as the machine reports them.

What idle, charging and unmetered mean differs from one machine to the next, so the device is
told: by a file that something else keeps, or by a command. Either gives a JSON object such as
``{"idle": true, "charging": true, "unmetered": false}``.

Guarantees: a device without `Eligibility.always`, file or command is never eligible; a
condition that isn't reported, or isn't ``true``, isn't met; nor is any if the report can't be
had. The gateway learns whether the device is eligible, not which condition fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError

CONDITIONS = ("idle", "charging", "unmetered")
_LONGEST = 64 * 1024
_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Eligibility:
    """The conditions.

    Attributes:
        always: whether the device is eligible whatever is reported.
        require: what has to be reported as true.
        file: where the report is.
        command: what prints it, without a shell; has ten seconds.
        poll: seconds between two looks, at least 1.
    """

    always: bool = False
    require: tuple[str, ...] = CONDITIONS
    file: Path | None = None
    command: tuple[str, ...] = ()
    poll: float = 30.0

    def __post_init__(self) -> None:
        if not isinstance(self.always, bool):
            raise ConfigError(f"eligibility.always={self.always!r} must be true or false")
        for name in self.require:
            validate.one_of("eligibility.require", name, CONDITIONS)
        if self.always and (self.file or self.command):
            raise ConfigError("eligibility.always=true leaves nothing to a file or a command")
        if self.file is not None and self.command:
            raise ConfigError("eligibility has both a file and a command", "keep one of them")
        if not self.poll >= 1:
            raise ConfigError(f"eligibility.poll={self.poll} must be at least 1 second")

    @classmethod
    def read(cls, held: Mapping[str, Any], folder: Path) -> Eligibility:
        """From a table of settings; a file's path is relative to ``folder``.

        Raises:
            ConfigError: a value is of the wrong type or out of range.
        """
        made = dict(held)
        for name in ("require", "command"):
            listed = made.get(name, [])
            if not isinstance(listed, list) or not all(isinstance(x, str) for x in listed):
                raise ConfigError(f"eligibility.{name}={listed!r} must be a list of texts")
            if name in made:
                made[name] = tuple(listed)
        if not isinstance(made.get("file", ""), str):
            raise ConfigError(f"eligibility.file={made['file']!r} must be a path")
        if "file" in made:
            made["file"] = folder / made["file"]
        poll = made.get("poll", 30.0)
        if not isinstance(poll, int | float) or isinstance(poll, bool):
            raise ConfigError(f"eligibility.poll={poll!r} must be a number")
        return cls(**made)

    async def met(self) -> bool:
        """Whether the device is eligible now."""
        if self.always:
            return True
        return all(self._among(await self._report()).values())

    async def conditions(self) -> dict[str, bool]:
        """Which of the required conditions are met, for the owner's eyes."""
        return self._among(await self._report())

    def _among(self, report: Mapping[str, Any] | None) -> dict[str, bool]:
        if report is None:
            return {"reported": False}
        return {name: report.get(name) is True for name in self.require}

    async def _report(self) -> Mapping[str, Any] | None:
        text = b""
        if self.file is not None:
            with contextlib.suppress(OSError), self.file.open("rb") as source:
                text = source.read(_LONGEST)
        elif self.command:
            text = await _printed(self.command)
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None


async def _printed(command: tuple[str, ...]) -> bytes:
    """What a command prints; nothing if it fails or takes too long."""
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=null, stdout=pipe, stderr=null, limit=_LONGEST
        )
    except OSError:
        return b""
    assert child.stdout is not None
    try:
        async with asyncio.timeout(_SECONDS):
            text = await child.stdout.read(_LONGEST)
            return text if await child.wait() == 0 else b""
    except TimeoutError:
        return b""
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
