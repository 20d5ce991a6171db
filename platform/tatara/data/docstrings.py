"""The documentation inside a Python module: its docstrings and the comment it starts with."""

import ast
import gc
import warnings
from collections.abc import Iterator

_MIN_HEADER_LINES = 3
_DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(source: bytes) -> Iterator[tuple[str, str]]:
    """Yield (qualified name, text) of each docstring in source order; the module's own name is ``<module>``.

    Raises:
        SyntaxError: The source is not Python that this interpreter can read.
        ValueError: It holds NUL bytes.
    """
    if b'"""' not in source and b"'''" not in source:
        return
    tree = _parse(source)
    stack: list[tuple[str, ast.AST]] = [("", tree)]
    while stack:
        name, node = stack.pop()
        if isinstance(node, (ast.Module, *_DOCUMENTED)):
            text = ast.get_docstring(node)
            if text:
                yield name or "<module>", text
        inner = [child for child in _statements(node) if isinstance(child, _DOCUMENTED) or hasattr(child, "body")]
        for child in reversed(inner):
            own = getattr(child, "name", None) if isinstance(child, _DOCUMENTED) else None
            stack.append((f"{name}.{own}" if name and own else own or name, child))


def header_comment(source: bytes) -> str | None:
    """The comment at the top of a file, mostly a licence notice, without its ``#``; None when it is short."""
    lines = []
    for line in source.split(b"\n", 200)[:200]:
        stripped = line.strip()
        if not stripped.startswith(b"#"):
            break
        if not stripped.startswith((b"#!", b"# -*-")):
            lines.append(stripped.lstrip(b"#").strip())
    if len(lines) < _MIN_HEADER_LINES:
        return None
    return b"\n".join(lines).decode("utf-8", errors="replace").strip()


def topics(source: bytes) -> Iterator[tuple[str, str]]:
    """Yield (key, text) of the language reference that ``pydoc_data.topics`` keeps in one dictionary."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield str(key.value), value.value


def _parse(source: bytes) -> ast.Module:
    collecting = gc.isenabled()
    # A tree is many small objects and no garbage: looking for some meanwhile takes a third of the time.
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    finally:
        if collecting:
            gc.enable()


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Statements right below a node, wherever they hang (body, else, handlers); expressions are not looked into."""
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        below = getattr(node, field, None)
        if isinstance(below, list):
            yield from below
