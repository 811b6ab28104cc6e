"""The HTTP client, for the command line, programs and notebooks.

from search_service.client import Client

with Client.of_profile() as client:
    search = client.submit({...})
    for event in client.events(search["id"]):
        print(event.kind, event.data)
    print(client.result(search["id"])["fastest"]["pattern"])
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypedDict, cast
from urllib.parse import quote
from uuid import uuid4

import httpx
import tenacity
from httpx_sse import connect_sse

from search_service.domain.errors import FieldProblem, LambdaSearchError
from search_service.domain.events import EventKind
from search_service.domain.search import SearchStatus
from search_service.profile import find_connection, is_loopback

SEARCHES = "/v1/searches"
KEYS = "/v1/keys"
TIMEOUT = 30.0  # seconds of connecting, and of each silence
ATTEMPTS = 5  # of a read, over about seven seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 4.0  # seconds between attempts
POLL_INTERVAL = 0.5  # seconds between two looks at a search
TRIALS_PER_PAGE = 1000
SEARCHES_PER_PAGE = 100


class SearchView(TypedDict):
    """A search as the service shows it."""

    id: str
    name: str
    status: str
    phase: str | None
    progress: dict[str, Any]
    created_at: str
    started_at: str | None
    finished_at: str | None
    elapsed_s: float
    phase_seconds: dict[str, float]
    share: float
    left_s: float | None
    priority: int
    stopping: bool
    submitted_by: str
    version: int
    updated_at: str
    spec: dict[str, Any]
    fewest_confirmation_episodes: int
    checkpoint: str | None
    problem: dict[str, Any] | None


class TrialView(TypedDict):
    """A candidate being judged, as the service shows it. Figures are of validation classes."""

    number: int
    candidate: str
    pattern: str
    rate_factors: list[float]
    precision: str
    predicted_latency_s: float | None
    state: str
    blocks: int
    quality: float | None
    degradation: float | None
    degradation_se: float | None
    latency_s: float | None
    speedup: float | None
    reason: str | None
    confirmation: dict[str, Any] | None


class FrontView(TypedDict):
    """The front of a search as it stands, as the service shows it. Figures are of validation classes."""

    max_degradation: float | None
    best: TrialView | None
    trials: list[TrialView]
    latency_ratio: float | None


class KeyView(TypedDict):
    """An API key, without the key itself."""

    id: str
    name: str
    scope: str
    shown: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    max_queued: int | None
    max_running: int | None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a search: see ``search_service.domain.events``."""

    no: int | None
    """Its number; None of ``progress``, which is what the search says of itself now."""
    kind: str
    data: dict[str, Any]


class ApiProblem(LambdaSearchError):
    """The service refused a request, and says why (RFC 9457)."""

    def __init__(self, status: int, title: str, detail: str, errors: list[FieldProblem] | None = None) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors or []
        super().__init__(f"{title}: {detail}" if detail else title)

    @property
    def is_refused_document(self) -> bool:
        """Whether what was sent is at fault, rather than the service or what it holds."""
        return self.status in (400, 413, 415, 422)

    @classmethod
    def of(cls, response: httpx.Response) -> Self:
        """Read an answer that is no success, whoever wrote it."""
        try:
            document = response.json()
            errors = [FieldProblem(str(e["field"]), str(e["reason"])) for e in document.get("errors") or []]
            return cls(response.status_code, str(document["title"]), str(document.get("detail", "")), errors)
        except (ValueError, KeyError, TypeError, AttributeError):
            # Not one of ours: a proxy, or another service.
            return cls(response.status_code, f"{response.url} answers {response.status_code}", response.reason_phrase)


class ServiceUnreachable(LambdaSearchError):
    """The service does not answer."""

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(
            f"no Lambda Search answers at {url} ({reason}): start one with `lambda-search up`, "
            "or name another with --url or LAMBDA_SEARCH_URL"
        )


class Client:
    """A connection to the service. What can be done twice without harm is tried again when the connection fails.

    Args:
        base_url: where the service is, for example ``http://127.0.0.1:8000``.
        key: the API key to ask with.
        attempts: how often a request is tried.
    """

    def __init__(self, base_url: str, key: str | None = None, *, attempts: int = ATTEMPTS) -> None:
        self.base_url = base_url.rstrip("/")
        self.attempts = attempts
        try:
            # A proxy of the environment is never meant for this machine itself.
            self._http = httpx.Client(
                base_url=self.base_url,
                timeout=TIMEOUT,
                trust_env=not is_loopback(httpx.URL(self.base_url).host),
                headers={} if key is None else {"Authorization": f"Bearer {key}"},
            )
        except httpx.InvalidURL as error:
            raise ServiceUnreachable(base_url, str(error)) from error

    @classmethod
    def of_profile(cls, profile: str | None = None, *, url: str | None = None, key: str | None = None) -> Self:
        """A connection as told by arguments, the environment, a profile, or found on this machine.

        Raises:
            UnusableProfile: the profile cannot be used.
        """
        found = find_connection(url, key, profile)
        return cls(found.url, found.key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(self, spec: dict[str, Any], idempotency_key: str | None = None) -> SearchView:
        """Submit a search, once however often the connection fails.

        Args:
            spec: what is asked for.
            idempotency_key: a name for this submission; sent again with the same spec, it finds the search that is
                there. One is made up unless given.

        Raises:
            ApiProblem: it was refused; ``errors`` names the fields.
            ServiceUnreachable: no answer. The search may have been stored all the same; the same idempotency key tells.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid4())}
        return cast(SearchView, self._insist("POST", SEARCHES, json=spec, headers=headers))

    def get(self, search_id: str) -> SearchView:
        """Look at a search."""
        return cast(SearchView, self._read(_path(search_id)))

    def list(
        self, status: SearchStatus | None = None, *, name: str | None = None, sort: str | None = None
    ) -> Iterator[SearchView]:
        """Searches, newest first unless ``sort`` says otherwise, page by page as they are consumed.

        Args:
            status: only those in this status.
            name: only those whose name contains this.
            sort: ``created_at`` or ``priority``, with a minus for the largest first.
        """
        wanted = {"status": status and status.value, "name": name, "sort": sort}
        parameters = {"limit": SEARCHES_PER_PAGE, **{key: value for key, value in wanted.items() if value}}
        return cast(Iterator[SearchView], self._pages(SEARCHES, "searches", parameters))

    def trials(self, search_id: str, state: str | None = None) -> Iterator[TrialView]:
        """The candidates of a search by number; only those in ``state`` if one is given."""
        parameters = {"limit": TRIALS_PER_PAGE, **({"state": state} if state else {})}
        return cast(Iterator[TrialView], self._pages(f"{_path(search_id)}/trials", "trials", parameters))

    def front(self, search_id: str) -> FrontView:
        """The candidates judged so far that lose less than every faster one does, fastest first, and the best so far.

        Raises:
            ApiProblem: there is no such search.
        """
        return cast(FrontView, self._read(f"{_path(search_id)}/front"))

    def result(self, search_id: str) -> dict[str, Any]:
        """The result document.

        Raises:
            ApiProblem: there is none: not yet, or the search failed or was cancelled.
        """
        return self._read(f"{_path(search_id)}/result")

    def answer(self, search_id: str, max_degradation: float) -> dict[str, Any]:
        """What a finished search knows for another threshold.

        Raises:
            ApiProblem: it has no result, or the threshold is none.
        """
        return self._read(f"{_path(search_id)}/answer", {"max_degradation": max_degradation})

    def pause(self, search_id: str) -> SearchView:
        """Begin no more work for a search.

        Raises:
            ApiProblem: it is over, or another key's.
        """
        return self._move(search_id, "pause")

    def resume(self, search_id: str) -> SearchView:
        """Let a paused search go on when its turn comes.

        Raises:
            ApiProblem: it is over, or another key's.
        """
        return self._move(search_id, "resume")

    def stop(self, search_id: str) -> SearchView:
        """Let a search answer from what it knows.

        Raises:
            ApiProblem: it is over, or another key's.
        """
        return self._move(search_id, "stop")

    def cancel(self, search_id: str) -> SearchView:
        """Cancel a search.

        Raises:
            ApiProblem: it has succeeded or failed, or is another key's.
        """
        return self._move(search_id, "cancel")

    def set_priority(self, search_id: str, priority: int) -> SearchView:
        """Change a search's priority.

        Raises:
            ApiProblem: it is over, or another key's.
        """
        return cast(SearchView, self._insist("PATCH", _path(search_id), json={"priority": priority}))

    def events(self, search_id: str, after: int = 0) -> Iterator[Event]:
        """What happens to a search, from the event after number ``after`` to its last; comes back when cut off.

        Raises:
            ApiProblem: there is no such search.
            ServiceUnreachable: it does not answer, however often it is tried.
        """
        failures = 0
        while True:
            try:
                for event in self._stream(search_id, after):
                    after, failures = event.no or after, 0
                    yield event
                    if event.no is not None and EventKind(event.kind).is_last:
                        return
                if SearchStatus(self.get(search_id)["status"]).is_final:
                    return
            except ServiceUnreachable:
                failures += 1
                if failures >= self.attempts:
                    raise
                time.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**failures))

    def create_key(self, name: str, **allowed: Any) -> tuple[KeyView, str]:
        """Make an API key; the key itself is told this once.

        Args:
            name: who or what holds it.
            allowed: ``scope``, ``expires_at``, ``max_queued``, ``max_running``.
        """
        document = self._send("POST", KEYS, json={"name": name, **allowed})
        secret = document.pop("key")
        return cast(KeyView, document), str(secret)

    def keys(self) -> builtins.list[KeyView]:
        """Every API key, oldest first."""
        return cast("builtins.list[KeyView]", self._read(KEYS)["keys"])

    def revoke_key(self, key_id: str) -> KeyView:
        """Refuse a key from now on."""
        return cast(KeyView, self._insist("POST", f"{KEYS}/{quote(key_id, safe='')}:revoke"))

    def wait(
        self,
        search_id: str,
        on_progress: Callable[[SearchView], None] = lambda _: None,
        poll: float = POLL_INTERVAL,
    ) -> SearchView:
        """Look at a search every ``poll`` seconds until it is over; ``on_progress`` sees every look and may raise."""
        while True:
            view = self.get(search_id)
            on_progress(view)
            if SearchStatus(view["status"]).is_final:
                return view
            time.sleep(poll)

    def is_ready(self) -> bool:
        """Whether the service can serve right now; asks once."""
        try:
            return self._http.get("/readyz", timeout=2.0).is_success
        except httpx.TransportError:
            return False

    def _pages(self, path: str, name: str, parameters: dict[str, Any]) -> Iterator[Any]:
        cursor: str | None = None
        while True:
            page = self._read(path, {**parameters, **({"cursor": cursor} if cursor else {})})
            yield from page[name]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def _move(self, search_id: str, verb: str) -> SearchView:
        return cast(SearchView, self._insist("POST", f"{_path(search_id)}:{verb}"))

    def _stream(self, search_id: str, after: int) -> Iterator[Event]:
        """Events until the service ends the stream."""
        headers = {"Last-Event-ID": str(after)}
        try:
            with connect_sse(self._http, "GET", f"{_path(search_id)}/events", headers=headers) as source:
                if source.response.status_code == httpx.codes.NO_CONTENT:
                    return
                if not source.response.is_success:
                    source.response.read()
                    raise ApiProblem.of(source.response)
                for told in source.iter_sse():
                    no = int(told.id) if told.id and told.event != "progress" else None
                    yield Event(no, told.event, told.json())
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ServiceUnreachable(self.base_url, str(error) or type(error).__name__) from error

    def _read(self, path: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._insist("GET", path, params=parameters)

    def _insist(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        """Send what can be sent twice without harm, again when the connection fails."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(ServiceUnreachable),
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=tenacity.wait_exponential(FIRST_PAUSE, LONGEST_PAUSE),
            reraise=True,
        )
        return retrying(self._send, method, path, **content)

    def _send(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, **content)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ServiceUnreachable(self.base_url, str(error) or type(error).__name__) from error
        if not response.is_success:
            raise ApiProblem.of(response)
        try:
            document: dict[str, Any] = response.json()
        except ValueError as error:
            raise ServiceUnreachable(self.base_url, "what answers there is something else") from error
        return document


def _path(search_id: str) -> str:
    # Whatever was typed as an id stays one part of the path.
    return f"{SEARCHES}/{quote(search_id, safe='')}"
