"""The step that scores documents by their likeness to good samples."""

import hashlib
from collections.abc import Mapping, Sequence

from tatara.data.document import Document, Verdict
from tatara.data.quality.classify import Classifier
from tatara.data.quality.config import QualityConfig
from tatara.data.steps import Verdicts
from tatara.errors import DataError


class Quality(Classifier):
    """See `QualityConfig`."""

    config: QualityConfig

    def samples(self) -> Mapping[str, str]:
        """The bad samples, then the good ones, whose probability is the score."""
        return {"bad": str(self.config.bad), "good": str(self.config.good)}

    def prepare(self) -> None:
        """Train the model, or take the one that was given.

        Raises:
            DataError: The model that was given has more than two classes.
        """
        super().prepare()
        if len(self.model.classes) != 2:
            raise DataError(f"model {self.config.model}: it has {len(self.model.classes)} classes; quality needs 2")

    def apply(self, documents: Sequence[Document]) -> Verdicts:
        """Score, and drop by score."""
        if not documents:
            return []
        scores = self.model.probabilities([document.text for document in documents])[:, 1].tolist()
        return [self._judge(document, score) for document, score in zip(documents, scores, strict=True)]

    def _judge(self, document: Document, score: float) -> Verdict | None:
        config = self.config
        document.scores[config.label] = score
        if config.min_score is not None and score < config.min_score:
            return Verdict("quality.min_score", score, config.min_score)
        if config.max_score is not None and score > config.max_score:
            return Verdict("quality.max_score", score, config.max_score)
        if config.pareto_alpha is not None:
            limit = 1 - lomax(document.id, config.seed, config.pareto_alpha)
            if score <= limit:
                return Verdict("quality.pareto_alpha", score, limit)
        return None


def lomax(id: str, seed: int, shape: float) -> float:
    """A draw from the Lomax distribution (what numpy calls pareto) that depends on the arguments only."""
    digest = hashlib.blake2b(f"{seed}\0{id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    # In the middle of one of 2**53 steps: neither 0 nor 1.
    uniform = ((int.from_bytes(digest, "big") >> 11) + 0.5) / (1 << 53)
    return float(uniform ** (-1 / shape) - 1)
