"""The one vocabulary of specs: what HTTP bodies, YAML files, stored jobs and artifacts all use.

Models are frozen and refuse unknown fields. They check the *shape* of a spec (types, ranges,
alternatives); what needs the data set or the whole network is checked by `engine.graph`.
"""

from __future__ import annotations

from engine.spec.calibration import CalibrateSpec, ScoreSpec
from engine.spec.data import ColumnSpec, SequenceSpec, ValidationSpec
from engine.spec.evaluation import EvaluateSpec, OtherRowsSpec
from engine.spec.feedback import FeedbackSpec
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
from engine.spec.prediction import AbstainSpec, GenerateSpec, PassesSpec, PredictSpec, Statistic
from engine.spec.ranking import RankSpec
from engine.spec.regularizers import (
    REGULARIZERS,
    BernoulliDropoutSpec,
    ConcreteDropoutSpec,
    ContractiveSpec,
    DropConnectSpec,
    GaussianNoiseSpec,
    HiddenL1Spec,
    RecurrentPenaltySpec,
    RegularizationSpec,
    RegularizerSpec,
    WeightSpec,
)
from engine.spec.schedules import (
    SCHEDULES,
    CosineSpec,
    ExponentialSpec,
    LinearSpec,
    OneCycleSpec,
    PlateauSpec,
    ScheduleSpec,
    StepSpec,
)
from engine.spec.search import HalvingSpec, RandomSpec, RangeSpec, SearchSpec
from engine.spec.training import StagesSpec, TrainSpec
from engine.spec.values import (
    MAX_SEED,
    MAX_SIZE,
    Count,
    Form,
    Index,
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
    "SCHEDULES",
    "AbstainSpec",
    "Activation",
    "AdadeltaSpec",
    "AdagradSpec",
    "AdamSpec",
    "BernoulliDropoutSpec",
    "CalibrateSpec",
    "ColumnSpec",
    "ConcreteDropoutSpec",
    "ContractiveSpec",
    "CosineSpec",
    "Count",
    "DropConnectSpec",
    "EsgdSpec",
    "EvaluateSpec",
    "ExponentialSpec",
    "FeedbackSpec",
    "Form",
    "GaussianNoiseSpec",
    "GenerateSpec",
    "HalvingSpec",
    "HiddenL1Spec",
    "Index",
    "InitialSpec",
    "LayerForm",
    "LayerSpec",
    "LinearSpec",
    "LossName",
    "LossSpec",
    "NagSpec",
    "NetworkSpec",
    "OneCycleSpec",
    "OptimizerSpec",
    "OtherRowsSpec",
    "PassesSpec",
    "PlateauSpec",
    "Positive",
    "PredictSpec",
    "RandomSpec",
    "RangeSpec",
    "RankSpec",
    "RecurrentPenaltySpec",
    "RegularizationSpec",
    "RegularizerSpec",
    "RmspropSpec",
    "RpropSpec",
    "ScheduleSpec",
    "ScoreSpec",
    "SearchSpec",
    "SequenceSpec",
    "SgdSpec",
    "Size",
    "Spec",
    "StagesSpec",
    "Statistic",
    "StepSpec",
    "TrainSpec",
    "ValidationSpec",
    "WeightSpec",
    "at_most",
]
