"""Artifacts: a trained network as weights (safetensors) and a document (JSON), and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pydantic
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from engine.conformal import Calibration
from engine.data.encoding import Encoding
from engine.data.lengths import of_steps, steps_of
from engine.descriptions import describe_graph, describe_regularizer
from engine.errors import ArtifactError, DataError, SpecError
from engine.graph import Graph, build_graph, resolved_network
from engine.layers import layer_pointer, shown
from engine.network import Network
from engine.regularizers import (
    Regularizer,
    learnt,
    perturbations,
    resolve,
)
from engine.spec import NetworkSpec, RegularizationSpec, TrainSpec

__all__ = [
    "FORMAT",
    "MEMBER_KEYS",
    "Model",
    "document_of",
    "graph_of_steps",
    "import_model",
    "load_model",
    "predicts",
    "weights_of",
]

FORMAT = 1
"""Version of the document; a reader refuses those it does not know."""

MEMBER_KEYS = ("spec", "network", "rates", "noise_precision", "metrics", "kept_epoch")
"""What the document of an ensemble tells of each member."""

_SIZED = (None, "input", "ff", "softmax", "conv1", "conv2")
"""Forms of layers whose size nothing but the spec or the data can say."""

Weights = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A loaded artifact: immutable, shared by all who predict with it."""

    network: Network
    encoding: Encoding
    trained: tuple[Regularizer, ...]
    """The regularizers that it was trained with, with the rates that were learnt."""
    noise_precision: npt.NDArray[np.float64] | None
    """Broadcasts against outputs, in original units^-2; None where there is none."""
    calibration: Calibration | None = None
    """What intervals and sets are made by; the members of an ensemble have that of all together."""
    temperature: float = 1.0
    """What a classifier's probabilities are softened by in each pass."""
    members: tuple[Model, ...] = ()
    """Of an ensemble all its models, of which this is the first; they differ in nothing that says
    what is read and what is predicted."""

    @property
    def graph(self) -> Graph:
        return self.network.graph

    @property
    def bytes(self) -> int:
        """Memory for its parameters."""
        return sum(model.network.bytes for model in self.members or (self,))

    @property
    def noise_variance(self) -> npt.NDArray[np.float64] | None:
        """The variance of the noise, of an ensemble the mean over its members'."""
        precisions = [model.noise_precision for model in self.members or (self,)]
        known = [1 / precision for precision in precisions if precision is not None]
        if len(known) < len(precisions):
            return None
        return known[0] if len(known) == 1 else np.mean(known, axis=0)

    def precision_of_passes(self, passes: int) -> npt.NDArray[np.float64] | None:
        """Return the precision of the noise of each of so many passes, of which members take turns.

        It broadcasts against samples.
        """
        if not self.members:
            return self.noise_precision
        if self.noise_variance is None:
            return None
        precisions = [np.asarray(model.noise_precision) for model in self.members]
        # Targets stand at the end; before them are passes, rows and, of sequences, steps.
        ahead = (1,) * (1 + len(self.graph.last.shape) - precisions[0].ndim)
        apart = np.stack([own.reshape(*ahead, *own.shape) for own in precisions])
        return np.concatenate([apart] * (passes // len(precisions)))

    def softened(self, temperature: float) -> Model:
        """Return the model with another temperature."""
        members = tuple(replace(own, temperature=temperature) for own in self.members)
        return replace(self, temperature=temperature, members=members)

    def of_steps(self, steps: int | None) -> Model:
        """Return the model as it reads sequences of so many steps; itself, if None or its own.

        Raises DataError where its layers depend on the number of steps, or need more.
        """
        if steps is None or steps == steps_of(self.encoding):
            return self
        graph = graph_of_steps(self.graph, steps)
        if graph is None:
            raise DataError(
                f"these sequences have {steps} steps, which the model's layers do not fit: they "
                f"depend on the number, or need more; give {steps_of(self.encoding)}, as in "
                "training",
                pointer="#/inputs",
            )
        return replace(
            self,
            network=self.network.of_graph(graph),
            encoding=of_steps(self.encoding, steps, graph.last.shape),
            members=tuple(replace(model, members=()).of_steps(steps) for model in self.members),
        )


def graph_of_steps(graph: Graph, steps: int) -> Graph | None:
    """Return the same layers over sequences of another number of steps.

    None where they have other parameters then, or do not fit each other.
    """
    network = resolved_network(graph)
    layers = [
        layer.model_copy(update={"shape": (steps, *layer.shape[1:])})
        if layer.shape is not None and layer.form == "input" and len(layer.shape) == 2
        else layer
        for layer in network.layers
    ]
    spec = network.model_copy(update={"layers": tuple(layers)})
    try:
        other = build_graph(spec, form=graph.form, input_shapes=None, output_shape=None)
    except SpecError:
        return None
    alike = other.parameters == graph.parameters and other.last.size == graph.last.size
    return other if alike and len(other.last.shape) == len(graph.last.shape) else None


def weights_of(values: Weights) -> bytes:
    """Return the safetensors file of parameters; its bytes depend on nothing else."""
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(values[name]) for name in sorted(values)}
    )


def document_of(
    graph: Graph,
    encoding: Encoding,
    regularizers: Sequence[Regularizer],
    weights: bytes,
    *,
    spec: TrainSpec | None,
    noise_precision: Mapping[str, float] | None,
    metrics: Mapping[str, Any],
    kept_epoch: int | None,
    version: str,
    rates: Mapping[int, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """Return the JSON document that stands beside the `weights` file.

    `rates` are those learnt by Concrete dropout, by regularizer and output.
    """
    return {
        "format": FORMAT,
        "version": version,
        "spec": None if spec is None else spec.model_dump(mode="json"),
        "network": resolved_network(graph).model_dump(mode="json"),
        **describe_graph(graph),
        "weights": {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)},
        "encoding": encoding.model_dump(mode="json"),
        "regularizers": [describe_regularizer(i, r) for i, r in enumerate(regularizers)],
        "rates": {str(index): dict(by_output) for index, by_output in (rates or {}).items()},
        "noise_precision": None if noise_precision is None else dict(noise_precision),
        "metrics": dict(metrics),
        "kept_epoch": kept_epoch,
    }


def load_model(
    document: Mapping[str, Any], weights: bytes, *, device: torch.device | None = None
) -> Model:
    """Rebuild a model; raises ArtifactError where document and weights do not fit each other."""
    if document.get("format") != FORMAT:
        raise ArtifactError(
            f"the model's document has format {document.get('format')!r}; "
            f"this version reads {FORMAT}"
        )
    if hashlib.sha256(weights).hexdigest() != document["weights"]["sha256"]:
        raise ArtifactError("the stored weights are not those of the model: their hash differs")
    values = _read(weights)
    if "members" not in document:
        return _model_of(document, values, device)
    return _ensemble_of(document, values, device)


def _model_of(
    document: Mapping[str, Any], values: Mapping[str, npt.NDArray[Any]], device: torch.device | None
) -> Model:
    try:
        network_spec = NetworkSpec.model_validate(document["network"])
        encoding = Encoding.model_validate(document["encoding"])
        spec = document["spec"]
        trained = RegularizationSpec() if spec is None else TrainSpec.model_validate(spec)
    except (KeyError, pydantic.ValidationError) as error:
        raise ArtifactError("the model's document cannot be read") from error
    assert network_spec.form is not None
    graph = build_graph(network_spec, form=network_spec.form, input_shapes=None, output_shape=None)
    own = _checked(graph, values)
    precision = document["noise_precision"]
    rates = {int(index): by_output for index, by_output in document.get("rates", {}).items()}
    calibration = _calibration_of(document, encoding, graph)
    return Model(
        network=Network(graph, own, device=device),
        encoding=encoding,
        trained=learnt(resolve(trained, graph), rates),
        calibration=calibration,
        temperature=(None if calibration is None else calibration.temperature) or 1.0,
        noise_precision=None
        if precision is None
        else encoding.along_targets([precision[name] for name in encoding.target_names]),
    )


def _calibration_of(
    document: Mapping[str, Any], encoding: Encoding, graph: Graph
) -> Calibration | None:
    told = document.get("calibration")
    if told is None:
        return None
    try:
        calibration = Calibration.model_validate(told)
        if graph.form == "classifier":
            calibration.of_classes()
        else:
            calibration.along(encoding.target_names, len(graph.last.shape))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError("the model's calibration cannot be read") from error
    return calibration


def _ensemble_of(
    document: Mapping[str, Any], values: Mapping[str, npt.NDArray[Any]], device: torch.device | None
) -> Model:
    """Load each member; parameters are named by its number first, ``1.hid1.w``."""
    by_member: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for name, value in values.items():
        member, _, own = name.partition(".")
        by_member.setdefault(member, {})[own] = value
    told = document["members"]
    if (
        not isinstance(told, list)
        or not told
        or sorted(by_member, key=str) != sorted(map(str, range(len(told))))
    ):
        raise ArtifactError("the weights are not those of the ensemble's members")
    members = tuple(
        _model_of({**document, **own}, by_member[str(index)], device)
        for index, own in enumerate(told)
    )
    if len({predicts(model.graph) for model in members}) > 1:
        raise ArtifactError("the members of the ensemble do not predict the same")
    return replace(members[0], members=members)


def predicts(graph: Graph) -> tuple[Any, ...]:
    """Return what the members of an ensemble have in common beside their encoding."""
    noise = graph.noise_loss
    return (
        graph.form,
        graph.last.out,
        graph.last.shape,
        graph.noise_output,
        None if noise is None else noise.covar_eps,
    )


def resolved_regularizers(document: Mapping[str, Any], graph: Graph) -> tuple[Regularizer, ...]:
    """Return the regularizers that a document's model was trained with, as they were asked for."""
    spec = document["spec"]
    return () if spec is None else resolve(TrainSpec.model_validate(spec), graph)


def import_model(
    spec: Mapping[str, Any], weights: bytes, *, version: str
) -> tuple[dict[str, Any], bytes]:
    """Make a document for weights from elsewhere; inputs and outputs then pass unscaled.

    `spec` is ``{"network": {…}}`` with all sizes given. Returns the document and the weights as we
    store them. Raises SpecError for a network that is not whole, ArtifactError (pointer
    ``#/weights``) for weights that do not fit it.
    """
    network = NetworkSpec.model_validate(spec["network"])
    for index, layer in enumerate(network.layers):
        if layer.size is None and layer.shape is None and layer.form in _SIZED:
            raise SpecError(
                "an imported network has no data to infer sizes from; give every layer its `size`",
                pointer=layer_pointer(index, "size"),
            )
    form = network.form or "regressor"
    graph = build_graph(network, form=form, input_shapes=None, output_shape=None)
    if form == "classifier" and graph.last.size < 2:
        raise SpecError(
            "a classifier has at least 2 outputs",
            pointer=layer_pointer(len(graph.layers) - 1, "size"),
        )
    if form == "autoencoder" and [graph.last.shape] != [layer.shape for layer in graph.inputs]:
        raise SpecError(
            "an autoencoder gives back what it reads: "
            f"{' and '.join(shown(layer.shape) for layer in graph.inputs)} values, "
            f"not {shown(graph.last.shape)}",
            pointer=layer_pointer(len(graph.layers) - 1, "size"),
        )
    values = _checked(graph, _read(weights))
    shapes = {layer.name: layer.shape for layer in graph.inputs}
    encoding = Encoding.identity(shapes, graph.last.shape, form)
    stored = weights_of(values)
    document = document_of(
        graph,
        encoding,
        (),
        stored,
        spec=None,
        noise_precision=None,
        metrics={},
        kept_epoch=None,
        version=version,
    )
    return document, stored


def _read(weights: bytes) -> dict[str, npt.NDArray[Any]]:
    try:
        tensors = safetensors.torch.load(weights)
    except (safetensors.SafetensorError, ValueError, KeyError, OverflowError) as error:
        raise ArtifactError(
            "the weights are not a readable safetensors file", pointer="#/weights"
        ) from error
    values: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point:
            raise ArtifactError(
                f"weights {name!r} are not floating-point numbers", pointer="#/weights"
            )
        values[name] = tensor.to(torch.float32).numpy()
    return values


def _checked(graph: Graph, values: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    missing = [name for name in graph.parameters if name not in values]
    unknown = [name for name in values if name not in graph.parameters]
    if missing or unknown:
        raise ArtifactError(
            f"the weights do not fit the network; missing: {', '.join(missing) or 'none'}; "
            f"not in it: {', '.join(unknown) or 'none'}",
            pointer="#/weights",
        )
    for name, shape in graph.parameters.items():
        if values[name].shape != shape:
            raise ArtifactError(
                f"weights {name!r} have shape {list(values[name].shape)}, "
                f"the network needs {list(shape)}",
                pointer="#/weights",
            )
        if not np.isfinite(values[name]).all():
            raise ArtifactError(f"weights {name!r} are not all finite", pointer="#/weights")
    return dict(values)


def trained_perturbations(model: Model) -> tuple[Regularizer, ...]:
    """Return the dropout and noise that the model was trained with, without the penalties."""
    return perturbations(model.trained)
