"""Which cleaning steps a source wants. `clean.py` and `pii.py` have the steps; this imports nothing heavy."""

from dataclasses import dataclass

from pipelines.corpus.signals.names import C4_VARIANTS

PII_KINDS = (
    *("email", "ip", "phone", "card"),
    *("cn_id", "cn_mobile", "tw_id", "hk_id", "us_ssn", "gb_nino", "es_dni", "fr_nir", "it_cf", "br_cpf"),
    *("in_aadhaar", "kr_rrn"),
)
"""What `pii.py` finds: e-mail and public IP addresses, telephone and payment card numbers, Chinese mobile
telephone numbers, and identity numbers of China, Taiwan, Hong Kong, the United States (social security),
the United Kingdom (National Insurance), Spain (DNI, NIE), France (NIR), Italy (codice fiscale), Brazil (CPF),
India (Aadhaar) and Korea (resident registration)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaning:
    """Steps between a record and its document, in this order. Unicode NFC, line ends LF and the removal of
    outer white space are not optional."""

    mojibake: bool = False
    """Repair text that was decoded with a wrong encoding, such as cafÃ© for café (ftfy)."""
    control_characters: bool = False
    """Remove control characters and invisible marks; other line separators become LF."""
    white_space: bool = False
    """Any space becomes U+0020, spaces before a line end go, and of several blank lines one stays."""
    c4_lines: str | None = None
    """Remove the lines that C4 removes, as this variant of its rules says: paper, datatrove or fineweb. For
    web pages; see `c4_lines.py`. None = all lines stay."""
    pii: tuple[str, ...] = ()
    """Kinds of personal data that a placeholder such as <EMAIL> replaces; see PII_KINDS."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.pii) - set(PII_KINDS)):
            raise ValueError(f"cleaning.pii must be among {', '.join(PII_KINDS)}, got {', '.join(unknown)}")
        if self.c4_lines is not None and self.c4_lines not in C4_VARIANTS:
            raise ValueError(
                f"cleaning.c4_lines must be one of {', '.join(C4_VARIANTS)} or null, got {self.c4_lines}"
            )
