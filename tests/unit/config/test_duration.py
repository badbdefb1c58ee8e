import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler_plugin.config.duration import LONGEST_MS, Duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("90s", 90),
        ("10m", 600),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("1d2h3m4s5ms", 93784.005),
    ],
)
def test_a_duration_is_read_in_its_units(text: str, seconds: float) -> None:
    assert parse_duration(text).seconds == seconds


@given(st.integers(1, LONGEST_MS))
def test_what_is_printed_reads_as_the_same_duration(milliseconds: int) -> None:
    assert parse_duration(str(Duration(milliseconds))) == Duration(milliseconds)


@given(st.tuples(*[st.none() | st.integers(0, 99)] * 5))
def test_units_add_up(counts: tuple[int | None, ...]) -> None:
    units = ((86400000, "d"), (3600000, "h"), (60000, "m"), (1000, "s"), (1, "ms"))
    text = "".join(f"{count}{unit}" for count, (_, unit) in zip(counts, units, strict=True) if count is not None)
    total = sum((count or 0) * size for count, (size, _) in zip(counts, units, strict=True))
    if total:
        assert parse_duration(text).milliseconds == total
    else:
        with pytest.raises(ValueError, match="a duration with its unit"):
            parse_duration(text)


@pytest.mark.parametrize("value", [0, 0.0, "0", "00", "0.0", -0.0])
def test_a_bare_zero_is_refused_as_ambiguous(value: object) -> None:
    with pytest.raises(ValueError, match="a bare 0 is ambiguous"):
        parse_duration(value)


@pytest.mark.parametrize("value", ["0s", "0m", "0h0m"])
def test_a_duration_of_zero_is_refused_as_ambiguous(value: object) -> None:
    with pytest.raises(ValueError, match="zero is ambiguous"):
        parse_duration(value)


@pytest.mark.parametrize("value", [90, "90", 1.5, "-5", -5])
def test_a_number_without_a_unit_is_refused_as_ambiguous(value: object) -> None:
    with pytest.raises(ValueError, match="a number alone is ambiguous"):
        parse_duration(value)


@pytest.mark.parametrize(
    "value",
    ["", " ", "m", "5 m", "5M", "1.5h", "-5m", "30m1h", "1h1h", "5minutes", "٣s", "1s\n", None, True, [], {}, "never"],
)
def test_everything_else_is_refused_with_the_forms_that_are_allowed(value: object) -> None:
    with pytest.raises(ValueError, match=r"such as 90s, 10m, 2h, 1d or 1h30m$"):
        parse_duration(value)


def test_a_duration_of_many_years_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 3650d"):
        parse_duration("99999d")
