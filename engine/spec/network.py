"""Networks: layers, activations, losses."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    Strict,
    model_validator,
)

from engine.spec.losses import LossForm, LossSpec
from engine.spec.values import (
    MAX_ENTRIES,
    MAX_LAYERS,
    Count,
    Form,
    LayerName,
    NonNegative,
    OutputName,
    Pattern,
    Real,
    Size,
    SparseSpec,
    Spec,
    at_most,
)

LayerForm = Literal[
    "input",
    "ff",
    "softmax",
    "tied",
    "product",
    "concatenate",
    "add",
    "last",
    "rnn",
    "rrnn",
    "mrnn",
    "lstm",
    "gru",
    "clockwork",
    "mut1",
    "scrn",
    "bcrnn",
    "bidirectional",
    "layer_norm",
    "conv1",
    "conv2",
    "pool1",
    "pool2",
    "flatten",
    "reshape",
]
_SPELLINGS = {
    "feedforward": "ff",
    "classifier": "softmax",
    "logistic": "sigmoid",
    "leaky-relu": "prelu",
    "leaky-gain-relu": "lgrelu",
    "prod": "product",
    "concat": "concatenate",
    "layernorm": "layer_norm",
    "back": "backwards",
    "backward": "backwards",
    "flat": "flatten",
    "average_exc_pad": "mean",
    "average_inc_pad": "mean",
}

ACTIVATIONS: tuple[str, ...] = (
    "linear",
    "relu",
    "tanh",
    "sigmoid",
    "softplus",
    "softmax",
    "elu",
    "gelu",
    "silu",
    "rect:max",
    "rect:min",
    "rect:minmax",
    "norm:mean",
    "norm:max",
    "norm:std",
    "norm:z",
    "prelu",
    "lgrelu",
    "maxout:k",
)
_MAXOUT = re.compile(r"maxout:([1-9][0-9]{0,2})")


def _known_activation(value: str) -> str:
    """Check the name of an activation, or of several joined by `+`, applied from left to right."""
    names = [_SPELLINGS.get(part, part) for part in value.split("+")]
    for name in names:
        is_known = name in ACTIVATIONS and name != "maxout:k"
        if not is_known and _MAXOUT.fullmatch(name) is None:
            raise ValueError(
                f"there is no activation {name!r}; there are {', '.join(ACTIVATIONS)} "
                "(k pieces, 1 to 999), and several joined by '+'"
            )
    return "+".join(names)


Activation = Annotated[str, Field(max_length=200), AfterValidator(_known_activation)]

LAYER_FORMS: tuple[str, ...] = LayerForm.__args__  # type: ignore[attr-defined]


def _spelling(value: Any) -> Any:
    """Map the other spellings that theanets and the field use onto ours."""
    return _SPELLINGS.get(value, value) if isinstance(value, str) else value


def _one_or_several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


LayerInputs = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=128)], ...],
    Field(min_length=1, max_length=64),
    BeforeValidator(_one_or_several),
]


LayerColumns = Annotated[
    tuple[Pattern, ...],
    Field(min_length=1, max_length=MAX_ENTRIES),
    BeforeValidator(_one_or_several),
]
LayerShape = Annotated[tuple[Size, ...], Field(min_length=1, max_length=3)]
#: Of a window: one number, or height and width.
Extent = Size | Annotated[tuple[Size, ...], Field(min_length=1, max_length=2)]


class InitialSpec(SparseSpec):
    """How one parameter of a layer begins; a matrix, where this is silent, as the layer says."""

    mean: Real | None = None
    """Mean of the initial values."""
    std: NonNegative | None = None
    """Their deviation; 0 by default for a bias or another vector."""
    sparsity: Annotated[float, Strict(), Field(ge=0, lt=1)] | None = None
    """Share of them that are zero; of a matrix those off the diagonal."""
    diagonal: Real | None = None
    """All are zero but for this value on the diagonal; of matrices alone."""
    radius: NonNegative | None = None
    """Scale a matrix so that this is its largest singular value; 0 leaves it as it is."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> InitialSpec:
        _check_beginning(self)
        return self


def _check_beginning(given: InitialSpec | LayerSpec) -> None:
    """Refuse a beginning of which one part makes another mean nothing."""
    others = [
        key for key in ("mean", "std", "sparsity", "radius") if getattr(given, key) is not None
    ]
    if given.diagonal is not None and others:
        raise ValueError(f"`diagonal` is the whole beginning; it goes without `{others[0]}`")
    if given.radius and given.std == 0 and not given.mean:
        raise ValueError("`radius` scales values that are not all zero; `std` is 0")


class LayerSpec(SparseSpec):
    """One layer; on the wire also a size, null, a form's name, or a list: ``[100, "tanh"]``."""

    form: Annotated[LayerForm, BeforeValidator(_spelling)] | None = None
    """What it computes; `ff` by default, `input` for the first, by the network for the last.
    `layer_norm` brings the units of each row or step, or the channels of each pixel, to one mean
    and deviation, and learns a gain `g` and a bias `b` for each. `conv1` and `pool1` slide over the
    steps of sequences, `conv2` and `pool2` over the pixels of images; `flatten` lays all numbers of
    a row side by side, `reshape` in another shape."""
    size: Size | None = None
    """Number of outputs; may be null for the first and last layer, and is for a `tied` one."""
    activation: Activation | None = None
    """Applied to `pre` to give `out`; `relu` for hidden layers by default. Several are joined by
    `+`, applied from left to right: ``tanh+norm:z``. Some learn, for each unit: `prelu` (`leak`),
    `lgrelu` (`gain`, `leak`) and ``maxout:3`` (`slope`, `intercept`, of 3 pieces)."""
    name: LayerName | None = None
    """`in`, `hid1`, `hid2`, …, `out` unless given."""
    inputs: LayerInputs | None = None
    """Names of the outputs that it reads, or of earlier layers for their `out`; by default that
    of the layer before."""
    mean: Real | None = None
    """Mean of the initial weights; 0 by default."""
    std: NonNegative | None = None
    """Deviation of the initial weights; by default from the numbers of inputs and outputs."""
    sparsity: Annotated[float, Strict(), Field(ge=0, lt=1)] | None = None
    """Share of the initial weights off the diagonal that are zero; 0 by default."""
    diagonal: Real | None = None
    """Initial weights are zero but for this value on the diagonal."""
    radius: NonNegative | None = None
    """Scale the initial weights so that this is their largest singular value, which of a recurrent
    layer says whether it forgets (below 1) or echoes; 0 leaves them as they are."""
    initial: (
        Annotated[dict[Pattern, InitialSpec], Field(min_length=1, max_length=64), at_most(64)]
        | None
    ) = None
    """How single parameters begin, by their names within the layer:
    ``{"hh": {"diagonal": 1}, "b": {"mean": 2}}``."""
    columns: LayerColumns | None = None
    """For an input layer: globs over the job's inputs (columns or arrays) that it reads; by default
    all that no other input layer names."""
    shape: LayerShape | None = None
    """For an input layer without data (an imported network): the shape of one row, as
    ``[steps, size]`` or ``[channels, height, width]``. For `reshape`: the shape that a row gets, in
    the order in which its numbers stand; for a last layer by default that of the data."""
    direction: Annotated[Literal["forward", "backwards"], BeforeValidator(_spelling)] | None = None
    """For a recurrent layer: the way in which it reads the steps; `forward` by default."""
    bptt_limit: Count | None = None
    """For a recurrent layer: gradients go no further back than so many steps; all by default."""
    h_0: OutputName | None = None
    """For a recurrent layer: an earlier output, one vector a row, that its state starts from; zeros
    by default."""
    c_0: OutputName | None = None
    """For `lstm`: the same for the cell."""
    s_0: OutputName | None = None
    """For `scrn`: the same for the context."""
    rate: Literal["matrix", "vector", "uniform", "log"] | None = None
    """For `rrnn` and `scrn`: rates of change computed from the input (`matrix`, the default of
    `rrnn`), learnt (`vector`, that of `scrn`), or fixed: uniform, or with uniform logarithms."""
    factors: Size | None = None
    """For `mrnn`: how many factors there are; by default the root of the size, rounded up."""
    periods: Annotated[tuple[Count, ...], Field(min_length=1, max_length=1000)] | None = None
    """For `clockwork`: the period of each module in steps; needed."""
    num_modules: Size | None = None
    """For `bcrnn`: how many modules there are; needed."""
    context_size: (
        Size | Annotated[float, Strict(), Field(gt=0, le=1, allow_inf_nan=False)] | None
    ) = None
    """For `scrn`: units of the slow context, or a share of the size; by default one more than the
    root of the size."""
    worker: (
        Literal["rnn", "rrnn", "mrnn", "lstm", "gru", "clockwork", "mut1", "scrn", "bcrnn"] | None
    ) = None
    """For `bidirectional`: the form that reads either way; `rnn` by default."""
    partner: LayerName | None = None
    """For `tied`: the layer whose transposed weights it uses; by default the one it mirrors."""
    filter_size: Extent | None = None
    """For `conv1` how many steps, for `conv2` how many pixels a filter spans: one number, or
    ``[height, width]``; unless zeros stand around the input, at most as many as it has. Filters are
    not mirrored."""
    stride: Extent | None = None
    """For convolutions and pooling: how far one window is from the next; by default 1 and the size
    of the window."""
    border_mode: Literal["valid", "same", "full"] | None = None
    """For convolutions: `valid` windows lie within the input, `full` ones reach into it, and `same`
    (with a stride of 1) gives as many outputs as there are inputs; zeros stand around."""
    pool_size: Extent | None = None
    """For `pool1` how many steps, for `pool2` how many pixels become one: one number, or
    ``[height, width]``."""
    mode: Annotated[Literal["max", "mean", "sum"], BeforeValidator(_spelling)] | None = None
    """For pooling: what a window becomes; `max` by default."""
    ignore_border: bool | None = None
    """For pooling: leave out windows that reach beyond the input; by default they stand for what
    they have of it."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> LayerSpec:
        _check_beginning(self)
        return self

    @model_validator(mode="before")
    @classmethod
    def _from_shorthand(cls, value: Any) -> Any:
        if value is None:
            return {}
        if isinstance(value, bool):
            raise ValueError("a layer is a size, an object, a list such as [100, 'tanh'], or null")
        if isinstance(value, int):
            return {"size": value}
        if isinstance(value, str):
            return _layer_from_list([value])
        if isinstance(value, list | tuple):
            return _layer_from_list(list(value))
        if isinstance(value, dict | LayerSpec):
            return value
        raise ValueError("a layer is a size, an object, a list such as [100, 'tanh'], or null")


def _check_word(word: str) -> None:
    """Name a word that is neither a form nor an activation for what it is."""
    if word in LAYER_FORMS:
        return
    try:
        _known_activation(word)
    except ValueError:
        raise ValueError(
            f"{word!r} is neither a form of layers ({', '.join(LAYER_FORMS)}) "
            f"nor an activation ({', '.join(ACTIVATIONS)})"
        ) from None


def _layer_from_list(elements: list[Any]) -> dict[str, Any]:
    """Read theanets' short form: an integer is the size, a word the form or the activation."""
    layer: dict[str, Any] = {}
    for element in elements:
        if isinstance(element, str):
            word = _spelling(element)
            _check_word(word)
            # "softmax" is a form and an activation; in a list it means the form, as in theanets.
            key = "form" if word in LAYER_FORMS else "activation"
        elif isinstance(element, int) and not isinstance(element, bool):
            word, key = element, "size"
        else:
            raise ValueError(f"a layer's list holds a size and words, got {element!r}")
        if key in layer:
            raise ValueError(f"a layer's list gives its {key} twice: {layer[key]!r} and {word!r}")
        layer[key] = word
    return layer


class NetworkSpec(Spec):
    """A network: its form, its layers from input to output, and the loss it is trained with."""

    form: Form | None = None
    """`classifier` where the target is text or boolean, else `regressor`, unless given."""
    layers: Annotated[
        tuple[LayerSpec, ...], Field(min_length=2, max_length=MAX_LAYERS), at_most(MAX_LAYERS)
    ]
    loss: LossForm | None = None
    """`xe` for classifiers, else `mse`, unless given."""
    losses: Annotated[tuple[LossSpec, ...], Field(min_length=1, max_length=64)] | None = None
    """Instead of `loss`: terms that are added."""

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> NetworkSpec:
        if self.loss is not None and self.losses is not None:
            raise ValueError("give `loss` or `losses`")
        return self

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layers' names: those given, else `in`, `hid1`, …, `out` by position."""
        last = len(self.layers) - 1
        return tuple(
            layer.name or ("in" if index == 0 else "out" if index == last else f"hid{index}")
            for index, layer in enumerate(self.layers)
        )

    @property
    def input_layers(self) -> dict[str, int]:
        """Positions of the input layers, by name: the first, and all of that form."""
        return {
            name: index
            for index, name in enumerate(self.layer_names)
            if index == 0 or self.layers[index].form == "input"
        }
