"""Reads a source of tasks for a loop that has only so many of them under way."""

from __future__ import annotations

import asyncio
import itertools
import threading
from dataclasses import dataclass

from bus import tasks
from bus.errors import ConfigError
from revo.cli.ends import Ends
from revo.cli.source import Item, Source
from revo.cli.work import AT_ONCE, Work


@dataclass
class Before:
    """The pieces whose result stood there already. The reader's thread counts them, and no other."""

    succeeded: int = 0
    failed: int = 0


class Reader:
    """Reads the source in a thread of its own, no further than there are slots: a pipe may be slow, and so may a disk.

    The thread is a daemon, for nothing ends a read of a terminal.
    """

    def __init__(self, source: Source, results: Ends, before: Before, work: Work, secret: bytes) -> None:
        self.slots = threading.Semaphore(work.at_once or AT_ONCE)
        """One for each piece that is submitted and has not ended."""
        self._source = source
        self._results = results
        self._before = before
        self._again = work.again
        self._secret = secret
        self._stopped = False
        self._loop = asyncio.get_running_loop()
        self._read: asyncio.Queue[Item | Exception | None] = asyncio.Queue()

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._go, name="revo-reader", daemon=True).start()

    async def next(self) -> Item | None:
        """The next piece that has no result yet; None after the last.

        Raises:
            ConfigError: it could not be read.
        """
        item = await self._read.get()
        if isinstance(item, Exception):
            raise item
        return item

    def stop(self) -> None:
        """Read no more."""
        self._stopped = True
        self.slots.release()

    def _go(self) -> None:
        end: Exception | None = None
        try:
            for item in self._source.items():
                if self._is_new(item):
                    self.slots.acquire()
                    self._hand(item)
                if self._stopped:
                    return
        except OSError as error:
            end = ConfigError("reading", (error.strerror or str(error)).lower())
        except Exception as error:  # noqa: BLE001  (who waits for the next piece raises it)
            end = error
        self._hand(end)

    def _is_new(self, item: Item) -> bool:
        """Whether it is to be done, and as which task: one that failed before is done again as another one."""
        if item.message is None:
            return True
        for failures in itertools.count():
            key = f"{item.key}\0{failures}" if failures else item.key
            item.task_id = tasks.task_id_of_key(key, self._secret)
            good = self._results.before(item.task_id)
            if good:
                self._before.succeeded += 1
                return False
            if good is None and (self._again or not failures):
                return True
            if good is None:
                break
        self._before.failed += 1
        return False

    def _hand(self, item: Item | Exception | None) -> None:
        if not self._stopped:
            self._loop.call_soon_threadsafe(self._read.put_nowait, item)
