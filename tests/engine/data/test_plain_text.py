"""A text is a table of its characters, as a loop over them would make it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.data.formats import Limits
from engine.errors import DataError
from tests.engine.data.conftest import Parse

LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


@given(text=st.text(LETTERS, min_size=1))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_character_is_a_row(parsed: Parse, text: str) -> None:
    content = text.encode()
    data = parsed(content, "text/plain")
    expected = list(text.removeprefix("\ufeff"))
    assert data.names == ("position", "character")
    assert data.column("position").tolist() == list(range(len(expected)))
    assert data.column("character").tolist() == expected


def test_ends_of_lines_and_spaces_are_kept(parsed: Parse) -> None:
    data = parsed(b"\xef\xbb\xbf a\r\n\tb\n", "text/plain")
    assert "".join(data.column("character")) == " a\r\n\tb\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"a\nb\xff", "not UTF-8 text at line 2"),
        (b"\xed\xa0\x80", "not UTF-8"),
        (b"a\0b", "null bytes"),
        (b"a" * 11, "at most 10 characters"),
        (b"a" * 1000, "at most 10 characters"),
    ],
)
def test_what_is_no_text_is_refused(parsed: Parse, content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        parsed(content, "text/plain", Limits(max_rows=10))
