"""What a run does before its first step: said when it begins, with how long it took last time."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Generator
from pathlib import Path

_logger = logging.getLogger(__name__)
_FILE = "phases.json"


class Phases:
    """Logs the phases of a start and keeps their seconds in `phases.json` of the run.

    Args:
      workdir: the directory of the run or stage. Where it has no times yet, those of the run
        beside it that started last are the estimate.
      active: whether this process logs and writes; one of several does.
    """

    def __init__(self, workdir: Path, *, active: bool = True):
        self._path, self._active = Path(workdir) / _FILE, active
        self._before = _latest(Path(workdir)) if active else {}
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, what: str) -> Generator[None]:
        """Logs `what`, a present participle, before the work of a `with` block and after it."""
        if not self._active:
            yield
            return
        known = what in self._before
        estimate = f" ({self._before[what]:.1f} s last time)" if known else ""
        _logger.info("%s%s ...", what, estimate)
        begin = time.monotonic()
        yield
        self._seconds[what] = time.monotonic() - begin
        _logger.info("%s took %.1f s.", what, self._seconds[what])

    def save(self) -> None:
        """Writes the seconds for the next start; that they cannot be written harms no run."""
        if self._active and self._seconds:
            with contextlib.suppress(OSError):
                self._path.write_text(json.dumps({**self._before, **self._seconds}, indent=1))


def _latest(workdir: Path) -> dict[str, float]:
    """Seconds by phase of this run's last start, or of the newest one in a directory beside it."""
    try:
        own = workdir / _FILE
        beside = sorted(workdir.parent.glob(f"*/{_FILE}"), key=lambda path: path.stat().st_mtime)
        path = own if own.exists() else beside[-1]
        found = json.loads(path.read_text())
        return {str(name): float(seconds) for name, seconds in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, IndexError):
        return {}
