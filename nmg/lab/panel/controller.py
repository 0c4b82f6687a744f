"""The panel without its widgets: settings that change, one thread that makes their pictures, and what it tells."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nmg.lab.panel.engine import Cancelled, Doing, Engine, Tried
from nmg.lab.panel.settings import Settings
from nmg.lab.panel.worker import Stopped, Worker


@dataclass(frozen=True)
class Made:
    """A picture is done."""

    tried: Tried


@dataclass(frozen=True)
class Failed:
    """The settings can't be had."""

    error: Exception

    @property
    def words(self) -> str:
        """As Python's last line says it."""
        return f"{type(self.error).__name__}: {self.error}"


@dataclass(frozen=True)
class Ended:
    """A run was cancelled, or a newer one took its place."""


Event = Doing | Made | Failed | Ended


class Controller:
    """Makes the picture of the newest settings, in a thread of its own.

    Args:
        engine: of the picture.
        settings: to begin with; nothing is computed before `set` or `run`.
        tell: called in the thread with every event, in order.

    Attributes:
        settings: the newest.
        result: the newest picture that was made, or gone back to; None before the first.
        error: why the last settings gave no picture; None if they did.
    """

    def __init__(self, engine: Engine, settings: Settings, tell: Callable[[Event], object] | None = None):
        self.engine, self.settings = engine, settings
        self.result: Tried | None = None
        self.error: Exception | None = None
        self._tell = tell or (lambda event: None)
        # Cells and sliders may come from different threads.
        self._changing = threading.Lock()
        self._worker = Worker(self._work)

    @property
    def busy(self) -> bool:
        return self._worker.busy

    @property
    def history(self) -> tuple[Tried, ...]:
        """The pictures that were made, the oldest first."""
        return tuple(self.engine.history)

    def set(self, **changes: Any) -> None:
        """Change settings (see `Settings.but`) and make their picture; what is being made is given up."""
        with self._changing:
            self.settings = self.settings.but(**changes)
            self._worker.submit(self.settings)

    def run(self) -> None:
        """Make the picture of the settings as they are."""
        self.set()

    def go_back(self, tried: Tried) -> None:
        """Take the settings of a picture that was made before."""
        with self._changing:
            self.settings = tried.settings
            self._worker.submit(self.settings)

    def cancel(self) -> None:
        """Give up what is being made, within one step."""
        self._worker.cancel()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the picture; False if it is not there after `timeout` seconds."""
        return self._worker.wait(timeout)

    def close(self) -> None:
        """Give up what is being made, and end the thread."""
        self._worker.close()

    def _work(self, settings: Settings, stopped: Stopped) -> None:
        event: Event
        try:
            made = self.engine.make(settings, self._tell, stopped)
            self.result, self.error, event = made, None, Made(made)
        except Cancelled:
            event = Ended()
        # Whatever is wrong is said in the panel: nobody sees an exception that a thread raised.
        except Exception as error:
            self.error, event = error, Failed(error)
        self._tell(event)
