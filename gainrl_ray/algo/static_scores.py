"""Static signals to the scores by which problems are kept for training: the higher, the sooner."""

import numpy as np


def likelihood_score(likelihood: np.ndarray) -> np.ndarray:
    """1 - (s - mean(s))^2, [N] float64 in [0, 1]: highest for problems of middling gold-answer likelihood.

    likelihood: [N], s = exp(mean log-probability of the reference answer's tokens), in [0, 1].

    Source: UFO-RL, arXiv 2505.12457, its "fuzziness" of a problem.
    """
    values = np.asarray(likelihood, dtype=np.float64)
    return 1.0 - np.square(values - values.mean())


def alignment_score(gradients: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Mean over all j of <v_i, v_j> with v_i = p_i (1 - p_i) * the unit vector of gradient i; [N] float64.

    gradients: [N, size], projected or not, on any scale; accuracy: [N], p in [0, 1]. A gradient of zero has no
    direction and its problem a score of 0. The pair i = j is included, as in the paper's mean. The mean over j is taken
    first, <v_i, mean_j v_j>, so that no N x N matrix is built.

    Source: LearnAlign, arXiv 2506.11480, its learnability V and average alignment score.
    """
    length = np.linalg.norm(gradients, axis=1).astype(np.float64)
    rate = np.asarray(accuracy, dtype=np.float64)
    scale = rate * (1.0 - rate) / np.where(length > 0, length, 1.0)
    mean = scale @ gradients / len(gradients)
    return scale * (gradients @ mean)
