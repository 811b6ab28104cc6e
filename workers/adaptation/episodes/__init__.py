"""Task families and the episodes drawn from them; numpy only."""

from workers.adaptation.episodes.episode import EpisodeBatch, Episodes
from workers.adaptation.episodes.families import open_task_family, unavailable_reason

__all__ = ["EpisodeBatch", "Episodes", "open_task_family", "unavailable_reason"]
