"""Which versions of a capability's schema the registry lets live side by side: those of one agent, and no others'."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from actors.registry.client import RegistryClient
from actors.registry.errors import RefusedError
from actors.registry.messages import CapabilityInfo, Registration
from bus.mesh import Mesh
from bus.server import Server
from tests.processes import actor

OLD = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
NEW = {"type": "object", "properties": {"shade": {"type": "string"}}}


@pytest.fixture
async def client(server: Server, mesh: Mesh, tmp_path: Path) -> AsyncIterator[RegistryClient]:
    """Of one registry; those who register live for the shipped four seconds."""
    async with actor("actors.registry:Registry", server.url, tmp_path / "registry.log"):
        yield RegistryClient(mesh)


def painter(number: int, version: str, schema: dict[str, Any], *, agent: str = "painter") -> Registration:
    name = f"{agent}-{number}"
    paint = CapabilityInfo(name="paint", message=schema, result={"type": "string"})
    return Registration(agent=agent, instance=name, secret=f"secret of {name}", version=version, capabilities=[paint])


async def test_two_versions_of_one_agent_live_side_by_side_whichever_comes_first(client: RegistryClient) -> None:
    await client.register(painter(1, "1.0.0", OLD))
    await client.register(painter(2, "2.0.0", NEW))
    await client.register(painter(3, "1.0.0", OLD))  # one that died in the midst of it, or all of it taken back
    assert [one.version for one in await client.instances("painter")] == ["1.0.0", "2.0.0", "1.0.0"]
    (standing,) = (await client.get("painter-2")).definitions
    assert (standing.agent, standing.version, standing.message) == ("painter", "1.0.0", OLD), "the last one's word"


async def test_within_one_version_two_schemas_are_refused_and_the_error_says_what_to_do(client: RegistryClient) -> None:
    await client.register(painter(1, "1.0.0", OLD))
    with pytest.raises(RefusedError) as caught:
        await client.register(painter(2, "1.0.0", NEW))
    assert caught.value.code == "definition_conflict"
    assert str(caught.value) == (
        "painter 1.0.0 lives with another schema of the capability paint: message.properties.colour is not known to "
        "the one that comes; give the newer one another version"
    )
    assert [one.instance for one in await client.instances("painter")] == ["painter-1"]


async def test_another_agent_agrees_with_every_version_that_lives_or_is_refused(client: RegistryClient) -> None:
    await client.register(painter(1, "1.0.0", OLD))
    await client.register(painter(2, "2.0.0", NEW))
    for schema in (OLD, NEW):
        with pytest.raises(RefusedError, match="agents painter and sprayer disagree on the capability paint"):
            await client.register(painter(1, "2.0.0", schema, agent="sprayer"))
    await client.deregister("painter", "painter-1", "secret of painter-1")
    await client.register(painter(1, "9.9.9", NEW, agent="sprayer"))
    with pytest.raises(RefusedError, match="agents sprayer and painter disagree"):
        await client.register(painter(3, "1.0.0", OLD))


async def test_of_one_version_two_schemas_that_come_at_the_same_moment_are_not_both_let_in(
    client: RegistryClient,
) -> None:
    for number in range(10):
        both = (painter(2 * number, f"{number}.0", OLD), painter(2 * number + 1, f"{number}.0", NEW))
        ends = await asyncio.gather(*(client.register(one) for one in both), return_exceptions=True)
        (refused,) = [end for end in ends if isinstance(end, BaseException)]
        assert f"painter {number}.0 lives with another schema" in str(refused)


async def test_the_order_in_which_a_model_names_its_fields_is_no_difference(client: RegistryClient) -> None:
    fields = {"a": {"type": "string"}, "b": {"type": "string"}}
    for number, required in enumerate((["a", "b"], ["b", "a"])):
        schema = {"type": "object", "properties": fields, "required": required}
        await client.register(painter(number, "1.0.0", schema))
    assert len(await client.instances("painter")) == 2
