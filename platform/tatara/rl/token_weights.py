"""How much each response's tokens weigh in the loss."""

import numpy as np
import numpy.typing as npt

from tatara.errors import DataError
from tatara.rl.algorithm import Normalisation


def token_weights(
    lengths: npt.ArrayLike, normalisation: Normalisation, *, longest: int, trained: npt.ArrayLike | None = None
) -> npt.NDArray[np.float64]:
    """Weight of each trained token, by response.

    The trainer divides the weighted sum of losses by the number of trained tokens, so weights are already multiplied by
    it. The loss is then

    - ``sequence``: the mean over sequences of the mean over their tokens (GRPO, arXiv:2402.03300, equation 3);
    - ``token``: the mean over all trained tokens of the batch (DAPO, arXiv:2503.14476, equation 8);
    - ``constant``: the mean over sequences of the sum over their tokens divided by the longest response there could be
      (Dr. GRPO, arXiv:2503.20783, section 3.2).

    Args:
        lengths: Trained tokens of each response, ``[responses]``; 0 where none is, which still counts as a sequence.
        normalisation: Which of them.
        longest: Tokens that a response may have.
        trained: Which responses the trainer is given, ``[responses]``; None is all. The others have a loss of zero, but
            count in the means.

    Returns:
        ``[responses]``; 0 where no token is trained.

    Raises:
        DataError: A response is longer than the longest.
    """
    counts = np.asarray(lengths, np.int64)
    if not counts.size:
        return np.zeros(0)
    if counts.min() < 0 or counts.max() > longest:
        raise DataError(f"a response has {int(counts.max())} trained tokens, but at most {longest} are allowed")
    used = counts * (np.ones(len(counts), bool) if trained is None else np.asarray(trained, bool))
    if normalisation == "token":
        shares = np.full(len(counts), 1.0 / max(1, counts.sum()))
    elif normalisation == "constant":
        shares = np.full(len(counts), 1.0 / (len(counts) * longest))
    else:
        shares = 1.0 / (len(counts) * np.maximum(counts, 1))
    return np.where(used > 0, used.sum() * shares, 0.0)
