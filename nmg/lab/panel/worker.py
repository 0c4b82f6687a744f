"""One thread that works on the newest request."""

from __future__ import annotations

import atexit
import threading
import traceback
from collections.abc import Callable
from typing import Any

Stopped = Callable[[], bool]
"""Whether the request that is being worked on should end: it was cancelled, or a newer one came."""


class Worker:
    """Works on one request at a time, in a thread of its own; a new request ends the one before.

    Requests that were never begun when a newer one comes are dropped, so that the last one always wins.

    Args:
        work: called in the thread with each request and a `Stopped` to ask often; what it raises is printed.
    """

    def __init__(self, work: Callable[[Any, Stopped], None]):
        self._work = work
        self._changed = threading.Condition()
        self._waiting: list[Any] = []
        self._stop: threading.Event | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="nmg panel", daemon=True)
        self._thread.start()
        # Python may not end in the middle of a network call.
        atexit.register(self.close)

    @property
    def busy(self) -> bool:
        """Whether a request is worked on, or waits."""
        return bool(self._waiting) or self._stop is not None

    def submit(self, request: Any, end: bool = True) -> None:
        """Work on this request next, and on nothing else.

        Args:
            end: give up the one that is worked on; if not, it is finished first.

        Raises:
            RuntimeError: after `close`.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("the panel is closed; open another one")
            self._waiting[:] = [request]
            if end:
                self._end()
            self._changed.notify_all()

    def cancel(self) -> None:
        """End the request that is worked on, and drop the one that waits."""
        with self._changed:
            self._waiting.clear()
            self._end()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to do.

        Args:
            timeout: in seconds.

        Returns:
            Whether all is done; False if the time was up before.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self.busy, timeout)

    def close(self) -> None:
        """Cancel, and end the thread; waits for it unless it is the thread that asks."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._end()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        atexit.unregister(self.close)

    def _end(self) -> None:
        if self._stop is not None:
            self._stop.set()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                request, stop = self._waiting.pop(), threading.Event()
                self._stop = stop
            try:
                self._work(request, stop.is_set)
            # The next request still finds a thread.
            except Exception:
                traceback.print_exc()
            finally:
                with self._changed:
                    self._stop = None
                    self._changed.notify_all()
