"""A switch for whoever differentiates forwards.

The fast forms of some operations have a gradient of their own (jax.custom_vjp), which
JAX can follow backwards only.
"""

from __future__ import annotations

import contextlib

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
