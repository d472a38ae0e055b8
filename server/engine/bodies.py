"""vLLM's request classes with our fields, guarded against what vLLM trusts clients with."""

from dataclasses import replace
from typing import Any, Self

from pydantic import (
    BaseModel,
    ModelWrapValidatorHandler,
    PrivateAttr,
    field_validator,
    model_validator,
)

from server.engine.compat import ChatCompletionRequest, CompletionRequest, VLLMError
from server.guard.counts import excess_of
from server.schemas import BudgetField, MaxSizeField, MinSizeField, SizeField


class MisfitError(ValueError):
    """A field that is refused while a body is read; a `ValueError` is what pydantic reports."""

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class GuardedBody(BaseModel):
    """What both bodies need before vLLM may be trusted with them."""

    _prompt_tokens: int | None = PrivateAttr(default=None)

    @model_validator(mode="wrap")
    @classmethod
    def _mistyped(cls, body: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
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
    def _no_beams(cls, wanted: bool) -> bool:
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


class SizedCompletionRequest(GuardedBody, CompletionRequest):
    """vLLM's body of `/v1/completions`, with the choice of a size."""

    size: SizeField = None
    memory_budget: BudgetField = None
    min_size: MinSizeField = None
    max_size: MaxSizeField = None


class SizedChatCompletionRequest(GuardedBody, ChatCompletionRequest):
    """vLLM's body of `/v1/chat/completions`, with the choice of a size."""

    size: SizeField = None
    memory_budget: BudgetField = None
    min_size: MinSizeField = None
    max_size: MaxSizeField = None
