"""Processes of a machine in virtual time: each is some tasks that can be stopped, continued, or killed together.

A :class:`SimulatedProcess` belongs to a :class:`ProcessLoop`. What its tasks start belongs to it, too. While it is
stopped the clock goes on and nothing of it runs: what would have run is run when it is continued, timers first come
first served, as after SIGCONT. A process that is killed begins nothing any more; its tasks are cancelled, so whatever
they could reach outside must refuse them by then.
"""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.support.virtualtime import VirtualLoop

T = TypeVar("T")

_PROCESS: contextvars.ContextVar[SimulatedProcess | None] = contextvars.ContextVar("process", default=None)


class SimulatedProcess:
    """A process, which lives from the first task it is given."""

    def __init__(self, loop: ProcessLoop, name: str) -> None:
        self.name = name
        self.stopped = False
        self._loop = loop
        self._context = contextvars.copy_context()
        self._context.run(_PROCESS.set, self)
        self._tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._waiting: deque[asyncio.Handle] = deque()  # what would have run while it was stopped

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Let a task of the process begin."""
        return self._context.run(self._loop.create_task, work)

    def stop(self) -> None:
        """Let nothing of it run from now on (SIGSTOP)."""
        self.stopped = True

    def resume(self) -> None:
        """Let it run again (SIGCONT)."""
        self.stopped = False
        while self._waiting:
            self._loop.call_soon(self._run, self._waiting.popleft(), context=contextvars.Context())

    async def kill(self) -> None:
        """End all its tasks."""
        self.resume()
        tasks = [task for task in self._tasks if not task.done()]
        while tasks:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                if not task.cancelled():
                    task.exception()  # nobody else asks
            tasks = [task for task in self._tasks if not task.done()]

    def has(self, task: asyncio.Task[Any]) -> None:
        """A task is one of this process."""
        self._tasks.add(task)

    def put_off(self, handle: asyncio.Handle) -> None:
        """Something was to run while the process is stopped."""
        self._waiting.append(handle)

    def _run(self, handle: asyncio.Handle) -> None:
        if self.stopped:
            self._waiting.append(handle)
        elif not handle.cancelled():
            handle._run()


class ProcessLoop(VirtualLoop):
    """A loop in virtual time whose tasks belong to processes. There is nothing else in its world."""

    alone = True

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = super().create_task(coro, **options)
        process = _PROCESS.get()
        if process is not None:
            process.has(task)
        return task

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        if process is None or not process.stopped:
            return super().call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        process.put_off(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        timer = _ProcessTimer(process, callback, args)
        timer.handle = super().call_at(when, timer, context=context)
        return timer.handle


class _ProcessTimer:
    """A timer of a process. One that goes off while the process is stopped is put off, and may be cancelled then."""

    __slots__ = ("args", "callback", "handle", "process")
    handle: asyncio.TimerHandle

    def __init__(self, process: SimulatedProcess, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.process = process
        self.callback = callback
        self.args = args

    def __call__(self) -> None:
        if self.process.stopped:
            self.process.put_off(self.handle)
        else:
            self.callback(*self.args)
