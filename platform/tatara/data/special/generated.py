"""Files that nobody wrote: generated, minified, locked, or copied from another project."""

import re

_NAMES = re.compile(
    r"(?:^|/)(?:package-lock\.json|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.yaml|bun\.lockb?|cargo\.lock"
    r"|poetry\.lock|uv\.lock|pdm\.lock|pipfile\.lock|gemfile\.lock|composer\.lock|go\.sum|flake\.lock|mix\.lock|pubspec\.lock|packages\.lock\.json"
    r"|[^/]*\.(?:min\.(?:js|css|mjs)|bundle\.js|chunk\.js|map|pb\.(?:go|cc|h)|pb2(?:_grpc)?\.pyi?|g\.dart|designer\.cs|g\.cs"
    r"|freezed\.dart)|[^/]*_pb2(?:_grpc)?\.pyi?)$",
    re.IGNORECASE,
)
_VENDORED = re.compile(
    r"(?:^|/)(?:node_modules|bower_components|vendor|vendored|_vendor|third[-_]?party|3rdparty|external_libs|site-packages"
    r"|\.venv|dist-packages|Godeps|Carthage|Pods)/",
    re.IGNORECASE,
)
_HEAD_LINES = 30
_HEAD = 6000
_COMMENT = re.compile(r"^[ \t]*(?:#|//|/\*|\*|--|;|<!--|%|\"|')(.{0,300})", re.MULTILINE)
_MARKS = re.compile(
    r"@generated\b|\bauto-?generated\b|\bautomatically generated\b|\bgenerated automatically\b|\bmachine[- ]generated\b"
    r"|\bdo not (?:edit|modify)\b(?! the (?:above|below))|^\W*(?:this (?:file|code|module) (?:was|is|has been) )?"
    r"generated (?:by|from|with|using|on|at)\b|\bthis (?:file|code|module|class) (?:was|is|has been) generated\b",
    re.IGNORECASE,
)


def generated(text: str, path: str | None) -> bool:
    """Whether a file's name or the comments at its top say that a program wrote it."""
    if path is not None and _NAMES.search(path.replace("\\", "/")):
        return True
    lower = text[:_HEAD].lower()
    if "generated" not in lower and "do not" not in lower:
        return False
    head = "\n".join(text[:_HEAD].split("\n", _HEAD_LINES)[:_HEAD_LINES])
    return any(_MARKS.search(match[1]) for match in _COMMENT.finditer(head))


def vendored(path: str | None) -> bool:
    """Whether a file lies in a directory for copies of other projects."""
    return path is not None and _VENDORED.search(path.replace("\\", "/")) is not None
