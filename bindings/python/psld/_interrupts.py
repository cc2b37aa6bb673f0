"""Ctrl+C while the library works."""

from __future__ import annotations

import os
import select
import signal
import threading
from typing import Any, Callable, Optional

from . import _abi, _life


class Interrupts:
    """Around a call of the library: Ctrl+C ends it, by ``cancel``, also within a network call, and gives a list that says so,
    for the caller to raise. In a network in Python, or in who is told of the progress, it is raised as always.

    Python's handlers of signals run between two lines of Python only, and at the start of a callback, where an exception would
    be lost. So a thread hears of the signal by a pipe, and cancels.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._seen: list[int] = []
        self._active = False
        self._outer: Optional[Interrupts] = None

    def __enter__(self) -> list[int]:
        global _innermost
        _life.under_way.add(self._cancel)
        if threading.current_thread() is not threading.main_thread():
            return self._seen
        handler = signal.getsignal(signal.SIGINT)
        if handler is _handle:
            # Within a network that another call computes.
            self._outer, _innermost = _innermost, self
            self._active = True
        elif handler is signal.default_int_handler:
            _innermost = self
            try:
                signal.signal(signal.SIGINT, _handle)
            except ValueError:  # Not the main interpreter.
                return self._seen
            self._active = True
            _pipe.open()
        return self._seen

    def interrupt(self, number: int) -> None:
        self._seen.append(number)
        self._cancel()

    def __exit__(self, *_: Any) -> None:
        global _innermost
        _life.under_way.discard(self._cancel)
        if not self._active:
            return
        if self._outer is None:
            _pipe.close()
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _innermost = self._outer


# On the main thread; those around it are its `_outer`.
_innermost: Optional[Interrupts] = None


def _handle(number: int, _: Any) -> None:
    one = _innermost
    while one is not None:
        one.interrupt(number)
        one = one._outer
    if _abi.calling.python:
        raise KeyboardInterrupt


class _Pipe:
    """What the system's handler of signals writes to while a call is watched, and the thread that reads it."""

    def __init__(self) -> None:
        self._ends: Optional[tuple[int, int]] = None
        self._lock = threading.Lock()
        self._watched = False
        # Who else wanted to hear of signals.
        self._other = -1

    def open(self) -> None:
        if self._ends is None:
            ends = os.pipe()
            for end in ends:
                os.set_blocking(end, False)
            try:
                threading.Thread(target=self._watch, args=(ends[0],), name="psld-signals", daemon=True).start()
            except RuntimeError:  # At the end of the interpreter there are no new threads.
                for end in ends:
                    os.close(end)
                return
            self._ends = ends
        with self._lock:
            # What is left of signals that came as the last call ended is not for this one.
            self._read(self._ends[0])
            self._watched = True
        self._other = signal.set_wakeup_fd(self._ends[1], warn_on_full_buffer=False)

    def close(self) -> None:
        if not self._watched:
            return
        try:
            signal.set_wakeup_fd(self._other)
        except (OSError, ValueError):  # It was closed meanwhile.
            signal.set_wakeup_fd(-1)
        with self._lock:
            self._watched = False

    def _read(self, end: int) -> bytes:
        try:
            numbers = os.read(end, 256)
            if self._other != -1:
                os.write(self._other, numbers)
            return numbers
        except OSError:
            return b""

    def _watch(self, end: int) -> None:
        while True:
            select.select([end], [], [])
            with self._lock:
                if signal.SIGINT in self._read(end) and self._watched:
                    one = _innermost
                    while one is not None:
                        # Who raises is told by `_handle`, which runs when the library has come back.
                        one._cancel()
                        one = one._outer

    def forked(self) -> None:
        """The thread is the parent's, and so is the pipe."""
        if self._ends is not None:
            if self._watched:
                signal.set_wakeup_fd(-1)
            for end in self._ends:
                os.close(end)
        self.__init__()  # type: ignore[misc]


_pipe = _Pipe()


def _forked() -> None:
    # What the parent was at has no end here, also where the child came out of a callback of it.
    global _innermost
    _pipe.forked()
    if _innermost is not None:
        _innermost = None
        signal.signal(signal.SIGINT, signal.default_int_handler)


os.register_at_fork(after_in_child=_forked)
