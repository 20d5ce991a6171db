import ast
import inspect
import textwrap

import pytest

from tatara.data.docstrings import docstrings, header_comment, topics

SOURCE = textwrap.dedent(
    '''
    #!/usr/bin/env python
    # Copyright the authors.
    # Licensed under terms.
    # All of them.
    """The module."""
    class A:
        """Class A."""
        def f(self):
            """Method.

                Indented.
            """
            def inner():
                """Inside."""
        x = 1
    if True:
        def g(): "no triple quotes"
    try:
        pass
    except ValueError:
        async def h():
            """In a handler."""
    else:
        def k():
            """In an else."""
    '''
).lstrip()


def test_every_docstring_has_its_name_in_source_order() -> None:
    assert list(docstrings(SOURCE.encode())) == [
        ("<module>", "The module."),
        ("A", "Class A."),
        ("A.f", "Method.\n\nIndented."),
        ("A.f.inner", "Inside."),
        ("g", "no triple quotes"),
        ("h", "In a handler."),
        ("k", "In an else."),
    ]


def test_the_same_docstrings_as_a_walk_over_the_tree() -> None:
    source = inspect.getsource(textwrap) + inspect.getsource(ast)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    walked = [ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    assert sorted(text for _, text in docstrings(source.encode())) == sorted(filter(None, walked))


def test_a_broken_module_says_so() -> None:
    with pytest.raises(SyntaxError):
        list(docstrings(b'"""x"""\ndef f(:'))
    with pytest.raises((SyntaxError, ValueError)):
        list(docstrings(b'"""x"""\n\0'))


def test_header_comment() -> None:
    assert header_comment(SOURCE.encode()) == "Copyright the authors.\nLicensed under terms.\nAll of them."
    assert header_comment(b"# one\n# two\nimport x\n") is None


def test_topics_are_those_that_help_shows() -> None:
    import pydoc_data.topics

    found = dict(topics(inspect.getsource(pydoc_data.topics).encode()))
    assert found == pydoc_data.topics.topics
