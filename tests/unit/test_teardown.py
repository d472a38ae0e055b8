"""How vLLM's own processes end."""

import atexit
import multiprocessing
import os

import pytest

from server.process.teardown import skip_teardown


def end(error: BaseException | None) -> None:
    """A process of vLLM's: its shutdown runs while `error` goes up."""
    atexit.register(os._exit, 9)  # stands for what Python would go on to do
    try:
        if error is not None:
            raise error
    finally:
        skip_teardown()


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, 0), (SystemExit(), 0), (SystemExit(3), 9), (ValueError("broken"), 9)],
    ids=str,
)
def test_only_a_clean_end_is_cut_short(error: BaseException | None, status: int) -> None:
    child = multiprocessing.get_context("spawn").Process(target=end, args=(error,))
    child.start()
    child.join(60)
    assert child.exitcode == status


def test_a_process_that_is_not_vllms_ends_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atexit, "register", pytest.fail)
    skip_teardown()
