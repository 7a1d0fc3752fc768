"""Values predicted from those of like vectors: attention over references, its width and scale fitted to them."""

import numpy as np

WIDTHS = tuple(0.02 * 2.0**power for power in range(8))
"""Widths that are tried, 0.02 to 2.56: of softmax over cosines, which are in [-1, 1]."""
_BLOCK = 512  # queries at a time, whose weights stay in a core's cache


class Likeness:
    """What references say of other vectors, `references` [refs, size] with `values` [refs] in 0..1; refs >= 2.

    A prediction is the mean of the references' values with weights softmax(cosine / width), the cosine being that
    of the vectors less the references' mean. The width is the one of WIDTHS that predicts each reference best from
    the others; of these predictions the least-squares line to the values re-calibrates all.

    Source: DOTS, arXiv 2506.05316: attention over a reference set with least squares of its code. Its trained
    projections of the vectors and its trained calibration are left out, for want of difficulties of other runs; the
    width stands for their scale. A falling line is taken as none: predictions of a value from the others' mean fall
    with it even where the vectors say nothing.
    """

    def __init__(self, references: np.ndarray, values: np.ndarray) -> None:
        self._centre = references.mean(axis=0, dtype=np.float64)
        self._keys, self._values = _unit(references - self._centre), values
        among = self._keys @ self._keys.T
        tried = [_without_itself(among, values, width) for width in WIDTHS]
        best = int(np.argmin([np.square(predicted - values).sum() for predicted in tried]))
        self.width = WIDTHS[best]
        """Of the softmax."""
        self.slope, self._start = _line(tried[best], values)
        """Of the re-calibration, 0 where references say nothing of each other."""
        self.error = float(np.sqrt(np.square(self._start + self.slope * tried[best] - values).mean()))
        """Root mean square, of each reference predicted from the others, re-calibrated."""

    def predict(self, queries: np.ndarray) -> np.ndarray:
        """Values of `queries`, [queries, size]: [queries] float64 in 0..1."""
        found = np.empty(len(queries))
        for start in range(0, len(queries), _BLOCK):
            block = slice(start, start + _BLOCK)
            cosines = _unit(queries[block] - self._centre) @ self._keys.T
            found[block] = _attended(cosines, self._values, self.width)
        return np.clip(self._start + self.slope * found, 0.0, 1.0)


def _without_itself(cosines: np.ndarray, values: np.ndarray, width: float) -> np.ndarray:
    """Each reference's value from the others, [refs]."""
    others = cosines.copy()
    np.fill_diagonal(others, -np.inf)
    return _attended(others, values, width)


def _attended(cosines: np.ndarray, values: np.ndarray, width: float) -> np.ndarray:
    """Means of `values`, [queries] float64, with weights softmax(cosines / width), of [queries, refs]; in place."""
    cosines -= cosines.max(axis=1, keepdims=True)
    cosines *= np.float32(1.0 / width)
    weights = np.exp(cosines, out=cosines)
    sums = weights @ np.stack([values, np.ones_like(values)], axis=1).astype(np.float32)
    return sums[:, 0].astype(np.float64) / sums[:, 1]


def _line(inputs: np.ndarray, outputs: np.ndarray) -> tuple[float, float]:
    """Slope, 0 or more, and start of the least-squares line."""
    offset = inputs - inputs.mean()
    spread = float(offset @ offset)
    slope = max(float(offset @ outputs) / spread, 0.0) if spread > 1e-12 * inputs.size else 0.0
    return slope, float(outputs.mean() - slope * inputs.mean())


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, in float32, which halves the time of all that follows; zero stays zero."""
    vectors = vectors.astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(lengths > 0, lengths, 1.0)
    return vectors
