import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpus import topics
from global_steps import cut, make, run
from tatara.data.dedup.embed import embed, hashed, load_embedding, quantise
from tatara.data.dedup.kmeans import fit, nearest
from tatara.data.dedup.neighbours import keep_first
from tatara.data.document import Document
from tatara.errors import ConfigError


def documents(texts: list[str]) -> list[Document]:
    return [Document(id=f"d{i:04d}", text=text, source="s") for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def rewritten() -> list[str]:
    """Paragraphs, and each once more with its sentences in another order and some words replaced."""
    pick = random.Random(5)
    paragraphs = [text for topic in topics().values() for text in topic.split("\n\n") if 400 < len(text) < 3000]
    paragraphs = list(dict.fromkeys(paragraphs))[:250]
    again = []
    for text in paragraphs:
        sentences = text.split(". ")
        pick.shuffle(sentences)
        words = ". ".join(sentences).split()
        for _ in range(len(words) // 40):
            words[pick.randrange(len(words))] = pick.choice(["certainly", "perhaps", "thus"])
        again.append(" ".join(words))
    return paragraphs + again


def close(vectors: np.ndarray, threshold: float) -> list[int]:  # type: ignore[type-arg]
    """By brute force: for each the first before it that stays and is close; itself if there is none."""
    values = vectors.astype(np.float64)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)
    kept: list[int] = []
    for i in range(len(values)):
        found = [j for j in range(i) if kept[j] == j and values[i] @ values[j] >= threshold]
        kept.append(found[0] if found else i)
    return kept


def test_preferred_documents_stay_as_by_brute_force() -> None:
    random_numbers = np.random.default_rng(0)
    centres = random_numbers.normal(size=(40, 16))
    vectors = quantise(centres[random_numbers.integers(0, 40, 2500)] + 0.3 * random_numbers.normal(size=(2500, 16)))
    found = keep_first(len(vectors), lambda chosen: vectors[chosen].astype(np.float64), 0.93)
    wanted = close(vectors, 0.93)
    assert found.tolist() == wanted
    assert 40 < len(set(wanted)) < 2000


def test_rewritten_documents_are_found_whatever_the_shards(tmp_path: Path, rewritten: list[str]) -> None:
    half = len(rewritten) // 2
    results: list[Any] = []
    for number, (shards, memory) in enumerate([(1, 1 << 30), (4, 1 << 30), (7, 20_000)]):
        made = documents(rewritten)
        step = make("semantic_dedup", tmp_path / str(number), threshold=0.8, clusters=5)
        verdicts, figures = run(step, cut(made, shards), memory=memory, dead=[])
        results.append((verdicts, [each.copies for each in made], figures["k_means_clusters"]))
    assert results[0] == results[1] == results[2]
    verdicts, _, clusters = results[0]
    assert clusters == 5
    found = sum(verdicts[i] is not None or verdicts[half + i] is not None for i in range(half))
    assert found / half > 0.9
    vectors = quantise(hashed(rewritten)).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = {f"d{i:04d}": i for i, verdict in enumerate(verdicts) if verdict is None}
    for i, verdict in enumerate(verdicts):
        if verdict:
            cosine = float(vectors[i] @ vectors[kept[verdict.kept_id]])
            assert verdict.value == pytest.approx(cosine, abs=1e-3)
            assert cosine >= 0.8 - 1e-9
            assert verdict.reason == "semantic_dedup.threshold"


def test_empty_and_identical_documents(tmp_path: Path) -> None:
    made = documents(["same words here"] * 3000 + ["", "..."])
    verdicts, figures = run(make("semantic_dedup", tmp_path, clusters=4), cut(made, 3), memory=100_000)
    assert sum(each is None for each in verdicts) == 3
    assert verdicts[-2:] == [None, None]
    assert figures["largest_cluster"] == 3000


def test_dead_documents_are_not_compared(tmp_path: Path) -> None:
    made = documents(["same words here", "same words here and", "other things altogether", "same words here"])
    verdicts, _ = run(make("semantic_dedup", tmp_path), cut(made, 2), dead=[(0, 1)])
    assert [each is None for each in verdicts].count(False) == 1
    assert verdicts[1] is None
    assert verdicts[2] is None


def test_k_means_finds_blobs_and_depends_on_nothing_but_vectors() -> None:
    random_numbers = np.random.default_rng(1)
    centres = np.eye(8)[:5] * 5
    label = random_numbers.integers(0, 5, 1000)
    vectors = quantise(centres[label] + 0.3 * random_numbers.normal(size=(1000, 8)))
    best = max((fit(vectors, 5, 20, seed) for seed in range(4)), key=lambda found: len(set(found.argmax(1).tolist())))
    members = nearest(vectors, best)
    assert len({(a, b) for a, b in zip(label.tolist(), members.tolist(), strict=True)}) == 5
    assert np.array_equal(np.concatenate([nearest(vectors[:37], best), nearest(vectors[37:], best)]), members)


@pytest.mark.slow
def test_an_encoder_does_not_mind_company(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({word for text in topics().values() for word in text.split()})[:2000]
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(tmp_path / "model")
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=len(vocabulary), **shape)
    transformers.BertModel(config).save_pretrained(tmp_path / "model")
    step = make("semantic_dedup", tmp_path / "step", model=str(tmp_path / "model"), max_tokens=64, batch=4)
    assert step.config.files() == (str(tmp_path / "model"),)
    embedding = load_embedding(step.config)
    texts = [*(text[:300] for text in list(topics().values())[:11]), ""]
    together = embed(texts, embedding)
    alone = np.concatenate([embed([text], embedding) for text in texts])
    assert together.shape == (12, 32)
    assert np.array_equal(together, alone)
    reference = transformers.AutoModel.from_pretrained(tmp_path / "model").eval()
    encoded = fast(texts[0], return_tensors="pt", truncation=True, max_length=64, return_token_type_ids=False)
    mean = reference(**encoded).last_hidden_state.mean(1)[0].detach().double().numpy()
    mine = together[0].astype(np.float64)
    assert mine @ mean / np.linalg.norm(mine) / np.linalg.norm(mean) == pytest.approx(1, abs=1e-6)
    verdicts, _ = run(step, cut(documents(texts * 2), 3))
    assert sum(each is None for each in verdicts) <= 12


@pytest.mark.parametrize("values", [{"embedding": "no.such:function"}, {"embedding": "nothing"}, {"model": "/nowhere"}])
def test_what_cannot_be_loaded_is_named(tmp_path: Path, values: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="semantic_dedup"):
        make("semantic_dedup", tmp_path, **values).prepare()
