"""The one vocabulary of specs: what HTTP bodies, YAML files, stored jobs and artifacts all use.

Models are frozen and refuse unknown fields. They check the *shape* of a spec (types, ranges,
alternatives); what needs the data set or the whole network is checked by `engine.graph`.
"""

from __future__ import annotations

from engine.spec.data import ColumnSpec, SequenceSpec, ValidationSpec
from engine.spec.losses import LOSSES, LossName, LossSpec
from engine.spec.network import (
    ACTIVATIONS,
    LAYER_FORMS,
    Activation,
    InitialSpec,
    LayerForm,
    LayerSpec,
    NetworkSpec,
)
from engine.spec.optimizers import (
    OPTIMIZERS,
    AdadeltaSpec,
    AdagradSpec,
    AdamSpec,
    EsgdSpec,
    NagSpec,
    OptimizerSpec,
    RmspropSpec,
    RpropSpec,
    SgdSpec,
)
from engine.spec.prediction import GenerateSpec, PassesSpec, PredictSpec, Statistic
from engine.spec.regularizers import (
    REGULARIZERS,
    BernoulliDropoutSpec,
    ConcreteDropoutSpec,
    ContractiveSpec,
    DropConnectSpec,
    GaussianNoiseSpec,
    HiddenL1Spec,
    RecurrentPenaltySpec,
    RegularizerSpec,
    WeightSpec,
)
from engine.spec.search import HalvingSpec, RandomSpec, RangeSpec, SearchSpec
from engine.spec.training import RegularizationSpec, StagesSpec, TrainSpec
from engine.spec.values import (
    MAX_SEED,
    MAX_SIZE,
    Count,
    Form,
    Nothing,
    Positive,
    Size,
    Spec,
    at_most,
)

__all__ = [
    "ACTIVATIONS",
    "LAYER_FORMS",
    "LOSSES",
    "MAX_SEED",
    "MAX_SIZE",
    "OPTIMIZERS",
    "REGULARIZERS",
    "Activation",
    "AdadeltaSpec",
    "AdagradSpec",
    "AdamSpec",
    "BernoulliDropoutSpec",
    "ColumnSpec",
    "ConcreteDropoutSpec",
    "ContractiveSpec",
    "Count",
    "DropConnectSpec",
    "EsgdSpec",
    "Form",
    "GaussianNoiseSpec",
    "GenerateSpec",
    "HalvingSpec",
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
    "Positive",
    "PredictSpec",
    "RandomSpec",
    "RangeSpec",
    "RecurrentPenaltySpec",
    "RegularizationSpec",
    "RegularizerSpec",
    "RmspropSpec",
    "RpropSpec",
    "SearchSpec",
    "SequenceSpec",
    "SgdSpec",
    "Size",
    "Spec",
    "StagesSpec",
    "Statistic",
    "TrainSpec",
    "ValidationSpec",
    "WeightSpec",
    "at_most",
]
