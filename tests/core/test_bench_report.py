"""The benchmarks' report says what was found, and the floor counts every byte once."""

from pathlib import Path
from typing import Any

from matplotlib.image import imread

from bench.report import write_report
from bench.speed import bytes_of_answers, read_bandwidth
from bench.traffic import Batch
from boomerang_core.sizes import SizeRow

WHERE = {
    "command": "python -m bench",
    "hardware": "x",
    "date": "2026-01-01",
    "git": "abc",
    "dtype": "bfloat16",
}


def ratio(median: float) -> dict[str, Any]:
    return {"median": median, "low": median - 0.1, "high": median + 0.1, "n": 7}


def test_the_report_has_every_ratio_and_speed(tmp_path: Path) -> None:
    found = {
        "one-size": {
            "kind": "lowrank",
            "plain_over_ours": {"88m": {"d": ratio(0.9)}},
            "plain_over_itself": {"d": ratio(1.02)},
            **WHERE,
        },
        "mixing": {
            "kind": "full",
            "sizes": ["88m", "135m"],
            "others_over_mixed": {"decode 4": {"in_turn": ratio(1.5)}},
            **WHERE,
        },
        "kv": {
            "kv_bytes": 128 << 20,
            "tokens_held": {"groups": {"student": 4440, "teacher": 2640, "ratio": 1.682}},
            "seconds_over_one_group": {"student": ratio(1.1)},
            **WHERE,
        },
        "bookkeeping": {
            "n": 7,
            "step_ms": {
                "1 decoding": {"plain": {"median": 0.691, "low": 0.6, "high": 0.9}},
                "16 decoding": {"three sizes": {"median": 1.985, "low": 1.9, "high": 2.5}},
            },
            **WHERE,
        },
        "changes": {
            "change": {
                "added_ms": 0.12,
                "range_ms": [-1.0, 1.0],
                "resident_bytes": {"before": 555_052_800, "after": 555_052_800},
                "ratio": ratio(1.0),
            },
            "live_over_fewest": {"7": ratio(1.02), "all": ratio(1.05)},
            **WHERE,
        },
        "processes": {
            "sizes": ["88m", "135m"],
            "compiled": False,
            "requests_per_second": 4.0,
            "ours_over_theirs": {
                "1.5": {"throughput": ratio(1.4), "first_token_p95": ratio(0.6), "runs": {}}
            },
            "memory": {"ours": 4, "theirs": 10, "ratio": 0.4},
            **WHERE,
        },
        "speed-1": {
            "load": "one request",
            "tokens_per_second": {"88m": 40.0},
            "over_floor": {"88m": 1.25},
            "read_bytes_per_second": 10_000_000_000,
            "n": 7,
            "provenance": WHERE,
        },
    }
    write_report(found, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| 88m, d | 0.90 | 0.80-1.00 | 7 |" in text
    assert "| decode 4, in turn | 1.50 | 1.40-1.60 | 7 |" in text
    assert "| `88m` | 40.0 | 1.25 |" in text
    assert "10.0 GB/s" in text
    assert "low-rank student, bfloat16" in text
    assert "| groups | 4,440 | 2,640 | 1.68 |" in text
    assert "| 1 decoding | 0.69 (0.60-0.90) |  |" in text
    assert "| 16 decoding |  | 1.99 (1.90-2.50) |" in text
    assert "| throughput, load 1.5 | 1.40 | 1.30-1.50 | 7 |" in text
    assert "ours over theirs: 0.40" in text
    assert "adds 0.12 ms (-1.00 to 1.00, n = 7)" in text
    assert "| all | 1.05 | 0.95-1.15 | 7 |" in text
    assert "| student | 1.10 | 1.00-1.20 | 7 |" in text
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_long_title_stays_on_the_picture(tmp_path: Path) -> None:
    report = {
        "kind": "lowrank",
        "sizes": ["0.378m", "0.551m", "0.637m"],
        "others_over_mixed": {"decode 4": {"in_turn": ratio(1.5)}},
        **WHERE,
    }
    write_report({"mixing": report}, tmp_path)
    picture = imread(tmp_path / "report.png")
    assert (picture[:, -8:, :3] == 1).all()


def test_a_report_of_nothing_draws_nothing(tmp_path: Path) -> None:
    write_report({}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_the_floor_counts_weights_once_a_step_and_all_cached_tokens() -> None:
    row = SizeRow(0, "1m", 2, 250, weight_bytes=1000, kv_bytes_per_token=8, offered=True)
    batch = Batch(requests=3, prompt=4, tokens=2)
    steps = [1000 + 3 * 4 * 8, 1000 + 3 * 5 * 8]
    assert bytes_of_answers(row, batch) == sum(steps)


def test_memory_is_read_at_some_speed() -> None:
    assert 1e8 < read_bandwidth(1) < 1e13
