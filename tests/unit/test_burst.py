"""The arithmetic of the load experiment, and its seeded arrivals."""

import math

import pytest

from bench.burst import Load
from bench.burst_report import Outcome, markdown, summary
from server.load.prediction import Latency
from tests.unit.serving_simulation import ladder

TABLE = ladder(60, 135)
OBJECTIVE = Latency(1.0, 0.1)
LOAD = Load(seconds=200.0, prompt_tokens=8, answer_tokens=4, seed=3)


def test_arrivals_repeat_and_keep_the_rate() -> None:
    times = LOAD.arrivals(5.0)
    assert times == LOAD.arrivals(5.0) == sorted(times)
    assert len(times) == pytest.approx(1000, abs=4 * math.sqrt(1000))
    assert LOAD.body(1) == LOAD.body(1) != LOAD.body(2)


def test_a_summary_counts_what_was_not_answered_as_missed() -> None:
    good = [Outcome(200, "60m", 0.01 * i, 0.05, "auto:objective") for i in range(1, 21)]
    late = [Outcome(200, "135m", 0.5, 0.2, "auto:largest")] * 5
    lost = [Outcome(429, None), Outcome(503, None), Outcome(0, None), Outcome(500, None)]
    cell = summary("auto", 2.0, [*good, *late, *lost], OBJECTIVE, TABLE)
    assert (cell.requests, cell.refused, cell.failed) == (29, 2, 2)
    assert cell.attained == pytest.approx(20 / 29)
    assert cell.mean_params == pytest.approx((20 * 60e6 + 5 * 135e6) / 25)
    assert cell.sizes == {"60m": 20, "135m": 5}
    assert cell.reasons == {"auto:largest": 5, "auto:objective": 20}
    assert (cell.first_token_p95, cell.token_p95) == (0.5, 0.2)


def test_a_page_of_a_run_without_an_answer() -> None:
    cell = summary("teacher", 4.0, [Outcome(429, None)], OBJECTIVE, TABLE)
    record = {
        "family": "smol",
        "command": "python -m bench.burst smol",
        "date": "2026-01-01",
        "git": "abc",
        "hardware": "none",
        "seconds": 30.0,
        "prompt_tokens": 8,
        "answer_tokens": 4,
        "seed": 0,
        "objective": vars(OBJECTIVE),
        "teacher_requests_per_second": 1.5,
        "cells": [cell.to_json()],
    }
    assert "| 4 | teacher | 1 | 0% | – | – | – | 1 | 0 |" in markdown(record)
