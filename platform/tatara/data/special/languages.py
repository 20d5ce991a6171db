"""Programming languages: suffixes, how comments and strings look, and which rules do not suit them."""

import posixpath
import urllib.parse
from collections.abc import Mapping
from typing import Any

from tatara.data.document import Document

SLASHES, HASH, DASHES, SEMICOLON, PERCENT, QUOTES, BACKTICKS, TRIPLE, BRACKETS = 1, 2, 4, 8, 16, 32, 64, 128, 256
"""Comments ``//`` and ``/* */``, ``#``, ``--``, ``;``, ``%``; strings in single quotes, in backticks, triple-quoted;
and whether brackets outside of them have to balance."""
_C = SLASHES | BRACKETS

LANGUAGES: dict[str, tuple[int, str]] = {
    "assembly": (HASH | SEMICOLON, "asm s nasm"),
    "c": (_C, "c h"),
    "c#": (_C, "cs"),
    "c++": (_C, "cc cpp cxx c++ hpp hh hxx ipp inl cu cuh"),
    "clojure": (SEMICOLON, "clj cljs cljc edn"),
    "cmake": (HASH, "cmake"),
    "css": (_C | QUOTES, "css scss less"),
    "cython": (HASH | QUOTES | TRIPLE, "pyx pxd"),
    "dart": (_C | QUOTES, "dart"),
    "dockerfile": (HASH, "dockerfile"),
    "elixir": (HASH, "ex exs"),
    "erlang": (PERCENT, "erl hrl"),
    "fortran": (0, "f f77 f90 f95 f03 for"),
    "go": (_C | BACKTICKS, "go"),
    "groovy": (SLASHES | QUOTES | TRIPLE, "groovy gradle"),
    "haskell": (DASHES, "hs lhs"),
    "html": (0, "html htm xhtml vue svelte"),
    "java": (_C, "java"),
    "javascript": (_C | QUOTES | BACKTICKS, "js jsx mjs cjs"),
    "json": (0, "json jsonc json5"),
    "julia": (HASH | TRIPLE, "jl"),
    "jupyter": (0, "ipynb"),
    "kotlin": (_C | TRIPLE, "kt kts"),
    "lisp": (SEMICOLON, "lisp lsp el scm rkt ss"),
    "lua": (DASHES | QUOTES, "lua"),
    "makefile": (HASH, "mk makefile"),
    "matlab": (PERCENT, "matlab"),
    "nix": (HASH, "nix"),
    "objective-c": (_C, "m mm"),
    "ocaml": (0, "ml mli"),
    "perl": (HASH, "pl pm"),
    "php": (_C | HASH | QUOTES, "php"),
    "powershell": (HASH, "ps1 psm1"),
    "prolog": (PERCENT, "pro prolog"),
    "protobuf": (_C | QUOTES, "proto"),
    "python": (HASH | QUOTES | TRIPLE, "py pyi"),
    "r": (HASH | QUOTES, "r"),
    "ruby": (HASH, "rb rake gemspec"),
    "rust": (_C, "rs"),
    "scala": (_C | TRIPLE, "scala sbt"),
    "shell": (HASH | QUOTES, "sh bash zsh fish ksh"),
    "solidity": (_C | QUOTES, "sol"),
    "sql": (DASHES | QUOTES, "sql"),
    "swift": (_C, "swift"),
    "tcl": (HASH, "tcl"),
    "toml": (HASH, "toml"),
    "typescript": (_C | QUOTES | BACKTICKS, "ts tsx mts cts"),
    "verilog": (_C, "v sv svh"),
    "vhdl": (DASHES, "vhd vhdl"),
    "visual basic": (0, "vb bas vbs"),
    "xml": (0, "xml svg xsd xsl xslt wsdl xaml"),
    "yaml": (HASH, "yaml yml"),
    "zig": (_C, "zig"),
}
MARKUP = frozenset(("html", "json", "jupyter", "xml", "yaml", "toml"))
"""Lines of any length are normal (StarCoder's long-line rule leaves such out)."""
MATHEMATICS_SUFFIXES = frozenset(("tex", "ltx", "latex"))

_BY_SUFFIX = {suffix: name for name, (_, suffixes) in LANGUAGES.items() for suffix in suffixes.split()}
_ALIASES = {
    "cpp": "c++", "csharp": "c#", "golang": "go", "js": "javascript", "ts": "typescript", "py": "python",
    "python3": "python", "objectivec": "objective-c", "jsx": "javascript", "tsx": "typescript", "bash": "shell",
    "sh": "shell", "scss": "css", "common lisp": "lisp", "scheme": "lisp", "emacs lisp": "lisp",
    "jupyter notebook": "jupyter", "protocol buffer": "protobuf", "vue": "html", "svg": "xml",
    "systemverilog": "verilog", "cuda": "c++",
}  # fmt: skip
_PATHS = ("path", "file_path", "filepath", "filename", "file_name", "max_stars_repo_path", "relative_path", "file")
_NAMES = ("programming_language", "lang", "language", "ext", "extension")
# What a web server calls a page says how it is made, not what it is.
_PAGES = frozenset(
    ("html", "htm", "xhtml", "php", "asp", "aspx", "jsp", "cgi", "pl", "json", "xml", "m", "s", "v", "r", "for")
)


def path_of(document: Document) -> str | None:
    """The path of the file that a document is, from metadata or the source; None where it is not a whole file."""
    for key in _PATHS:
        value = document.metadata.get(key)
        if isinstance(value, str) and value:
            return value
    whole = document.id == document.source or document.id.startswith(f"{document.source}#")
    return document.source if whole and suffix_of(document.source) in _BY_SUFFIX.keys() | MATHEMATICS_SUFFIXES else None


def suffix_of(path: str) -> str:
    """The suffix of a file's name in lower case without the dot, or the whole name where there is none."""
    name = posixpath.basename(path.replace("\\", "/")).lower()
    stem, _, suffix = name.rpartition(".")
    return suffix if stem else name.lstrip(".")


def language_of(document: Document) -> str | None:
    """The programming language that names and metadata say; None where they say nothing."""
    path = path_of(document)
    if path is not None and (found := _BY_SUFFIX.get(suffix_of(path))):
        return found
    found = _named(document.metadata)
    if found or not document.url:
        return found
    suffix = suffix_of(urllib.parse.urlsplit(document.url[:2048]).path) if "[" not in document.url else ""
    return None if suffix in _PAGES else _BY_SUFFIX.get(suffix)


def _named(metadata: Mapping[str, Any]) -> str | None:
    for key in _NAMES:
        value = metadata.get(key)
        if not isinstance(value, str):
            continue
        name = value.strip().lower().lstrip(".")
        # A language of two letters may as well be a natural one: "ml", "rs", "ts".
        by_suffix = _BY_SUFFIX.get(name) if key != "language" or len(name) > 2 else None
        found = name if name in LANGUAGES and len(name) > 1 else _ALIASES.get(name) or by_suffix
        if found:
            return found
    return None
