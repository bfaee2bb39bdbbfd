from pydantic import BaseModel

from revo import Agent, task


class Text(BaseModel):
    text: str


class Echo(Agent):
    @task("echo")
    async def echo(self, message: Text) -> Text:
        return message
