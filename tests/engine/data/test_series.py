"""Tables as series: windows are what a loop would cut out, and parts never share a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.dataset import Data
from engine.data.division import divide, validation_rows
from engine.data.encoding import Encoding
from engine.data.inputs import Inputs
from engine.data.profile import profile
from engine.data.scaling import Scaled
from engine.data.selection import select
from engine.data.series import Series
from engine.data.windows import Windows
from engine.errors import DataError, EngineError, SpecError
from engine.plan import TrainingPlan, plan_training
from engine.spec import SequenceSpec, TrainSpec
from engine.training import Training, TrainingData
from tests.engine.networks import only

LAST = [None, 4, {"form": "last"}, None]
EACH = [None, 4, None]


def table(**columns: Any) -> Data:
    return Data(
        table=pa.table(
            {
                name: pa.array(values, pa.large_string())
                if isinstance(values[0], str)
                else pa.array(values)
                for name, values in columns.items()
            }
        )
    )


def series_of(lengths: list[int], seed: int = 0) -> Data:
    """Series `g` of these lengths, `t` in order, shuffled; `x` counts all rows in order."""
    total = sum(lengths)
    codes = np.repeat(np.arange(len(lengths)), lengths)
    times = np.concatenate([np.arange(length) for length in lengths])
    order = np.random.default_rng(seed).permutation(total)
    return table(
        g=[f"s{code:03}" for code in codes[order]],
        t=times[order].astype(np.int64),
        x=np.arange(total, dtype=np.float64)[order],
        y=np.arange(total, dtype=np.float64)[order] * 10,
    )


def planned(data: Data, layers: list[Any] = LAST, other: Data | None = None, **spec: Any) -> Any:
    sequence = {"group": "g", "order": "t", "window": 3, **spec.pop("sequence", {})}
    body = {"network": {"layers": layers}, "sequence": sequence, "targets": ["y"], **spec}
    return plan_training(TrainSpec.model_validate(body), data, other)


def counted(plan: TrainingPlan, data: Data, rows: Any) -> tuple[Any, Any]:
    """The windows' values of `x` and `y`, in their own units: rows counted in sorted order."""
    x = only(plan.encoding.encode_inputs(data, rows))[:]
    (field, *_) = (f for f in plan.encoding.inputs if isinstance(f, Scaled) and f.name == "x")
    column = [f.name for f in plan.encoding.inputs].index("x")
    inputs = np.rint(x[..., column] * np.asarray(field.scale) + field.mean).astype(int)
    truth = np.rint(plan.encoding.encode_truth(data, rows)[:][..., 0] / 10).astype(int)
    return inputs, truth


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    window=st.integers(1, 4),
    horizon=st.integers(0, 3),
    stride=st.integers(1, 4),
    each=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_windows_are_what_a_loop_cuts_out(
    lengths: list[int], window: int, horizon: int, stride: int, each: bool
) -> None:
    data = series_of(lengths)
    starts = np.cumsum([0, *lengths])
    expected = [
        (range(at, at + window), range(at + horizon, at + horizon + window))
        for start, length in zip(starts, lengths, strict=False)
        for at in range(start, start + length - window - horizon + 1, stride)
    ]
    sequence = {"window": window, "horizon": horizon, "stride": stride}
    if not expected:
        with pytest.raises(SpecError, match="no window is left") as caught:
            planned(data, sequence=sequence, validation=None)
        assert caught.value.pointer == "#/sequence/window"
        return
    layers = EACH if each else LAST
    plan = planned(data, layers, sequence=sequence, validation=None, inputs=["x"])
    inputs, truth = counted(plan, data, plan.split.train)
    by_start = np.argsort(inputs[:, 0])
    assert inputs[by_start].tolist() == [list(read) for read, _ in expected]
    assert truth[by_start].tolist() == [list(said) if each else said[-1] for _, said in expected]
    short = sum(length < window + horizon for length in lengths)
    assert [text for text in plan.warnings if "left out" in text] == (
        [
            f"{short} of {len(lengths)} series are shorter than the {window + horizon} rows of a "
            "window and its targets, and are left out"
        ]
        if short
        else []
    )


@given(
    lengths=st.lists(st.integers(4, 30), min_size=1, max_size=6),
    window=st.integers(1, 4),
    horizon=st.integers(0, 2),
    fraction=st.sampled_from([0.1, 0.3, 0.6]),
    by=st.sampled_from(["time", "group", None]),
)
@settings(max_examples=60, deadline=None)
def test_no_row_is_read_in_training_and_in_validation(
    lengths: list[int], window: int, horizon: int, fraction: float, by: Any
) -> None:
    data = series_of(lengths)
    sequence = {"window": window, "horizon": horizon}
    column = {"group": {"group": "g"}, "time": {"time": "t"}, None: {}}[by]
    validation = {"fraction": fraction, **column}
    try:
        plan = planned(data, sequence=sequence, validation=validation, inputs=["x"])
    except SpecError:
        return
    series = Series.of(data, plan.encoding.sequence)
    read = [
        set(series.covered(rows, window)[0]) | set(series.ahead(rows, horizon).tolist())
        for rows in (plan.split.train, plan.split.valid)
    ]
    assert not read[0] & read[1]
    assert set(plan.split.learn) <= set(range(data.rows)) - read[1]
    groups = data.column("g")
    train, valid = (set(groups[rows]) for rows in (plan.split.train, plan.split.valid))
    if by == "group":
        assert not train & valid
    if by != "group" and valid & train:
        ends = {g: data.column("t")[plan.split.valid][groups[plan.split.valid] == g] for g in valid}
        for g in valid & train:
            times = ends[g]
            mine = plan.split.train[groups[plan.split.train] == g]
            assert data.column("t")[mine].max() + horizon < times.min() - window + 1


def test_the_scale_is_learnt_on_training_rows_only() -> None:
    data = series_of([40])
    plan = planned(data, sequence={"window": 4}, validation=0.25, inputs=["x"])
    rows = plan.split.learn
    assert plan.encoding.inputs[0].model_dump()["mean"] == pytest.approx(
        data.column("x")[rows].mean()
    )
    assert len(rows) < 40 - 4


def test_past_targets_are_inputs_unless_the_target_is_at_the_same_step() -> None:
    data = series_of([20])
    assert planned(data).selection.inputs == ("x", "y")
    assert planned(data, sequence={"horizon": 0}).selection.inputs == ("x",)
    assert planned(data, inputs=["*"]).selection.inputs == ("x", "y")
    assert planned(data, inputs=["*", "t"]).selection.inputs == ("t", "x", "y")
    assert planned(data, inputs=["x"]).selection.inputs == ("x",)
    with pytest.raises(SpecError, match="'y' is a target") as caught:
        planned(data, sequence={"horizon": 0}, inputs=["y"])
    assert caught.value.pointer == "#/inputs/0"
    body = {"network": {"layers": LAST}, "sequence": {"order": "y", "window": 2}}
    assert plan_training(TrainSpec.model_validate(body), data).selection.targets == ("x",)


def test_whole_series_are_sequences_of_one_length() -> None:
    data = series_of([6] * 10)
    plan = planned(data, EACH, sequence={"window": None}, validation=0.2)
    assert plan.encoding.sequence.window == 5
    assert (len(plan.split.train), len(plan.split.valid)) == (8, 2)
    whole = planned(data, sequence={"window": None, "horizon": 0}, validation=None)
    assert whole.encoding.input_shapes == {"in": (6, 1)}
    with pytest.raises(
        SpecError, match=r"these have 5 \(1 series\), 6 \(2 series\) rows"
    ) as caught:
        planned(series_of([6, 5, 6]), sequence={"window": None})
    assert caught.value.pointer == "#/sequence/window"


def test_rows_limit_windows_to_those_that_lie_within() -> None:
    data = table(t=list(range(20)), y=[float(i) for i in range(20)])
    rows = [*range(8), *range(9, 20)]
    body = {
        "network": {"layers": LAST},
        "sequence": {"order": "t", "window": 3},
        "rows": rows,
        "validation": {"rows": list(range(14, 20))},
    }
    plan = plan_training(TrainSpec.model_validate(body), data)
    assert plan.split.train.tolist() == [2, 3, 4, 5, 6, 11, 12]
    assert plan.split.valid is not None
    assert plan.split.valid.tolist() == [16, 17, 18]


def test_a_validation_data_set_gives_all_of_its_windows() -> None:
    plan = planned(series_of([9]), other=series_of([5, 2, 4]), validation={"dataset": "ds_x"})
    assert plan.valid_rows == 2 + 0 + 1
    assert len(validation_rows(plan.encoding, series_of([5, 2, 4]))) == 3


def test_what_stands_at_the_same_time_keeps_its_order_and_is_told() -> None:
    data = table(t=[1, 1, 2, 3, 4, 5, 6, 7], y=[float(i) for i in range(8)])
    body = {"network": {"layers": LAST}, "sequence": {"order": "t", "window": 2}}
    plan = plan_training(TrainSpec.model_validate({**body, "validation": None}), data)
    assert any("1 rows stand at the same 't'" in text for text in plan.warnings)


@pytest.mark.parametrize(
    ("spec", "pointer", "says"),
    [
        ({"sequence": {"group": "z"}}, "#/sequence/group", "these exist: g, t, x, y"),
        ({"sequence": {"order": "z"}}, "#/sequence/order", "no column 'z'"),
        ({"sequence": {"order": "g"}}, "#/sequence/order", "holds text"),
        ({"sequence": {"group": "t"}}, "#/sequence/order", "both"),
        ({"sequence": {"window": 50}}, "#/sequence/window", "the longest series has 9"),
        ({"sequence": {"horizon": 50}}, "#/sequence/window", "takes 53 rows"),
        ({"sequence": {"window": 8}, "validation": 0.5}, "#/validation", "18 rows, or two series"),
        (
            {"validation": {"fraction": 0.1, "group": "g"}}, "#/validation/group", "of one group",
        ),
        (
            {"validation": {"fraction": 0.1, "stratify": "g"}}, "#/validation/stratify", "drawn",
        ),
        ({"validation": {"fraction": 0.1, "time": "t"}}, "#/validation", "no window lies within"),
        ({"validation": {"fraction": 0.5}, "sequence": {"window": 8}}, "#/validation/fraction", ""),
        ({"validation": {"rows": [0, 1]}}, "#/validation", "no window lies within"),
        ({"inputs": ["g*"]}, "#/inputs/0", "inputs where they are named"),
        ({"targets": None, "inputs": ["q"]}, "#/inputs/0", "matches no column"),
        ({"layers": EACH, "sequence": {"predict": "last"}}, "#/network/layers/2", "'last'"),
        ({"layers": LAST, "sequence": {"predict": "each"}}, "#/network/layers/3", "steps"),
        (
            {"network": {"form": "autoencoder", "layers": EACH}, "targets": None,
             "sequence": {"horizon": 1}}, "#/sequence/horizon", "leave",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_makes_no_sequences_is_pointed_at(
    spec: dict[str, Any], pointer: str, says: str
) -> None:
    with pytest.raises(EngineError) as caught:
        planned(series_of([9]), **spec)
    assert caught.value.pointer == pointer
    assert says in caught.value.detail


def test_a_row_needs_its_place() -> None:
    times = [*map(float, range(9)), None]
    data = table(g=["a"] * 9 + ["b"], t=times, y=[*map(float, range(10))])
    with pytest.raises(DataError, match="'t' has 1 missing") as caught:
        planned(data)
    assert caught.value.pointer == "#/sequence/order"
    assert len(planned(data, rows=list(range(9)), validation=None).split.train) == 6
    arrays = Data(arrays={"x": np.eye(3), "y": np.arange(3.0)})
    with pytest.raises(SpecError, match="are arrays") as caught2:
        planned(arrays, targets=None)
    assert caught2.value.pointer == "#/sequence"


def test_validation_windows_of_unseen_classes_are_left_out() -> None:
    labels = list("abab" * 10)
    labels[-1] = "c"
    data = table(t=list(range(40)), y=labels)
    body = {"network": {"layers": EACH}, "sequence": {"order": "t", "window": 3}, "validation": 0.2}
    plan = plan_training(TrainSpec.model_validate(body), data)
    assert plan.encoding.classes == ("a", "b")
    assert any("validation windows have classes" in text for text in plan.warnings)
    assert plan.split.valid is not None
    assert 38 not in plan.split.valid


def test_overlapping_windows_share_their_rows() -> None:
    """A window of 1000 of 3000 rows, a thousand times over, takes no more than the rows."""
    data = table(t=list(range(3000)), y=[float(i) for i in range(3000)])
    spec = TrainSpec.model_validate(
        {"network": {"layers": LAST}, "sequence": {"order": "t", "window": 1000}}
    )
    selection = select(profile(data), spec)
    chosen, sequence, _ = divide(spec, data, selection, None)
    assert chosen.learn is not None
    encoding = Encoding.fit(data, selection, chosen.learn, sequence=sequence)
    x = only(encoding.encode_inputs(data, chosen.train))
    assert x.values.nbytes <= 3000 * 4
    assert x.shape == (len(chosen.train), 1000, 1)
    assert x[:2].shape == (2, 1000, 1)


def test_records_of_sequences_are_pointed_at() -> None:
    data = series_of([20])
    encoding = planned(data, sequence={"window": 2}).encoding
    step = {"x": 1, "y": 2}
    rows = only(encoding.encode_records([[step, step], [[1, 2], [1, 2]]][:1]))
    assert rows.shape == (1, 2, 2)
    same = only(encoding.encode_records({"x": [[1, 1]], "y": [[2, 2]], "g": "any"}))
    assert np.array_equal(rows, same)
    assert np.array_equal(rows, only(encoding.encode_records([[[1, 2], [1, 2]]])))
    odd: list[tuple[Any, str]] = [
        ([], "#/inputs"),
        ("x", "#/inputs"),
        ([step], "#/inputs/0"),
        ([[step]], "#/inputs/0"),
        ([[step, step], [step]], "#/inputs/1"),
        ([[step, {"x": 1}]], "#/inputs/0/1/y"),
        ([[step, {**step, "z": 1}]], "#/inputs/0/1"),
        ([[step, step], [step, {"x": "a", "y": 1}]], "#/inputs/1/1/x"),
        ([[step, [1, 2]]], "#/inputs/0/1"),
        ([[[1, 2], [1, "a"]]], "#/inputs/0/1/1"),
        ([[[1, 2], [1]]], "#/inputs/0/1"),
        ([[1, 2]], "#/inputs/0/0"),
        ({"x": [[1, 1]]}, "#/inputs/y"),
        ({"x": [[1, 1]], "y": [[1, 1], [2, 2]]}, "#/inputs/y"),
        ({"x": [[1, 1]], "y": [[1, "a"]]}, "#/inputs/y/0/1"),
        ({"x": [1], "y": [1]}, "#/inputs/x/0"),
        ({"x": 1, "y": [1]}, "#/inputs/x"),
        ({}, "#/inputs/x"),
    ]
    for inputs, pointer in odd:
        with pytest.raises(DataError) as caught:
            encoding.encode_records(inputs)
        assert caught.value.pointer == pointer, inputs


def test_a_window_of_a_series_must_end_where_it_is_asked_for() -> None:
    data = table(t=list(range(9)), y=[float(i) for i in range(9)])
    spec = SequenceSpec(order="t", window=3, horizon=1, predict="last")
    body = {"network": {"layers": LAST}, "sequence": spec.model_dump(), "validation": None}
    encoding = plan_training(TrainSpec.model_validate(body), data).encoding
    assert encoding.stored_rows(data).tolist() == list(range(2, 9))
    with pytest.raises(DataError, match="row 1 is number 2 of its series") as caught:
        encoding.encode_inputs(data, np.array([5, 1]))
    assert caught.value.pointer == "#/inputs/rows/1"
    with pytest.raises(DataError, match="no series of the data set has the 3 rows"):
        encoding.stored_rows(table(t=[1, 2], y=[1.0, 2.0]))


def test_training_on_windows_is_training_on_their_copies_to_the_bit() -> None:
    layers = [None, [5, "rnn"], None]
    data = series_of([30, 25])
    spec: dict[str, Any] = {
        "sequence": {"window": 6},
        "epochs": 2,
        "batch_size": 7,
        "hidden_dropout": 0.2,
    }
    plan = planned(data, layers, validation=0.2, **spec)

    def trained(change: Any) -> dict[str, Any]:
        parts = []
        for rows in (plan.split.train, plan.split.valid):
            x = plan.encoding.encode_inputs(data, rows)
            y = plan.encoding.encode_targets(data, rows)
            assert isinstance(y, Windows)
            parts.append(TrainingData(x=Inputs({"in:out": change(only(x))}), y=change(y)))
        training = Training(plan.graph, plan.spec, plan.regularizers, *parts)
        for _ in training:
            pass
        return training.kept_parameters()

    gathered = trained(lambda windows: windows.map(torch.from_numpy))
    copied = trained(lambda windows: torch.from_numpy(windows[:]))
    for name, value in gathered.items():
        assert np.array_equal(value, copied[name]), name
