"""Content types and encodings: text is read as what it says it is, or refused."""

from __future__ import annotations

import encodings.aliases
import hashlib
from pathlib import Path
from typing import Any

import pytest

from service.errors import Invalid, UnsupportedMedia
from service.uploads import ContentType, Upload
from tests.service.conftest import Api, assert_problem

TABLE = "größe,ort\n1,Zürich\n2,Łódź\n3,Zürich\n"


def post(api: Api, content: bytes, kind: str) -> Any:
    return api.post("/datasets", content=content, headers={"Content-Type": kind})


@pytest.mark.parametrize(
    ("charset", "codec"),
    [
        ("iso-8859-2", "iso8859-2"),
        ("windows-1250", "cp1250"),
        ('"CP1250"', "cp1250"),
        ("UTF-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("gb18030", "gb18030"),
    ],
)
def test_a_table_is_read_in_the_encoding_that_it_says(api: Api, charset: str, codec: str) -> None:
    content = TABLE.encode(codec)
    answer = post(api, content, f"text/csv; header=present; Charset={charset}")
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert [column["name"] for column in body["columns"]] == ["größe", "ort"]
    assert body["columns"][1]["categories"] == ["Zürich", "Łódź"]
    # Of what was sent, not of what it became.
    assert (body["bytes"], body["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    part = ("t.csv", content, f"text/csv; charset={charset}")
    form = api.post("/datasets", files={"file": part})
    assert form.json()["columns"] == body["columns"]
    assert form.json()["sha256"] == body["sha256"]


def test_the_encoding_is_part_of_what_a_repeated_upload_says(api: Api) -> None:
    content = "x,y\n1,é\n2,a\n".encode("latin-1")
    kind = {"Content-Type": "text/csv; charset=latin-1", "Idempotency-Key": "once"}
    first = api.post("/datasets", content=content, headers=kind)
    same = {**kind, "Content-Type": 'text/csv;charset="ISO-8859-1"'}
    assert api.post("/datasets", content=content, headers=same).content == first.content
    other = {**kind, "Content-Type": "text/csv; charset=iso-8859-2"}
    assert_problem(api.post("/datasets", content=content, headers=other), 422)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("text/csv; charset=klingon", "not known"),
        ("text/csv; charset=../latin1", "not known"),
        ("text/csv; charset=hex", "ASCII"),
        ("text/csv; charset=utf-16", "ASCII"),
        ("text/csv; charset=utf-7", "ASCII"),
        ("text/csv; charset=unicode_escape", "ASCII"),
        ("text/csv; charset=iso-2022-jp", "ASCII"),
        ("text/csv; charset=idna", "ASCII"),
        ("text/csv; charset=cp037", "ASCII"),
        ("text/csv; header=absent", "column names"),
        ('text/csv; delimiter=";"', "delimiter"),
        ("application/json; charset=latin-1", "UTF-8"),
        ("application/x-ndjson; charset=utf-16", "ASCII"),
    ],
)
def test_a_content_type_that_cannot_be_honoured_is_refused(api: Api, kind: str, says: str) -> None:
    for answer in (
        post(api, b"x,y\n1,2\n", kind),
        api.post("/datasets", files={"file": ("a", b"x,y\n1,2\n", kind)}),
    ):
        assert says in assert_problem(answer, 415)["detail"]


def test_what_says_nothing_of_text_may_have_any_parameter() -> None:
    assert ContentType.parse("application/json; charset=UTF8").charset is None
    assert ContentType.parse("application/x-npz; charset=x; a=b").media_type == "application/x-npz"
    assert ContentType.parse("").media_type == ""
    assert ContentType.parse("text/csv;") == ContentType("text/csv")
    assert str(ContentType.parse("TEXT/CSV;charset=Latin1")) == "text/csv; charset=iso8859-1"


@pytest.mark.parametrize(
    ("charset", "content", "line"),
    [
        ("us-ascii", b"x,y\n1,a\n2,\xe9\n", 3),
        ("windows-1252", b"x,y\n1,\x81\n", 2),
        ("gb18030", b"x,y\n1,a\n1,\x81", 3),
        ("euc-jp", b"\xff,y\n1,a\n", 1),
    ],
)
def test_bytes_that_are_not_of_the_encoding_are_refused_with_their_line(
    api: Api, charset: str, content: bytes, line: int
) -> None:
    problem = assert_problem(post(api, content, f"text/csv; charset={charset}"), 422)
    assert problem["detail"].endswith(f"text at line {line}")
    assert list(api.state["blobs"].root.glob("temporary/*")) == []


def test_text_is_the_same_however_it_comes_in_pieces(tmp_path: Path) -> None:
    content = TABLE.encode("gb18030")
    for size in (1, 2, 3, 7):
        with Upload(tmp_path / "file", "gb18030") as upload:
            for start in range(0, len(content), size):
                upload.write(content[start : start + size])
        assert (tmp_path / "file").read_text(encoding="utf-8") == TABLE
        assert upload.bytes == len(content)
    broken = Upload(tmp_path / "file", "gb18030")
    for byte in content[:-1] + b"\x81":
        broken.write(bytes([byte]))
    with pytest.raises(Invalid, match="line 4"), broken:
        pass  # only at the end it is known that no second byte comes


def test_every_encoding_that_is_taken_leaves_ascii_as_it_is() -> None:
    text = "".join(map(chr, range(128)))
    taken = 0
    for name in {*encodings.aliases.aliases, *encodings.aliases.aliases.values()}:
        try:
            charset = ContentType.parse(f"text/csv; charset={name}").charset or "utf-8"
        except UnsupportedMedia:
            continue
        assert text.encode(charset).removeprefix(b"\xef\xbb\xbf").decode("ascii") == text
        taken += 1
    assert taken > 60
