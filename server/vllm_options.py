"""Which of vLLM's own options a server can be told, of what type, and who in vLLM takes them.

The one table of them: fields of `EngineOptions` are arguments of vLLM's engine, fields of
`AppOptions` those of its HTTP app.  What is not here would break a family, or has a setting.
"""

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class SamplingDefaults(BaseModel):
    """What a request samples with where it does not say; over the teacher's generation config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    max_new_tokens: int | None = Field(default=None, ge=1)


class EngineOptions(BaseModel):
    """Arguments of the engine.  The app learns the reasoning parser from it."""

    reasoning_parser: str | None = Field(default=None, min_length=1)
    generation_config: str | None = Field(default=None, min_length=1)
    override_generation_config: SamplingDefaults | None = None
    max_logprobs: int | None = Field(default=None, ge=0)
    stream_interval: int | None = Field(default=None, ge=1)
    scheduling_policy: Literal["fcfs", "priority"] | None = None
    enable_prefix_caching: bool | None = None
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**32)


class AppOptions(BaseModel):
    """Arguments of the HTTP app."""

    tool_call_parser: str | None = Field(default=None, min_length=1)
    enable_auto_tool_choice: bool | None = None
    chat_template: Path | None = None
    default_chat_template_kwargs: dict[str, Any] | None = None
    enable_prompt_tokens_details: bool | None = None
    sse_keep_alive_interval: int | None = Field(default=None, ge=0)


class VllmOptions(EngineOptions, AppOptions):
    """What was told; None, or not told: vLLM's default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        """Name what there is, where something is told that there is not."""
        if isinstance(given, dict) and (unknown := sorted(set(given) - set(cls.model_fields))):
            known = ", ".join(sorted(cls.model_fields))
            raise ValueError(f"{unknown[0]} is not an option; there are {known}")
        return given

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.enable_auto_tool_choice and self.tool_call_parser is None:
            raise ValueError("enable_auto_tool_choice needs tool_call_parser")
        if self.chat_template is not None and not self.chat_template.is_file():
            raise ValueError(f"chat_template: there is no file {self.chat_template}")
        return self

    @property
    def calls_tools(self) -> bool:
        """Whether a request may have tools: vLLM wants both options, of which one implies both."""
        return self.tool_call_parser is not None and self.enable_auto_tool_choice is not False

    @property
    def has_priorities(self) -> bool:
        """Whether a request's priority means anything."""
        return self.scheduling_policy == "priority"

    def for_engine(self) -> dict[str, Any]:
        """The arguments of vLLM's engine that were told."""
        return self.model_dump(include=set(EngineOptions.model_fields), exclude_none=True)

    def for_app(self) -> dict[str, Any]:
        """The arguments of vLLM's HTTP app that were told."""
        told = self.model_dump(mode="json", include=set(AppOptions.model_fields), exclude_none=True)
        return {**told, "enable_auto_tool_choice": True} if self.calls_tools else told


NO_OPTIONS = VllmOptions()
"""vLLM's defaults."""


def read_options(value: object) -> object:
    """A JSON object as text, or what is none already; pydantic reports what is raised here."""
    if not isinstance(value, str):
        return value
    try:
        given = json.loads(value or "{}")
    except ValueError as error:
        raise ValueError(f"not a JSON object: {error}") from error
    if not isinstance(given, dict):
        raise ValueError("not a JSON object")
    return given
