"""vLLM's request classes with our fields, guarded against what vLLM trusts clients with."""

from dataclasses import replace
from typing import Any, Self

from pydantic import (
    BaseModel,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from server.engine.compat import (
    ChatCompletionRequest,
    CompletionRequest,
    ResponsesRequest,
    VLLMError,
)
from server.guard.counts import excess_of
from server.schemas import SizeFields


class MisfitError(ValueError):
    """A field that is refused while a body is read; a `ValueError` is what pydantic reports."""

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class GuardedBody(BaseModel):
    """What every body needs before vLLM may be trusted with them."""

    _prompt_tokens: int | None = PrivateAttr(default=None)

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_mistyped(cls, body: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse what vLLM's own validators trip over: they use fields before they have a type.

        And what they would take seconds for.
        """
        if excess := excess_of(body):
            raise MisfitError(*excess)
        try:
            return validate(body)
        except VLLMError as error:
            raise MisfitError(str(error.args[0]), getattr(error, "parameter", None)) from error
        except (AttributeError, TypeError, KeyError) as error:
            raise MisfitError("a field has a value of a type that it cannot have") from error

    @field_validator("use_beam_search", check_fields=False)
    @classmethod
    def _refuse_beams(cls, wanted: bool) -> bool:
        """Refuse beam search: vLLM runs it as a request for each beam and token.

        Each would count as one in the load, and answers would seem to be one token long: `auto`
        would then choose for a load that is not there.
        """
        if wanted:
            raise MisfitError("beam search is not supported; leave it out", "use_beam_search")
        return wanted

    def bound_prompt(self, tokens: int | None) -> None:
        """Refuse, when the prompt is tokenised, more than so many tokens; None: no bound."""
        self._prompt_tokens = tokens

    def build_tok_params(self, model_config: Any) -> Any:
        """vLLM's own parameters, with our bound; vLLM then stops tokenising beyond it."""
        params = super().build_tok_params(model_config)  # type: ignore[misc]
        if self._prompt_tokens is None or self._prompt_tokens >= model_config.max_model_len:
            return params
        # No output tokens to hold back room for: the model is longer than the bound.
        return replace(params, max_total_tokens=self._prompt_tokens, max_output_tokens=0)


class SizedCompletionRequest(SizeFields, GuardedBody, CompletionRequest):
    """vLLM's body of `/v1/completions`, with the choice of a size."""


class SizedChatCompletionRequest(SizeFields, GuardedBody, ChatCompletionRequest):
    """vLLM's body of `/v1/chat/completions`, with the choice of a size."""


_NOT_KEPT = ("background", "previous_response_id", "previous_input_messages", "conversation")
_OWN_TOOLS = ("function", "custom", "namespace")
"""Tools that the client runs."""


class SizedResponsesRequest(SizeFields, GuardedBody, ResponsesRequest):
    """vLLM's body of `/v1/responses`, with the choice of a size; nothing in it is kept."""

    max_output_tokens: int | None = Field(None, ge=1)

    @field_validator("input", mode="wrap")
    @classmethod
    def _validate_each_item(cls, given: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        """Each item by itself: pydantic tells two hundred errors of one that is wrong."""
        if isinstance(given, str):
            return validate(given)
        if not isinstance(given, list):
            raise MisfitError("input is a text, or a list of items", "input")
        items = []
        for number, item in enumerate(given):
            try:
                items += validate([item])
            except ValidationError as error:
                raise MisfitError(
                    f"item {number} of input is none of OpenAI's, such as a message: "
                    '{"role": "user", "content": "…"}',
                    "input",
                ) from error
        return items

    @field_validator("truncation")
    @classmethod
    def _default_truncation(cls, given: str | None) -> str:
        """vLLM's reply repeats it, and has no room for null."""
        return given or "disabled"

    @model_validator(mode="after")
    def _refuse_state(self) -> Self:
        """Refuse what needs answers that were kept, or tools that the server runs."""
        extra = self.model_extra or {}
        for name in _NOT_KEPT:
            if getattr(self, name, None) or extra.get(name):
                raise MisfitError(
                    f"{name}: this server keeps no responses; send the whole conversation as "
                    "input, and wait for the answer",
                    name,
                )
        for tool in self.tools:
            if tool.type not in _OWN_TOOLS:
                raise MisfitError(
                    f"this server runs no tools, such as {tool.type}; give functions", "tools"
                )
        self.store = self.background = False
        return self
