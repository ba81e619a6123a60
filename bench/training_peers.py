"""How others train the networks of `bench.training`: each gives a function that trains an epoch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["PEERS", "Epoch", "Problem", "textbook"]

Floats = npt.NDArray[np.float32]
Epoch = Callable[[], float]
"""Trains one epoch and returns the mean of its losses."""

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Problem:
    """Rows and a network to train on them."""

    sizes: tuple[int, ...]
    rate: float
    """Of dropout on the inputs' and the hidden layers' outputs."""
    batch_size: int
    x: Floats
    y: npt.NDArray[np.generic]
    steps: int = 0
    """Of a sequence; with them the hidden layer is an LSTM."""

    @property
    def is_classifier(self) -> bool:
        return self.y.dtype == np.int64


class _Sequences(nn.Module):
    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.scan = nn.LSTM(sizes[0], sizes[1], batch_first=True)
        self.out = nn.Linear(sizes[1], sizes[2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.out(self.scan(x)[0])
        return values


def initial_deviation(inputs: int, outputs: int, is_last: bool) -> float:
    """Return ours, so that all begin alike."""
    return float(np.sqrt(2 / (inputs + outputs) if is_last else 2 / inputs))


def module_of(problem: Problem) -> nn.Module:
    if problem.steps:
        return _Sequences(problem.sizes)
    parts: list[nn.Module] = []
    pairs = list(zip(problem.sizes, problem.sizes[1:], strict=False))
    for index, (inputs, outputs) in enumerate(pairs):
        if problem.rate:
            parts.append(nn.Dropout(problem.rate))
        linear = nn.Linear(inputs, outputs)
        is_last = index == len(pairs) - 1
        nn.init.normal_(linear.weight, std=initial_deviation(inputs, outputs, is_last))
        nn.init.zeros_(linear.bias)
        parts.append(linear)
        if not is_last:
            parts.append(nn.ReLU())
    return nn.Sequential(*parts)


def textbook(problem: Problem, seed: int) -> Epoch:
    """DataLoader, modules in train() mode, autograd and Adam."""
    torch.manual_seed(seed)
    module = module_of(problem).train()
    loss_of = nn.CrossEntropyLoss() if problem.is_classifier else nn.MSELoss()
    optimizer = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE)
    rows = TensorDataset(torch.from_numpy(problem.x), torch.from_numpy(problem.y))
    loader = DataLoader(rows, batch_size=problem.batch_size, shuffle=True)

    def epoch() -> float:
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = loss_of(module(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        return total / len(problem.x)

    return epoch


def jax_scan(problem: Problem, seed: int) -> Epoch | None:
    """An epoch as one compiled scan over batches, masks and Adam within it."""
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        return None
    if problem.steps:
        return None
    keys = jax.random.split(jax.random.key(seed), len(problem.sizes))
    weights = []
    for index, (inputs, outputs) in enumerate(zip(problem.sizes, problem.sizes[1:], strict=False)):
        deviation = initial_deviation(inputs, outputs, index == len(problem.sizes) - 2)
        drawn = jax.random.normal(keys[index], (inputs, outputs)) * deviation
        weights.append((drawn, jnp.zeros(outputs)))
    x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)
    count = len(problem.x) // problem.batch_size  # whole batches alone: one shape for the scan

    def loss_of(weights, x, y, key):  # type: ignore[no-untyped-def]
        for index, (w, b) in enumerate(weights):
            if problem.rate:
                kept = jax.random.bernoulli(
                    jax.random.fold_in(key, index), 1 - problem.rate, x.shape
                )
                x = x * kept / (1 - problem.rate)
            x = x @ w + b
            x = jax.nn.relu(x) if index < len(weights) - 1 else x
        if problem.is_classifier:
            return -jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1).mean()
        return ((x - y) ** 2).mean()

    def step(state, batch):  # type: ignore[no-untyped-def]
        weights, m, v, t = state
        rows, key = batch
        loss, g = jax.value_and_grad(loss_of)(weights, x[rows], y[rows], key)
        t = t + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        weights = jax.tree.map(
            lambda w, m, v: (
                w - LEARNING_RATE * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
            ),
            weights,
            m,
            v,
        )
        return (weights, m, v, t), loss

    @jax.jit
    def train(state, key):  # type: ignore[no-untyped-def]
        order = jax.random.permutation(key, len(problem.x))[: count * problem.batch_size]
        keys = jax.random.split(key, count)
        return jax.lax.scan(step, state, (order.reshape(count, problem.batch_size), keys))

    zeros = jax.tree.map(jnp.zeros_like, weights)
    at = [(weights, zeros, zeros, jnp.zeros(())), jax.random.key(seed + 1)]

    def epoch() -> float:
        at[1], key = jax.random.split(at[1])
        at[0], losses = train(at[0], key)
        return float(losses.mean())

    return epoch


def scikit_learn(problem: Problem, seed: int) -> Epoch | None:
    """`MLPRegressor` or `MLPClassifier`, which know no dropout."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    if problem.steps:
        return None
    kind = MLPClassifier if problem.is_classifier else MLPRegressor
    network = kind(
        hidden_layer_sizes=problem.sizes[1:-1],
        batch_size=problem.batch_size,
        alpha=0,
        random_state=seed,
    )
    y = problem.y if problem.is_classifier or problem.y.shape[1] > 1 else problem.y[:, 0]
    classes = {"classes": np.unique(problem.y)} if problem.is_classifier else {}

    def epoch() -> float:
        network.partial_fit(problem.x, y, **classes)
        return float(network.loss_)

    return epoch


def skorch(problem: Problem, seed: int) -> Epoch | None:
    """The textbook's module in skorch."""
    try:
        from skorch import NeuralNetClassifier, NeuralNetRegressor
    except ImportError:
        return None
    torch.manual_seed(seed)
    kind = NeuralNetClassifier if problem.is_classifier else NeuralNetRegressor
    options = {"criterion": nn.CrossEntropyLoss} if problem.is_classifier else {}
    net = kind(
        module_of(problem),
        max_epochs=1,
        lr=LEARNING_RATE,
        optimizer=torch.optim.Adam,
        batch_size=problem.batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
        **options,
    ).initialize()

    def epoch() -> float:
        net.partial_fit(problem.x, problem.y)
        return float(net.history[-1, "train_loss"])

    return epoch


def keras(problem: Problem, seed: int) -> Epoch | None:
    """Keras on JAX, which it compiles."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError:
        return None
    keras.utils.set_random_seed(seed)
    layers = [keras.Input(problem.x.shape[1:])]
    if problem.steps:
        layers += [keras.layers.LSTM(problem.sizes[1], return_sequences=True)]
        layers += [keras.layers.Dense(problem.sizes[2])]
    else:
        for size in problem.sizes[1:-1]:
            layers += [keras.layers.Dropout(problem.rate)] if problem.rate else []
            layers += [keras.layers.Dense(size, activation="relu")]
        layers += [keras.layers.Dropout(problem.rate)] if problem.rate else []
        layers += [keras.layers.Dense(problem.sizes[-1])]
    model = keras.Sequential(layers)
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE),
        loss=entropy if problem.is_classifier else "mse",
    )

    def epoch() -> float:
        fitted = model.fit(problem.x, problem.y, batch_size=problem.batch_size, epochs=1, verbose=0)
        return float(fitted.history["loss"][0])

    return epoch


PEERS = {"JAX scan": jax_scan, "scikit-learn": scikit_learn, "skorch": skorch, "Keras": keras}
