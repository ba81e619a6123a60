"""Feedback: what was observed of rows that a model predicts."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, Strict

from engine.spec.values import Seed, Spec


class FeedbackSpec(Spec):
    """What was observed, and the passes that it is compared with."""

    targets: (
        Annotated[
            list[Any] | dict[str, Any],
            Field(examples=[[22.1, 19.0], ["cat", "dog"], {"price": [22.1], "area": [80]}]),
        ]
        | None
    ) = None
    """In original units, or labels: a list of what each row has (of several targets a list or an
    object), or one object of columns by target. Those of the stored data set that `inputs` name,
    when absent."""
    num_samples: Annotated[int, Strict(), Field(ge=1, le=100_000)] | None = None
    """Number of passes of a model that is not calibrated, 100 by default; a calibrated one is
    compared by the way of predicting that it was calibrated for."""
    seed: Seed | None = None
    """Of the passes; drawn when absent."""
