"""A result document of the right shape, for whoever shows, stores or asks one."""

from __future__ import annotations

from typing import Any

UNITS = ["conv1", "conv2", "conv3", "conv4", "head"]
LATENCY_OF_BASELINE = 0.048  # seconds
ENGINE = 1.62


def latency(median: float) -> dict[str, Any]:
    return {"median": median, "p10": median * 0.97, "p90": median * 1.06, "samples": 120}


def ratio(estimate: float) -> dict[str, float]:
    return {"estimate": estimate, "low": estimate * 0.98, "high": estimate * 1.02}


def figures(row: str, steps: int, median: float | None, quality: float, bound: float | None = None) -> dict[str, Any]:
    count = f"@{steps}" if steps > 1 else ""
    speedup = None if median is None else LATENCY_OF_BASELINE / median
    return {
        "pattern": f"{row}{count}",
        "precision": "float32",
        "layout": None if median is None else "channels_last",
        "multiply_adds": None if median is None else 53_000_000 * steps,
        "compilation": None,
        "rows": [row] * steps,
        "units": UNITS,
        "steps": steps,
        "rates": [0.1] * steps,
        "rate_factors": [1.0] * steps,
        "latency_s": None if median is None else latency(median),
        "prediction_latency_s": {"one_query": latency(0.0011), "all_queries": latency(0.019)},
        "speedup": None if speedup is None else ratio(speedup),
        "speedup_over_plain": None if speedup is None else ratio(speedup * ENGINE),
        "end_to_end_speedup": None if median is None else ratio((LATENCY_OF_BASELINE + 0.019) / (median + 0.019)),
        "quality": {"metric": "accuracy", "estimate": quality, "low": quality - 0.009, "high": quality + 0.009},
        "degradation": {
            "estimate": 0.876 - quality,
            "low": 0.873 - quality,
            "high": 0.879 - quality,
            "upper_bound": bound,
        },
    }


def front_point(pattern: str, median: float, quality: float) -> dict[str, Any]:
    return {
        "pattern": pattern,
        "rate_factors": [1.0] * int(pattern.partition("@")[2] or 1),
        "precision": "float32",
        "latency_s": median,
        "speedup": LATENCY_OF_BASELINE / median,
        "quality": quality,
        "degradation": 0.88 - quality,
        "degradation_low": 0.876 - quality,
        "degradation_high": 0.884 - quality,
    }


def made_up_result(**changes: Any) -> dict[str, Any]:
    """A search that was answered with `00111@2`."""
    full = [(0.0102, 0.851), (0.0197, 0.868), (0.0291, 0.873), (0.0386, 0.875), (LATENCY_OF_BASELINE, 0.876)]
    return {
        "search_id": "8a2fe0f0-9bd6-4d4c-8a70-6f4f4f0f1c2d",
        "status": "succeeded",
        "fastest": figures("00111", 2, 0.0058, 0.8745, bound=0.0068),
        "baseline": figures("11111", 5, LATENCY_OF_BASELINE, 0.876, bound=0.0),
        "empty": figures("00000", 0, None, 0.204) | {"pattern": "00000"},
        "full_by_steps": [figures("11111", steps, *point) for steps, point in enumerate(full, start=1)],
        "speedup_split": {"steps": 48 / 19.7, "rows": 19.7 / 5.8, "engine": ENGINE},
        "max_degradation": 0.01,
        "confidence": 0.95,
        "method": "betting",
        "goal": "fastest",
        "proved": [
            {
                "candidate": "00111@2",
                "latency_s": 0.01,
                "speedup": 8.0,
                "speedup_over_plain": 12.0,
                "quality": 0.9,
                "degradation": 0.001,
                "upper_bound": 0.008,
                "episodes": 600,
                "position": 2,
                "state": "qualified",
            }
        ],
        "confirmed": {
            "split": "test",
            "classes": 423,
            "episodes": 600,
            "position": 2,
            "alpha": 0.0125,
            "class_interval": {"low": -0.001, "high": 0.004},
        },
        "search": {
            "episodes": 200,
            "judged": 155,
            "space_size": 155,
            "dropped": 60,
            "survived": ["00111@2", "00111@3", "01111@3"],
            "qualified": ["00111@2"],
            "unqualified": ["00111"],
            "untested": ["00111@3", "01111@3"],
            "unresolved": ["00011", "00110"],
            "method": "ordered",
            "method_reason": "asked for",
            "predicted": {
                "calibrated_on": 20,
                "median_error": 0.01,
                "largest_error": 0.05,
                "rank_correlation": 0.99,
            },
            "episode_adaptations": 31000,
            "image_passes": 2480000,
            "reused_evaluations": 0,
            "answered_from": None,
        },
        "front": [
            front_point("00111", 0.0041, 0.868),
            front_point("00111@2", 0.0058, 0.8766),
            front_point("00111@3", 0.0079, 0.8787),
            front_point("01111@3", 0.0136, 0.8795),
        ],
        "checkpoint": {"id": "c0ffee", "tasks": {"family": "omniglot", "ways": 5, "shots": 1, "queries": 15}},
        "norm_statistics": "support",
        "device": {"class": "cpu", "processor": "A made-up processor", "threads": 2, "torch": "2.13.0"},
        "runtime": "eager",
        "seconds": {
            # as Postgres gives them: by length of name
            "total": 485.9,
            "search": 88.4,
            "timing": 41.0,
            "baseline": 6.1,
            "calibration": 12.0,
            "certificate": 35.7,
            "meta_training": 301.2,
        },
        "warnings": [],
        "retrained": None,
        **changes,
    }
