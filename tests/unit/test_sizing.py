"""From the fields of a request to a size: pure, so every corner is tried here."""

import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boomerang_core.errors import BudgetError, SizeError, UnknownSizeError
from boomerang_core.sizes import SizeRow, SizeTable
from server.misspelt import MOST_UNKNOWN, refuse_misspelt
from server.sizing import SIZE_FIELDS, Ask, Policy, Reason, decide, require_model
from server.web.errors import status_of
from tests.api.malformed import (
    LEGITIMATE,
    MALFORMED,
    MISSPELT,
    Malformed,
    named,
    size_fields,
)

MB = 10**6
# Parameters in millions, layers, offered; two bytes a parameter.
LADDER = [(77, 16, True), (92, 20, False), (106, 24, True), (121, 27, True), (135, 30, True)]
ROWS = tuple(
    SizeRow(k, f"{millions}m", layers, millions * MB, 2 * millions * MB, layers * 1000, offered)
    for k, (millions, layers, offered) in enumerate(LADDER)
)
POLICY = Policy(SizeTable("smol", ROWS), default_size=2, footprint_tokens=1000)


def largest(allowed: tuple[SizeRow, ...]) -> tuple[SizeRow, Reason]:
    """A server without load."""
    return allowed[-1], Reason.AUTO_LARGEST


def chosen(**fields: Any) -> tuple[str, Reason]:
    decision = decide(POLICY, Ask(**fields), largest)
    return decision.row.id, decision.reason


@pytest.mark.parametrize(
    ("fields", "size", "reason"),
    [
        ({}, "106m", Reason.DEFAULT),
        ({"model": "smol"}, "106m", Reason.DEFAULT),
        ({"model": "smol", "size": None, "memory_budget": None}, "106m", Reason.DEFAULT),
        ({"model": "smol@77m"}, "77m", Reason.MODEL),
        ({"model": "smol@teacher"}, "135m", Reason.MODEL),
        ({"model": "smol@student"}, "77m", Reason.MODEL),
        ({"model": "smol@27L"}, "121m", Reason.MODEL),
        ({"model": "smol@20L"}, "92m", Reason.MODEL),
        ({"model": "smol", "size": "121m"}, "121m", Reason.SIZE),
        ({"size": "smol@121m"}, "121m", Reason.SIZE),
        ({"size": "120m"}, "106m", Reason.SIZE),
        ({"size": "100m"}, "77m", Reason.SIZE),
        ({"size": " Teacher "}, "135m", Reason.SIZE),
        ({"size": "20L"}, "92m", Reason.SIZE),
        ({"size": "0.8"}, "106m", Reason.SIZE),
        ({"size": "100%"}, "135m", Reason.SIZE),
        ({"size": 0.8}, "106m", Reason.SIZE),
        ({"max_size": 0.8, "min_size": 0.5}, "106m", Reason.AUTO_LARGEST),
        ({"memory_budget": "1GiB"}, "135m", Reason.MEMORY_BUDGET),
        ({"memory_budget": 300 * MB}, "135m", Reason.MEMORY_BUDGET),
        ({"memory_budget": 299 * MB}, "121m", Reason.MEMORY_BUDGET),
        ({"model": "smol", "memory_budget": "240MB"}, "106m", Reason.MEMORY_BUDGET),
        ({"memory_budget": 170 * MB}, "77m", Reason.MEMORY_BUDGET),
        ({"size": "auto"}, "135m", Reason.AUTO_LARGEST),
        ({"model": "smol", "size": " Auto "}, "135m", Reason.AUTO_LARGEST),
        ({"size": "auto", "max_size": "106m"}, "106m", Reason.AUTO_LARGEST),
        ({"size": "auto", "max_size": "120m", "min_size": "student"}, "106m", Reason.AUTO_LARGEST),
        ({"max_size": "smol@121m"}, "121m", Reason.AUTO_LARGEST),
        ({"max_size": "20L"}, "77m", Reason.AUTO_LARGEST),
        ({"max_size": "0.8"}, "106m", Reason.AUTO_LARGEST),
        ({"min_size": "teacher"}, "135m", Reason.AUTO_LARGEST),
    ],
)
def test_a_size_is_chosen(fields: dict[str, Any], size: str, reason: Reason) -> None:
    assert chosen(**fields) == (size, reason)


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: str(case.fields)[:40])
def test_what_makes_no_sense_is_refused(case: Malformed) -> None:
    fields = {key: named(value, "smol") for key, value in case.fields.items()}
    with pytest.raises(SizeError) as caught:
        decide(POLICY, Ask(**fields), largest)
    assert (int(status_of(caught.value)), caught.value.param) == (case.status, case.param)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bounds", "ids"),
    [
        ({}, ["77m", "106m", "121m", "135m"]),
        ({"min_size": "92m"}, ["106m", "121m", "135m"]),
        ({"min_size": "106m", "max_size": "24L"}, ["106m"]),
        ({"min_size": "0.8", "max_size": "99%"}, ["121m"]),
    ],
)
def test_auto_chooses_among_the_sizes_within_the_bounds(
    bounds: dict[str, str], ids: list[str]
) -> None:
    seen: list[str] = []

    def smallest(allowed: tuple[SizeRow, ...]) -> tuple[SizeRow, Reason]:
        seen.extend(row.id for row in allowed)
        return allowed[0], Reason.AUTO_OVERLOAD

    decision = decide(POLICY, Ask(size="auto", **bounds), smallest)
    assert (decision.row.id, decision.reason) == (ids[0], Reason.AUTO_OVERLOAD)
    assert seen == ids


def test_the_bare_family_may_mean_auto() -> None:
    policy = Policy(POLICY.table, POLICY.default_size, POLICY.footprint_tokens, True)
    for fields, reason in (({}, Reason.AUTO_LARGEST), ({"size": "teacher"}, Reason.SIZE)):
        assert decide(policy, Ask("smol", **fields), largest).reason is reason
    assert decide(policy, Ask(memory_budget="1GiB"), largest).reason is Reason.MEMORY_BUDGET


def test_a_budget_counts_the_stated_tokens() -> None:
    ask = Ask(memory_budget=300 * MB)
    assert decide(POLICY, ask, largest, tokens=1000).row.id == "135m"
    assert decide(POLICY, ask, largest, tokens=1001).row.id == "121m"
    assert decide(POLICY, ask, largest, tokens=0).row.id == "135m"


def test_a_budget_that_fits_nothing_says_what_would() -> None:
    with pytest.raises(BudgetError) as caught:
        decide(POLICY, Ask(memory_budget=169_999_999), largest)
    assert "170,000,000 bytes" in str(caught.value)
    assert "smol@77m" in str(caught.value)
    assert "'162.2MiB'" in str(caught.value)
    assert chosen(memory_budget="162.2MiB") == ("77m", Reason.MEMORY_BUDGET)


def test_an_unknown_model_lists_what_there_is() -> None:
    with pytest.raises(UnknownSizeError, match=r"smol@77m, smol@106m, smol@121m, smol@135m$"):
        decide(POLICY, Ask(model="gpt-4"), largest)


@pytest.mark.parametrize(("name", "meant"), MISSPELT.items())
def test_a_misspelt_field_names_the_right_one(name: str, meant: str) -> None:
    with pytest.raises(SizeError, match=f"did you mean '{meant}'"):
        refuse_misspelt(["temperature", name])


@pytest.mark.parametrize("name", LEGITIMATE)
def test_other_fields_are_left_alone(name: str) -> None:
    refuse_misspelt([name])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=4,
)


@given(JSON, JSON, JSON)
def test_any_json_gives_a_decision_or_one_of_our_errors(
    model: object, size: object, budget: object
) -> None:
    for ask in (Ask(model, size, budget), Ask("smol", size, None), Ask(None, None, budget)):
        assert field_at_fault(ask) in (None, "model", "size", "memory_budget")


def field_at_fault(ask: Ask) -> str | None:
    try:
        decide(POLICY, ask, largest)
    except SizeError as error:
        return error.param or "no field"
    return None


@given(st.integers(1, 10**12), st.integers(0, 10**6))
def test_a_larger_budget_never_gives_a_smaller_size(budget: int, more: int) -> None:
    try:
        small = decide(POLICY, Ask(memory_budget=budget), largest).row
    except BudgetError:
        return
    assert small.footprint_bytes(POLICY.footprint_tokens) <= budget
    assert decide(POLICY, Ask(memory_budget=budget + more), largest).row.size >= small.size


def test_a_body_full_of_unknown_fields_is_refused_at_once() -> None:
    names = [f"qwxzvkj{number:04}" for number in range(MOST_UNKNOWN + 1)]
    refuse_misspelt(names[1:])
    with pytest.raises(SizeError, match="65 unknown fields"):
        refuse_misspelt(names)


@given(st.text(max_size=300))
def test_any_field_name_is_judged(name: str) -> None:
    with suppress(SizeError):
        refuse_misspelt([name])


def refusal(fields: dict[str, Any]) -> tuple[dict[str, Any], SizeError] | None:
    """The fields with their refusal, or None where they choose a size."""
    ask = Ask(*(fields.get(name) for name in ("model", *SIZE_FIELDS)))
    try:
        refuse_misspelt(fields)
        assert decide(POLICY, ask, largest).row in ROWS
    except SizeError as error:
        return fields, error
    return None


def test_ten_thousand_bent_choices_give_a_size_or_a_clear_refusal() -> None:
    """Never another exception; a message of one short line, and a field that was there."""
    source = random.Random(5)
    refused = [error for _ in range(10_000) if (error := refusal(size_fields(source, "smol")))]
    assert len(refused) > 5_000
    for fields, error in refused:
        assert str(error).isprintable()
        assert len(str(error)) < 500
        assert error.param is not None
        assert any(name.startswith(error.param) for name in fields)
        assert status_of(error) in (400, 404)


def test_further_names_of_the_family() -> None:
    policy = replace(POLICY, names=("gpt-4o", "org/model"))
    for name in ("smol", *policy.names):
        assert decide(policy, Ask(model=name), largest).reason is Reason.DEFAULT
        assert decide(policy, Ask(model=f"{name}@106m"), largest).row.id == "106m"
        require_model(policy, f"{name}@106m")
    for name in ("gpt-4o@9m", "gpt-4", "@106m", "gpt-4o@"):
        with pytest.raises(UnknownSizeError):
            decide(policy, Ask(model=name), largest)
