"""Regularizers: what changes outputs and weights, and what adds to the loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    Strict,
    model_validator,
)

from engine.spec.values import (
    MAX_ENTRIES,
    DropoutMap,
    NoiseMap,
    NonNegative,
    Pattern,
    Rate,
    Seed,
    Spec,
    at_most,
)


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
