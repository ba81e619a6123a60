"""Limits of online answers: what is too large is refused with the limit and what to do instead."""

from __future__ import annotations

from engine.assessment import Assessment
from engine.explanation import Explanation
from engine.generation import Generation
from engine.prediction import PredictionPlan
from service.errors import TooLarge

__all__ = [
    "MAX_ANSWER",
    "MAX_FLOPS",
    "MAX_SAMPLES",
    "check_evaluation",
    "check_feedback",
    "check_generation",
    "check_size",
    "check_work",
]

MAX_FLOPS = 2e12
"""Some minutes on one core; 1e6 rows x passes of a small network are a hundredth of it."""
MAX_SAMPLES = 100_000_000
"""Samples held at once."""
MAX_FEEDBACK = 1_000_000
"""Rows of a stored data set that are compared with their truths in one request."""
MAX_ANSWER = 50_000_000
"""Numbers in one answer: 1e6 rows with all default statistics of 5 targets, or of 22 classes. They
are about a gigabyte of JSON, and twice that while it is written."""


def check_size(plan: PredictionPlan, rows: int) -> float:
    """Return about how many floating-point operations an answer takes.

    Raises TooLarge, which names the limit, where it is too much for an online answer.
    """
    flops, samples = plan.cost(rows)
    work = f"{rows} rows x {plan.passes} passes"
    advice = (
        "take POST /predictions, which does the same for a stored data set as a job, or ask for "
        "fewer rows or passes at a time (`row_offset` keeps the random streams)"
    )
    if flops > MAX_FLOPS or samples > MAX_SAMPLES:
        share = max(flops / MAX_FLOPS, samples / MAX_SAMPLES)
        raise TooLarge(
            f"{work} are too much for an online answer, {share:.3g} times the limit of "
            f"{MAX_FLOPS:g} operations and {MAX_SAMPLES} samples of this network; {advice}"
        )
    numbers = plan.answer_size(rows)
    if numbers > MAX_ANSWER:
        raise TooLarge(
            f"the answer would hold about {numbers} numbers, and at most {MAX_ANSWER} are sent; "
            f"{advice}, or ask for fewer `statistics` and `outputs`"
        )
    return flops


def check_work(work: str, flops: float, advice: str) -> float:
    """Return the operations that work on stored rows takes; raises TooLarge, which names it."""
    if flops > MAX_FLOPS:
        raise TooLarge(
            f"{work}, are too much for an online answer, {flops / MAX_FLOPS:.3g} times the limit "
            f"of {MAX_FLOPS:g} operations; {advice}"
        )
    return flops


def check_evaluation(assessment: Assessment) -> float:
    """Return about how many operations an evaluation takes; raises TooLarge."""
    flops = assessment.flops
    if flops > MAX_FLOPS:
        raise TooLarge(
            f"{assessment.total} rows x {assessment.plan.passes} passes and their scores are too "
            f"much for an online answer, {flops / MAX_FLOPS:.3g} times the limit of {MAX_FLOPS:g} "
            "operations; take POST /evaluations, which does the same as a job, or fewer `rows` or "
            "passes"
        )
    return flops


def check_feedback(rows: int) -> None:
    """Raise TooLarge for more rows than are read at once."""
    if rows > MAX_FEEDBACK:
        raise TooLarge(
            f"these are {rows} rows, and feedback is of at most {MAX_FEEDBACK} at a time; name "
            "some by `rows`, and then the others"
        )


def check_explanation(explanation: Explanation, rows: int, flops: float) -> float:
    """Return about how many operations a prediction of `flops` and its explanation take.

    Raises TooLarge where these are too many.
    """
    whole = flops + explanation.cost(rows)
    passes, sites = explanation.plan.passes, len(explanation.sources)
    if whole > MAX_FLOPS:
        raise TooLarge(
            f"{rows} rows x {passes} passes, and as many for each of the {sites} sites that "
            f"`explain` is of, are too much for an online answer, {whole / MAX_FLOPS:.3g} times "
            f"the limit of {MAX_FLOPS:g} operations of this network; ask for fewer rows or passes"
        )
    numbers = explanation.answer_size(rows)
    if numbers > MAX_ANSWER:
        raise TooLarge(
            f"`explain` would take {numbers} numbers, and at most {MAX_ANSWER} are sent; ask for "
            "fewer rows at a time"
        )
    return whole


def check_generation(generation: Generation, rows: int) -> float:
    """Return about how many operations it takes to go on with sequences; raises TooLarge."""
    flops = generation.cost(rows)
    if flops > MAX_FLOPS:
        raise TooLarge(
            f"{generation.spec.steps} steps of {rows} sequences are too much for an online answer, "
            f"{flops / MAX_FLOPS:.3g} times the limit of {MAX_FLOPS:g} operations of this network; "
            "ask for fewer, and go on from what they end with"
        )
    numbers = rows * generation.spec.steps
    if numbers > MAX_ANSWER:
        raise TooLarge(
            f"the answer would hold {numbers} labels, and at most {MAX_ANSWER} are sent; ask for "
            "fewer `steps` or sequences"
        )
    return flops
