from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from search_service.domain.recipe import Recipe
from search_service.domain.search import MetaTraining, NetworkSpec, TaskFamily
from search_service.storage import checkpoints, workers
from search_service.storage.database import Database

JOBS = text("select args, queue_name, priority, status::text from procrastinate.procrastinate_jobs order by id")


def merged(spec: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``spec`` with dotted fields replaced."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in spec.items()}
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return result


def assert_problem(response: Any, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["type"] == f"urn:lambda-search:problem:{slug}"
    assert document["title"]
    assert document["detail"]
    assert document["instance"] == response.request.url.path
    return document


def assert_refused(response: Any, field: str, reason: str) -> None:
    document = assert_problem(response, 422, "invalid-spec")
    reasons = {error["field"]: error["reason"] for error in document["errors"]}
    assert field in reasons, document
    assert reason in reasons[field]


def store_checkpoint(database: Database, **changes: Any) -> str:
    values: dict[str, Any] = {
        "model": NetworkSpec(network="conv4"),
        "tasks": TaskFamily(family="glyphs"),
        "meta_training": MetaTraining(inner_steps=3),
        "norm_statistics": "support",
    }
    recipe = Recipe(**{**values, **changes})
    with database.session() as session:
        checkpoints.lock_training(session, recipe)
        checkpoints.add(session, checkpoint_id="c0ffee", recipe=recipe, uri="c0ffee.safetensors", quality={})
    return "c0ffee"


def test_submitting_stores_the_search_and_its_job_together(
    client: TestClient, database: Database, spec: dict[str, Any]
) -> None:
    response = client.post("/v1/searches", json=merged(spec, {"name": "mine", "priority": 7}))
    assert response.status_code == 202, response.text
    view = response.json()
    assert response.headers["location"] == view["links"]["self"] == f"/v1/searches/{view['id']}"
    assert view["name"] == "mine"
    assert view["status"] == "running"
    assert view["phase"] == "meta_training"
    assert view["spec"]["tasks"] == {"family": "glyphs", "ways": 5, "shots": 1, "queries": 15}
    assert client.get(response.headers["location"]).json()["id"] == view["id"]
    with database.session() as session:
        ((arguments, queue, priority, status),) = session.execute(JOBS).all()
    assert arguments == {"search_id": view["id"], "phase": "meta_training", "no": 0, "step": 0}
    assert (queue, priority, status) == ("cpu", 7, "todo")


def test_no_search_without_its_job(client: TestClient, database: Database, spec: dict[str, Any]) -> None:
    with database.session() as session:
        session.execute(text("drop function procrastinate.procrastinate_defer_jobs_v1"))
    assert_problem(client.post("/v1/searches", json=spec), 503, "database-unavailable")
    with database.session() as session:
        assert session.scalar(text("select count(*) from lambda_search.searches")) == 0


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"tempo": 1}, "tempo", "unknown field"),
        ({"tasks.colour": "red"}, "tasks.colour", "unknown field"),
        ({"tasks.family": "mnist"}, "tasks.family", "must be 'omniglot', 'glyphs' or 'sinusoid', not 'mnist'"),
        ({"tasks.shots": 1000}, "tasks.shots", "must be 1 to 100, not 1000"),
        ({"tasks.shots": 1.5}, "tasks.shots", "must be a whole number, not 1.5"),
        ({"tasks.family": "omniglot"}, "tasks.family", "no omniglot.npz in the data folder"),
        ({"model.network": "resnet"}, "model.network", "must be 'conv4' or 'mlp', not 'resnet'"),
        ({"model": [1]}, "model", "must be an object"),
        ({"max_degradation": "little"}, "max_degradation", "must be a number, not 'little'"),
        ({"max_degradation": 0}, "max_degradation", "above 0"),
        ({"checkpoint": "abc"}, "meta_training", "either meta_training or checkpoint"),
        ({"meta_training": None, "checkpoint": "abc"}, "checkpoint", "no checkpoint is called 'abc'"),
        ({"meta_training": None, "checkpoint": "a\x00'; --"}, "checkpoint", "no checkpoint is called"),
        ({"device": "cuda:x"}, "device", "no worker has announced device 'cuda:x'; announced: cpu"),
        ({"device": "cuda:\x00"}, "device", "no worker has announced"),
        ({"device": "tpu"}, "device", "must be 'cpu' or 'cuda:<name>'"),
        ({"name": "\x00"}, "name", "printable"),
        ({"priority": 5000}, "priority", "must be -1000 to 1000"),
        ({"\ud800": 1}, "spec", "unicode"),
    ],
)
def test_what_cannot_be_run_is_refused_by_field(
    client: TestClient, database: Database, spec: dict[str, Any], changes: dict[str, Any], field: str, reason: str
) -> None:
    # Written by the standard library, since httpx refuses to send some of these.
    import json

    body = json.dumps(merged(spec, changes))
    response = client.post("/v1/searches", content=body, headers={"content-type": "application/json"})
    assert_refused(response, field, reason)
    with database.session() as session:
        assert session.scalar(text("select count(*) from lambda_search.searches")) == 0


def test_every_wrong_field_is_named_at_once(client: TestClient) -> None:
    response = client.post("/v1/searches", json={"model": {"network": "conv4", "depth": 3}})
    fields = {error["field"]: error["reason"] for error in response.json()["errors"]}
    assert fields == {"model.depth": "unknown field", "tasks": "is required", "max_degradation": "is required"}


@pytest.mark.parametrize("steps", [{"space.max_steps": 5}, {"meta_training.inner_steps": 5}, {"baseline.steps": 5}])
def test_a_space_too_large_to_list_is_refused(client: TestClient, spec: dict[str, Any], steps: dict[str, Any]) -> None:
    deep = merged(spec, {"model": {"network": "mlp", "hidden": [8] * 15}, "method.sampler": "ordered", **steps})
    reason = "327,675 candidates; ordered lists them all, at most 100,000: use a sampler"
    assert_refused(client.post("/v1/searches", json=deep), "method.sampler", reason)


def test_a_checkpoint_that_fits_brings_its_own_steps(
    client: TestClient, database: Database, spec: dict[str, Any]
) -> None:
    wide = merged(
        spec,
        {
            "meta_training": None,
            "checkpoint": store_checkpoint(database, model=NetworkSpec(network="mlp", hidden=(8,) * 15)),
            "model": {"network": "mlp", "hidden": [8] * 15},
            "method": {"sampler": "ordered"},
        },
    )
    assert_refused(client.post("/v1/searches", json=wide), "method.sampler", "196,605 candidates")
    response = client.post("/v1/searches", json=merged(wide, {"space.max_steps": 1}))
    assert response.status_code == 202, response.text
    assert response.json()["checkpoint"] == "c0ffee"


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"model.filters": 32}, "model.filters", "the checkpoint has 64, the spec asks for 32"),
        ({"model": {"network": "mlp"}}, "model.network", "the checkpoint has conv4"),
        ({"tasks.ways": 20}, "tasks.ways", "the checkpoint has 5 outputs, these tasks need 20"),
        ({"norm_statistics": "query"}, "norm_statistics", "trained under 'support'"),
        (
            {"model": {"network": "mlp"}, "tasks": {"family": "sinusoid"}, "degradation_bound": 1},
            "model.network",
            "the checkpoint has conv4",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    client: TestClient, database: Database, spec: dict[str, Any], changes: dict[str, Any], field: str, reason: str
) -> None:
    trained = {"meta_training": None, "checkpoint": store_checkpoint(database)}
    assert_refused(client.post("/v1/searches", json=merged(spec, {**trained, **changes})), field, reason)


def test_a_checkpoint_of_another_kind_of_tasks_is_refused(
    client: TestClient, database: Database, spec: dict[str, Any]
) -> None:
    mlp = NetworkSpec(network="mlp")
    checkpoint = store_checkpoint(database, model=mlp, tasks=TaskFamily(family="sinusoid"))
    asked = merged(spec, {"meta_training": None, "checkpoint": checkpoint, "model": {"network": "mlp"}})
    assert_refused(client.post("/v1/searches", json=asked), "tasks.family", "trained on sinusoid")


def test_a_device_counts_only_while_a_worker_serves_it(
    bare_client: TestClient, database: Database, spec: dict[str, Any]
) -> None:
    assert_refused(bare_client.post("/v1/searches", json=spec), "device", "announced: none; start a worker first")
    worker = uuid4()
    with database.session() as session:
        workers.announce(session, worker, host="here", pid=1, device="cpu", fingerprint={}, families={"glyphs": None})
    assert bare_client.post("/v1/searches", json=spec).status_code == 202
    with database.session() as session:
        workers.stop(session, worker)
    assert_refused(bare_client.post("/v1/searches", json=spec), "device", "announced: none")


def test_every_worker_of_the_device_must_have_the_dataset(
    bare_client: TestClient, database: Database, spec: dict[str, Any]
) -> None:
    def announce(host: str, reason: str | None) -> None:
        with database.session() as session:
            workers.announce(
                session, uuid4(), host=host, pid=2, device="cpu", fingerprint={}, families={"omniglot": reason}
            )

    omniglot = merged(spec, {"tasks.family": "omniglot"})
    announce("here", None)
    assert bare_client.post("/v1/searches", json=omniglot).status_code == 202
    announce("there", "it is not on this machine")
    refused = bare_client.post("/v1/searches", json=omniglot)
    assert_refused(refused, "tasks.family", "worker on there cannot draw omniglot: it is not on this machine")


def test_every_worker_of_the_device_must_have_a_compiler(
    bare_client: TestClient, database: Database, spec: dict[str, Any]
) -> None:
    def announce(host: str, compiler: str | None) -> None:
        with database.session() as session:
            workers.announce(
                session,
                uuid4(),
                host=host,
                pid=2,
                device="cpu",
                fingerprint={"compiler": compiler},
                families={"glyphs": None},
            )

    compiled = merged(spec, {"runtime": "compiled"})
    announce("here", "g++ 12")
    assert bare_client.post("/v1/searches", json=compiled).status_code == 202
    announce("there", None)
    assert_refused(bare_client.post("/v1/searches", json=compiled), "runtime", "worker on there cannot compile")
    assert bare_client.post("/v1/searches", json=merged(spec, {"runtime": "eager"})).status_code == 202


def test_many_at_once_never_admit_more_than_may_run(
    client: TestClient, database: Database, spec: dict[str, Any]
) -> None:
    with ThreadPoolExecutor(12) as pool:
        responses = list(pool.map(lambda _: client.post("/v1/searches", json=spec), range(24)))
    assert {response.status_code for response in responses} == {202}
    statuses = [search["status"] for search in client.get("/v1/searches?limit=100").json()["searches"]]
    assert sorted(statuses) == ["queued"] * 22 + ["running"] * 2
    with database.session() as session:
        assert len(session.execute(JOBS).all()) == 2


def test_malformed_json(client: TestClient) -> None:
    response = client.post("/v1/searches", content="{", headers={"content-type": "application/json"})
    assert "character 1" in assert_problem(response, 400, "malformed-json")["detail"]


@pytest.mark.parametrize("body", ["null", "[]", "7", ""])
def test_a_body_that_is_no_object(client: TestClient, body: str) -> None:
    response = client.post("/v1/searches", content=body, headers={"content-type": "application/json"})
    document = assert_problem(response, 422, "invalid-spec")
    assert [error["field"] for error in document["errors"]] == ["spec"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_body_that_is_not_sent_as_json(client: TestClient, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    assert_problem(client.post("/v1/searches", content=b"{}", headers=headers), 415, "unsupported-media-type")


def test_a_body_too_large(client: TestClient) -> None:
    body = b'{"name": "' + b"x" * 300_000 + b'"}'
    response = client.post("/v1/searches", content=body, headers={"content-type": "application/json"})
    assert_problem(response, 413, "content-too-large")
