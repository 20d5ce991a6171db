"""The licence of a source file: from metadata, an SPDX header, or the notice at its top."""

import re

from tatara.data.document import Document

_HEAD = 6000
_KEYS = ("license", "licenses", "licence", "detected_licenses", "max_stars_repo_licenses", "repo_license")
_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+() -]{2,120})", re.IGNORECASE)
# Phrases of notices in lower case; the first that is found counts, so those that hold others come before them.
_NOTICES = (
    ("AGPL-3.0", ("gnu affero general public license",)),
    ("LGPL-2.1", ("gnu lesser general public license", "gnu library general public license", " lgpl")),
    ("GPL-2.0", ("gnu general public license", "gnu gpl", "terms of the gpl", "gplv2", "gplv3", "gpl v2", "gpl v3")),
    ("MPL-2.0", ("mozilla public license",)),
    ("EPL-2.0", ("eclipse public license",)),
    ("CDDL-1.0", ("common development and distribution license",)),
    (
        "Apache-2.0",
        ("apache license, version 2", "apache license version 2", "apache 2.0 license", "licenses/license 2.0"),
    ),
    ("BSL-1.0", ("boost software license",)),
    ("MIT", ("permission is hereby granted, free of charge", " mit license", "under the mit ")),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software", " isc license")),
    ("BSD", ("redistribution and use in source and binary forms", "bsd style", " bsd license", "clause bsd")),
    ("Unlicense", ("this is free and unencumbered software",)),
    ("Zlib", ("this software is provided 'as is', without any express or implied",)),
    ("PSF-2.0", ("licensed to psf under a contributor agreement", "python software foundation license")),
    ("CC-BY-NC", ("attribution noncommercial", "cc by nc")),
    (
        "Proprietary",
        ("proprietary and confidential", "confidential and proprietary", "unauthorized copying of this file"),
    ),
)
# Comment marks do not interrupt a notice.
_MARKS = str.maketrans(dict.fromkeys("*#;!%-", " "))


def licence_of(document: Document) -> str | None:
    """An SPDX expression, or None where nothing tells."""
    for key in _KEYS:
        value = document.metadata.get(key)
        values = [value] if isinstance(value, str) else value
        names = (
            [name for name in values if isinstance(name, str) and name.strip()]
            if isinstance(values, list | tuple)
            else []
        )
        if names:
            # A repository with several licences is under all of them, as far as one can know.
            return " AND ".join(f"({name})" if " " in name else name for name in names)
    head = document.text[:_HEAD]
    if "SPDX" in head and (match := _SPDX.search(head)) is not None:
        return match[1].strip().rstrip("-").strip()
    flat = " ".join(head.lower().translate(_MARKS).replace("//", " ").split())
    if "licen" not in flat and "gpl" not in flat and "permi" not in flat and "confidential" not in flat:
        return None
    return next((name for name, phrases in _NOTICES if any(phrase in flat for phrase in phrases)), None)


def allowed(expression: str, licences: frozenset[str]) -> bool:
    """Whether an SPDX expression permits use: of alternatives (OR) one has to be allowed, of a conjunction (AND) each.

    Args:
        expression: Such as ``MIT OR (Apache-2.0 WITH LLVM-exception)``.
        licences: Allowed identifiers in lower case.
    """
    tokens = re.findall(r"[()]|[^\s()]+", expression.lower())[:200]
    value, _ = _either(tokens, 0, licences)
    return value


def _either(tokens: list[str], place: int, licences: frozenset[str]) -> tuple[bool, int]:
    value, place = _both(tokens, place, licences)
    while place < len(tokens) and tokens[place] == "or":
        other, place = _both(tokens, place + 1, licences)
        value = value or other
    return value, place


def _both(tokens: list[str], place: int, licences: frozenset[str]) -> tuple[bool, int]:
    value, place = _one(tokens, place, licences)
    while place < len(tokens) and tokens[place] not in {"or", ")"}:
        if tokens[place] == "with":  # an exception permits more, never less
            place += 2
            continue
        other, place = _one(tokens, place + (tokens[place] == "and"), licences)
        value = value and other
    return value, place


def _one(tokens: list[str], place: int, licences: frozenset[str]) -> tuple[bool, int]:
    if place >= len(tokens):
        return False, place
    if tokens[place] == "(":
        value, place = _either(tokens, place + 1, licences)
        return value, place + 1
    return tokens[place].removesuffix("-only").removesuffix("-or-later").removesuffix("+") in licences, place + 1
