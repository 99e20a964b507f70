"""The thread that writes: its bound, its errors, and what it holds on to."""

import functools
import threading
import time
import weakref

import pytest

from llmdbg.capture import background
from llmdbg.capture.background import Background, StoppedError


class Buffer:
    pass


def test_one_waits_until_there_is_room():
    work, go = Background(10), threading.Event()
    done = []
    work.reserve(8)
    work.submit(lambda: (go.wait(30), done.append("first")), 8)
    threading.Timer(0.05, go.set).start()
    work.reserve(8)
    assert done == ["first"]
    work.release(8)
    work.close()


def test_what_is_given_back_is_free_again():
    work = Background(10)
    work.reserve(8)
    work.release(8)
    work.reserve(10)
    work.release(10)
    work.close()


def test_a_job_larger_than_the_bound_goes_alone():
    work = Background(10)
    work.reserve(1000)
    work.release(1000)
    work.close()


def test_after_an_error_nothing_more_is_done():
    work, done = Background(10), []

    def fails():
        raise OSError("no space left")

    work.submit(fails)
    work.submit(lambda: done.append(1))
    work.close()
    assert done == []
    assert str(work.error) == "no space left"
    with pytest.raises(StoppedError):
        work.reserve(1)


def test_a_thread_that_is_gone_is_not_waited_for(monkeypatch):
    # So it is in a forked child, which has the numbers and not the thread.
    monkeypatch.setattr(background, "_LOOK_SECONDS", 0.01)
    work = Background(10)
    work.close()
    work.reserve(8)
    with pytest.raises(StoppedError):
        work.reserve(8)
    assert "has ended" in str(work.error)


def test_a_job_that_is_done_holds_nothing():
    work, buffer = Background(10), Buffer()
    alive = weakref.ref(buffer)
    work.submit(functools.partial(id, buffer))
    del buffer
    # No other job comes that could take its place.
    for _ in range(3000):
        if alive() is None:
            break
        time.sleep(0.01)
    assert alive() is None
    work.close()
