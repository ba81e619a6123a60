"""The whole interface against a model of it: three keys, in any order of requests.

The model knows who owns what, who sees it, what needs what, and what became of it. After every
request each key's lists have to be what the model says, and at the end the audit trail, too.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.parsing import Parsers
from service.store.keys import ApiKeys
from tests.service.conftest import apps
from tests.thoroughness import examples

SCOPES = {"ann": "train,predict", "bob": "train,predict", "root": "admin"}
callers = st.sampled_from(sorted(SCOPES))
names = st.sampled_from(["best", "next"])
PARSERS = Parsers()  # shared by all examples: to start them takes longer than any


@dataclass
class Thing:
    """Something that belongs to a key."""

    owner: str
    shared: bool = False
    status: str = ""
    """Of a job."""
    points_at: str = ""
    """A job's data set, an alias' model."""
    fed: int = 0
    """Rows of feedback on a model."""

    def seen_by(self, caller: str) -> bool:
        return self.shared or caller in (self.owner, "root")

    def refusal(self, caller: str) -> int | None:
        """The status of an answer to who wants to change it and may not."""
        if not self.seen_by(caller):
            return 404
        return None if caller in (self.owner, "root") else 403


def teardown_module() -> None:
    PARSERS.close()


class WholeApi(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.serve = self.stack.enter_context(apps(folder, PARSERS))
        self.api = self.serve()
        self.keys = {}
        self.secrets = {}
        for name, scopes in SCOPES.items():
            key, secret = self.api.state["keys"].create(name, scopes=scopes.split(","))
            self.keys[name], self.secrets[name] = key.id, secret
        self.things: dict[str, dict[str, Thing]] = {
            kind: {} for kind in ("datasets", "jobs", "models", "aliases")
        }
        self.answers: dict[str, Any] = {}
        self.said: list[tuple[str, str, str]] = []
        self.fed = 0

    def teardown(self) -> None:
        entries = self.ask("root", "GET", "/audit", params={"limit": 1000}).json()["data"][::-1]
        told = [(e["action"], e["object"], e["key"]) for e in entries if e["key"] != "command line"]
        assert told == [(action, thing, self.keys[who]) for action, thing, who in self.said]
        self.stack.close()

    def ask(self, caller: str, method: str, path: str, **request: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.secrets[caller]}", **request.pop("headers", {})}
        answer = self.api.request(method, path, headers=headers, **request)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
        return answer

    def chosen(self, data: st.DataObject, kind: str) -> tuple[str, Thing]:
        # By its place: the ids are others whenever an example is tried again.
        place = data.draw(st.integers(0, len(self.things[kind]) - 1))
        return list(self.things[kind].items())[place]

    def queued_on(self, dataset: str) -> bool:
        jobs = self.things["jobs"].values()
        return any(job.status == "queued" and job.points_at == dataset for job in jobs)

    def pointing_at(self, model: str) -> list[Thing]:
        return [alias for alias in self.things["aliases"].values() if alias.points_at == model]

    def rows_fed(self, caller: str, model: str) -> int:
        totals = self.ask(caller, "GET", f"/models/{model}/feedback").json()["totals"]
        return 0 if totals is None else int(totals["rows"])

    @rule(caller=callers)
    def upload(self, caller: str) -> None:
        content, kind = b"x,y\n1,2\n2,4\n3,6\n4,8\n", {"Content-Type": "text/csv"}
        answer = self.ask(caller, "POST", "/datasets", content=content, headers=kind)
        assert answer.status_code == 201
        self.things["datasets"][answer.json()["id"]] = Thing(caller)
        self.said.append(("created", answer.json()["id"], caller))

    @precondition(lambda self: self.things["datasets"])
    @rule(data=st.data(), caller=callers, again=st.booleans())
    def train(self, data: st.DataObject, caller: str, again: bool) -> None:
        dataset, thing = self.chosen(data, "datasets")
        body = {"dataset": dataset, "network": {"layers": [None, 2, None]}, "epochs": 1}
        key = {"Idempotency-Key": f"key-{len(self.said)}"}
        answer = self.ask(caller, "POST", "/train", json=body, headers=key)
        if not thing.seen_by(caller):
            assert answer.status_code == 404
            return
        assert answer.status_code == 202
        job = answer.json()["id"]
        self.things["jobs"][job] = Thing(caller, status="queued", points_at=dataset)
        self.said.append(("created", job, caller))
        if again:
            assert self.ask(caller, "POST", "/train", json=body, headers=key).json()["id"] == job
            other = {**body, "epochs": 2}
            assert self.ask(caller, "POST", "/train", json=other, headers=key).status_code == 422

    @rule()
    def work(self) -> None:
        self.api.work()
        for job, thing in self.things["jobs"].items():
            if thing.status == "queued":
                thing.status = "succeeded"
                model = self.ask("root", "GET", f"/jobs/{job}").json()["model"]
                self.things["models"][model] = Thing(thing.owner, shared=thing.shared)
                self.said.append(("created", model, thing.owner))

    @precondition(lambda self: self.things["jobs"])
    @rule(data=st.data(), caller=callers)
    def cancel(self, data: st.DataObject, caller: str) -> None:
        job, thing = self.chosen(data, "jobs")
        answer = self.ask(caller, "POST", f"/jobs/{job}/cancel")
        refusal = thing.refusal(caller) or (409 if thing.status == "succeeded" else None)
        if refusal is not None:
            assert answer.status_code == refusal
            return
        assert answer.status_code < 300
        if thing.status == "queued":
            self.said.append(("cancelled", job, caller))
        thing.status = "cancelled"

    @precondition(lambda self: any(self.things[kind] for kind in ("datasets", "jobs", "models")))
    @rule(data=st.data(), caller=callers)
    def delete(self, data: st.DataObject, caller: str) -> None:
        kinds = [kind for kind in ("datasets", "jobs", "models") if self.things[kind]]
        kind = data.draw(st.sampled_from(kinds))
        identity, thing = self.chosen(data, kind)
        is_needed = {
            "datasets": self.queued_on(identity),
            "jobs": thing.status == "queued",
            "models": bool(self.pointing_at(identity)),
        }[kind]
        answer = self.ask(caller, "DELETE", f"/{kind}/{identity}")
        refusal = thing.refusal(caller) or (409 if is_needed else None)
        assert answer.status_code == (refusal or 204)
        if refusal is None:
            del self.things[kind][identity]
            self.said.append(("deleted", identity, caller))

    @precondition(lambda self: any(self.things[kind] for kind in ("datasets", "jobs", "models")))
    @rule(data=st.data(), caller=callers, shared=st.booleans())
    def share(self, data: st.DataObject, caller: str, shared: bool) -> None:
        kinds = [kind for kind in ("datasets", "jobs", "models") if self.things[kind]]
        kind = data.draw(st.sampled_from(kinds))
        identity, thing = self.chosen(data, kind)
        answer = self.ask(caller, "PATCH", f"/{kind}/{identity}", json={"shared": shared})
        named = any(alias.shared for alias in self.pointing_at(identity)) and not shared
        refusal = thing.refusal(caller) or (409 if named else None)
        assert answer.status_code == (refusal or 200)
        if refusal is None and thing.shared != shared:
            thing.shared = shared
            self.said.append(("shared" if shared else "unshared", identity, caller))

    @precondition(lambda self: self.things["models"])
    @rule(data=st.data(), caller=callers, name=names, shared=st.booleans())
    def name(self, data: st.DataObject, caller: str, name: str, shared: bool) -> None:
        model, thing = self.chosen(data, "models")
        old = self.things["aliases"].get(name)
        body = {"model": model, "shared": shared}
        status = self.ask(caller, "PUT", f"/aliases/{name}", json=body).status_code
        if old is not None and old.refusal(caller) is not None:
            assert status == (403 if old.shared else 409)
        elif not thing.seen_by(caller):
            assert status == 404
        elif shared and not thing.shared:
            assert status == 422
        elif old is None:
            assert status == 201
            self.things["aliases"][name] = Thing(caller, shared, points_at=model)
            self.said.append(("created", name, caller))
            if shared:
                self.said.append(("shared", name, caller))
        else:
            assert status == 200
            if old.points_at != model:
                self.said.append(("moved", name, caller))
            if old.shared != shared:
                self.said.append(("shared" if shared else "unshared", name, caller))
            old.points_at, old.shared = model, shared

    @precondition(lambda self: self.things["aliases"])
    @rule(data=st.data(), caller=callers)
    def unname(self, data: st.DataObject, caller: str) -> None:
        name, thing = self.chosen(data, "aliases")
        answer = self.ask(caller, "DELETE", f"/aliases/{name}")
        assert answer.status_code == (thing.refusal(caller) or 204)
        if thing.refusal(caller) is None:
            del self.things["aliases"][name]
            self.said.append(("deleted", name, caller))

    @precondition(lambda self: self.things["models"] or self.things["aliases"])
    @rule(data=st.data(), caller=callers)
    def predict(self, data: st.DataObject, caller: str) -> None:
        kind = data.draw(st.sampled_from([k for k in ("models", "aliases") if self.things[k]]))
        identity, thing = self.chosen(data, kind)
        body = {"model": identity, "inputs": [[1.5]]}
        answer = self.ask(caller, "POST", "/predict", json=body)
        if not thing.seen_by(caller):
            assert answer.status_code == 404
            return
        assert answer.status_code == 200
        model = thing.points_at or identity
        outputs = answer.json()["outputs"]
        assert self.answers.setdefault(model, outputs) == outputs

    @precondition(lambda self: self.things["models"])
    @rule(data=st.data(), caller=callers, again=st.booleans())
    def feed(self, data: st.DataObject, caller: str, again: bool) -> None:
        model, thing = self.chosen(data, "models")
        self.fed += 1
        key = {"Idempotency-Key": f"feedback-{self.fed}"}
        body = {"inputs": [[1.5], [2.5]], "targets": [3.0, 5.0], "seed": 1}
        for _ in range(1 + again):
            answer = self.ask(caller, "POST", f"/models/{model}/feedback", json=body, headers=key)
            assert answer.status_code == (201 if thing.seen_by(caller) else 404)
        thing.fed += 2 if thing.seen_by(caller) else 0

    @precondition(lambda self: self.things["models"])
    @rule(data=st.data(), caller=callers)
    def forget(self, data: st.DataObject, caller: str) -> None:
        model, thing = self.chosen(data, "models")
        answer = self.ask(caller, "DELETE", f"/models/{model}/feedback")
        assert answer.status_code == (thing.refusal(caller) or 204)
        if thing.refusal(caller) is None:
            thing.fed = 0

    @rule(is_revoked=st.booleans())
    def be_nobody(self, is_revoked: bool) -> None:
        """A key that is revoked or has expired opens nothing, not even what is shared."""
        keys = self.api.state["keys"]
        if is_revoked:
            key, secret = keys.create("gone")
            keys.revoke(key.id)
        else:
            now = datetime.now(UTC)
            before = ApiKeys(self.api.state["database"], lambda: now - timedelta(days=2))
            _, secret = before.create("gone", expires_at=now - timedelta(days=1))
        headers = {"Authorization": f"Bearer {secret}"}
        for kind in self.things:
            assert self.api.get(f"/{kind}", headers=headers).status_code == 401

    @rule()
    def restart(self) -> None:
        """Another app on the same folder knows all that this one was told."""
        self.api = self.serve()

    @invariant()
    def everybody_sees_what_is_theirs_or_shared(self) -> None:
        for caller in SCOPES:
            for kind, things in self.things.items():
                listed = self.ask(caller, "GET", f"/{kind}", params={"limit": 1000}).json()["data"]
                found = {entry["name" if kind == "aliases" else "id"]: entry for entry in listed}
                assert found.keys() == {i for i, t in things.items() if t.seen_by(caller)}
                if kind == "models":
                    assert all(self.rows_fed(caller, model) == things[model].fed for model in found)
                if kind == "jobs":
                    assert all(found[job]["status"] == things[job].status for job in found)
                if kind == "aliases":
                    assert all(found[name]["model"] == things[name].points_at for name in found)


TestWholeApi = WholeApi.TestCase
TestWholeApi.settings = settings(
    max_examples=examples(3, 300),
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
