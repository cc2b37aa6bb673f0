"""The life of the process, as far as the library has to do with it: who frees a handle, forks, the interpreter's end.

The library must not call into Python when there is no interpreter any more, nor on a thread that the interpreter stops as it
ends: a stopped thread unwinds the frames of the library, which ends the process. So at the end nothing of the library may be
under way: what is, is cancelled and waited for, and nothing new begins but on the thread that ends the interpreter.
"""

from __future__ import annotations

import _thread
import atexit
import ctypes as c
import os
import sys
import threading
import time
import weakref
from typing import Any, Callable

# Threads that are in a call of the library, and those of them, and of the library's own, that are in the caller's Python within.
inside: set[int] = set()
computing: set[int] = set()
# What is called to cancel the calls that are under way.
under_way: set[Callable[[], None]] = set()
# Engines that are open: they call networks on threads of their own.
engines: weakref.WeakSet[Any] = weakref.WeakSet()

# So long the end waits for calls that are cancelled, and then for networks in which an exception was raised.
_PATIENCE = (5.0, 1.0)
_PAUSE = 0.002
# The thread on which the interpreter ends, or none.
_ender = 0


def refuses() -> bool:
    """Whether the interpreter ends, and this is not the thread on which it does."""
    return _ender != 0 and _ender != threading.get_ident()


def _is_main() -> bool:
    c.pythonapi.PyInterpreterState_Get.restype = c.c_void_p
    c.pythonapi.PyInterpreterState_GetID.argtypes = [c.c_void_p]
    c.pythonapi.PyInterpreterState_GetID.restype = c.c_int64
    return bool(c.pythonapi.PyInterpreterState_GetID(c.pythonapi.PyInterpreterState_Get()) == 0)


# Whether the library can call back: what ctypes makes of a callback runs in the main interpreter, whoever made it.
can_call_back = _is_main()


def ends() -> bool:
    """Whether the interpreter ends."""
    return _ender != 0


class Owner:
    """A place for a handle, freed with its last owner, in the process that made it. It is there before the handle is, so that no
    interruption comes in between."""

    __slots__ = ("handle", "free", "process")

    def __init__(self, free: Callable[[c.c_void_p], Any]) -> None:
        self.handle, self.free, self.process = c.c_void_p(), free, os.getpid()

    # Its own references: at the end of the interpreter the modules' are gone.
    def __del__(self, getpid: Callable[[], int] = os.getpid, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        try:
            if self.handle and not finalizing() and self.process == getpid():
                self.free(self.handle)
        except KeyboardInterrupt:
            # Nothing can be raised in here: it comes again when this is over.
            _thread.start_new_thread(_interrupt_soon, ())


def _interrupt_soon() -> None:
    time.sleep(0.001)
    _thread.interrupt_main()


def for_ever(callback: Any) -> int:
    """The address of a callback, which the library may call as long as there is a process."""
    c.pythonapi.Py_IncRef(c.py_object(callback))
    return c.cast(callback, c.c_void_p).value or 0


@atexit.register
def _end() -> None:
    global _ender
    _ender = threading.get_ident()
    for cancel in list(under_way):
        cancel()
    _wait(_PATIENCE[0])
    # A network that goes on: whatever Python it runs next raises.
    for thread in computing - {_ender}:
        c.pythonapi.PyThreadState_SetAsyncExc(c.c_ulong(thread), c.py_object(SystemExit))
    _wait(_PATIENCE[1] if computing - {_ender} else 0.0)
    for engine in list(engines):
        # One whose network does not return cannot be waited for.
        if not (engine._networks and computing - {_ender}):
            engine.close()


def _wait(seconds: float) -> None:
    """Until no other thread is in the library, or in a network that it called."""
    end = time.monotonic() + seconds
    while (inside | computing) - {_ender} and time.monotonic() < end:
        time.sleep(_PAUSE)


def _forked() -> None:
    # The other threads, and the parent's engines, are not here.
    global _ender
    _ender = 0
    me = {threading.get_ident()}
    inside.intersection_update(me)
    computing.intersection_update(me)
    under_way.clear()
    engines.clear()


os.register_at_fork(after_in_child=_forked)
