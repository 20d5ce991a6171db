import pytest

from tatara.data.curate import LanguageConfig
from tatara.data.language import identify

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
    found, score = identify(SENTENCES[language].replace(" ", "\n", 1), LanguageConfig())
    assert found == language
    assert 0.5 < score <= 1


def test_nothing_to_go_by() -> None:
    assert identify("", LanguageConfig()) == ("und", 0.0)
    assert identify(" \n", LanguageConfig()) == ("und", 0.0)


def test_only_the_beginning_is_read() -> None:
    text = SENTENCES["en"] + " " + SENTENCES["ru"] * 20
    assert identify(text, LanguageConfig(max_characters=len(SENTENCES["en"])))[0] == "en"
    assert identify(text, LanguageConfig(max_characters=10_000))[0] == "ru"
