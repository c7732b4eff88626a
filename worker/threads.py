"""Lets threads that agent code starts know the run that they belong to; runs in the worker.

A thread begins with an empty context (until Python 3.14 changes that), and a model call in it would be of no run.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any


def inherit_context() -> None:
    """From now on, a thread and a task of a thread pool run in a copy of the context that started them."""
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit

    def start_in_context(thread: threading.Thread) -> None:
        context, run = copy_context(), thread.run
        thread.run = lambda: context.run(run)  # type: ignore[method-assign]
        start(thread)

    def submit_in_context(pool: ThreadPoolExecutor, task: Callable[..., Any], /, *args: Any, **kw: Any) -> Future[Any]:
        return submit(pool, copy_context().run, task, *args, **kw)

    threading.Thread.start = start_in_context  # type: ignore[assignment,method-assign]
    ThreadPoolExecutor.submit = submit_in_context  # type: ignore[assignment,method-assign]
