"""Attacks that other servers of models fell to, refused here. `docs/security.md` has the table."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import pickle
import re
import socket
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import structlog

from service.auth import is_open
from service.observe.logs import configure_logs
from service.store.jobs import NewJob
from tests.service.conftest import Api, Serve, assert_problem

ROOT = Path(__file__).parent.parent.parent
PLACES = ["/etc/passwd", "../../../../etc/passwd", "file:///etc/passwd", "C:\\boot.ini", "~/.ssh"]


SHORTER = ["/", "/datasets", "/jobs", "/models", "/aliases", "/docs"]


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that nothing may make."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


# -- fetching by URL: TorchServe CVE-2023-43654, Ray CVE-2023-48023, BentoML CVE-2025-54381 --------


def test_the_server_fetches_nothing(api: Api) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/model.zip"
        model = api.import_model().json()["id"]
        dataset = api.upload(f"x,y,link\n1,2,{url}\n2,3,{url}\n".encode())
        bodies: list[tuple[str, Any]] = [
            (f"/models?url={url}", {}),
            (f"/datasets?url={url}", {}),
            ("/models", {"url": url, "model": url}),
            ("/train", {"dataset": url, "network": {"layers": [None, 3, None]}}),
            ("/predict", {"model": url, "inputs": [[1.0, 2.0]]}),
            ("/predict", {"model": model, "inputs": url}),
            ("/predict", {"model": model, "inputs": {"dataset": url}}),
            ("/predict", {"model": model, "inputs": {"url": url}}),
            ("/predict", {"model": model, "inputs": [[url, url]]}),
            ("/predictions", {"model": model, "inputs": {"dataset": url}}),
            ("/predictions", {"model": model, "inputs": {"dataset": dataset}, "callback": url}),
            ("/evaluate", {"model": model, "dataset": url}),
            ("/rank", {"model": model, "dataset": url, "by": "std", "top_k": 1}),
        ]
        for path, body in bodies:
            assert api.post(path, json=body).status_code in (404, 415, 422), (path, body)
        upload = api.post("/datasets", files={"file": (url, b"x,y\n1,2\n", "text/csv")})
        assert upload.status_code == 201
        assert_problem(api.put("/aliases/a", json={"model": url}), 404)
        forwarded = {"X-Forwarded-Host": url, "Forwarded": f"host={url}", "Referer": url}
        assert api.get("/models", headers=forwarded).status_code == 200
        with pytest.raises(BlockingIOError):
            listener.accept()


# -- code in what is uploaded: TorchServe's archives, BentoML CVE-2025-27520 and 32375, MLflow -----


class Payload:
    """What runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (open, (str(self.path), "w"))


def test_nothing_that_is_uploaded_is_run(api: Api, canary: Path) -> None:
    pickled = pickle.dumps(Payload(canary))
    objects = io.BytesIO()
    np.savez(objects, x=np.array([Payload(canary)] * 2, dtype=object), y=np.ones(2))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("handler.py", f"open({str(canary)!r}, 'w')")
        file.writestr("MANIFEST.json", '{"handler": "handler.py"}')
    yaml = f"!!python/object/apply:builtins.open [{str(canary)!r}, w]".encode()
    model = api.import_model().json()["id"]
    spec = (None, '{"network": {"layers": [2, 1]}}', "application/json")
    refused = [
        api.post("/datasets", content=objects.getvalue(), headers={"Content-Type": kind})
        for kind in ("application/x-npz", "application/octet-stream", "application/x-npy")
    ]
    for kind, content in [
        ("application/vnd.bentoml+pickle", pickled),
        ("application/python-pickle", pickled),
        ("application/octet-stream", pickled),
        ("application/x-yaml", yaml),
        ("application/zip", archive.getvalue()),
    ]:
        refused += [
            api.post(path, content=content, headers={"Content-Type": kind})
            for path in ("/predict", "/datasets", "/models", "/train")
        ]
    for content in (pickled, archive.getvalue(), objects.getvalue(), yaml):
        files: Any = {"spec": spec, "weights": ("model.pt", content)}
        refused.append(api.post("/models", files=files))
    for answer in refused:
        assert answer.status_code in (400, 415, 422), answer.text
    assert [item["id"] for item in api.get("/models").json()["data"]] == [model]
    assert api.get("/datasets").json()["data"] == []


def test_the_code_knows_no_way_to_run_what_it_is_given() -> None:
    """No pickle, no shell, no `eval`; processes are started with a list of our own words."""
    for path in [*ROOT.glob("engine/**/*.py"), *ROOT.glob("service/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                modules = {getattr(node, "module", None), *names}
                assert not modules & {"pickle", "cloudpickle", "joblib", "marshal", "shelve"}, path
                assert "urllib.request" not in modules, path
                assert not modules & {"requests", "httpx", "aiohttp"}, path
            if isinstance(node, ast.Call):
                called = _dotted(node.func)
                assert called not in ("eval", "exec", "os.system", "os.popen"), path
                assert called not in ("torch.load", "torch.hub.load", "yaml.load"), path
                told = {keyword.arg: keyword.value for keyword in node.keywords}
                assert "shell" not in told, path
                if called in ("np.load", "numpy.load") or "allow_pickle" in told:
                    assert ast.unparse(told["allow_pickle"]) == "False", path


def _dotted(called: ast.expr) -> str:
    """Return the dotted name that a call is of, or nothing where it is of no name."""
    if isinstance(called, ast.Attribute):
        return f"{_dotted(called.value)}.{called.attr}"
    return called.id if isinstance(called, ast.Name) else ""


# -- paths: MLflow CVE-2023-1177, 2024-1560, 2024-1593, TorchServe CVE-2024-35198, Ray, Triton -----


@pytest.mark.parametrize("place", [*PLACES, "..", ".", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e"])
def test_no_id_or_name_leads_out_of_the_folder(api: Api, place: str) -> None:
    quoted = "".join(f"%{byte:02x}" for byte in place.encode())
    for raw in (place, quoted, quoted.replace("%", "%25")):
        for pattern in (
            "/datasets/{}",
            "/datasets/{}/content",
            "/datasets/{}/preview",
            "/jobs/{}",
            "/jobs/{}/events",
            "/models/{}",
            "/models/{}/weights",
            "/models/{}/bundle",
            "/aliases/{}",
            "/static/{}",
            "/docs/assets/{}",
            "/{}",
        ):
            answer = api.get(pattern.format(raw.replace("~", "%7e").replace("\\", "%5c")))
            assert b"root:" not in answer.content
            if answer.status_code == 200:  # the client itself has made `..` a shorter path
                assert answer.request.url.path in SHORTER
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/train", {"dataset": place, "network": {"layers": [None, 3, None]}}),
        ("/predict", {"model": place, "inputs": [[1.0]]}),
        ("/predict", {"model": "m", "inputs": {"dataset": place}}),
        ("/evaluate", {"model": place, "dataset": place}),
    ]
    for path, body in bodies:
        assert_problem(api.post(path, json=body), 404)


@pytest.mark.parametrize("place", [*PLACES, "a\0b", "..%2fb", "a/../../b", "#../x", "?../x"])
def test_no_name_of_a_file_is_a_path(api: Api, place: str, tmp_path: Path) -> None:
    def outside() -> set[Path]:
        inside = api.state["blobs"].root
        return {path for path in tmp_path.rglob("*") if inside not in path.parents}

    api.upload()
    before = outside()
    form = {"file": (place, b"x,y\n1,2\n", "text/csv")}
    assert api.post("/datasets", files=form).status_code in (201, 400)
    named = api.post("/datasets", content=b"x,y\n1,2\n", params={"name": place},
                     headers={"Content-Type": "text/csv"})  # fmt: skip
    assert named.status_code in (201, 422)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo(place.replace("\0", "") or "x"), b"x")
    zipped = {"Content-Type": "application/zip"}
    assert_problem(api.post("/models", content=archive.getvalue(), headers=zipped), 422)
    arrays = {"Content-Type": "application/x-npz"}
    assert_problem(api.post("/datasets", content=archive.getvalue(), headers=arrays), 422)
    assert outside() == before


# -- everybody's management: TorchServe, Ray CVE-2023-48022 (ShadowRay) ----------------------------


def test_without_a_key_a_server_that_others_reach_does_nothing(serve: Serve) -> None:
    api = serve(host="0.0.0.0")
    paths = api.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method in operations:
            filled = re.sub(r"\{\w+\}", "x", path)
            answer = api.request(method, filled)
            if not is_open(path):
                assert_problem(answer, 401)
    for method in ("GET", "POST", "PUT", "DELETE"):
        for path in ("/api/jobs/", "/models/x/versions", "/v2/logging", "/v2/repository/index"):
            assert_problem(api.request(method, path), 401)


def test_a_job_has_no_command(api: Api, canary: Path) -> None:
    dataset = api.upload()
    network = {"layers": [None, 3, None]}
    for extra in ("entrypoint", "command", "runtime_env", "script", "handler", "loader", "env"):
        body = {"dataset": dataset, "network": network, extra: f"touch {canary}"}
        assert_problem(api.post("/train", json=body), 422, f"#/{extra}")


@pytest.mark.parametrize(
    "wrap", ["$({})", "`{}`", "; {} #", "| {}", "\n{}\n", "&& {}", "{{{{{}}}}}"]
)
def test_no_text_is_a_command_or_a_template(api: Api, canary: Path, wrap: str) -> None:
    text = wrap.format(f"touch {canary}")
    header = "x,y\n1,2\n2,4\n3,6\n4,8\n"
    api.post(
        "/datasets",
        files={"file": (text, header.encode(), "text/csv")},
        params={"name": text},
    )
    named = f'"{text}",y\n1,2\n2,4\n3,6\n4,8\n'.encode()
    dataset = api.upload(named) if "\n" not in text else api.upload()
    body: dict[str, Any] = {"dataset": dataset, "network": {"layers": [None, 3, None]}, "epochs": 1}
    for extra in ({"name": text}, {"tags": {"a": text}}, {"dropout": {text: 0.1}}, {}):
        assert api.post("/train", json=body | extra).status_code in (202, 422)
    api.work()


# -- pages of other sites: Ray CVE-2025-62593, 2026-27482; see test_origins ------------------------


def test_what_a_page_may_send_without_asking_is_not_read(api: Api) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        for path in ("/train", "/predict", "/predictions", "/evaluate", "/rank"):
            answer = api.post(path, content=b"{}", headers={"Content-Type": kind})
            assert_problem(answer, 415)


# -- scripts in what is stored: MLflow CVE-2024-27132 ----------------------------------------------


def test_no_answer_is_a_page_of_a_callers_making(api: Api) -> None:
    page = "<script>alert(1)</script>"
    dataset = api.post("/datasets", files={"file": (f"{page}.csv", b"x,y\n1,2\n", "text/html")},
                       params={"name": page}).json()["id"]  # fmt: skip
    for path in (f"/datasets/{dataset}", f"/datasets/{dataset}/content", "/datasets", f"/{page}"):
        answer = api.get(path, headers={"Accept": "text/html, */*"})
        assert answer.headers["content-type"].partition(";")[0] in (
            "application/json",
            "application/problem+json",
            "text/csv",
        )
        assert answer.headers["x-content-type-options"] == "nosniff"


# -- more than there is room for: BentoML CVE-2024-9056 --------------------------------------------


def test_a_form_of_very_many_parts_is_refused(api: Api) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="p%d"\r\n\r\nx\r\n'
    content = b"".join(part % index for index in range(5000)) + b"--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    for path in ("/datasets", "/models"):
        assert_problem(api.post(path, content=content, headers=headers), 400)
    long_head = b'--b\r\nContent-Disposition: form-data; name="file"\r\nX: ' + b"a" * 2**20
    assert_problem(api.post("/datasets", content=long_head, headers=headers), 400)
    endless = b"--b" + b"-" * 2**22
    assert api.post("/datasets", content=endless, headers=headers).status_code in (400, 422)
    bound = {"Content-Type": f"multipart/form-data; boundary={'b' * 5000}"}
    assert_problem(api.post("/datasets", content=b"--" + b"b" * 2**20, headers=bound), 400)


def test_a_bundle_of_very_many_members_is_refused_before_they_are_listed(api: Api) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for index in range(2000):
            file.writestr(f"a{index}", b"")
    zipped = {"Content-Type": "application/zip"}
    answer = api.post("/models", content=archive.getvalue(), headers=zipped)
    assert "directory" in assert_problem(answer, 422)["detail"]


def test_a_bundle_that_unpacks_to_more_than_may_be_sent_is_refused(serve: Serve) -> None:
    api = serve(max_upload_bytes=2**20)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("document.json", b" " * 2**24)
        file.writestr("weights.safetensors", b"\0" * 2**24)
    zipped = {"Content-Type": "application/zip"}
    answer = api.post("/models", content=archive.getvalue(), headers=zipped)
    assert "when unpacked" in assert_problem(answer, 422)["detail"]


def test_weights_that_claim_more_than_there_is_are_refused(api: Api) -> None:
    spec = (None, '{"network": {"layers": [2, 1]}}', "application/json")
    for head, size in [
        (b"{}", 2**63),
        (
            b'{"out.w": {"dtype": "F32", "shape": [1000000000, 9], "data_offsets": [0, 4]}}',
            0,
        ),
        (b'{"out.w": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 9999999999]}}', 0),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, 0),
    ]:
        content = (size or len(head)).to_bytes(8, "little") + head + b"\0" * 8
        files: Any = {"spec": spec, "weights": ("w", content)}
        assert_problem(api.post("/models", files=files), 422, "#/weights")


# -- what errors tell: Triton CVE-2025-23320 -------------------------------------------------------

SECRET = "correct-horse-battery-staple"
DATUM = "73519.4242"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    configure_logs("debug", process="tests")
    for name in ("httpx", "httpcore"):  # the client's own, with all that it asks for
        logging.getLogger(name).setLevel(logging.WARNING)
    yield stream.getvalue
    root.handlers = handlers
    root.setLevel(level)
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def _faults(api: Api, folder: Path) -> Iterator[httpx.Response]:
    rows = f"x,y\n{DATUM},2\n2,4\n3,6\n4,8\n".encode()
    csv = {"Content-Type": "text/csv"}
    dataset = api.upload(rows)
    model = api.import_model().json()["id"]
    yield api.post("/datasets", content=rows + b"a\n" * 3, headers=csv)
    yield api.post("/datasets", content=rows[:9] + b"\xff\xfe", headers=csv)
    for kind in ("vnd.apache.parquet", "vnd.apache.arrow.stream", "x-npz", "json", "x-ndjson"):
        header = {"Content-Type": f"application/{kind}"}
        yield api.post("/datasets", content=b"PAR1" + rows, headers=header)
    for header in (csv, {"Content-Type": "application/json"}):
        yield api.post("/train", content=b'{"dataset": ' + DATUM.encode(), headers=header)
    yield api.post("/train", json={"dataset": dataset, "network": {"layers": [None, None]}})
    yield api.post("/predict", json={"model": model, "inputs": [[1.0]]})
    yield api.post("/predict", json={"model": "nothing", "inputs": [[float(DATUM), 1.0]]})
    yield api.get(f"/datasets/{dataset}/nothing")
    yield api.get("/jobs", headers={"Authorization": "Bearer wrong-" + SECRET})
    # Stored files that are damaged or missing, a job that breaks on one, and faults of ours.
    for blob in api.state["blobs"].root.glob("datasets/*"):
        blob.write_bytes(b"ARROW1" + rows)
    yield api.get(f"/datasets/{dataset}/preview")
    yield api.get(f"/datasets/{dataset}/content")
    for kind in ("train", "unheard-of"):
        spec = {"dataset": dataset, "secret": SECRET, "value": DATUM}
        api.state["jobs"].create(NewJob(kind=kind, spec=spec))
    api.work()
    for each in api.get("/jobs").json()["data"]:
        yield api.get(f"/jobs/{each['id']}/events")
        error = each["error"]
        assert not _told(json.dumps(error), folder), error

    def broken() -> None:
        value = {"key": SECRET, "row": DATUM, "file": str(folder)}
        raise RuntimeError(f"cannot do {value}") from OSError(5, "bad", str(folder))

    api.app.add_api_route("/broken", broken)
    yield api.get(f"/broken?value={DATUM}")
    for path in api.state["blobs"].root.glob("models/*/*"):
        path.unlink()
    yield api.get(f"/models/{model}/weights")
    yield api.get(f"/models/{model}/bundle")
    yield api.post("/predict", json={"model": model, "inputs": [[float(DATUM), 1.0]]})


def _told(text: str, folder: Path) -> list[str]:
    """What of the inside a text tells."""
    inside = [SECRET, DATUM, str(folder), "Traceback", 'File "', str(ROOT), os.path.expanduser("~")]
    return [word for word in inside if len(word) > 1 and word in text]


def test_neither_log_nor_answers_tell_of_data_secrets_or_paths(
    serve: Serve, tmp_path: Path, log: Callable[[], str]
) -> None:
    api = serve(keys=SECRET, max_body_bytes=2**16)
    api.headers["Authorization"] = f"Bearer {SECRET}"
    statuses = set()
    for answer in _faults(api, tmp_path):
        statuses.add(answer.status_code)
        if answer.status_code >= 400:
            assert not _told(answer.text, tmp_path), answer.text
    assert {400, 401, 404, 415, 422, 500, 503} <= statuses
    logged = log()
    assert logged.count("\n") >= 3
    assert "broken" in logged  # where it was
    assert not _told(logged, tmp_path), logged
    for line in logged.splitlines():
        assert isinstance(json.loads(line), dict)


# -- SQL -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["' OR 1=1 --", "'; DROP TABLE jobs; --", '" OR ""="', "%", "_"])
def test_no_text_is_sql(api: Api, text: str) -> None:
    api.train(api.upload())
    for path in ("/jobs", "/datasets", "/models", "/aliases"):
        assert api.get(f"{path}/{httpx.QueryParams({'': text})}").status_code in (404, 422)
        assert_problem(api.get(path, params={"after": text}), 422)
    assert api.get("/jobs", params={"kind": text}).json()["data"] == []
    assert api.get("/jobs", headers={"Authorization": f"Bearer {text}"}).status_code == 200
    assert len(api.get("/jobs").json()["data"]) == 1
