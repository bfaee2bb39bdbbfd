"""Measures the same loop in taskiq-nats and in Dramatiq with Redis, where they are installed; prints one line of JSON.

python bench/others.py [--tasks N]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
IN_FLIGHT = 64
TEXT = "x" * 1024


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], port: int = 0) -> Iterator[None]:
    """A process for the length of a block; with a port, once somebody listens there."""
    process = subprocess.Popen(
        command, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        until = time.monotonic() + 10
        while port:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.1):
                break
            if time.monotonic() > until:
                raise TimeoutError(f"{command[0]} does not listen on {port}")
            time.sleep(0.05)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def rate(one: Callable[[], Awaitable[object]], count: int) -> float:
    """Tasks a second, so many in flight."""

    async def lanes(total: int) -> None:
        left = iter(range(total))

        async def lane() -> None:
            for _ in left:
                await one()

        await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))

    await lanes(max(IN_FLIGHT, count // 5))  # nobody's first tasks count
    began = time.perf_counter()
    await lanes(count)
    return count / (time.perf_counter() - began)


def taskiq_nats(count: int) -> float:
    server = shutil.which("nats-server") or str(Path(sys.executable).with_name("nats-server"))
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENCH_NATS_URL"] = f"nats://127.0.0.1:{port}"
        # Each look at a result makes a consumer; the server's own limit of 1,000 would end the run.
        limits = "limits { default_max_consumers: -1 }"
        config = Path(folder) / "nats.conf"
        config.write_text(f'host: "127.0.0.1"\nport: {port}\njetstream {{ store_dir: "{folder}", {limits} }}\n')
        with running([server, "-c", str(config)], port):
            worker = [str(Path(sys.executable).with_name("taskiq")), "worker", "--workers", "1", "taskiq_echo:broker"]
            with running([*worker, "--max-async-tasks", str(IN_FLIGHT)]):
                sys.path.insert(0, str(HERE))
                import taskiq_echo

                async def measure() -> float:
                    await taskiq_echo.broker.startup()

                    async def one() -> None:
                        task = await taskiq_echo.echo.kiq(TEXT)
                        await task.wait_result(check_interval=0.02, timeout=30)

                    try:
                        return await rate(one, count)
                    finally:
                        await taskiq_echo.broker.shutdown()

                return asyncio.run(measure())


def dramatiq_redis(count: int) -> float:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENCH_REDIS_URL"] = f"redis://127.0.0.1:{port}"
        # Durable in the measure of the other: written at once, synced when the system likes.
        redis = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", folder]
        with running([*redis, "--appendonly", "yes", "--appendfsync", "no"], port):
            worker = [str(Path(sys.executable).with_name("dramatiq")), "--processes", "1", "--threads", "16"]
            with running([*worker, "dramatiq_echo"]):
                sys.path.insert(0, str(HERE))
                import dramatiq_echo

                async def measure() -> float:
                    loop = asyncio.get_running_loop()
                    with ThreadPoolExecutor(IN_FLIGHT) as threads:

                        def one() -> None:
                            dramatiq_echo.echo.send(TEXT).get_result(block=True, timeout=30_000)

                        async def in_thread() -> None:
                            await loop.run_in_executor(threads, one)

                        return await rate(in_thread, count)

                return asyncio.run(measure())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=2000)
    count = parser.parse_args().tasks
    found: dict[str, float | str] = {}
    if importlib.util.find_spec("taskiq_nats") is None:
        found["taskiq_nats"] = "not installed: pip install taskiq-nats"
    else:
        found["taskiq_nats"] = round(taskiq_nats(count), 1)
    if importlib.util.find_spec("dramatiq") is None or shutil.which("redis-server") is None:
        found["dramatiq_redis"] = "not installed: pip install 'dramatiq[redis]', and a redis-server on the PATH"
    else:
        found["dramatiq_redis"] = round(dramatiq_redis(count), 1)
    print(json.dumps({**found, "in_flight": IN_FLIGHT, "tasks": count}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
