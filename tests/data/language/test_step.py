import re
import time
from pathlib import Path

import pytest

from tatara.data.document import Document, Verdict
from tatara.data.language.config import LanguageConfig
from tatara.data.language.step import LanguageStep, identify
from tatara.errors import DataError

ALL = LanguageConfig(keep=(), min_score=0)
SENTENCES = {
    "en": "The committee will meet again next week to discuss the proposal.",
    "de": "Der Ausschuss wird nächste Woche erneut über den Vorschlag beraten.",
    "fr": "Le comité se réunira de nouveau la semaine prochaine pour en discuter.",
    "es": "El comité se reunirá de nuevo la próxima semana para discutir la propuesta.",
    "ja": "委員会は来週もう一度集まって、その提案について話し合う予定です。",
    "ru": "Комитет снова соберётся на следующей неделе, чтобы обсудить предложение.",
    "zh": "委员会将于下周再次开会讨论这项提案。",
    "ko": "위원회는 다음 주에 다시 모여 그 제안을 논의할 예정이다.",
    "ar": "ستجتمع اللجنة مرة أخرى الأسبوع المقبل لمناقشة الاقتراح.",
    "pl": "Komisja spotka się ponownie w przyszłym tygodniu, aby omówić tę propozycję.",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences(language: str) -> None:
    found, score = identify(SENTENCES[language].replace(" ", "\n", 1), ALL)
    assert found == language
    assert 0.5 < score <= 1


@pytest.mark.parametrize("text", ["", " \n", "12 345, 6!", "\0\0", "🙂🙂", "。、「」"])
def test_nothing_to_go_by(text: str) -> None:
    assert identify(text, ALL) == ("und", 0.0)


def test_capitals_are_no_other_language() -> None:
    assert identify(SENTENCES["en"].upper(), ALL)[0] == "en"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("猫です", "ja"), ("カメラ", "ja"), ("ｶﾒﾗの写真", "ja"), ("안녕", "ko"), ("这项提案", "zh"),
        ("這項提案", "zh"), ("駅前広場図", "ja"),
        ("中国人喜欢の这个字, 这是一个很长很长的句子, 写的是中文", "zh"),
    ],
)  # fmt: skip
def test_short_texts_that_their_script_gives_away(text: str, language: str) -> None:
    found, score = identify(text, ALL)
    assert found == language
    assert 0 < score <= 1


def test_only_the_beginning_is_read() -> None:
    text = SENTENCES["en"] + " " + SENTENCES["ru"] * 20
    assert identify(text, LanguageConfig(max_characters=len(SENTENCES["en"])))[0] == "en"
    assert identify(text, LanguageConfig(max_characters=10_000))[0] == "ru"


def judge(config: LanguageConfig, document: Document, tmp_path: Path) -> Verdict | None:
    (verdict,) = LanguageStep(config, tmp_path).apply([document])
    assert document.language is not None
    assert document.language_score is not None
    return verdict


def test_verdicts_name_key_and_limit(tmp_path: Path) -> None:
    english, german = (Document(code, SENTENCES[code], "s") for code in ("en", "de"))
    assert judge(LanguageConfig(keep=("en",)), english, tmp_path) is None
    assert judge(LanguageConfig(keep=("en",)), german, tmp_path) == Verdict("language.keep", german.language_score)
    strict = LanguageConfig(keep=(), min_score=1.0, min_scores={"de": 0.3})
    assert judge(strict, english, tmp_path) == Verdict("language.min_score", english.language_score, 1.0)
    assert judge(strict, german, tmp_path) is None
    nothing = Document("x", "123", "s")
    assert judge(LanguageConfig(keep=()), nothing, tmp_path) == Verdict("language.min_score", 0.0, 0.5)
    assert judge(ALL, nothing, tmp_path) is None


def test_the_corpus_own_language_counts_if_trusted(tmp_path: Path) -> None:
    def german() -> Document:
        return Document("1", SENTENCES["de"], "s", language="en-US")

    assert judge(LanguageConfig(keep=("en",)), german(), tmp_path) is not None
    document = german()
    assert judge(LanguageConfig(keep=("en",), trust_column=True), document, tmp_path) is None
    assert (document.language, document.language_score) == ("en", 1.0)


def test_a_model_of_the_users_own_belongs_to_the_identity_and_must_be_there(tmp_path: Path) -> None:
    config = LanguageConfig(model=str(tmp_path / "absent.bin"))
    assert config.files() == (config.model,)
    assert LanguageConfig().files() == ()
    with pytest.raises(DataError, match=r"language.model: .*absent\.bin cannot be opened.* Give 'lid.176'"):
        LanguageStep(config, tmp_path).prepare()
    (tmp_path / "absent.bin").write_text("no model")
    with pytest.raises(DataError, match="wrong file format"):
        LanguageStep(config, tmp_path).prepare()


@pytest.mark.parametrize("text", ["a" * 10**7, "あ" * 10**7, "\ud800" * 10**6, "a\0" * 10**6, " " * 10**7])
def test_a_large_document_takes_no_longer(text: str) -> None:
    start = time.process_time()
    identify(text, ALL)
    assert time.process_time() - start < 2


@pytest.mark.data
def test_accuracy_on_sentences_and_words_of_twenty_languages(sample_data: Path) -> None:
    """At least what the peers reach on the same sentences: lingua .976, py3langid .982, pycld2 .963."""
    right = {"sentence": 0, "two words": 0}
    total = dict(right)
    for path in sorted((sample_data / "langid-lingua").glob("*.sentences.txt")):
        language = path.name.split(".")[0]
        for line in path.read_text(encoding="utf-8").splitlines()[:300]:
            words = line.split() if language not in {"ja", "zh", "th"} else re.findall(r"\w{5}", line)
            samples = {
                "sentence": line,
                "two words": "".join(words[1:3]) if language in {"ja", "zh", "th"} else " ".join(words[1:3]),
            }
            for name, sample in samples.items():
                if len(sample) > 5:
                    total[name] += 1
                    right[name] += identify(sample, ALL)[0] == language
    assert total["sentence"] > 5000
    assert right["sentence"] / total["sentence"] > 0.985
    assert right["two words"] / total["two words"] > 0.8
