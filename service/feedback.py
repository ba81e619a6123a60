"""Feedback as it is asked for and answered: rows whose truths have become known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from engine.errors import SpecError
from engine.feedback import Feedback, new_record
from engine.spec import FeedbackSpec
from engine.track_record import Scores, Stretch, TrackRecord

__all__ = ["Compared", "FeedbackRequest", "refuse_imported"]


class FeedbackRequest(FeedbackSpec):
    """Rows, and what was observed of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"inputs": [{"rooms": 6.5, "age": 65.2}], "targets": [24.0]},
                {"inputs": {"dataset": "ds_01k9t3v5rqk2m8xw4c7h1n6b0e"}},
            ]
        }
    )

    inputs: Annotated[
        list[Any] | dict[str, Any],
        Field(examples=[[[0.1, 0.2]], [{"age": 40, "bmi": 23.1}], {"age": [40], "bmi": [23.1]}]),
    ]
    """Rows as lists or objects, one object of columns, or rows of a stored data set."""

    def spec(self) -> FeedbackSpec:
        """Return the engine's part of the request."""
        return FeedbackSpec.model_construct(
            **{name: getattr(self, name) for name in FeedbackSpec.model_fields}
        )


def refuse_imported(document: Mapping[str, Any]) -> None:
    """Raise SpecError for a model that is nothing but weights."""
    if document["spec"] is None:
        raise SpecError(
            "the model was imported as weights, with neither targets of its own nor passes that it "
            "was trained or calibrated for; feedback is of models that were trained, here or where "
            "their bundle comes from"
        )


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What rows came to, before it is added to what is known of their model."""

    model: str
    feedback: Feedback
    scores: Scores
    is_seed_given: bool

    def added(
        self, old: Mapping[str, Any] | None, at: datetime
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the record with these rows, and what is said of them and of it."""
        plan = self.feedback.plan
        record = new_record(plan.model) if old is None else TrackRecord.model_validate(old)
        new = record.added(self.scores, at)
        told = new.described()
        answer = {
            "model": self.model,
            "added": new.scores(Stretch.of(self.scores, at)),
            "totals": told["totals"],
            "recent": told["recent"],
            "num_samples": plan.num_samples,
            "seed": plan.seed if plan.draws or self.is_seed_given else None,
            "warnings": [*plan.warnings, *told["warnings"]],
        }
        return new.model_dump(mode="json"), answer
