"""Which task family is drawn by what."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from search_service.domain.errors import DatasetUnavailable
from search_service.domain.search import TaskFamily
from workers.adaptation.episodes.classification import ClassificationEpisodes
from workers.adaptation.episodes.episode import Episodes
from workers.adaptation.episodes.glyphs import GlyphPool
from workers.adaptation.episodes.omniglot import OMNIGLOT_FILE, OmniglotPool, load_omniglot, omniglot_unavailable
from workers.adaptation.episodes.sinusoid import SinusoidEpisodes


def open_task_family(task: TaskFamily, data_dir: Path | None) -> Episodes:
    """Make ready to draw the episodes of ``task``. Pools of drawings are kept for the next call in this process.

    Args:
        task: the family, its ways, shots and queries.
        data_dir: where datasets are kept, for the families that need one.

    Raises:
        DatasetUnavailable: the drawings are not in ``data_dir``, are corrupt, or too few for ``task``.
    """
    match task.family:
        case "sinusoid":
            return SinusoidEpisodes(task)
        case "glyphs":
            return ClassificationEpisodes(task, _glyph_pool())
        case "omniglot":
            return ClassificationEpisodes(task, _omniglot_pool(data_dir, _stamp(data_dir)))


def unavailable_reason(family: str, data_dir: Path | None) -> str | None:
    """Why no episodes of ``family`` can be drawn on this machine, or None if they can. Cheap: loads no drawings."""
    match family:
        case "sinusoid" | "glyphs":
            return None
        case "omniglot":
            return omniglot_unavailable(data_dir)
        case _:
            return f"there is no task family '{family}'"


@lru_cache(maxsize=1)
def _glyph_pool() -> GlyphPool:
    return GlyphPool()


@lru_cache(maxsize=1)
def _omniglot_pool(data_dir: Path | None, stamp: tuple[int, int] | None) -> OmniglotPool:
    """The pool; ``stamp`` is there so that a replaced file is read again."""
    return OmniglotPool(load_omniglot(data_dir))


def _stamp(data_dir: Path | None) -> tuple[int, int] | None:
    """Time of change (nanoseconds) and size (bytes) of the converted file, or None without one.

    Raises:
        DatasetUnavailable: the folder may not be read.
    """
    if data_dir is None:
        return None
    try:
        stat = (data_dir / OMNIGLOT_FILE).stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DatasetUnavailable("omniglot", f"{data_dir / OMNIGLOT_FILE} cannot be read ({error})") from error
    return stat.st_mtime_ns, stat.st_size
