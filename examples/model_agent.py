import os

from pydantic import BaseModel

from revo import Agent, BusError, ConfigError, Prompt, Retry, prompt, task

try:
    import pydantic_ai
    from pydantic_ai.exceptions import AgentRunError, ModelQuotaExceededError
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
except ImportError as error:
    raise ConfigError("pydantic-ai", f"{error}; pip install -U 'pydantic-ai-slim[openai]'") from error

HOPELESS = set(range(400, 500)) - {408, 409, 425, 429}


class Text(BaseModel):
    text: str


class Summary(BaseModel):
    title: str
    points: list[str]


class ModelRefusedError(BusError):
    retryable = False


class Summarizer(Agent):
    concurrency = 4

    async def on_start(self) -> None:
        url, name = os.environ.get("REVO_MODEL_URL", ""), os.environ.get("REVO_MODEL_NAME", "")
        if not url.startswith(("http://", "https://")):
            raise ConfigError("REVO_MODEL_URL", "set it to an OpenAI-compatible URL, like http://127.0.0.1:11434/v1")
        if not name:
            raise ConfigError("REVO_MODEL_NAME", "set it to the name of a model that the server has")
        self.key = os.environ.get("REVO_MODEL_KEY", "").strip() or "no-key"
        model = OpenAIChatModel(name, provider=OpenAICompatibleProvider("revo", base_url=url, api_key=self.key))
        # The mesh tries again, durably and elsewhere; the client does not.
        self.model = pydantic_ai.Agent(
            model, output_type=Summary, instructions="Summarize the text.", model_settings={"max_retries": 0}
        )

    @task("summarize", time_limit=120)
    async def summarize(self, message: Text) -> Summary:
        try:
            return (await self.model.run(message.text)).output
        except AgentRunError as error:
            said = str(error).replace(self.key, "***")  # some servers quote the key that they refuse
            if isinstance(error, ModelQuotaExceededError) or getattr(error, "status_code", None) in HOPELESS:
                raise ModelRefusedError(said) from None
            raise Retry(getattr(error, "retry_after", None), f"the model gave no summary: {said}") from None

    @prompt
    async def answer(self, prompt: Prompt) -> Summary:
        return await self.summarize(Text(text=prompt.text))
