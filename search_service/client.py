"""The HTTP client that the command line uses: submit, watch, list and cancel searches, read trials and results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any, Self, TypedDict, cast
from urllib.parse import quote

import httpx
import tenacity

from search_service.domain.errors import FieldProblem, LambdaSearchError
from search_service.domain.search import SearchStatus

SEARCHES = "/v1/searches"
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
    """A connection to the service. Reads are tried again when the connection fails; writes are not.

    Args:
        base_url: where the service is, for example ``http://127.0.0.1:8000``.
        attempts: how often a read is tried.
    """

    def __init__(self, base_url: str, *, attempts: int = ATTEMPTS) -> None:
        self.base_url = base_url.rstrip("/")
        self.attempts = attempts
        try:
            # A proxy of the environment is never meant for this machine itself.
            self._http = httpx.Client(
                base_url=self.base_url, timeout=TIMEOUT, trust_env=not _is_loopback(httpx.URL(self.base_url).host)
            )
        except httpx.InvalidURL as error:
            raise ServiceUnreachable(base_url, str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(self, spec: dict[str, Any]) -> SearchView:
        """Submit a search.

        Raises:
            ApiProblem: it was refused; ``errors`` names the fields.
            ServiceUnreachable: no answer. The search may have been stored all the same.
        """
        return cast(SearchView, self._send("POST", SEARCHES, json=spec))

    def get(self, search_id: str) -> SearchView:
        """Look at a search."""
        return cast(SearchView, self._read(_path(search_id)))

    def list(self, status: SearchStatus | None = None) -> Iterator[SearchView]:
        """Every search, newest first, page by page as they are consumed."""
        parameters = {"limit": SEARCHES_PER_PAGE, **({"status": status.value} if status else {})}
        return cast(Iterator[SearchView], self._pages(SEARCHES, "searches", parameters))

    def trials(self, search_id: str, state: str | None = None) -> Iterator[TrialView]:
        """The candidates of a search by number; only those in ``state`` if one is given."""
        parameters = {"limit": TRIALS_PER_PAGE, **({"state": state} if state else {})}
        return cast(Iterator[TrialView], self._pages(f"{_path(search_id)}/trials", "trials", parameters))

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

    def cancel(self, search_id: str) -> SearchView:
        """Cancel a search.

        Raises:
            ApiProblem: it has succeeded or failed.
        """
        return cast(SearchView, self._send("POST", f"{_path(search_id)}:cancel"))

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

    def _read(self, path: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(ServiceUnreachable),
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=tenacity.wait_exponential(FIRST_PAUSE, LONGEST_PAUSE),
            reraise=True,
        )
        return retrying(self._send, "GET", path, params=parameters)

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


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
