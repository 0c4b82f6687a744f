"""The panel without its widgets: a request that changes, one thread that makes its pictures, and what it tells."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from nmg.lab.panel.desk import ASKED, Desk
from nmg.lab.panel.engine import Cancelled, Doing, Engine, Tried
from nmg.lab.panel.sketch import sketched
from nmg.lab.panel.worker import Stopped, Worker
from nmg.request import Request


@dataclass(frozen=True)
class Made:
    """A picture is done."""

    tried: Tried


@dataclass(frozen=True)
class Failed:
    """These settings give no picture."""

    error: Exception

    @property
    def words(self) -> str:
        """As Python's last line says it."""
        return f"{type(self.error).__name__}: {self.error}"


@dataclass(frozen=True)
class Ended:
    """A run was cancelled, or a newer one took its place."""


@dataclass(frozen=True)
class Sketched:
    """A picture at few steps is done, and a request waits for its own."""

    picture: Image.Image
    steps: int


Event = Doing | Made | Failed | Ended | Sketched


@dataclass(frozen=True)
class _Job:
    request: Request
    sketch: bool = False


class Controller:
    """Makes the picture of the newest request, in a thread of its own.

    Args:
        engine: of the picture.
        request: to begin with, with guidance and editor; nothing is computed before `set` or `run`.
        tell: called with every event, in order.

    Attributes:
        desk: the newest request, with all that its controls were turned to.
        result: the newest picture that was made, or gone back to; None before the first.
        error: why the last settings gave no picture; None if they did.
        sketching: whether the newest request was for a picture of few steps.
    """

    def __init__(self, engine: Engine, request: Request, tell: Callable[[Event], object] | None = None):
        self.engine, self.desk = engine, Desk.of(request)
        self.result: Tried | None = None
        self.error: Exception | None = None
        self._tell = tell or (lambda event: None)
        # Cells and sliders may come from different threads.
        self._changing = threading.Lock()
        self._worker = Worker(self._work)
        self.sketching = False

    @property
    def busy(self) -> bool:
        return self._worker.busy

    @property
    def history(self) -> tuple[Tried, ...]:
        """The pictures that were made, the oldest first."""
        return tuple(self.engine.history)

    @property
    def request(self) -> Request:
        """The newest."""
        return self.desk.request

    def set(self, sketch: bool = False, **changes: Any) -> bool:
        """Turn controls (see `Desk.turned`) and make the picture; what is being made is given up.

        Args:
            sketch: make one of few steps instead; an earlier sketch is finished first, so that some are seen.

        Returns:
            Whether a method can have these values; the request stays as it is where not.

        Raises:
            TypeError: for a control that does not exist.
        """
        with self._changing:
            try:
                self.desk = self.desk.turned(**changes)
            except ValueError as error:
                self.cancel()
                self.error = error
            else:
                self._worker.submit(_Job(self.request, sketch), end=not (sketch and self.sketching))
                self.sketching = sketch
                return True
        self._tell(Failed(self.error))
        return False

    def run(self) -> None:
        """Make the picture of the request as it is."""
        self.set()

    def go_back(self, tried: Tried) -> None:
        """Take the request of a picture that was made before."""
        self.set(**{name: getattr(tried.request, field) for name, field in ASKED.items()})

    def cancel(self) -> None:
        """Give up what is being made, within one step."""
        self._worker.cancel()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the picture; False if it is not there after `timeout` seconds."""
        return self._worker.wait(timeout)

    def close(self) -> None:
        """Give up what is being made, and end the thread."""
        self._worker.close()

    def open(self, engine: Engine, **changes: Any) -> None:
        """Go over to another picture, with a history of its own; nothing is computed before `set` or `run`.

        Args:
            changes: turned controls, such as the source prompt.
        """
        self.cancel()
        self._worker.wait()
        with self._changing:
            self.engine, self.result, self.error = engine, None, None
            self.desk = self.desk.turned(**changes)

    def _sketch(self, request: Request, stopped: Stopped) -> None:
        """Tell a picture of few steps; what is wrong is said when the slider is let go."""
        try:
            if (few := sketched(request)) is not None:
                self._tell(Sketched(self.engine.sketch(few, stopped), few.steps))
        except (Cancelled, ArithmeticError, TypeError, ValueError):
            pass

    def _work(self, job: _Job, stopped: Stopped) -> None:
        if job.sketch:
            return self._sketch(job.request, stopped)
        event: Event
        try:
            made = self.engine.make(job.request, self._tell, stopped)
            self.result, self.error, event = made, None, Made(made)
        except Cancelled:
            event = Ended()
        # Whatever is wrong is said in the panel: nobody sees an exception that a thread raised.
        except Exception as error:
            self.error, event = error, Failed(error)
        self._tell(event)
