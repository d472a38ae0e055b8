"""The number format of a server, and footprints in it."""

import pytest

from boomerang_core import precision
from boomerang_core.errors import SettingsError
from boomerang_core.family import load_family
from boomerang_core.precision import Precision, precision_advice, served_precision
from tests.docs.test_readme import FAMILY


@pytest.mark.parametrize(("cpu", "expected"), [(True, ("float32", 4)), (False, ("auto", 2))])
def test_auto_is_float32_on_a_cpu_only(
    monkeypatch: pytest.MonkeyPatch, cpu: bool, expected: tuple[str, int]
) -> None:
    monkeypatch.setattr(precision, "built_for_cpu", lambda: cpu)
    assert served_precision("auto") == Precision(*expected)
    assert served_precision("bfloat16") == Precision("bfloat16", 2)
    with pytest.raises(SettingsError, match="dtype must be auto, bfloat16, float16, float32"):
        served_precision("int8")


def test_footprints_follow_the_format() -> None:
    family = load_family(FAMILY)
    assert family.served_in(family.shape.bytes_per_param) == family
    doubled = family.served_in(4)
    for tokens in (0, 1000):
        before = [row.footprint_bytes(tokens) for row in family.rows]
        after = [row.footprint_bytes(tokens) for row in doubled.rows]
        assert after == [2 * amount for amount in before]
    assert [row.id for row in doubled.rows] == [row.id for row in family.rows]


def test_a_cpu_that_would_be_faster_in_another_format_is_told() -> None:
    assert "--dtype bfloat16" in (precision_advice("auto", True) or "")
    assert "--dtype float32" in (precision_advice("bfloat16", False) or "")
    for asked, multiplies in (("auto", False), ("bfloat16", True), ("float32", True)):
        assert precision_advice(asked, multiplies) is None
