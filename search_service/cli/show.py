"""Results and searches as tables in plain words. No figure stands without the name of its kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search_service import words
from search_service.cli.progress import LABELS, best_so_far, counted, front_table, latency_ms
from search_service.client import FrontView, KeyView, SearchView, TrialView
from search_service.domain.result import PatternFigures, Quality, Ratio, Retrained, SearchResult
from search_service.domain.search import Phase, SearchStatus
from search_service.domain.thresholds import answerable

PLAIN_WIDTH = 132  # characters a line may have where no terminal says how many
ROOMY_WIDTH = 110  # characters from which columns stand apart
NOTHING = "-"
METRICS = {"accuracy": "accuracy", "negative_mse": "negative mean squared error"}


def stdout_console() -> Console:
    """The console that results go to; wide enough for the tables where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def show_result(document: dict[str, Any], console: Console) -> None:
    """Print a result document: the answer in a sentence, all figures as a table, and what they rest on."""
    from search_service.storage.codec import result_from_json

    result = result_from_json(document)
    console.print()
    console.print(_answer(result))
    console.print()
    console.print(_figures_table(result, console.width))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in _facts(result):
        facts.add_row(name, Text(text))
    console.print(facts)
    for warning in result.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))


def show_searches(views: Iterable[SearchView], console: Console) -> None:
    """Print searches, one row each."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("id", "name", "status", "phase", "submitted", "seconds"):
        table.add_column(name, no_wrap=name == "id", overflow="fold", justify="right" if name == "seconds" else "left")
    for view in views:
        submitted = view["created_at"][:19].replace("T", " ")
        phase = view["phase"] or NOTHING
        table.add_row(view["id"], Text(view["name"]), view["status"], phase, submitted, f"{view['elapsed_s']:.0f}")
    console.print(table)


def show_search(view: SearchView, front: FrontView, console: Console) -> None:
    """Print a search as it stands, and the front that it knows."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in _standing(view, front):
        facts.add_row(name, Text(text))
    console.print(facts)
    if front["trials"]:
        console.print()
        console.print(front_table(front))


def _standing(view: SearchView, front: FrontView) -> Iterable[tuple[str, str]]:
    progress = view["progress"]
    yield "search", f"{view['name']} ({view['id']})"
    yield "status", view["status"] + (", stopping" if view["stopping"] else "")
    if view["phase"] and not SearchStatus(view["status"]).is_final:
        yield "phase", " ".join(filter(None, [LABELS[Phase(view["phase"])], counted(progress)]))
        left = "" if view["left_s"] is None else f", about {view['left_s']:.0f} s left"
        yield "progress", f"{view['share']:.0%}{left}"
    yield "seconds", f"{view['elapsed_s']:.1f}"
    if view["problem"]:
        yield "problem", f"{view['problem'].get('title', '')}: {view['problem'].get('detail', '')}"
    best = best_so_far(front)
    if best:
        yield "candidates", best


def show_trials(views: Iterable[TrialView], console: Console) -> None:
    """Print candidates, one row each; ~ stands before predicted latencies."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("no", "candidate", "state", "latency, ms", "speedup", "quality", "degradation", "blocks"):
        left = name in ("candidate", "state")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for view in views:
        table.add_row(
            str(view["number"]),
            Text(view["candidate"]),
            view["state"],
            latency_ms(view),
            NOTHING if view["speedup"] is None else f"{view['speedup']:.2f}x",
            NOTHING if view["quality"] is None else f"{view['quality']:.4f}",
            NOTHING if view["degradation"] is None else f"{view['degradation']:+.4f}",
            str(view["blocks"]),
        )
    console.print(table)


def show_keys(views: Iterable[KeyView], console: Console) -> None:
    """Print keys, one row each."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("id", "name", "scope", "begins", "made", "last used", "in force"):
        table.add_column(name, no_wrap=name == "id", overflow="fold")
    for view in views:
        until = f"until {view['expires_at'][:10]}" if view["expires_at"] else "yes"
        table.add_row(
            view["id"],
            Text(view["name"]),
            view["scope"],
            view["shown"],
            view["created_at"][:10],
            (view["last_used_at"] or NOTHING)[:16].replace("T", " "),
            "revoked" if view["revoked_at"] else until,
        )
    console.print(table)


def _answer(result: SearchResult) -> Text:
    fastest = result.fastest
    if fastest.candidate == result.baseline.candidate:
        return Text(
            f"No pattern faster than the baseline {result.baseline.pattern} was proved to lose at most "
            f"{result.max_degradation:.4g} in {_metric(result)}: the baseline itself is the answer.",
            style="bold",
        )
    claims = []
    if fastest.speedup is not None:
        claims.append(f"{fastest.speedup.estimate:.1f}x as fast as this engine's own full adaptation (speedup)")
    if fastest.speedup_over_plain is not None:
        claims.append(f"{fastest.speedup_over_plain.estimate:.1f}x as fast as plain PyTorch (speedup_over_plain)")
    bound = fastest.degradation.upper_bound
    answer = f"{fastest.candidate} adapts {' and '.join(claims)}."
    if bound is not None:
        answer += (
            f" It loses at most {bound:.4f} in {_metric(result)} (upper bound of degradation) "
            f"at {result.confidence:.4g} confidence; {result.max_degradation:.4g} was allowed."
        )
    return Text(answer, style="bold green")


def show_answer(document: dict[str, Any], console: Console) -> None:
    """What a finished search knows for another threshold, in words."""
    threshold, proved = document["max_degradation"], document["answer"]
    if proved is not None:
        console.print(
            f"{proved['candidate']} loses at most {proved['upper_bound']:.4g}, {threshold:.4g} was allowed: it adapts "
            f"{proved['speedup']:.1f}x as fast as this engine's own full adaptation (speedup) and "
            f"{proved['speedup_over_plain']:.1f}x as fast as plain PyTorch (speedup_over_plain)."
        )
        return
    if document["status"] == "answered":
        console.print(f"Nothing faster than the baseline was proved to lose at most {threshold:.4g}.")
        return
    console.print(f"{threshold:.4g} needs evaluation: {document['reason']}.")
    if document["candidates"]:
        console.print(f"Candidates that may qualify: {words.few(document['candidates'])}.")
    console.print(f"Another search takes about {document['estimated_s']:.0f} s; it reuses what is known.")


def _figures_table(result: SearchResult, width: int) -> Table:
    roomy = width >= ROOMY_WIDTH
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1 if roomy else 0))
    table.add_column("", no_wrap=True)
    table.add_column("candidate", overflow="fold")
    table.add_column("steps", justify="right")
    table.add_column("latency median, ms" if roomy else "latency\nms", justify="right")
    table.add_column("speedup", justify="right")
    table.add_column("speedup_over_plain" if roomy else "speedup_\nover_plain", justify="right")
    table.add_column(f"quality: {_metric(result)} [95% interval]" if roomy else "quality\n[95%]", justify="right")
    table.add_column("degradation" if roomy else "degra-\ndation", justify="right")
    table.add_row(*_row("fastest", result.fastest), style="bold green")
    table.add_row(*_row("baseline", result.baseline))
    table.add_section()
    for figures in result.full_by_steps:
        table.add_row(*_row(f"full@{figures.steps}", figures))
    table.add_row(*_row("empty", result.empty))
    return table


def _row(name: str, figures: PatternFigures) -> list[str]:
    latency = figures.latency_s
    return [
        name,
        figures.candidate,
        str(figures.steps),
        NOTHING if latency is None else f"{latency.median * 1e3:.3g}",
        _ratio(figures.speedup),
        _ratio(figures.speedup_over_plain),
        _quality(figures.quality),
        f"{figures.degradation.estimate:+.4f}",
    ]


def _ratio(ratio: Ratio | None) -> str:
    return NOTHING if ratio is None else f"{ratio.estimate:.2f}x"


def _quality(quality: Quality) -> str:
    return f"{quality.estimate:.3f} [{quality.low:.3f}, {quality.high:.3f}]"


def _facts(result: SearchResult) -> Iterable[tuple[str, str]]:
    split, effort, confirmed = result.speedup_split, result.search, result.confirmed
    classes = "" if confirmed.classes is None else f"{confirmed.classes} classes, "
    bound = result.fastest.degradation.upper_bound
    if bound is not None:
        yield "upper bound", f"{bound:+.4f} of the answer's degradation (one-sided)"
    yield "threshold", f"at most {result.max_degradation:.4g} in {_metric(result)} may be lost (max_degradation)"
    yield "speedup", "over this engine's own baseline; speedup_over_plain: over plain PyTorch on the same baseline"
    yield "confidence", f"{result.confidence:.4g}"
    yield "method", words.METHODS.get(result.method, result.method)
    yield "confirmed on", f"{classes}{confirmed.episodes} episodes of split {confirmed.split}"
    if confirmed.class_interval is not None:
        low, high = confirmed.class_interval.low, confirmed.class_interval.high
        yield (
            "other classes",
            f"degradation {low:+.4f} to {high:+.4f}, had other classes been drawn (bootstrap over classes)",
        )
    product = split.steps * split.rows * split.engine
    yield (
        "where it comes from",
        f"speedup_over_plain {product:.2f}x = fewer steps {split.steps:.2f}x * fewer units (rows) {split.rows:.2f}x "
        f"* engine {split.engine:.2f}x",
    )
    if end_to_end := result.fastest.end_to_end_speedup:
        yield "with predictions", f"end_to_end_speedup {end_to_end.estimate:.2f}x, an episode's queries counted in"
    yield (
        "searched",
        f"{effort.judged} of {effort.space_size} candidates judged on up to {effort.episodes} validation episodes, "
        f"fastest first; {len(effort.survived)} survived, {len(result.proved)} tested on confirmation classes",
    )
    yield "method of search", f"{effort.method}: {effort.method_reason}"
    if effort.answered_from is not None:
        yield "answered from", f"search {effort.answered_from}: nothing was evaluated or timed again"
    if result.retrained is not None:
        yield "retrained", _retrained(result.retrained, result)
    low, high = answerable(result)
    if low < high:
        yield "other thresholds", f"{low:.4g} to {high:.4g} are answered with no new evaluation (lambda-search answer)"
    if effort.unresolved:
        yield "unresolved", f"{words.few(effort.unresolved)}: too near the threshold to be told from it"
    yield "statistics", f"norm_statistics {result.norm_statistics}"
    yield "device", f"{words.device(result.device)}, runtime {result.runtime}"
    names = [name for name in (*Phase, "total") if name in result.seconds]
    yield "seconds", ", ".join(f"{name} {result.seconds[name]:.1f}" for name in names)


def _retrained(retrained: Retrained, result: SearchResult) -> str:
    quality, bound = retrained.quality, retrained.degradation.upper_bound
    gain = quality.estimate - result.fastest.quality.estimate
    return (
        f"{retrained.iterations} iterations under {retrained.candidate}: {_metric(result)} {quality.estimate:.4f} "
        f"[{quality.low:.4f}, {quality.high:.4f}], {gain:+.4f} against before; {retrained.state}, loses at most "
        f"{NOTHING if bound is None else f'{bound:.4f}'} (upper bound of degradation, {retrained.episodes} episodes); "
        f"checkpoint {retrained.checkpoint['id'][:12]}"
    )


def _metric(result: SearchResult) -> str:
    metric = result.baseline.quality.metric
    return METRICS.get(metric, metric)
