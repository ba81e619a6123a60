"""What training minimises: losses of named outputs, resolved against a network's layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from engine.errors import SpecError
from engine.layers import Layer, Shape, shown
from engine.names import output_name
from engine.spec import Form, LossName, LossSpec, NetworkSpec

__all__ = ["LOSSES", "Loss", "resolve_losses", "told"]

LOSSES: Mapping[str, tuple[str, ...]] = {
    "regressor": ("mse", "mae", "kl", "mmd", "gll"),
    "autoencoder": ("mse", "mae", "kl", "mmd", "gll"),
    "classifier": ("xe", "hinge"),
}
"""What the job's own targets may be compared by; the first is the default."""
_NEEDS_VARIANCES = (
    ", and `gll` needs one for the variances: a layer before the last, such as "
    '{"name": "covar", "size": 1, "activation": "softplus", "inputs": "hid1"}'
)
_MIXED = ("rrnn", "gru", "bidirectional")
"""Forms of layers whose `out` is more than an activation, and adds up to anything."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One resolved term of the loss."""

    form: str
    weight: float
    output: str
    """What is compared with the targets; of `gll` the mean."""
    target: int | None
    """Which of the auxiliary targets, or None for the job's own."""
    targets: tuple[str, ...] | None
    """The globs that chose auxiliary targets."""
    kernel: float = 1.0
    covar: str | None = None
    """Of `gll`: the output whose size is the covariance's diagonal."""
    covar_eps: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class _Network:
    """The layers that losses read."""

    form: Form
    layers: Sequence[Layer]

    @property
    def last(self) -> Layer:
        return self.layers[-1]

    @cached_property
    def outputs(self) -> dict[str, Shape]:
        return {name: shape for layer in self.layers for name, shape in layer.outputs.items()}


def resolve_losses(
    spec: NetworkSpec,
    form: Form,
    layers: Sequence[Layer],
    auxiliary_shapes: Sequence[Shape] | None,
) -> tuple[Loss, ...]:
    """Return the terms of the loss; `auxiliary_shapes` are of targets that are not the job's.

    Raises SpecError, with a pointer, for outputs that do not exist or do not fit.
    """
    network = _Network(form=form, layers=layers)
    losses = tuple(_resolved(spec, network, auxiliary_shapes))
    if not any(loss.target is None and loss.output == network.last.out for loss in losses):
        raise SpecError(
            f"no loss compares {network.last.out!r}, the prediction, with the job's targets",
            pointer="#/network/losses",
        )
    return losses


def _resolved(
    spec: NetworkSpec, network: _Network, auxiliary_shapes: Sequence[Shape] | None
) -> Iterator[Loss]:
    target = 0
    for index, given in enumerate(spec.losses or (LossSpec(form=_usual_loss(spec, network)),)):
        base = "#/network" if spec.losses is None else f"#/network/losses/{index}"
        pointer = "#/network/loss" if spec.losses is None else f"{base}/form"
        own = given.targets is None
        if own and given.form not in LOSSES[network.form]:
            raise SpecError(
                f"loss {given.form!r} does not fit a {network.form}, which takes "
                f"{' or '.join(LOSSES[network.form])}",
                pointer=pointer,
            )
        loss = _loss(given, network, base, None if own else target)
        if own:
            wanted: Shape | None = network.last.shape
        else:
            wanted = None if auxiliary_shapes is None else auxiliary_shapes[target]
            target += 1
        if wanted is not None and network.outputs[loss.output] != wanted:
            raise SpecError(
                f"{loss.output!r} gives {shown(network.outputs[loss.output])} values for each row, "
                f"but it is compared with {shown(wanted)} values",
                pointer=_within(base, "output_name"),
            )
        yield loss


def _usual_loss(spec: NetworkSpec, network: _Network) -> LossName:
    return spec.loss or ("xe" if network.form == "classifier" else "mse")


def _loss(given: LossSpec, network: _Network, base: str, target: int | None) -> Loss:
    if given.form != "gll":
        output = _output(
            network, given.output_name or network.last.out, _within(base, "output_name")
        )
        _check_probabilities(given.form, output, network, base)
        covar = None
    else:
        usual = "mean:out" if "mean:out" in network.outputs else network.last.out
        name = given.mean_name or given.output_name or usual
        output = _output(network, name, _within(base, "mean_name"))
        at = _within(base, "covar_name")
        covar = _output(network, given.covar_name or "covar", at, _NEEDS_VARIANCES)
        if network.outputs[covar] != network.outputs[output]:
            raise SpecError(
                f"{covar!r} gives {shown(network.outputs[covar])} values for each row; a variance "
                f"is needed for each of the {shown(network.outputs[output])} values of the mean, "
                f"{output!r}",
                pointer=_within(base, "covar_name"),
            )
    return Loss(
        form=given.form,
        weight=given.weight,
        output=output,
        target=target,
        targets=given.targets,
        kernel=given.kernel or 1.0,
        covar=covar,
        covar_eps=given.covar_eps or 1e-3,
    )


def _within(base: str, key: str) -> str:
    """Point at a key of one of `losses`, or at the `loss` that is said in short."""
    return "#/network/loss" if base == "#/network" else f"{base}/{key}"


def _output(network: _Network, name: str, pointer: str, need: str = "") -> str:
    full = name if ":" in name else output_name(name, "out")
    if full not in network.outputs:
        raise SpecError(
            f"there is no output {full!r}{need}; there are {', '.join(network.outputs)}",
            pointer=pointer,
        )
    return full


def _check_probabilities(form: str, output: str, network: _Network, base: str) -> None:
    """Refuse to take for a distribution what is none."""
    layer = next(layer for layer in network.layers if output in layer.outputs)
    if form in ("xe", "hinge", "kl") and len(network.outputs[output]) > 2:
        raise SpecError(
            f"loss {form!r} compares probabilities of rows or steps, but {output!r} is an image",
            pointer=_within(base, "output_name"),
        )
    is_softmax = output == layer.out and layer.activation.split("+")[-1] == "softmax"
    mixes = layer.form in _MIXED
    if form in ("xe", "hinge", "kl") and (not is_softmax or mixes):
        advice = (
            "put a layer of form 'softmax' behind it"
            if mixes
            else f"let layer {layer.name!r} have the activation 'softmax'"
        )
        raise SpecError(
            f"loss {form!r} compares probabilities, but {output!r} gives none; {advice}",
            pointer=_within(base, "output_name"),
        )


def told(loss: Loss) -> LossSpec:
    """Return the spec of a term with everything written out."""
    is_gll = loss.form == "gll"
    return LossSpec.model_validate(
        {
            "form": loss.form,
            "weight": loss.weight,
            "mean_name" if is_gll else "output_name": loss.output,
            "targets": loss.targets,
            "kernel": loss.kernel if loss.form == "mmd" else None,
            "covar_name": loss.covar,
            "covar_eps": loss.covar_eps if is_gll else None,
        }
    )
