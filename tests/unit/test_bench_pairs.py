"""Ratios of ways timed in turn; traffic; which sizes are compared."""

import argparse

import pytest

from bench.pairs import Ratio, time_in_turn
from bench.run import add_sizes, spread


def test_a_ratio_is_taken_pair_by_pair() -> None:
    assert Ratio.of([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == Ratio(3.0, 2.0, 4.0, 3)


def test_every_round_begins_with_another_way_and_the_first_is_not_counted() -> None:
    calls: list[str] = []

    def way(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    seconds = time_in_turn({name: lambda name=name: way(name) for name in "abc"}, rounds=2)
    assert "".join(calls) == "abcbcacab"
    assert seconds == {"a": [6.0, 8.0], "b": [4.0, 9.0], "c": [5.0, 7.0]}


def test_sizes_are_spread_from_the_least_to_the_greatest() -> None:
    assert spread(14, 3) == [0, 6, 13]
    assert spread(4, 4) == [0, 1, 2, 3]
    assert spread(2, 5) == [0, 1]


def test_one_size_cannot_be_spread_and_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_sizes(parser, 3)
    assert (parser.parse_args([]).sizes, parser.parse_args(["--sizes", "2"]).sizes) == (3, 2)
    with pytest.raises(SystemExit):
        parser.parse_args(["--sizes", "1"])
    assert "argument --sizes: must be at least 2, got 1" in capsys.readouterr().err
