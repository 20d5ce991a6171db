"""The step that finds personal information and secrets, and redacts them or drops the document."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tatara.data.document import Document, Verdict
from tatara.data.pii import addresses, numbers, scan, secrets
from tatara.data.pii.config import KINDS, PiiConfig
from tatara.data.steps import EachStep

Finding = tuple[str, int, int]


class Pii(EachStep):
    """See `PiiConfig`."""

    config: PiiConfig

    def __init__(self, config: PiiConfig, directory: Path) -> None:
        super().__init__(config, directory)
        self.actions = {kind: getattr(config, kind) for kind in KINDS}
        self.kinds = frozenset(kind for kind, action in self.actions.items() if action != "off")
        self.replacements = {
            kind: config.replacements.get(kind, config.replacement.replace("{kind}", kind)) for kind in KINDS
        }

    def judge(self, document: Document) -> Verdict | None:
        """Count, redact, and drop what holds too much or a kind that is not wanted at all."""
        text = document.text
        findings = self.find(text)
        if not findings:
            return None
        counts = Counter(kind for kind, _, _ in findings)
        for kind, count in sorted(counts.items()):
            document.counts[f"pii.{kind}"] += count
        for kind, count in sorted(counts.items()):
            if self.actions[kind] == "drop":
                return Verdict(f"pii.{kind}", count, 0)
        limit = self.config.max_per_kcharacter
        density = len(findings) / max(len(text) / 1000, 1.0)
        if limit is not None and density > limit:
            return Verdict("pii.max_per_kcharacter", density, limit)
        document.text = self._redacted(text, findings)
        return None

    def find(self, text: str) -> list[Finding]:
        """What there is of the kinds that are looked for.

        Returns:
            (kind, start, end) in characters, ascending, never overlapping.
        """
        plain = scan.plain(text)
        places = scan.candidates(plain)
        if not places:
            return []
        places.sort(key=lambda place: place[1])
        blocks = secrets.KeyBlocks(plain)
        found = itertools.chain.from_iterable(self._look(plain, text, blocks, *place) for place in places)
        return _resolved([finding for finding in found if finding[0] in self.kinds])

    def _look(
        self, plain: str, text: str, blocks: secrets.KeyBlocks, what: int, start: int, end: int
    ) -> Iterator[Finding]:
        config = self.config
        if what == scan.AT:
            if "email" in self.kinds:
                yield from addresses.find_email(plain, start, config.public_domains)
        elif what == scan.NUMBER:
            if "ip_address" in self.kinds and plain.count(".", start, end) >= 3:
                yield from addresses.find_ipv4(plain, text, start, end, config.private_addresses)
            yield from numbers.find(plain, text, start, end, self.kinds)
        elif what == scan.TOKEN:
            if "secret" in self.kinds:
                yield from secrets.find_token(plain, start, end)
        elif what == scan.COLONS:
            if "ip_address" in self.kinds:
                yield from addresses.find_ipv6(plain, start, end, config.private_addresses)
        elif what == scan.DASHES:
            if "secret" in self.kinds:
                yield from blocks.find(start)
        elif "iban" in self.kinds:
            yield from numbers.find_iban(plain, start)

    def _redacted(self, text: str, findings: list[Finding]) -> str:
        pieces, done = [], 0
        for kind, start, end in findings:
            if self.actions[kind] == "redact":
                pieces += [text[done:start], self.replacements[kind]]
                done = end
        return "".join([*pieces, text[done:]]) if pieces else text


_RANKS = {kind: rank for rank, kind in enumerate(KINDS)}


def _resolved(findings: list[Finding]) -> list[Finding]:
    """Findings without overlaps: in each group of overlapping ones, the first of the first kind stays."""
    findings.sort(key=lambda finding: (finding[1], finding[2]))
    kept: list[Finding] = []
    for finding in findings:
        if not kept or finding[1] >= kept[-1][2]:
            kept.append(finding)
        elif (_RANKS[finding[0]], -finding[2]) < (_RANKS[kept[-1][0]], -kept[-1][2]):
            # What stood before cannot reach into this one: it ended before the one that gives way began.
            kept[-1] = finding
    return kept
