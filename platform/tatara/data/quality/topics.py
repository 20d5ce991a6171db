"""The step that labels documents with a topic."""

from collections.abc import Mapping, Sequence

from tatara.data.document import Document, Verdict
from tatara.data.quality.classify import Classifier
from tatara.data.quality.config import TopicsConfig
from tatara.data.steps import Verdicts

UNKNOWN = "unknown"


class Topics(Classifier):
    """See `TopicsConfig`."""

    config: TopicsConfig

    def samples(self) -> Mapping[str, str]:
        """Classes in the order of their names."""
        return dict(sorted(self.config.samples.items()))

    def apply(self, documents: Sequence[Document]) -> Verdicts:
        """Label, and drop by label."""
        if not documents:
            return []
        probabilities = self.model.probabilities([document.text for document in documents])
        best = probabilities.argmax(axis=1).tolist()
        return [self._judge(each, row, place) for each, row, place in zip(documents, probabilities, best, strict=True)]

    def _judge(self, document: Document, probabilities: Sequence[float], best: int) -> Verdict | None:
        config = self.config
        score = float(probabilities[best])
        label = self.model.classes[best] if score >= config.min_probability else UNKNOWN
        document.labels[config.label] = label
        document.scores[config.label] = score
        document.counts[f"topics.{config.label}.{label}"] += 1
        return Verdict("topics.drop", score) if label in config.drop else None
