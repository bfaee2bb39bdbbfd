"""The Synadia Agent Protocol for NATS, v0.3: prompts to agents, answered by a stream of chunks.

What is on the wire, for both directions (`envelope`, `presence`), and the side that answers (`service`).
"""

from bus.prompts.envelope import (
    ACK,
    MAX_SILENCE,
    Attachment,
    Chunk,
    Envelope,
    Query,
    Response,
    StatusChunk,
    failure_headers,
    is_end,
    read_chunk,
    read_envelope,
    read_failure,
    write_chunk,
    write_envelope,
)
from bus.prompts.presence import (
    PROTOCOL_VERSION,
    AgentInfo,
    Presence,
    prompt_metadata,
    read_info,
    read_presence,
    read_size,
    service_metadata,
    write_presence,
    write_size,
)
from bus.prompts.prompt import Prompt, Sender
from bus.prompts.service import PromptHandler, PromptService, Turn

__all__ = [
    "ACK",
    "MAX_SILENCE",
    "PROTOCOL_VERSION",
    "AgentInfo",
    "Attachment",
    "Chunk",
    "Envelope",
    "Presence",
    "Prompt",
    "PromptHandler",
    "PromptService",
    "Query",
    "Response",
    "Sender",
    "StatusChunk",
    "Turn",
    "failure_headers",
    "is_end",
    "prompt_metadata",
    "read_chunk",
    "read_envelope",
    "read_failure",
    "read_info",
    "read_presence",
    "read_size",
    "service_metadata",
    "write_chunk",
    "write_envelope",
    "write_presence",
    "write_size",
]
