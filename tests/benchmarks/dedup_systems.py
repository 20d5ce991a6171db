"""Fuzzy deduplication of a corpus of `dedup_corpus` by one system, from reading to writing what survives.

    PYTHON tests/benchmarks/dedup_systems.py SYSTEM CORPUS OUTPUT

Each runs in an environment of its own, on word 5-grams, with 112 to 128 components and a threshold of 0.8; OUTPUT gets
the surviving documents and ``survivors.txt``, their ids. What only reads the ids back is not part of the work: it runs
with ``--survivors``.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

WORKERS = 2


def documents(corpus: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of the Parquet files."""
    import pyarrow.parquet as pq

    for path in sorted((corpus / "parquet").glob("*.parquet")):
        table = pq.read_table(path, columns=["id", "text"])
        yield from zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)


def write(corpus: Path, output: Path, gone: set[str]) -> None:
    """Write the documents that are not gone, file by file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in sorted((corpus / "parquet").glob("*.parquet")):
        table = pq.read_table(path)
        stays = pa.array([name not in gone for name in table["id"].to_pylist()])
        pq.write_table(table.filter(stays), output / path.name, compression="zstd")


def shingles(text: str) -> list[str]:
    """Word 5-grams."""
    words = re.findall(r"[^\W_]+", text.lower())
    return [" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))]


def tatara(corpus: Path, output: Path) -> None:
    """This project's curation, with the one step."""
    job = {
        "name": "bench",
        "root": str(output / "root"),
        "config": {"corpus": str(corpus / "parquet"), "pipeline": ["fuzzy_dedup"]},
    }
    (output / "job.yaml").write_text(json.dumps(job))
    path = str(Path(__file__).resolve().parents[2] / "platform")
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "tatara", "curate", "--config", str(output / "job.yaml")]
    subprocess.run(command, check=True, env=environment)


def tatara_step(corpus: Path, output: Path, workers: int = WORKERS) -> None:
    """This project's step without its pipeline, in Ray tasks of one file each, or in this process alone."""
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / "platform"), str(root / "tests" / "benchmarks")]
    from dedup_driver import deduplicate

    deduplicate(corpus, output, workers)


def datatrove(corpus: Path, output: Path, split: bool = False) -> None:
    """datatrove: four stages, two workers; 14 bands of 8 rows, as FineWeb."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Split(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            return text.split("\n")

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64))
    reader = JsonlReader(str(corpus / "jsonl"))
    tasks = len(list((corpus / "jsonl").glob("*.jsonl")))
    work = output / "work"
    language: Any = Split() if split else "eng"
    stages: list[tuple[list[Any], int]] = [
        ([reader, MinhashDedupSignature(str(work / "signatures"), config, language=language)], tasks),
        ([MinhashDedupBuckets(str(work / "signatures"), str(work / "buckets"), config=config)], config.num_buckets),
        ([MinhashDedupCluster(str(work / "buckets"), str(work / "removed"), config=config)], 1),
        ([reader, MinhashDedupFilter(str(work / "removed")), JsonlWriter(str(output / "kept"))], tasks),
    ]
    for number, (pipeline, count) in enumerate(stages):
        logging = str(work / f"logs{number}")
        LocalPipelineExecutor(pipeline=pipeline, tasks=count, workers=WORKERS, logging_dir=logging).run()


def datatrove_split(corpus: Path, output: Path) -> None:
    """datatrove with words split at white space instead of its tokenizer."""
    datatrove(corpus, output, split=True)


def text_dedup(corpus: Path, output: Path) -> None:
    """text-dedup's MinHash."""
    files = str(corpus / "parquet" / "*.parquet")
    command = [sys.executable, "-m", "text_dedup.minhash", "--path", "parquet", "--data_files", files]
    command += ["--split", "train", "--cache_dir", str(output / "cache"), "--output", str(output / "kept")]
    command += [
        "--column",
        "text",
        "--ngram",
        "5",
        "--num_perm",
        "120",
        "--b",
        "20",
        "--r",
        "6",
        "--threshold",
        "0.8",
        "--hash_func",
        "xxh3",
    ]
    command += ["--batch_size", "10000", "--num_proc", str(WORKERS)]
    subprocess.run(command, check=True)


def data_juicer(corpus: Path, output: Path) -> None:
    """data-juicer's Ray MinHash with its balanced union-find."""
    operator = {
        "tokenization": "space",
        "window_size": 5,
        "lowercase": True,
        "num_permutations": 120,
        "jaccard_threshold": 0.8,
        "num_bands": 20,
        "num_rows_per_band": 6,
        "union_find_parallel_num": 2,
    }
    config = {
        "project_name": "bench",
        "dataset_path": str(corpus / "jsonl"),
        "export_path": str(output / "kept"),
        "executor_type": "ray",
        "ray_address": "local",
        "text_keys": "text",
        "process": [{"ray_bts_minhash_deduplicator": operator}],
    }
    (output / "config.yaml").write_text(json.dumps(config))
    code = (
        "import ray; ray.init(address='local', num_cpus=6, include_dashboard=False);"
        "from data_juicer.config import init_configs; from data_juicer.core.executor.ray_executor import RayExecutor;"
        f"RayExecutor(init_configs(['--config', {str(output / 'config.yaml')!r}])).run()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=output)


def datasketch(corpus: Path, output: Path) -> None:
    """datasketch, one process."""
    from datasketch import MinHash, MinHashLSH

    index, gone, kept = MinHashLSH(num_perm=128, params=(20, 6)), set(), {}
    for name, text in documents(corpus):
        signature = MinHash(num_perm=128)
        signature.update_batch([each.encode() for each in shingles(text)])
        if any(signature.jaccard(kept[other]) >= 0.75 for other in index.query(signature)):
            gone.add(name)
        else:
            index.insert(name, signature, check_duplication=False)
            kept[name] = signature
    write(corpus, output, gone)


def rensa(corpus: Path, output: Path) -> None:
    """rensa, one process."""
    from rensa import RMinHash, RMinHashLSH

    index, gone, kept = RMinHashLSH(threshold=0.8, num_perm=128, num_bands=16), set(), {}
    for number, (name, text) in enumerate(documents(corpus)):
        signature = RMinHash(num_perm=128, seed=42)
        signature.update(shingles(text))
        if any(signature.jaccard(kept[other]) >= 0.75 for other in index.query(signature)):
            gone.add(name)
        else:
            index.insert(number, signature)
            kept[number] = signature
    write(corpus, output, gone)


def fastsketch(corpus: Path, output: Path) -> None:
    """FastSketchLSH's own index, one process, fed with our vectorised shingles; drops whatever shares a band."""
    import FastSketchLSH as library
    import pyarrow as pa
    import pyarrow.parquet as pq

    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "platform"))
    from tatara.data.shingles import normalise, shingle_hashes

    sketch = library.FastSimilaritySketch(size=128, seed=1)
    index = library.LSH(num_perm=120, num_bands=20, num_threads=1)
    for path in sorted((corpus / "parquet").glob("*.parquet")):
        with pq.ParquetFile(path) as file, pq.ParquetWriter(output / path.name, file.schema_arrow) as writer:
            for batch in file.iter_batches(2000):
                normal = [normalise(text) for text in batch.column("text").to_pylist()]
                hashes, bounds = shingle_hashes(normal, 5)
                signatures = sketch.batch_csr(hashes, bounds, prehashed=True, num_threads=1)[:, :120].copy()
                stays = index.insert_and_query_duplicates(signatures) == 0
                writer.write_batch(batch.filter(pa.array(stays)))


def gaoya(corpus: Path, output: Path) -> None:
    """gaoya, one process."""
    from gaoya.minhash import MinHashStringIndex

    index = MinHashStringIndex(32, 0.77, 20, 6, None, "word", True, (5, 5), "vec")
    names, texts = map(list, zip(*documents(corpus), strict=True))
    index.par_bulk_insert_docs(list(range(len(texts))), texts)
    gone: set[int] = set()
    for number, found in enumerate(index.par_bulk_query(texts)):
        # Of documents that resemble each other the one that comes first and is not gone stays.
        if any(other < number and other not in gone for other in found):
            gone.add(number)
    write(corpus, output, {names[number] for number in gone})


SYSTEMS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "tatara": (tatara, "this"),
    "tatara-step": (tatara_step, "this"),
    "tatara-one-process": (partial(tatara_step, workers=0), "this"),
    "datatrove": (datatrove, "datatrove"),
    "datatrove-split": (datatrove_split, "datatrove"),
    "text-dedup": (text_dedup, "text-dedup"),
    "data-juicer": (data_juicer, "data-juicer"),
    "datasketch": (datasketch, "libraries"),
    "fastsketch": (fastsketch, "this"),
    "rensa": (rensa, "libraries"),
    "gaoya": (gaoya, "libraries"),
}
"""System to its function and the environment that it needs."""


def survivors(output: Path) -> set[str]:
    """Ids of the documents that a system wrote."""
    import gzip

    found: set[str] = set()
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        parts = path.relative_to(output).parts
        if {"work", "cache", "decisions"} & set(parts):
            continue
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            found.update(pq.read_table(path, columns=["id"])["id"].to_pylist())
        elif path.name.endswith((".jsonl", ".jsonl.gz")) or (path.suffix == ".json" and "kept" in parts):
            with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as stream:
                for line in stream:
                    try:
                        record = json.loads(line)
                    except ValueError:  # a file of settings over several lines
                        break
                    if "text" in record and "id" in record:
                        found.add(record["id"])
        elif path.suffix == ".arrow":
            import pyarrow as pa

            found.update(pa.ipc.open_stream(path).read_all()["id"].to_pylist())
    return found


if __name__ == "__main__":
    target = Path(sys.argv[3])
    if "--survivors" in sys.argv:
        (target / "survivors.txt").write_text("\n".join(sorted(survivors(target))))
    else:
        target.mkdir(parents=True, exist_ok=True)
        SYSTEMS[sys.argv[1]][0](Path(sys.argv[2]).resolve(), target.resolve())
