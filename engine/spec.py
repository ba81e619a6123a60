"""The one vocabulary of specs: what HTTP bodies, YAML files, stored jobs and artifacts all use.

Models are frozen and refuse unknown fields. They check the *shape* of a spec (types, ranges,
alternatives); what needs the data set or the whole network is checked by `engine.graph`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    model_validator,
)

__all__ = [
    "Activation",
    "AdadeltaSpec",
    "AdagradSpec",
    "AdamSpec",
    "BernoulliDropoutSpec",
    "ColumnSpec",
    "ConcreteDropoutSpec",
    "ContractiveSpec",
    "DropConnectSpec",
    "EsgdSpec",
    "Form",
    "GaussianNoiseSpec",
    "GenerateSpec",
    "HiddenL1Spec",
    "InitialSpec",
    "LayerForm",
    "LayerSpec",
    "LossName",
    "LossSpec",
    "NagSpec",
    "NetworkSpec",
    "Nothing",
    "OptimizerSpec",
    "PassesSpec",
    "PredictSpec",
    "RecurrentPenaltySpec",
    "RegularizationSpec",
    "RegularizerSpec",
    "RmspropSpec",
    "RpropSpec",
    "SequenceSpec",
    "SgdSpec",
    "Spec",
    "StagesSpec",
    "Statistic",
    "TrainSpec",
    "ValidationSpec",
    "WeightSpec",
    "at_most",
]

MAX_SEED = 2**53 - 1
MAX_LAYERS = 256
MAX_SIZE = 1_000_000
MAX_ENTRIES = 1000
"""Keys of one map or object; the largest spec has some fifty fields."""


def at_most(count: int) -> BeforeValidator:
    """Refuse what is too large at once, instead of finding each of its entries wrong."""

    def check(value: Any) -> Any:
        if isinstance(value, dict | list | tuple) and len(value) > count:
            raise ValueError(f"must have at most {count} entries, has {len(value)}")
        return value

    return BeforeValidator(check)


Real = Annotated[float, Strict(), Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
#: A probability of dropping, never of keeping.
Rate = Annotated[float, Strict(), Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Strict(), Field(ge=1)]
Index = Annotated[int, Strict(), Field(ge=0, le=2**53 - 1)]
Size = Annotated[int, Strict(), Field(ge=1, le=MAX_SIZE)]
Seed = Annotated[int, Strict(), Field(ge=0, le=MAX_SEED)]
#: A shell-style glob, as `fnmatch.fnmatchcase` reads it.
Pattern = Annotated[str, Field(min_length=1, max_length=256)]
DropoutMap = Annotated[dict[Pattern, Rate], Field(max_length=MAX_ENTRIES), at_most(MAX_ENTRIES)]
NoiseMap = Annotated[
    dict[Pattern, NonNegative], Field(max_length=MAX_ENTRIES), at_most(MAX_ENTRIES)
]
Level = Annotated[float, Strict(), Field(allow_inf_nan=False)]
#: A layer's name: a glob-free identifier, so that a name is also the pattern of itself.
LayerName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]


def _refuse_all_but(neutral: Any) -> BeforeValidator:
    """Take a field of the contract that this version does not serve only where it asks nothing."""

    def check(value: Any) -> Any:
        if value != neutral or isinstance(value, bool):
            raise ValueError("not available in this version; leave it out")
        return value

    return BeforeValidator(check)


_LATER = "Not available in this version: leave it out."
Nothing = Annotated[None, _refuse_all_but(None), Field(description=_LATER)]


class Spec(BaseModel):
    """Base of every spec: immutable, and closed against unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _is_not_huge(cls, value: Any) -> Any:
        """Refuse an object with very many fields at once, instead of naming each as unknown."""
        if isinstance(value, dict) and len(value) > MAX_ENTRIES:
            raise ValueError(f"must have at most {MAX_ENTRIES} fields, has {len(value)}")
        return value


Form = Literal["regressor", "classifier", "autoencoder"]
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
    "cross_entropy": "xe",
    "cross-entropy": "xe",
    "kld": "kl",
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
LossName = Literal["mse", "mae", "xe", "hinge", "kl", "mmd", "gll"]

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


OutputName = Annotated[str, Field(min_length=1, max_length=128)]
LayerColumns = Annotated[
    tuple[Pattern, ...],
    Field(min_length=1, max_length=MAX_ENTRIES),
    BeforeValidator(_one_or_several),
]
LayerShape = Annotated[tuple[Size, ...], Field(min_length=1, max_length=3)]
#: Of a window: one number, or height and width.
Extent = Size | Annotated[tuple[Size, ...], Field(min_length=1, max_length=2)]


class InitialSpec(Spec):
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


class LayerSpec(Spec):
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


class LossSpec(Spec):
    """One of several terms of a network's loss, or one with options."""

    form: Annotated[LossName, BeforeValidator(_spelling)]
    """`mse`, `mae`: mean squared or absolute difference; `xe`: cross-entropy, `hinge`: how far the
    likeliest class is before the true one; `kl`: divergence of distributions; `mmd`: maximum mean
    discrepancy between the outputs and targets of a batch; `gll`: negative log-likelihood of a
    normal distribution whose mean and diagonal covariance are outputs."""
    weight: Positive = 1.0
    """Factor of the term."""
    output_name: OutputName | None = None
    """The output (`hid2:out`), or the layer, that is compared; by default the last layer's."""
    targets: (
        Annotated[tuple[Pattern, ...], Field(min_length=1, max_length=MAX_ENTRIES, fail_fast=True)]
        | None
    ) = None
    """Globs over columns (arrays) to compare with; the job's targets by default."""
    kernel: Positive | None = None
    """For `mmd`: the width s of its kernel exp(-||x - y||^2 / s); 1 by default."""
    mean_name: OutputName | None = None
    """For `gll`: the output that is the mean, instead of `output_name`."""
    covar_name: OutputName | None = None
    """For `gll`: the output whose size is the covariance's diagonal; layer `covar` by default."""
    covar_eps: Positive | None = None
    """For `gll`: what is added to every variance; 1e-3 by default."""

    @model_validator(mode="after")
    def _options_are_of_their_forms(self) -> LossSpec:
        for key, form in (
            ("kernel", "mmd"),
            ("mean_name", "gll"),
            ("covar_name", "gll"),
            ("covar_eps", "gll"),
        ):
            if getattr(self, key) is not None and self.form != form:
                raise ValueError(f"`{key}` is for `{form}`")
        if self.mean_name is not None and self.output_name is not None:
            raise ValueError("`mean_name` and `output_name` say the same; give one")
        return self


class NetworkSpec(Spec):
    """A network: its form, its layers from input to output, and the loss it is trained with."""

    form: Form | None = None
    """`classifier` where the target is text or boolean, else `regressor`, unless given."""
    layers: Annotated[
        tuple[LayerSpec, ...], Field(min_length=2, max_length=MAX_LAYERS), at_most(MAX_LAYERS)
    ]
    loss: Annotated[LossName, BeforeValidator(_spelling)] | None = None
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


class BernoulliDropoutSpec(Spec):
    """Zero each element of every matching output with probability `weight`, scale the rest."""

    form: Literal["bernoulli_dropout"]
    pattern: Pattern = "*:out"
    weight: Rate
    """Probability of dropping an element."""
    steps: Literal["independent", "shared"] = "independent"
    """`shared`: one mask for all steps of a sequence (Gal & Ghahramani 2016)."""
    spatial: bool = False
    """Drop whole channels of images, all pixels alike (Tompson et al. 2015)."""
    rng: Seed | None = None
    """Gives the regularizer a random stream of its own."""


class DropConnectSpec(Spec):
    """Zero each element of every matching weight with probability `weight`, scale the rest."""

    form: Literal["drop_connect"]
    pattern: Pattern = "*"
    """Over parameters, such as `hid1.w`; biases and other vectors are never dropped."""
    weight: Rate
    """Probability of dropping an element."""
    rng: Seed | None = None
    """Gives the regularizer a random stream of its own."""


class ConcreteDropoutSpec(Spec):
    """Dropout whose rates are learnt (Gal, Hron & Kendall 2017); for training only.

    With N training rows and a noise precision tau, the paper has `weight` 2 / (tau N) and
    `weight_regularizer` l^2 / (tau N), for a prior length scale l, beside a mean squared error.
    """

    form: Literal["concrete_dropout"]
    pattern: Pattern | None = None
    """The `out` of all hidden layers by default."""
    weight: NonNegative
    """Factor of the rates' entropy, which draws them towards a half."""
    weight_regularizer: NonNegative = 0.0
    """Factor of the squared weights that read the output, over 1 - rate, which draws them to 0."""
    temperature: Annotated[float, Strict(), Field(ge=0.01, le=10)] = 0.1
    """Of the relaxed masks."""
    initial_rate: Annotated[float, Strict(), Field(ge=0.001, le=0.999)] = 0.1
    rng: Seed | None = None
    """Gives the regularizer a random stream of its own."""


class GaussianNoiseSpec(Spec):
    """Add to each element of every matching output a normal number of mean 0."""

    form: Literal["gaussian_noise"]
    pattern: Pattern = "*:out"
    weight: NonNegative
    """Standard deviation of what is added."""
    rng: Seed | None = None
    """Gives the regularizer a random stream of its own."""


class HiddenL1Spec(Spec):
    """A penalty on the size of every matching output: few elements far from zero."""

    form: Literal["hidden_l1"]
    pattern: Pattern | None = None
    """The `out` of all hidden layers by default."""
    weight: NonNegative
    """Factor of the term in the training loss."""


class ContractiveSpec(Spec):
    """A penalty on the derivatives of every matching output by the network's inputs."""

    form: Literal["contractive"]
    pattern: Pattern | None = None
    """The `out` of all hidden layers by default."""
    wrt: Pattern = "*"
    """Input layers, by name, or their outputs (`in:out`), by which outputs are derived."""
    weight: NonNegative
    """Factor of the term in the training loss: the squared Frobenius norm of each row's Jacobian,
    averaged over rows and matched outputs."""


class RecurrentPenaltySpec(Spec):
    """A penalty on how much every matching output changes from step to step of a sequence."""

    form: Literal["recurrent_norm", "recurrent_state"]
    pattern: Pattern
    """Among the outputs that are sequences."""
    weight: NonNegative
    """Factor of the term in the training loss."""
    reduction: Literal["mean", "sum"] = "mean"
    """Of `recurrent_state`: the mean over elements, as theanets, or their sum, the squared norm of
    each step's change; both averaged over rows and steps."""

    @model_validator(mode="after")
    def _reduction_is_for_states(self) -> RecurrentPenaltySpec:
        if self.form == "recurrent_norm" and self.reduction != "mean":
            raise ValueError("`reduction` is for `recurrent_state`; leave it out")
        return self


class WeightSpec(Spec):
    """A penalty on the size of every matching weight matrix.

    Vectors are excluded: biases, the leaks and gains of activations, what `layer_norm` learns. The
    slopes and intercepts of `maxout` are matrices.
    """

    form: Literal["weight_l2", "weight_l1"]
    pattern: Pattern = "*"
    weight: NonNegative
    """Factor of the term in the training loss."""
    reduction: Literal["mean", "sum"] = "mean"
    """`mean`: over elements and matched parameters, as theanets; `sum`: over all elements."""


RegularizerSpec = Annotated[
    BernoulliDropoutSpec
    | DropConnectSpec
    | ConcreteDropoutSpec
    | GaussianNoiseSpec
    | HiddenL1Spec
    | WeightSpec
    | ContractiveSpec
    | RecurrentPenaltySpec,
    Field(discriminator="form"),
]


class SgdSpec(Spec):
    """Stochastic gradient descent, with classical or Nesterov momentum."""

    form: Literal["sgd"]
    learning_rate: Positive = 1e-2
    momentum: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SgdSpec:
        if self.nesterov and self.momentum == 0:
            raise ValueError("`nesterov` needs a `momentum` above 0")
        return self


class NagSpec(Spec):
    """Nesterov's accelerated gradient, as downhill names it."""

    form: Literal["nag"]
    learning_rate: Positive = 1e-2
    momentum: Annotated[float, Strict(), Field(gt=0, lt=1)] = 0.9


class RpropSpec(Spec):
    """Resilient backpropagation (Riedmiller & Braun 1993): only signs of gradients count."""

    form: Literal["rprop"]
    learning_rate: Positive = 1e-2
    """The first step of every parameter."""
    shrink: Annotated[float, Strict(), Field(gt=0, lt=1)] = 0.5
    """Factor of a step after a change of sign."""
    grow: Annotated[float, Strict(), Field(gt=1, allow_inf_nan=False)] = 1.2
    """Factor of a step after none."""
    min_step: NonNegative = 1e-6
    max_step: Positive = 50.0
    """Bounds of every step, as in the paper; the first one, `learning_rate`, lies between them."""

    @model_validator(mode="after")
    def _steps_are_in_order(self) -> RpropSpec:
        if not self.min_step <= self.learning_rate <= self.max_step:
            raise ValueError("`learning_rate` must lie between `min_step` and `max_step`")
        return self


class AdagradSpec(Spec):
    """Adagrad (Duchi, Hazan & Singer 2011)."""

    form: Literal["adagrad"]
    learning_rate: Positive = 1e-2
    epsilon: Positive = 1e-10


class AdadeltaSpec(Spec):
    """Adadelta (Zeiler 2012)."""

    form: Literal["adadelta"]
    learning_rate: Positive = 1.0
    decay: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.9
    """Decay of the running means of squared gradients and steps."""
    epsilon: Positive = 1e-6


class RmspropSpec(Spec):
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5)."""

    form: Literal["rmsprop"]
    learning_rate: Positive = 1e-3
    decay: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.99
    """Decay of the running mean of squared gradients."""
    epsilon: Positive = 1e-8
    momentum: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.0
    centered: bool = False
    """Divide by the deviation of the gradients, not by their root mean square (Graves 2013)."""


class EsgdSpec(Spec):
    """Equilibrated descent (Dauphin, de Vries & Bengio 2015): divides by rows of the Hessian.

    Every step takes a product with the Hessian, about twice the work of another optimizer's, and
    the first step twenty. The rates that suit it are larger than `adam`'s, 0.01 to 0.3.
    """

    form: Literal["esgd"]
    learning_rate: Positive = 1e-2
    decay: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.99
    """Decay of the running mean of squared products of the Hessian with random vectors."""
    epsilon: Positive = 1e-4
    """Added to that mean's root, so that flat directions are not followed too far."""
    momentum: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> EsgdSpec:
        if self.nesterov and self.momentum == 0:
            raise ValueError("`nesterov` needs a `momentum` above 0")
        return self


class AdamSpec(Spec):
    """Adam (Kingma & Ba 2015), or with `adamw` decoupled decay (Loshchilov & Hutter 2019)."""

    form: Literal["adam", "adamw"]
    learning_rate: Positive = 1e-3
    beta1: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.999
    epsilon: Positive = 1e-8
    weight_decay: NonNegative | None = None
    """Decoupled decay; 0.01 unless given, and only for `adamw`."""

    @model_validator(mode="after")
    def _decay_is_for_adamw(self) -> AdamSpec:
        if self.form == "adam" and self.weight_decay is not None:
            raise ValueError(
                "`weight_decay` is for `adamw`; with `adam` use a weight_l2 regularizer"
            )
        return self


def _optimizer_from_name(value: Any) -> Any:
    return {"form": value} if isinstance(value, str) else value


OptimizerSpec = Annotated[
    Annotated[
        SgdSpec
        | NagSpec
        | RpropSpec
        | RmspropSpec
        | AdagradSpec
        | AdadeltaSpec
        | EsgdSpec
        | AdamSpec,
        Field(discriminator="form"),
    ],
    BeforeValidator(_optimizer_from_name),
]


OPTIMIZERS: tuple[str, ...] = (
    "sgd",
    "nag",
    "rprop",
    "rmsprop",
    "adagrad",
    "adadelta",
    "esgd",
    "adam",
    "adamw",
)
REGULARIZERS: tuple[str, ...] = (
    "bernoulli_dropout",
    "drop_connect",
    "concrete_dropout",
    "gaussian_noise",
    "hidden_l1",
    "contractive",
    "recurrent_norm",
    "recurrent_state",
    "weight_l2",
    "weight_l1",
)


ColumnName = Annotated[str, Field(min_length=1, max_length=256)]


class ColumnSpec(Spec):
    """How an input column of a table is read where the usual way will not do."""

    type: Literal["number", "category"] | None = None
    """`category`: one input for each value of the training rows, of integers, numbers and booleans
    as of texts; `number`: of texts, the numbers that they spell."""
    missing: Literal["median", "mean", "mode", "constant", "refuse"] | None = None
    """What is read in place of a missing value: the median (of categories and booleans the mode) of
    the training rows by default; `refuse` takes none."""
    fill: Annotated[bool, Strict()] | Real | Annotated[str, Field(max_length=256)] | None = None
    """For `constant`: the value."""
    indicator: Annotated[bool, Strict()] | None = None
    """Whether one more input, `NAME is missing`, tells of missing values; by default where the
    training rows have some."""
    unknown: Literal["refuse", "column"] | None = None
    """Of categories: what a value that no training row has comes to; refused by default, or one
    more input, `NAME is unknown`."""
    scale: Literal["standard", "none"] | None = None
    """Of numbers: (value - mean) / standard deviation by default, or as they are."""

    @model_validator(mode="after")
    def _fill_is_a_constant(self) -> ColumnSpec:
        if (self.fill is None) == (self.missing == "constant"):
            raise ValueError('`fill` goes with `"missing": "constant"`, and that with `fill`')
        return self


class ValidationSpec(Spec):
    """Which rows measure the network instead of training it; exactly one way of choosing them."""

    fraction: Annotated[float, Strict(), Field(gt=0, lt=1)] | None = None
    """Share of the job's rows, drawn at random."""
    seed: Seed | None = None
    """Seed of that draw; the job's own by default."""
    group: ColumnName | None = None
    """Column (array) whose rows of equal value stay together, on one side of the split."""
    time: ColumnName | None = None
    """Column (array) by which the last rows are taken instead of a draw; equal times stay
    together."""
    stratify: bool | ColumnName | None = None
    """Column (array) whose values both sides have in the same shares; by default a classifier's
    target, and false for none."""
    rows: Annotated[tuple[Index, ...], Field(min_length=1, fail_fast=True)] | None = None
    """Row numbers of the data set."""
    dataset: Annotated[str, Field(max_length=64)] | None = None
    """Another data set with the same columns or arrays."""

    @model_validator(mode="after")
    def _exactly_one(self) -> ValidationSpec:
        given = [n for n in ("fraction", "rows", "dataset") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of `fraction`, `rows` and `dataset`")
        ways = [n for n in ("group", "time", "stratify") if getattr(self, n) not in (None, False)]
        for name in ("seed", "group", "time", "stratify"):
            if getattr(self, name) is not None and self.fraction is None:
                raise ValueError(f"`{name}` goes with `fraction`")
        if len(ways) > 1:
            raise ValueError(f"`{ways[0]}` and `{ways[1]}` do not go together")
        if self.time is not None and self.seed is not None:
            raise ValueError("`seed` draws nothing where the last rows are taken by `time`")
        return self


class SequenceSpec(Spec):
    """How the rows of a table become sequences: windows of the series that they belong to."""

    group: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Column that says which series a row belongs to; null where the table is one series."""
    order: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Column of numbers or times that orders the rows of a series; null for the table's order."""
    window: Annotated[int, Strict(), Field(ge=1, le=MAX_SIZE)] | None = None
    """Steps of a sequence: so many rows that follow each other in one series. Null for whole
    series, which must then be equally long."""
    horizon: Annotated[int, Strict(), Field(ge=0, le=MAX_SIZE)] | None = None
    """How many rows after a step its target lies; 0 for the same row. By default 1, of an
    autoencoder 0."""
    stride: Annotated[int, Strict(), Field(ge=1, le=MAX_SIZE)] = 1
    """Rows from the start of one window to that of the next."""
    predict: Literal["each", "last"] | None = None
    """Whether there is a target for each step, or for the last one alone; by default what the
    network's last layer gives."""


class RegularizationSpec(Spec):
    """The ways to aim dropout and noise, the same in training and in prediction."""

    input_dropout: Rate | None = None
    """Rate on the input layer's `out`."""
    hidden_dropout: Rate | None = None
    """Rate on the `out` of every layer between the first and the last."""
    output_dropout: Rate | None = None
    """Rate on the last layer's `out`."""
    dropout: DropoutMap | None = None
    """Rates by pattern over output names: ``{"hid[23]:out": 0.1, "in:out": 0.01}``."""
    input_noise: NonNegative | None = None
    """Standard deviation of the noise added to the input layer's `out`."""
    hidden_noise: NonNegative | None = None
    """Standard deviation of the noise added to every hidden layer's `out`."""
    output_noise: NonNegative | None = None
    """Standard deviation of the noise added to the last layer's `out`."""
    noise: NoiseMap | None = None
    """Standard deviations by pattern over output names, applied after all dropout."""
    regularizers: (
        Annotated[tuple[RegularizerSpec, ...], Field(max_length=MAX_ENTRIES), at_most(MAX_ENTRIES)]
        | None
    ) = None
    """Explicit regularizers, applied after the keywords and the map, in the order given."""


class StagesSpec(Spec):
    """What happens to the parameters before the network as a whole is trained."""

    form: Literal["layerwise", "pretrain", "sample"]
    """`layerwise`: the first hidden layers are trained below an output layer of their own, one more
    at each stage (Bengio et al. 2006); with tied layers, the outermost pair first. `pretrain`: a
    tied autoencoder of the hidden layers is trained layerwise on the inputs, and leaves its
    weights. `sample`: weights begin as rows of the data, normalised, and not at random."""
    epochs: Annotated[int, Strict(), Field(ge=1, le=10_000_000)] | None = None
    """Of each stage; as many as the job's own by default. Not for `sample`."""

    @model_validator(mode="after")
    def _sampling_takes_no_epochs(self) -> StagesSpec:
        if self.form == "sample" and self.epochs is not None:
            raise ValueError("`sample` only sets the first weights; leave out `epochs`")
        return self


class TrainSpec(RegularizationSpec):
    """Everything that decides what a training run computes, apart from the data themselves."""

    inputs: Annotated[tuple[Pattern, ...], Field(min_length=1, fail_fast=True)] | None = None
    """Globs over columns (arrays: names); by default all that is neither target nor weight."""
    targets: Annotated[tuple[Pattern, ...], Field(min_length=1, fail_fast=True)] | None = None
    """Globs over columns (arrays: names); by default the last column (arrays: `y`)."""
    columns: Annotated[
        dict[Pattern, ColumnSpec], Field(max_length=MAX_ENTRIES), at_most(MAX_ENTRIES)
    ] = Field(default_factory=dict)
    """How input columns of a table are read, by glob; of several that match a column, the later
    one's keys come first. Of arrays, (rows,) or (rows, steps) of integers, the type `category`."""
    sample_weight: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Column (array) of non-negative weights of the rows in the loss."""
    rows: Annotated[tuple[Index, ...], Field(min_length=1, fail_fast=True)] | None = None
    """Rows of the data set that the job may use; all by default."""
    sequence: SequenceSpec | None = None
    """Make sequences of a table's rows."""
    validation: Annotated[float, Strict(), Field(ge=0, lt=1)] | ValidationSpec | None = 0.1
    """A fraction, or how to choose the rows; null or 0 for none."""
    network: NetworkSpec
    optimizer: OptimizerSpec = AdamSpec(form="adam")
    epochs: Annotated[int, Strict(), Field(ge=1, le=10_000_000)] = 100
    batch_size: Annotated[int, Strict(), Field(ge=1, le=10_000_000)] = 32
    training: StagesSpec | None = None
    """What comes before the epochs of the whole network; nothing by default."""
    monitors: Annotated[
        dict[Pattern, Level | Annotated[tuple[Level, ...], Field(min_length=1, max_length=100)]],
        Field(max_length=100),
        at_most(100),
    ] = Field(default_factory=dict)
    """Levels by pattern over outputs and parameters: the share of values below each is reported
    with every epoch's metrics, ``{"hid1:out": [0.1, 0.9]}`` as ``hid1:out<0.1``, …"""
    monitor_gradients: Annotated[bool, Strict()] = False
    """Report the squared norm of each parameter's gradient, before any clipping, the mean over an
    epoch's batches, with the epoch's training metrics as ``∂hid1.w``, …"""
    patience: Count | None = None
    """Stop after this many epochs without improvement of the validation loss."""
    min_improvement: NonNegative = 0.0
    """Relative improvement of the validation loss that counts as one."""
    gradient_clip: Positive | None = None
    """Largest Euclidean norm of the gradient; larger ones are scaled down to it."""
    seed: Seed = 13
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32"] = "float32"
    noise_precision: (
        Literal["fit"] | Positive | Annotated[dict[str, Positive], at_most(MAX_ENTRIES)]
    ) = "fit"
    """Precision of the observation noise, in target units^-2; `fit` by maximum likelihood."""


class PassesSpec(RegularizationSpec):
    """How a trained network is sampled: which outputs are dropped, how often, with which seed."""

    dropout: DropoutMap | Literal["trained"] | None = None  # type: ignore[assignment]
    """Rates by pattern, or `trained` for those of training."""
    num_samples: Annotated[int, Strict(), Field(ge=1, le=10_000_000)] | None = None
    """Number of Monte-Carlo passes; one pass without statistics when absent."""
    seed: Seed | None = None
    """Drawn and reported when absent."""
    masks: Literal["independent", "shared"] = "independent"
    """`independent`: masks of its own for each row; `shared`: one mask per pass for all rows."""
    row_offset: Index = 0
    """Position of the first row in the random streams."""


Statistic = Literal[
    "mean",
    "std",
    "quantiles",
    "standard_error",
    "variance",
    "predictive_quantiles",
    "interval",
    "samples",
    "reconstruction_error",
    "label",
    "probabilities",
    "entropy",
    "expected_entropy",
    "mutual_information",
    "variation_ratio",
]


class GenerateSpec(Spec):
    """How a classifier of sequences goes on with those that it is given, one class a step."""

    steps: Annotated[int, Strict(), Field(ge=1, le=100_000)]
    """How many classes to draw for each sequence."""
    temperature: NonNegative = 1.0
    """Classes are drawn with probabilities p^(1/temperature), scaled to add up to 1: above 1 more
    evenly, below 1 the likely ones more often, with 0 always the most likely."""
    top_k: Count | None = None
    """Draw among so many of the most likely classes only; all by default."""


class PredictSpec(PassesSpec):
    """Passes, and what to report of them."""

    statistics: Annotated[tuple[Statistic, ...], Field(min_length=1, max_length=32)] | None = None
    """All that the model has but `samples`, `interval` and the predictive ones, when absent."""
    quantiles: Annotated[
        tuple[Annotated[float, Strict(), Field(ge=0, le=1)], ...],
        Field(min_length=1, max_length=100),
    ] = (0.05, 0.5, 0.95)
    outputs: Annotated[tuple[Pattern, ...], Field(max_length=MAX_ENTRIES, fail_fast=True)] = ()
    """Patterns of other named outputs to return, ``-predrop`` ones included."""
    start: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """A layer (`hid2`), or its `out` (`hid2:out`), whose values the `inputs` are, as lists of rows
    in the network's own units: the layers before it are passed over, and an autoencoder's code is
    decoded."""
    generate: GenerateSpec | None = None
    """Go on with the given sequences, step by step, as a model of texts does: each class drawn is
    the next step's input."""
