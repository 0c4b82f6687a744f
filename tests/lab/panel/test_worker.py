"""One thread works on the newest request."""

import contextlib
import threading
import time

import pytest

from nmg.lab.panel import Worker
from tests.lab.panel.conftest import PATIENCE


def test_the_newest_request_wins():
    done, begun = [], threading.Event()

    def work(request, stopped):
        begun.set()
        while request == 0 and not stopped():
            time.sleep(0.001)
        done.append((request, stopped()))

    worker = Worker(work)
    worker.submit(0)
    assert begun.wait(PATIENCE)
    for request in range(1, 31):
        worker.submit(request)
    assert worker.wait(PATIENCE) and not worker.busy
    # Some in between may have been quick enough; the last is done and was not stopped.
    assert done[0] == (0, True) and done[-1] == (30, False)
    worker.close()
    with pytest.raises(RuntimeError, match="closed"):
        worker.submit(1)


def test_a_thread_outlives_what_its_work_raises(capsys):
    def work(request, stopped):
        raise KeyError(request)

    with contextlib.closing(Worker(work)) as worker:
        for request in ("first", "second"):
            worker.submit(request)
            assert worker.wait(PATIENCE)
            assert f"KeyError: '{request}'" in capsys.readouterr().err


def test_cancel_drops_what_waits_and_close_ends_the_thread():
    begun, done = threading.Event(), []

    def work(request, stopped):
        begun.set()
        while not stopped():
            time.sleep(0.001)
        done.append(request)

    worker = Worker(work)
    worker.submit(1)
    assert begun.wait(PATIENCE)
    assert not worker.wait(0.01)
    worker.cancel()
    assert worker.wait(PATIENCE) and done == [1]
    worker.submit(2)
    worker.close()
    assert not worker._thread.is_alive() and not worker.busy
