"""A task for a foreign agent: the message, the prompt that is made of it, and the result that comes of the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter

from bus import codec
from bus.connection import Connection
from bus.directory import NoSuchAgentError, choose
from bus.errors import CodecError, NoRespondersError, RemoteError
from bus.messages import Envelope as Task
from bus.prompting import Asking, UnansweredQueryError
from bus.prompts import AgentInfo, Attachment, Envelope, Query
from bus.run import Handler
from bus.telemetry import Telemetry


class PromptTask(BaseModel):
    """What a foreign agent is to do. `text` is another name for `prompt`, and attachments are base64."""

    model_config = ConfigDict(extra="ignore")

    prompt: Annotated[str, Field(min_length=1, validation_alias=AliasChoices("prompt", "text"))]
    attachments: list[Attachment] = []
    answers: list[str] = Field([], description="what it is told when it asks something, in order")
    owner: str | None = Field(None, description="whose, where several have an agent of this name")
    session: str | None = Field(None, description="which, where the agent has several")


_TASK: Final = TypeAdapter(PromptTask)


def courier(
    connection: Connection,
    telemetry: Telemetry,
    agent: str,
    *,
    inactivity: float,
    places: Callable[[], list[AgentInfo]],
    nobody: Callable[[], Awaitable[None]],
) -> Handler:
    """Does the tasks for one agent: prompts it, and returns what it answered.

    `places` are its instances at the moment; `nobody` is called when none of them took a prompt.
    """

    async def handle(task: Task) -> dict[str, Any]:
        plain = codec.decode(task.body, task.content_type, subject=task.subject)
        wanted = codec.validate(_TASK, plain, subject=task.subject)
        answers = iter(wanted.answers)

        async def find() -> AgentInfo:
            found = choose(places(), agent, wanted.owner, wanted.session)
            if found is None:
                raise NoSuchAgentError(agent, ())
            return found

        async def on_query(query: Query) -> str:
            for answer in answers:
                return answer
            raise UnansweredQueryError(agent, query.prompt)

        envelope = Envelope(prompt=wanted.prompt, attachments=tuple(wanted.attachments))
        asking = Asking(
            connection,
            telemetry,
            find,
            envelope,
            agent=agent,
            inactivity=inactivity,
            on_query=on_query,
            max_answer=connection.max_payload,  # more is no result
        )
        try:
            answer = await asking
        except RemoteError as error:
            raise judged(error) from error
        except NoRespondersError:
            await nobody()
            raise
        except CodecError as error:  # of the answer, not of the task
            raise RemoteError("bad_answer", f"agent {agent}: {error}", True) from error
        attachments = [attachment.model_dump(mode="json") for attachment in answer.attachments]
        return {"text": answer.text, "attachments": attachments, "chunks": answer.chunks}

    return handle


def judged(error: RemoteError) -> RemoteError:
    """An agent's error, with our word on whether a retry may help: what is wrong with the prompt stays so."""
    for_good = error.code.startswith("4") and error.code != "429"
    return RemoteError(error.code, error.message, not for_good, error.details)
