"""Stand-in, not committed."""

import torch
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.derivatives.flat import *
from tsgu_func.registration.transforms import outside_transforms


def jacobian_pattern(f, *args, argnums=0, has_aux=False, detect="global", unknown="error"):
    with outside_transforms():
        g, L = of_vector(f, args, argnums, has_aux)
        if not L.size:
            return SparsityPattern.from_coo([], [], (g(torch.zeros(0, dtype=L.dtype)).numel(), 0))[
                0
            ]
        J = torch.func.jacfwd(g)(torch.rand(L.size, dtype=L.dtype) + 0.5)
        return SparsityPattern.from_coo(*J.nonzero().T, J.shape)[0]


def hessian_pattern(f, *args, argnums=0, has_aux=False, detect="global", unknown="error"):
    with outside_transforms():
        g, L = of_vector(f, args, argnums, has_aux)
        if not L.size:
            return SparsityPattern.from_coo([], [], (g(torch.zeros(0, dtype=L.dtype)).numel(), 0))[
                0
            ]
        J = torch.func.hessian(lambda v: g(v)[0])(torch.rand(L.size, dtype=L.dtype) + 0.5)
        return SparsityPattern.from_coo(*J.nonzero().T, J.shape)[0]
