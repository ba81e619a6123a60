"""Bytes: damaged and crafted files of every format, to the routes that read files and rows."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from urllib.parse import quote

import orjson
import pyarrow as pa

from bench.fuzz.damage import damaged
from bench.fuzz.figures import Figures
from bench.fuzz.files import CRAFTED, JSON, STREAM, sound
from bench.fuzz.requests import Request
from bench.fuzz.subject import Subject
from bench.fuzz.verdict import faults
from bench.fuzz.world import World

__all__ = ["Raw", "uploads"]

PART = "bytes"
_BOUNDARY = "edge"


class Raw:
    """Cases by their number, so that any one can be made again alone."""

    def __init__(self, subject: Subject, world: World, figures: Figures, seed: int) -> None:
        self._subject = subject
        self._world = world
        self._figures = figures
        self._seed = seed
        self._number = 0
        self._sound = dict(sound())
        bundle = subject.send(Request("GET", f"/models/{world.models['regressor']}/bundle"))
        self._bundles = [bundle.body]
        self._rows = self._row_streams()

    def _row_streams(self) -> list[bytes]:
        """Return what `/predict` reads as Arrow, its other fields in the metadata."""
        row = {
            "city": ["Rome", None],
            "age": [31.5, 1.0],
            "flag": [True, False],
            "since": ["2021-01-05"] * 2,
            "size": [1.0, 2.0],
        }
        fields = {"model": self._world.models["regressor"], "num_samples": 3, "seed": 1}
        found = []
        for compression in (None, "zstd", "lz4"):
            table = pa.table(row).replace_schema_metadata(
                {"bernoulli.request": orjson.dumps(fields)}
            )
            buffer = io.BytesIO()
            options = pa.ipc.IpcWriteOptions(compression=compression)
            with pa.ipc.new_stream(buffer, table.schema, options=options) as writer:
                writer.write_table(table)
            found.append(buffer.getvalue())
        return found

    def run(self, cases: int) -> None:
        """Try so many cases: the next ones."""
        end = self._figures.cases[PART] + cases
        while self._figures.cases[PART] < end:
            chance = random.Random(f"{self._seed}-{self._number}")
            self._number += 1
            for request in self._requests(chance):
                self._try(request)

    def _try(self, request: Request) -> None:
        answer = self._subject.send(request)
        self._figures.seen(PART, answer)
        for what in faults(request, answer):
            if not self._figures.is_known(PART, request, what):
                self._figures.failed(PART, request, answer, what)
        if answer.status == 201:
            self._subject.send(Request("DELETE", answer.headers["location"]))

    def _requests(self, chance: random.Random) -> Iterator[Request]:
        """Yield one file on its way to all that may read it."""
        kind = chance.randrange(10)
        if kind == 0:
            yield self._model(chance)
        elif kind < 4:
            yield self._prediction(chance)
        else:
            upload = uploads(chance, self._sound)
            yield upload
            if chance.randrange(4) == 0:
                media_type = chance.choice([STREAM, JSON, upload.headers["Content-Type"]])
                yield Request("POST", "/predict", upload.body, {"Content-Type": media_type})

    def _prediction(self, chance: random.Random) -> Request:
        """Rows for `/predict`, damaged: an Arrow stream, or the JSON of a whole request."""
        if chance.randrange(2):
            content = damaged(chance, chance.choice(self._rows), self._rows)
            accept = chance.choice(["*/*", STREAM])
            fields = quote('{"model": "named", "num_samples": 2}')
            target = "/predict" if chance.randrange(4) else f"/predict?request={fields}"
            return Request("POST", target, content, {"Content-Type": STREAM, "Accept": accept})
        row = {"city": "Rome", "age": 31.5, "flag": True, "since": "2021-01-05", "size": 2.5}
        body = {
            "model": "named",
            "inputs": [row] * 3,
            "num_samples": 3,
            "seed": 1,
            "hidden_dropout": 0.1,
        }
        content = damaged(chance, orjson.dumps(body), self._sound[JSON])
        return Request("POST", "/predict", content, {"Content-Type": JSON})

    def _model(self, chance: random.Random) -> Request:
        """A safetensors file or a bundle, damaged, as a model to import."""
        if chance.randrange(2):
            content = damaged(chance, self._bundles[0], self._bundles)
            return Request("POST", "/models", content, {"Content-Type": "application/zip"})
        weights = damaged(chance, self._sound["weights"][0], self._sound["weights"])
        spec = orjson.dumps({"network": {"layers": [2, 1]}, "name": "sum"})
        if chance.randrange(8) == 0:
            weights, spec = self._sound["weights"][0], damaged(chance, spec, [spec])
        parts = [("spec", "", JSON, spec), ("weights", "w.safetensors", "application/x", weights)]
        return _form(chance, "/models", parts)


def uploads(chance: random.Random, files: dict[str, list[bytes]]) -> Request:
    """Return one file as an upload: raw or in a form, now and then as what it is not."""
    if chance.randrange(4) == 0:
        media_type, content = chance.choice(CRAFTED)(chance)
        if chance.randrange(3) == 0:
            content = damaged(chance, content, [content or b"x"])
    else:
        media_type = chance.choice([name for name in files if name != "weights"])
        content = damaged(chance, chance.choice(files[media_type]), files[media_type])
    if chance.randrange(12) == 0:
        media_type = chance.choice([name for name in files if name != "weights"])
    if chance.randrange(10) == 0:
        return _form(chance, "/datasets", [("file", "f.bin", media_type, content)])
    query = ""
    if media_type == "text/csv" and chance.randrange(5) == 0:
        query = chance.choice(["?delimiter=tab", "?delimiter=%3B&decimal=%2C", "?delimiter=%7C"])
    if media_type in ("text/csv", "text/plain") and chance.randrange(10) == 0:
        media_type += chance.choice(
            ["; charset=iso-8859-1", "; charset=utf-16", "; charset=cp1252"]
        )
    return Request("POST", f"/datasets{query}", content, {"Content-Type": media_type})


def _form(chance: random.Random, path: str, parts: list[tuple[str, str, str, bytes]]) -> Request:
    """Return a form of parts, its framing damaged now and then."""
    pieces = []
    for name, file, media_type, content in parts:
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'
        head += f'; filename="{file}"' if file else ""
        pieces += [
            head.encode(),
            f"\r\nContent-Type: {media_type}\r\n\r\n".encode(),
            content,
            b"\r\n",
        ]
    pieces.append(f"--{_BOUNDARY}--\r\n".encode())
    if chance.randrange(4) == 0:
        at = chance.choice([0, 1, len(pieces) - 1])
        pieces[at] = damaged(chance, pieces[at], [b"\r\n\r\n--edge"])
    kind = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    return Request("POST", path, b"".join(pieces), kind)
