"""A switch for whoever differentiates forwards.

The fast forms of some operations have a gradient of their own (jax.custom_vjp), which
JAX can follow backwards only.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import jax

_is_plain = jax.make_user_context(False)


def plain() -> contextlib.AbstractContextManager[None]:
    """Has every operation computed in its plain form, on every platform.

    What is traced inside can be differentiated forwards (jax.jvp, jax.jacfwd,
    jax.linearize, jax.hessian) and backwards; it is slower and takes more memory, on
    CPUs above all. The values are the same but for rounding. JAX compiles a jitted
    function apart for inside and outside.

      with plain():
          value, slope = jax.jvp(loss, (params,), (direction,))

    Layers that call the host (Python) are differentiated backwards only.
    """
    return _is_plain(True)


def is_plain() -> bool:
    """Returns whether the code that runs now is inside `plain`."""
    return _is_plain.value


def keep_arguments(
    form: Callable[..., jax.Array],
) -> Callable[..., jax.Array]:
    """Has the gradient of a function keep its arguments only, and compute the rest.

    Left to itself, JAX keeps from the forward pass whatever the derivative multiplies
    with, here an array as large as the first argument that exists nowhere else.

    Args:
      form: arrays -> array, with a derivative by the first argument alone.

    Returns:
      The same function; inside `plain` `form` itself, whose derivative has both modes.
    """

    def forward(*arrays: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return form(*arrays), arrays

    def backward(
        arrays: tuple[jax.Array, ...], top_diff: jax.Array
    ) -> tuple[jax.Array | None, ...]:
        first, *others = arrays
        (diff,) = jax.vjp(lambda x: form(x, *others), first)[1](top_diff)
        return (diff, *[None] * len(others))

    kept = jax.custom_vjp(form)
    kept.defvjp(forward, backward)

    @functools.wraps(form)
    def choose(*arrays: jax.Array) -> jax.Array:
        return form(*arrays) if is_plain() else kept(*arrays)

    return choose
