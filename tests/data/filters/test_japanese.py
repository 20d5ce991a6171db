import gzip
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.data.document import Document, Verdict
from tatara.data.filters.config import JapaneseConfig
from tatara.data.filters.japanese import Japanese
from tatara.data.filters.japanese_counts import japanese_counts

PROSE = (
    "砂鉄から鋼をつくる炉は三日三晩燃えつづけ、職人たちはその機嫌をよく知っていた。一時間ごとに木炭と砂鉄を入れ、炎の色を見て、"
    "ふいごの音に耳をすませた。仕事が終わると粘土の壁を壊し、塊を取り出した。"
)
MENU = [
    "ホーム",
    "会社概要",
    "採用情報",
    "お問い合わせ",
    "サイトマップ",
    "製品一覧",
    "新着ニュース",
    "プライバシーポリシー",
]


def judge(text: str, **values: Any) -> Verdict | None:
    return Japanese(JapaneseConfig(**values), Path()).judge(Document("x", text, "s", language="ja"))


@given(st.text("ひらカタ漢字、。！!… \nab", max_size=60))
def test_counts_of_characters_are_those_of_plain_python(text: str) -> None:
    counts = japanese_counts(text, 3)
    assert counts.hiragana == sum(text.count(each) for each in "ひら")
    assert counts.katakana == sum(text.count(each) for each in "カタ")
    assert counts.kanji == sum(text.count(each) for each in "漢字")
    assert counts.marks == sum(text.count(each) for each in "、。！")
    assert counts.visible == sum(not each.isspace() for each in text)
    stretches = [re.sub("[^カタ漢字]", "", part) for part in re.split("[ひら。！]", text)]
    assert counts.listed == sum(len(part) for part in stretches if len(part) >= 3)


@given(st.text("ひカ漢、。！?… \nab", max_size=24))
def test_sentences_are_those_of_swallow_that_have_hiragana(text: str) -> None:
    """As swallow-corpus' ``quality.py`` splits them; too short to be wrapped."""
    sentences = [
        sentence.strip()
        for line in text.split("\n")
        for sentence in re.findall("[^。．！？!?]+[。．！？!?]?", line)
        if "ひ" in sentence
    ]
    # Lines of 25 characters and more may go on in the next one; these cannot be as long.
    counts = japanese_counts(text, 3)
    assert counts.sentences == len(sentences)
    assert counts.sentence_characters == sum(map(len, sentences))
    assert counts.longest == max(map(len, sentences), default=0)
    assert counts.ellipses == sum(sentence.endswith(("…", "・")) for sentence in sentences)


def test_wrapped_lines_are_one_sentence() -> None:
    wrapped = "砂鉄から鋼をつくる炉は三日三晩燃えつづけ、職人たちは\nその機嫌をよく知っていた。"
    counts = japanese_counts(wrapped, 25)
    assert counts.sentences == 1
    assert counts.closed == len(re.findall("[ぁ-んァ-ン一-龥]", wrapped))
    headlines = "\n".join(["新しい製品の発売を来月の十五日に予定していると発表した会社"] * 8)
    assert japanese_counts(headlines, 25).closed == 0


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (PROSE, "min_characters"),
        (PROSE * 5 + "plain English words " * 400, "min_japanese"),
        ("新型高性能冷蔵庫、特価販売中。在庫限定、送料無料。" * 20, "min_hiragana"),
        ("パソコンやスマートフォンをセールで、いま。" * 20, "max_katakana"),
        ("これはおわりのないぶんであってどこまでもどこまでもつづいていく" * 20, "min_punctuation"),
        (
            (PROSE + "激安通販人気商品送料無料即日発送在庫処分特価限定販売開始新作入荷腕時計財布鞄靴眼鏡") * 8,
            "max_noun_runs",
        ),
        ("\n".join(["新しい製品の、お知らせを見る", "お店の、ご案内を見る"] * 40 + [PROSE]), "min_sentence_text"),
        ("はい、そう。いや、ちがう。" * 50, "min_mean_sentence"),
        (PROSE * 5 + "そうして、" * 100 + "。", "max_sentence"),
        (("それから、どうなったのかというと…\n" * 2 + PROSE + "\n") * 6, "max_ellipsis_sentences"),
        ("\n".join([*MENU, *[PROSE] * 8]), "max_boilerplate_lines"),
    ],
)
def test_each_rule(text: str, key: str) -> None:
    limits = {"max_sentence": 200} if key == "max_sentence" else {}
    verdict = judge(text, **limits)
    assert verdict is not None
    assert verdict.reason == f"japanese.{key}"
    assert judge(PROSE * 6, **limits) is None


def test_boilerplate_at_the_edges_can_be_taken_out() -> None:
    document = Document("x", "\n".join([*MENU[:4], "", *[PROSE] * 8, "", "無断転載を禁じます"]), "s", language="ja")
    step = Japanese(JapaneseConfig(trim_boilerplate=True), Path())
    assert step.judge(document) is None
    assert document.text == "\n".join([PROSE] * 8)
    assert document.counts["japanese.lines"] == 5


def test_phrases_of_the_user_are_boilerplate_too(tmp_path: Path) -> None:
    path = tmp_path / "phrases.txt"
    path.write_text("# ours\nぽちっと\n", encoding="utf-8")
    text = "\n".join(["ぽちっとおねがいします"] * 2 + [PROSE] * 8)
    assert judge(text) is None
    verdict = judge(text, boilerplate=(str(path),))
    assert verdict == Verdict("japanese.max_boilerplate_lines", 0.2, 0.15)


def read(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def boilerplate(sample_data: Path) -> list[str]:
    """What the links on Japanese pages say, and lists of keywords: labelled by their markup, not by our rules."""
    pages = []
    for path in sorted((sample_data / "html-ja-pages").glob("*.gz")):
        # Most characters are references; the pages were stored as UTF-8, whatever they declare.
        page = html.unescape(gzip.decompress(path.read_bytes()).decode("utf-8", "replace"))
        links = (re.sub(r"<[^>]*>|\s+", " ", link).strip() for link in re.findall(r"(?s)<a\b[^>]*>(.*?)</a>", page))
        pages.append("\n".join(link for link in links if link))
    spam = [
        "激安 通販 送料無料 腕時計 財布 ブランド 新作 人気 ランキング バッグ 靴 限定 セール 正規品 " * 12,
        "東京都 賃貸 マンション 敷金 礼金 駅近 新築 格安 物件 不動産 仲介 家具付き 角部屋 南向き " * 12,
        "\n".join(f"商品番号{n} 高級本革製長財布 小銭入付 黒 税込{n}円 カートに入れる" for n in range(1000, 1040)),
    ]
    return [*pages, *spam]


@pytest.mark.data
def test_literature_and_documentation_stay_and_boilerplate_goes(sample_data: Path) -> None:
    step = Japanese(JapaneseConfig(), Path())
    kept = {}
    documents = {"aozora": read(sample_data / "aozora/works.jsonl.gz")}
    for name in ("opensource-guide", "react", "rust-book", "vue"):
        documents[name] = read(sample_data / f"docs-ja-{name}/docs.jsonl.gz")
    documents["boilerplate"] = boilerplate(sample_data)
    counted = 0
    for name, texts in documents.items():
        # What has too few Japanese characters, as pages that nobody translated, is another rule's.
        long = [text for text in texts if japanese_counts(text, 25).japanese >= 400]
        counted = len(long)
        kept[name] = sum(step.judge(Document("x", text, "s", language="ja")) is None for text in long) / len(long)
    assert counted >= 20
    assert kept["aozora"] >= 0.98, kept
    assert min(kept[name] for name in ("opensource-guide", "react", "rust-book", "vue")) >= 0.95, kept
    assert kept["boilerplate"] <= 0.05, kept
