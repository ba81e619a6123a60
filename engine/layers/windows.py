"""Windows that slide over the steps of a sequence or the pixels of an image.

A sequence (steps, size) is taken for an image of that height, one pixel wide, so that one geometry
serves both.
"""

from __future__ import annotations

from engine.layers.layer import LayerRequest, Shape, shown

__all__ = ["Pair", "extent", "pair", "resized", "windowed_input"]

Pair = tuple[int, int]
"""Along height and width; of a sequence along its steps, and 1."""


def windowed_input(request: LayerRequest) -> tuple[str, Shape]:
    """Return the one input of a layer whose form says 1 for sequences or 2 for images."""
    if request.form.endswith("1"):
        what = "a sequence (steps, size); layers of form 'reshape' make one"
        return request.only_input(dimensions=(2,), what=what)
    what = "an image (channels, height, width); layers of form 'reshape' make one"
    return request.only_input(dimensions=(3,), what=what)


def pair(request: LayerRequest, key: str) -> Pair | None:
    """Return what a key of the spec says of height and width; one number stands for both."""
    given = getattr(request.spec, key)
    if given is None:
        return None
    numbers = (given,) if isinstance(given, int) else tuple(given)
    if request.form.endswith("1"):
        if len(numbers) > 1:
            raise request.error(
                f"`{key}` of a layer of form {request.form!r} is one number, of steps; got "
                f"{shown(numbers)}",
                key,
            )
        return numbers[0], 1
    return numbers[0], numbers[-1]


def extent(shape: Shape) -> Pair:
    """Return the height and width of a row."""
    return (shape[0], 1) if len(shape) == 2 else (shape[1], shape[2])


def resized(shape: Shape, size: int, counts: Pair) -> Shape:
    """Return the shape of so many channels of such a height and width, laid out as `shape` is."""
    return (counts[0], size) if len(shape) == 2 else (size, *counts)
