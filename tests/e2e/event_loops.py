"""An asyncio event loop in a thread of its own, for clients that have something to do while nobody asks them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from tests.gateways import PATIENCE

T = TypeVar("T")


class EventLoop:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        loop = cls()
        loop._thread.start()
        try:
            yield loop
        finally:
            asyncio.run_coroutine_threadsafe(loop._cancel_all(), loop._loop).result(PATIENCE)
            loop._loop.call_soon_threadsafe(loop._loop.stop)
            loop._thread.join(PATIENCE)
            loop._loop.close()

    async def _cancel_all(self) -> None:
        """Whatever a library has left running."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def run(self, task: Coroutine[Any, Any, T]) -> T:
        """Its result, or what it raises; TimeoutError when it is not done in time."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(task, PATIENCE), self._loop).result()
