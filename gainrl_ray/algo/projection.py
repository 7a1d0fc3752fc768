"""Random projections that keep inner products, drawn from coordinates instead of being stored.

Source: Johnson & Lindenstrauss 1984; signs instead of normals: Achlioptas 2003. A projection by the Kronecker product
of two such matrices, as in TRAK (arXiv 2303.14186) and LoGra (arXiv 2405.13954), is never built: a linear layer's
gradient is a sum of outer products, and (B (x) A)^T vec(delta x^T) is vec of (B^T delta)(A^T x)^T.
"""

import numpy as np

from gainrl_ray.algo.randomness import Coordinate, coordinate_rng


def sign_matrix(rows: int, columns: int, seed: int, *coordinates: Coordinate) -> np.ndarray:
    """[rows, columns] float32 of independent signs over sqrt(columns): E[M M^T] is the identity.

    So x @ M and y @ M have the inner product of x and y on average, with a standard deviation of at most
    |x| |y| sqrt(2 / columns). The same arguments always give the same matrix.
    """
    rng = coordinate_rng(seed, "projection", columns, *coordinates)
    signs = rng.integers(0, 2, size=(rows, columns), dtype=np.int8)
    return (2 * signs - 1).astype(np.float32) / np.float32(np.sqrt(columns))
