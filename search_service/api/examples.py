"""Specs that run as they stand, for the API's description and for the form."""

from __future__ import annotations

from fastapi.openapi.models import Example

SPEC_EXAMPLES: dict[str, Example] = {
    "glyphs": {
        "summary": "characters that the service draws itself: nothing to download, about a minute on two cores",
        "value": {
            "name": "glyphs, 5-way 1-shot",
            "tasks": {"family": "glyphs", "ways": 5, "shots": 1, "queries": 15},
            "model": {"network": "conv4", "filters": 16, "pooling": "max"},
            "meta_training": {"order": "first", "inner_steps": 5, "inner_rate": 0.1, "iterations": 250},
            "max_degradation": 0.02,
            "episodes": {"validation": 160, "confirmation": 1600},
        },
    },
    "omniglot": {
        "summary": "real handwriting: needs the Omniglot drawings, about five minutes on two cores",
        "value": {
            "name": "omniglot, 5-way 1-shot",
            "tasks": {"family": "omniglot", "ways": 5, "shots": 1, "queries": 15},
            "model": {"network": "conv4", "filters": 32, "pooling": "max"},
            "meta_training": {
                "order": "second",
                "inner_steps": 5,
                "inner_rate": 0.1,
                "meta_batch": 4,
                "iterations": 900,
            },
            "norm_statistics": "support",
            "max_degradation": 0.01,
        },
    },
    "sinusoid": {
        "summary": "regression: a fifth of the baseline's error may be lost, half a minute on two cores",
        "value": {
            "name": "sinusoid, 10-shot",
            "tasks": {"family": "sinusoid", "shots": 10, "queries": 50},
            "model": {"network": "mlp", "hidden": [40, 40]},
            "meta_training": {
                "order": "second",
                "inner_steps": 5,
                "inner_rate": 0.01,
                "meta_batch": 25,
                "iterations": 3000,
            },
            "max_degradation": 0.2,
            "degradation": "relative",
            "degradation_bound": 5,
        },
    },
}
"""Specs that the form and the API's description offer: those of the folder ``examples``."""
