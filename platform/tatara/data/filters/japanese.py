"""Rules for Japanese, after the Swallow Corpus (Okazaki et al. 2024, arXiv:2404.17733) and HojiChar."""

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

from tatara.data.document import Document, Verdict
from tatara.data.filters.config_shape import JapaneseConfig
from tatara.data.filters.japanese_counts import JapaneseCounts, japanese_counts
from tatara.data.filters.matcher import Matcher
from tatara.data.filters.word_lists import read_list
from tatara.data.steps import EachStep

# Ours: what menus, banners, shops and blog engines put around a text.
PHRASES = (
    "続きを読む", "もっと見る", "もっと読む", "すべて見る", "一覧を見る", "一覧へ", "詳細を見る", "詳しくはこちら",
    "こちらをクリック", "トップページ", "トップへ", "ページの先頭", "サイトマップ", "サイトポリシー",
    "プライバシーポリシー", "個人情報保護", "利用規約", "特定商取引法", "お問い合わせ", "お問合せ", "会社概要",
    "会社案内", "運営会社", "採用情報", "ログイン", "ログアウト", "会員登録", "新規登録", "無料登録", "パスワード",
    "メルマガ", "マイページ", "お気に入り", "カートに入れる", "カートを見る", "買い物かご", "税込", "税抜", "送料",
    "在庫", "ポイント還元", "商品一覧", "無断転載", "無断複写", "著作権", "copyright", "all rights reserved",
    "cookie", "クッキー", "同意する", "拒否する", "設定する", "ツイート", "シェアする", "いいね", "フォローする",
    "はてなブックマーク", "トラックバック", "コメント", "関連記事", "人気記事", "新着記事", "最新記事",
    "おすすめ記事", "前の記事", "次の記事", "前へ", "次へ", "カテゴリ", "タグ", "アーカイブ", "ランキング",
    "スポンサー", "広告", "検索", "ホーム", "メニュー", "閉じる", "rss", "facebook", "twitter",
)  # fmt: skip
_SENTENCE_ENDS = ("。", "！", "？", "．", "」", "』", "）")


class Japanese(EachStep):
    """Is it Japanese, does it consist of sentences, and is it more than what surrounds a text on a page?"""

    config: JapaneseConfig

    def __init__(self, config: JapaneseConfig, directory: Path) -> None:
        super().__init__(config, directory)
        self._loaded: Matcher | None = None

    def prepare(self) -> None:
        """Read all lists once, so that a mistake in one is found before the work begins."""
        self._phrases()

    def judge(self, document: Document) -> Verdict | None:
        """Apply the rules: characters, sentences, lists of nouns, boilerplate."""
        config = self.config
        lines = document.text.split("\n")
        boilerplate = self._boilerplate(document.text, lines)
        if config.trim_boilerplate and boilerplate:
            dropped = _edges(lines, boilerplate)
            document.counts["japanese.lines"] += len(dropped & boilerplate)
            document.text = "\n".join(line for index, line in enumerate(lines) if index not in dropped)
            lines = document.text.split("\n")
            boilerplate = self._boilerplate(document.text, lines)
        counts = japanese_counts(document.text, config.noun_run)
        return _characters(counts, config) or _sentences(counts, config) or _lines(lines, boilerplate, config)

    def _phrases(self) -> Matcher:
        if self._loaded is None:
            more = (phrase for path in self.config.boilerplate for phrase in read_list(path))
            self._loaded = Matcher([*PHRASES, *more], whole=False)
        return self._loaded

    def _boilerplate(self, text: str, lines: list[str]) -> set[int]:
        """Numbers of the lines that are boilerplate."""
        lowered = text.lower()
        if len(lowered) != len(text):
            lowered = text
        places, _ = self._phrases().find(lowered)
        if not len(places):
            return set()
        starts = list(accumulate((len(line) + 1 for line in lines), initial=0))
        found = {bisect_right(starts, place) - 1 for place in places.tolist()}
        return {
            index
            for index in found
            if len(lines[index].strip()) <= self.config.boilerplate_line
            and not lines[index].rstrip().endswith(_SENTENCE_ENDS)
        }


def _edges(lines: list[str], boilerplate: set[int]) -> set[int]:
    """Boilerplate lines, and blank ones next to them, at the beginning and the end."""
    edges: set[int] = set()
    for order in (range(len(lines)), range(len(lines) - 1, -1, -1)):
        run: set[int] = set()
        for index in order:
            if index not in boilerplate and lines[index].strip():
                break
            run.add(index)
        if run & boilerplate:
            edges |= run
    return edges


def _characters(counts: JapaneseCounts, config: JapaneseConfig) -> Verdict | None:
    japanese = counts.japanese
    if japanese < config.min_characters:
        return Verdict("japanese.min_characters", japanese, config.min_characters)
    if not japanese:
        return None
    share = japanese / counts.visible
    if share < config.min_japanese:
        return Verdict("japanese.min_japanese", share, config.min_japanese)
    share = counts.hiragana / japanese
    if share < config.min_hiragana:
        return Verdict("japanese.min_hiragana", share, config.min_hiragana)
    share = counts.katakana / japanese
    if share > config.max_katakana:
        return Verdict("japanese.max_katakana", share, config.max_katakana)
    share = counts.marks / japanese
    if share < config.min_punctuation:
        return Verdict("japanese.min_punctuation", share, config.min_punctuation)
    nouns = counts.katakana + counts.kanji
    if nouns and counts.listed / nouns > config.max_noun_runs:
        return Verdict("japanese.max_noun_runs", counts.listed / nouns, config.max_noun_runs)
    return None


def _sentences(counts: JapaneseCounts, config: JapaneseConfig) -> Verdict | None:
    letters = counts.hiragana + counts.katakana + counts.kanji
    if letters and counts.closed / letters < config.min_sentence_text:
        return Verdict("japanese.min_sentence_text", counts.closed / letters, config.min_sentence_text)
    if not counts.sentences:
        return None
    mean = counts.sentence_characters / counts.sentences
    if mean < config.min_mean_sentence:
        return Verdict("japanese.min_mean_sentence", mean, config.min_mean_sentence)
    if config.max_mean_sentence is not None and mean > config.max_mean_sentence:
        return Verdict("japanese.max_mean_sentence", mean, config.max_mean_sentence)
    if config.max_sentence is not None and counts.longest > config.max_sentence:
        return Verdict("japanese.max_sentence", counts.longest, config.max_sentence)
    share = counts.ellipses / counts.sentences
    if share > config.max_ellipsis_sentences:
        return Verdict("japanese.max_ellipsis_sentences", share, config.max_ellipsis_sentences)
    return None


def _lines(lines: list[str], boilerplate: set[int], config: JapaneseConfig) -> Verdict | None:
    if not boilerplate:
        return None
    share = len(boilerplate) / sum(1 for line in lines if line.strip())
    if share > config.max_boilerplate_lines:
        return Verdict("japanese.max_boilerplate_lines", share, config.max_boilerplate_lines)
    return None
