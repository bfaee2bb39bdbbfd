import asyncio

from revo import Mesh


async def main() -> None:
    async with Mesh.connect() as mesh:
        handle = await mesh.submit("echo", {"text": "hi"}, priority="high")
        print(await handle.result(timeout=10))


asyncio.run(main())
