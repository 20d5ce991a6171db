"""Words that tell what a part of a page is for, and the automaton that finds them in one pass.

Two lists: words in the names that authors give to elements (``class``, ``id``, ``role``, ``itemprop``), and phrases of
boilerplate in the text itself, in the languages with most pages on the web. ``_`` stands for the edge of a word.

The bits are features of the classifier: after a change delete ``__pycache__`` (compiled code of other modules holds
copies of these tables), and train again.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

NAME_WORDS: dict[str, str] = {
    "navigation": (
        "nav menu breadcrumb pager pagination paging _toc tablist sitemap crumb skip-link skiplink next-prev "
        "prevnext nextprev _next_ _prev_ _previous_ _tabs_"
    ),
    "footer": "foot colophon copyright legal imprint impressum disclaimer _fuss",
    "header": "header _head_ masthead _top_ topbar logo _kopf branding",
    "sidebar": (
        "sidebar side-bar side_bar _side widget _rail aside rightcol leftcol right-col left-col col-right "
        "col-left secondary complementary _right_ _left_ marginal"
    ),
    "comment": (
        "comment disqus reply replies respond discussion livefyre kommentar feedback responses leserbrief "
        "guestbook"
    ),
    "social": (
        "share sharing social facebook twitter addthis addtoany _like _follow _sns whatsapp pinterest linkedin "
        "bookmark instagram shariff hatena _tweet"
    ),
    "related": (
        "related recommend similar popular trending _more readmore read-more most- mostread latest recent "
        "_also_ outbrain taboola teaser verwandt weitere ranking yarpp suggest upnext mehr also-like crosslink "
        "zergnet"
    ),
    "advertisement": (
        "_ad_ _ads_ advert sponsor anzeige werbung adsense _dfp promo banner _adv_ adslot _ad- _ads- affiliate "
        "doubleclick google_ads commercial reklam"
    ),
    "notice": (
        "cookie consent gdpr modal popup overlay newsletter subscri signup sign-up login _register paywall "
        "premium alert notice lightbox dialog _cta _abo_ toast donat"
    ),
    "byline": (
        "byline author _date_ published timestamp _time_ posted dateline _meta postmeta entry-meta post-info "
        "post_info autor datum _bio_ pubdate contributor creator"
    ),
    "tags": "_tag_ _tags_ _tags taglist tag-list categor keyword topics schlagwort _cat-links kategorie _label",
    "caption": (
        "caption credit photo image gallery _figure media video slideshow slider carousel bildunter thumb "
        "copyright player audio picture bildquelle"
    ),
    "article": "article story _artikel beitrag news-text newstext reportage",
    "content": "content _main inhalt hauptinhalt _single",
    "post": "_post _entry hentry blog _post-body",
    "body": (
        "body _text_ _text richtext rich-text _copy paragraph prose wysiwyg markdown fliesstext mw-parser "
        "detail description articlebody article-body entry-content post-content article-content article-text "
        "story-body mainentity formatted field-item"
    ),
    "lead": (
        "_intro _lead_ _lead summary abstract excerpt teasertext standfirst _deck subtitle subhead _kicker "
        "dachzeile untertitel vorspann _dek"
    ),
    "title": "title headline heading _ueberschrift",
    "hidden": (
        "hidden _hide _hide_ invisible screen-reader sr-only _sronly visually visuallyhidden noprint no-print "
        "noscript offscreen d-none clipped a11y assistive"
    ),
    "control": (
        "search _form input button _btn toolbar _tool actions _print _email rating _vote captcha dropdown "
        "select filter suche counter survey _poll quiz toggle"
    ),
    "list": "_list _card _grid archive _loop _feed _item listing _results tile index collection overview uebersicht",
    "box": (
        "_box infobox factbox _module _block_ _panel callout kasten pullquote embed _inset sidenote _note_ "
        "_aside_ info-"
    ),
    "toolbar": "utility _tools_ accessib font-size fontsize lang-switch languageswitch language-sel",
    "lineno": "_lineno _linenos line-numbers _gutter_ linenumber blob-num line-number",
    "katex_html": "_katex-html_",
    "mathjax": (
        "_mathjax_ _mathjax_display_ _mathjax_preview_ _mathjax_svg_ _mathjax_chtml_ _mathjax_svg_display_ "
        "_mathjax_chtml_display_ _mathjax_preview"
    ),
    "math_image": (
        "_latex_ _tex_ _math_ _mwe-math-fallback-image-inline_ _mwe-math-fallback-image-display_ _formula_ "
        "_ql-img-inline-formula_"
    ),
}  # fmt: skip
TEXT_WORDS: dict[str, str] = {
    "rights": (
        "copyright|all rights reserved|alle rechte vorbehalten|©|&copy;|tous droits|derechos reservados|"
        "wszelkie prawa|無断転載|&#169;|反馈|版权所有"
    ),
    "share": (
        "_share|_tweet|facebook|twitter|whatsapp|_teilen|partager|compartir|シェア|ツイート|はてな|udostępnij|"
        "linkedin|instagram|telegram|pinterest"
    ),
    "more": (
        "read more|continue reading|weiterlesen|lire la suite|続きを読む|もっと見る|leer más|_mehr_|more_|"
        "see all|click here|view all|show more|mehr lesen|mehr dazu|mehr erfahren|czytaj więcej|read full|"
        "learn more|czytaj także|lesen sie"
    ),
    "comment": (
        "comment|_reply|_replies|kommentar|antworten|コメント|_leave a|répondre|komentarz|your email|"
        "e-mail-adresse|pingback|trackback|permalink"
    ),
    "notice": (
        "cookie|newsletter|subscribe|sign up|_log in|_login|anmelden|registrier|abonn|sign in|einloggen|"
        "メルマガ|会員|javascript|your browser|adblock|datenschutz|privacy|terms of|impressum|agb|利用規約|"
        "プライバシー|お問い合わせ|your inbox|donate|spenden"
    ),
    "related": (
        "related|see also|_also_|you may|mehr zum|auch interess|verwandt|関連記事|関連|おすすめ|ランキング|"
        "人気|recommended|most read|most popular|meistgelesen|trending|latest news|recent posts|neueste|"
        "ähnliche|previous|next article|next post|nächster|vorheriger|zurück|weitere|editor's picks|lire aussi|"
        "à lire|次の記事|前の記事|read next|don't miss|more from"
    ),
    "advert": (
        "advert|_anzeige|sponsored|_promoted|werbung|スポンサー|広告|publicité|reklama|affiliate|"
        "story continues"
    ),
    "photo": (
        "_photo|_foto|getty|reuters|_bild:|_image|quelle:|copyright|photograph|courtesy of|_credit|写真|afp|"
        "dpa|ap photo|picture alliance"
    ),
    "byline": (
        "_by_|_von_|published|updated|posted|veröffentlicht|aktualisiert|_uhr_|公開|更新|投稿|_written|_par_|"
        "minutes read|min read|_author|autor|_am_|_pm_|est_|gmt|ago_|dodano|edited|reporting by|staff writer|"
        "reporter"
    ),
    "tags": (
        "_tags|categor|kategorie|schlagw|filed under|posted in|タグ|カテゴリ|topics:|mots-clés|stichw|themen|"
        "keywords"
    ),
    "tools": (
        "_print|_drucken|_e-mail|_pdf|download|_search|suche|_menu|_home_|startseite|sitemap|_top_|nach oben|"
        "rss|検索|ホーム|font size|toggle|navigation|印刷|merken|bewert|rating"
    ),
}  # fmt: skip
EDGE = 0
NAME_BITS = {name: bit for bit, name in enumerate(NAME_WORDS)}
TEXT_BITS = {name: bit for bit, name in enumerate(TEXT_WORDS)}


def _is_word(byte: int) -> bool:
    return 97 <= byte <= 122 or 65 <= byte <= 90 or 48 <= byte <= 57 or byte >= 128


def automaton(patterns: dict[bytes, int]) -> tuple[NDArray[np.uint8], NDArray[np.int16], NDArray[np.int32]]:
    """An automaton (Aho and Corasick, 1975) for patterns of bytes in lower case.

    Args:
        patterns: To the bits that a match sets; ``_`` is the edge of a word, as is white space and any
            other byte that is no letter and no digit: one such byte matches it.

    Returns:
        Symbol of each byte (`EDGE` for what is no part of a word): ``[256]``; the next state: ``[states, symbols]``;
        the bits that a state sets: ``[states]``.
    """
    used = sorted({byte for pattern in patterns for byte in pattern if _is_word(byte)})
    symbols = np.full(256, len(used) + 1, dtype=np.uint8)  # parts of words that no pattern has
    for byte in range(256):
        if not _is_word(byte):
            symbols[byte] = EDGE
    for number, byte in enumerate(used, start=1):
        symbols[byte] = number
        if 97 <= byte <= 122:
            symbols[byte - 32] = number
    tree: list[dict[int, int]] = [{}]
    bits = [0]
    for pattern, mask in patterns.items():
        state = 0
        for byte in pattern:
            symbol = int(symbols[byte])
            if symbol not in tree[state]:
                tree.append({})
                bits.append(0)
                tree[state][symbol] = len(tree) - 1
            state = tree[state][symbol]
        bits[state] |= mask
    following = np.zeros((len(tree), len(used) + 2), dtype=np.int16)
    fallback = [0] * len(tree)
    queue = deque([0])
    while queue:
        state = queue.popleft()
        bits[state] |= bits[fallback[state]]
        following[state] = following[fallback[state]] if state else 0
        for symbol, child in tree[state].items():
            fallback[child] = int(following[fallback[state], symbol]) if state else 0
            following[state, symbol] = child
            queue.append(child)
    return symbols, following, np.array(bits, dtype=np.int32)


def _patterns(words: dict[str, str], separator: str | None) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for bit, listed in enumerate(words.values()):
        for word in listed.split(separator):
            # White space inside a phrase is an edge as well.
            pattern = word.replace(" ", "_").encode("utf-8")
            found[pattern] = found.get(pattern, 0) | 1 << bit
    return found


NAME_SYMBOLS, NAME_NEXT, NAME_HITS = automaton(_patterns(NAME_WORDS, None))
TEXT_SYMBOLS, TEXT_NEXT, TEXT_HITS = automaton(_patterns(TEXT_WORDS, "|"))
