"""A library is believed when its sums are right, and not when any of them is wrong."""

from __future__ import annotations

import ctypes

import pytest

from omniform.native.library import Library, library
from omniform.native.proof import disproved

pytestmark = pytest.mark.skipif(library() is None, reason="no native kernels here")


def test_this_machines_library_is_right():
    assert disproved(library()) == ""


@pytest.mark.parametrize("name", ["of_matmul", "of_softmax", "of_activate", "of_quantize"])
def test_one_that_computes_nothing_is_not_believed(name):
    class Idle:
        """Every function but one."""

        def __getattr__(self, called):
            return (lambda *_: 0) if called == name else getattr(library().c, called)

    assert disproved(Library("idle", Idle())).startswith(("products", "a softmax", "an activation", "I8 matrices"))


def test_the_last_bit_of_a_row_counts():
    class Careless:
        """Rows alone are a little off."""

        def __getattr__(self, called):
            if called != "of_matmul":
                return getattr(library().c, called)

            def off(matrix, x, bias, y, flags):
                library().c.of_matmul(matrix, x, bias, y, flags)
                if y._obj.rows == 1:
                    (ctypes.c_float * 1).from_address(y._obj.at)[0] += 1e-4
                return 0

            return off

    assert "beside other rows" in disproved(Library("careless", Careless()))
