"""What a calibration asks for, checked against its network before anything is computed."""

from __future__ import annotations

from engine.conformal import Score, least_rows
from engine.errors import EngineError, SpecError
from engine.graph import Graph
from engine.prediction_checks import acting_regularizers
from engine.regularizers import Regularizer, is_stochastic
from engine.spec import PredictSpec, RegularizationSpec, ScoreSpec, Statistic

__all__ = [
    "OF_CLASSES",
    "calibrated_passes",
    "check_noise",
    "check_rows",
    "check_scores",
    "score_of",
    "temperature_rows",
]

OF_CLASSES = ("aps", "raps", "lac")
_OF_NUMBERS = ("absolute", "normalised")


def check_scores(
    graph: Graph, trained: tuple[Regularizer, ...], asked: ScoreSpec, pointer: str
) -> None:
    """Refuse a way of predicting, or a score, that the network has not.

    `trained` is what drops and adds noise in training; `pointer` where `asked` stands.
    """
    score = score_of(graph, asked)
    known = OF_CLASSES if graph.form == "classifier" else _OF_NUMBERS
    if score not in known:
        raise SpecError(
            f"a {graph.form} has no {score!r} scores; it has {', '.join(known)}",
            pointer=f"{pointer}/score",
        )
    if asked.temperature is not None and graph.form != "classifier":
        raise SpecError(
            f"a {graph.form} has no probabilities to soften; leave `temperature` out",
            pointer=f"{pointer}/temperature",
        )
    try:
        acting = acting_regularizers(graph, trained, calibrated_passes(asked, score), alone=False)
    except EngineError as error:
        error.pointer = pointer + error.pointer.removeprefix("#")
        raise
    if score != "normalised":
        return
    if asked.num_samples == 1 or not is_stochastic(acting):
        what = "one pass has" if asked.num_samples == 1 else "passes that are all the same have"
        raise SpecError(
            f"`normalised` scores divide by the `std` over the passes, and {what} none; take "
            "'absolute', or give rates and `num_samples`",
            pointer=f"{pointer}/score",
        )


def check_rows(graph: Graph, asked: ScoreSpec, rows: int, pointer: str) -> None:
    """Raise SpecError where so many rows are too few for the coverage."""
    temperature = temperature_rows(graph, asked, rows)
    least, left = least_rows(asked.coverage), rows - temperature
    if left >= least:
        return
    half = (
        f"; of {rows} rows {temperature} fit the temperature, which `temperature` false leaves out"
        if temperature
        else ""
    )
    raise SpecError(
        f"a coverage of {asked.coverage!r} takes at least {least} calibration rows, "
        f"ceil(1 / (1 - coverage)) - 1, and these are {left}; give more rows, or ask for less "
        f"coverage{half}",
        pointer=pointer,
    )


def check_noise(graph: Graph, pointer: str) -> None:
    """Refuse to fit the noise of what has none, or says it itself."""
    if graph.form == "classifier":
        raise SpecError(
            "a classifier has no noise precision; leave `noise_precision` out", pointer=pointer
        )
    if graph.noise_output is not None:
        raise SpecError(
            f"the network says its noise itself, as {graph.noise_output!r}; leave "
            "`noise_precision` out",
            pointer=pointer,
        )


def score_of(graph: Graph, asked: ScoreSpec) -> Score:
    """Return the score that is asked for, or a network's own."""
    if asked.score is not None:
        return asked.score
    return "aps" if graph.form == "classifier" else "absolute"


def temperature_rows(graph: Graph, asked: ScoreSpec, rows: int) -> int:
    """Return how many of so many rows fit the temperature: half, of which the scores see none."""
    return rows // 2 if graph.form == "classifier" and asked.temperature is not False else 0


def calibrated_passes(asked: ScoreSpec, score: Score, *needed: Statistic) -> PredictSpec:
    """Return the passes that are to be calibrated, as a prediction asks for them."""
    acting = {name: getattr(asked, name) for name in RegularizationSpec.model_fields}
    if not needed:
        needed = ("probabilities",) if score in OF_CLASSES else ("mean",)
    if score == "normalised":
        needed = (*needed, "std")
    return PredictSpec.model_construct(
        **acting, num_samples=asked.num_samples, masks=asked.masks, statistics=needed
    )
