"""Document rules of C4 (Raffel et al. 2020, section 2.2)."""

import re

from tatara.data.document import Document, Verdict
from tatara.data.filters.config_c4 import C4Config, C4Rules
from tatara.data.steps import EachStep

# A mark, closing quotes and brackets, then white space; marks of scripts that put none after a sentence stand alone.
_SENTENCE_END = re.compile(r"""[.!?…][.!?"'”’»)\]]*(?!\S)|[。！？｡।॥؟۔።՝։၊။។៕]""")


def sentences(text: str, enough: int) -> int:
    """How many sentences a text has, counted until there are enough."""
    count = 0
    for _ in _SENTENCE_END.finditer(text):
        count += 1
        if count >= enough:
            break
    return count


class C4(EachStep):
    """Placeholder text, code and pages without sentences."""

    config: C4Config

    def judge(self, document: Document) -> Verdict | None:
        """Apply C4's rules in the order of their cost."""
        text, rules = document.text, self.config.parameters(document.language)
        if rules.drop_curly_bracket and "{" in text:
            return Verdict("c4.drop_curly_bracket", text.count("{"), 0)
        # The first look spares most texts their copy in lower case.
        if rules.drop_lorem_ipsum and ("psum" in text or "PSUM" in text) and "lorem ipsum" in text.lower():
            return Verdict("c4.drop_lorem_ipsum", 1, 0)
        return _few_sentences(text, rules)


def _few_sentences(text: str, rules: C4Rules) -> Verdict | None:
    count = sentences(text, rules.min_sentences) if rules.min_sentences else 0
    return Verdict("c4.min_sentences", count, rules.min_sentences) if count < rules.min_sentences else None
