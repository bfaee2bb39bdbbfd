import ast
import asyncio
import datetime
import json
import os
from pathlib import Path

import nats
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import Service

WHO = {"agent": "summarizer", "owner": "somebody", "session": "main"}
PLACE = ".".join(WHO.values())
BEAT = 5
NOT_PYTHON = (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError)


def summary(source: str) -> str:
    nodes = list(ast.walk(ast.parse(source)))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    classes = [node.name for node in nodes if isinstance(node, ast.ClassDef)]
    said = [f"lines: {len(source.splitlines())}, functions: {len(functions)}, classes: {len(classes)}"]
    if classes:
        said.append(f"classes: {', '.join(classes)}")
    if functions:
        length, line, name = max((node.end_lineno - node.lineno + 1, node.lineno, node.name) for node in functions)
        said.append(f"longest function: {name}, {length} lines from line {line}")
    return "\n".join(said)


async def answer(request: Request) -> None:
    await request.respond(b'{"type": "status", "data": "ack"}')
    try:
        text = request.data.decode()
        source = json.loads(text)["prompt"] if text.lstrip().startswith("{") else text
        await request.respond(json.dumps({"type": "response", "data": summary(source)}).encode())
    except NOT_PYTHON as error:
        await request.respond_error("400", " ".join(f"not Python source: {error}".split()))
    finally:
        await request.respond(b"")  # the end of every answer, also of one that failed


def presence(service: Service) -> bytes:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps({**WHO, "instance_id": service.id, "ts": now, "interval_s": BEAT}).encode()


async def serve(url: str, seed: str | None) -> None:
    async with await nats.connect(url, nkeys_seed_str=seed, max_reconnect_attempts=-1) as client:
        kind = {"name": "agents", "version": "1.0.0", "description": "I sum up Python source.", "queue_group": "agents"}
        service = await add_service(client, **kind, metadata={**WHO, "protocol_version": "0.3"})
        limits = {"max_payload": f"{client.max_payload}B", "attachments_ok": "false"}
        prompt, status = f"agents.prompt.{PLACE}", f"agents.status.{PLACE}"
        await service.add_endpoint(name="prompt", subject=prompt, metadata=limits, handler=answer)
        await service.add_endpoint(
            name="status", subject=status, handler=lambda asked: asked.respond(presence(service))
        )
        while True:
            await client.publish(f"agents.hb.{PLACE}", presence(service))
            await asyncio.sleep(BEAT)


if __name__ == "__main__":
    key = os.environ.get("NATS_NKEY")  # a file whose last line is the seed of a user
    seed = Path(key).read_text().splitlines()[-1] if key else None
    asyncio.run(serve(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), seed))
