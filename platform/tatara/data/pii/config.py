"""What the step ``pii`` looks for and what it does about it."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from tatara.data.steps import StepConfig

Action = Literal["off", "keep", "redact", "drop"]
"""``off`` does not look; ``keep`` counts; ``redact`` counts and replaces; ``drop`` drops the document."""
KINDS = (
    "secret",
    "email",
    "iban",
    "payment_card",
    "my_number",
    "social_security_number",
    "phone",
    "ip_address",
)
"""Kinds; where two claim the same characters, the earlier one wins."""


class PiiConfig(StepConfig):
    """Personally identifiable information; counts per kind go to the report as ``pii.<kind>``.

    The kinds follow Dolma (Soldaini et al. 2024, arXiv:2402.00159, section 4.1.3: e-mail, phone, IP) and StarCoder
    (Li et al. 2023, arXiv:2305.06161, section 4: keys); numbers with a check digit have to pass it.
    """

    step: ClassVar[str] = "pii"
    implementation: ClassVar[str] = "tatara.data.pii.pii:Pii"

    email: Action = "redact"
    """E-mail addresses (RFC 5322 ``dot-atom``, host below a known top-level domain)."""
    phone: Action = "redact"
    """International (E.164), Japanese and North American numbers; other national forms beside a word such as "tel"."""
    ip_address: Action = "redact"
    """IPv4 and IPv6 addresses."""
    payment_card: Action = "redact"
    """Card numbers with a known issuer's prefix and length (ISO/IEC 7812) and a right Luhn digit."""
    iban: Action = "redact"
    """International bank account numbers (ISO 13616) with right check digits."""
    my_number: Action = "redact"
    """Japanese individual numbers with a right check digit, in groups of four or beside a word such as マイナンバー."""
    social_security_number: Action = "off"
    """US social security numbers; they have no check digit, so that part numbers may look like them."""
    secret: Action = "redact"
    """API keys of well-known services, JSON web tokens, private keys, random strings assigned to ``api_key`` etc."""
    private_addresses: bool = False
    """Whether addresses that are not public (private, loopback, link-local, documentation) count as personal."""
    public_domains: tuple[str, ...] = ("example.com", "example.org", "example.net", "example.edu")
    """Domains whose e-mail addresses are nobody's (RFC 2606)."""
    replacement: str = "<|{kind}|>"
    """What stands for something redacted; ``{kind}`` becomes its kind."""
    replacements: dict[str, str] = Field(default_factory=dict)
    """Kind to its own replacement."""
    max_per_kcharacter: float | None = 10.0
    """Drop documents with more findings per 1,000 characters (shorter ones count as 1,000): lists of people, dumps
    of credentials. Dolma drops above five per document. null for no limit."""

    @field_validator("replacements")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        unknown = sorted(set(value) - set(KINDS))
        if unknown:
            raise ValueError(f"no kind '{unknown[0]}'; known: {', '.join(KINDS)}")
        return value
