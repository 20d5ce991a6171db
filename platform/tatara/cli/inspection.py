"""``tatara show``, ``verify`` and ``doctor``."""

import json
import sys
from typing import Any

import click

from tatara.errors import ArtifactError

_WIDE = 10_000


@click.command()
@click.argument("artifact")
@click.option("--root", default=".tatara", show_default=True, help="Artifact root, a path or URL.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as it is.")
def show(artifact: str, root: str, as_json: bool) -> None:
    """Show an ARTIFACT (kind/name@version, or its directory): manifest, metrics, lineage back to raw files."""
    from rich.table import Table
    from rich.tree import Tree

    from tatara.artifact import Store
    from tatara.cli.stages import dump_yaml
    from tatara.progress import duration, size

    store = Store(root)
    found = store.resolve(artifact)
    manifest = found.manifest
    if as_json:
        click.echo(json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False))
        return
    console = _console()
    console.print(f"[bold]{found.reference}[/bold]")
    facts = Table(box=None, show_header=False, pad_edge=False)
    total = sum(entry.size for entry in manifest.files)
    for label, value in (
        ("where", found.url),
        ("fingerprint", manifest.fingerprint),
        ("created", f"{manifest.created}, in {duration(manifest.seconds)}"),
        ("stage", manifest.stage),
        ("code", manifest.code_version),
        ("command", " ".join(manifest.command)),
        ("payload", f"{len(manifest.files)} files, {size(total)}"),
    ):
        facts.add_row(label, value)
    console.print(facts)
    for title, values in (("metrics", manifest.metrics), ("config", manifest.config)):
        console.print(f"\n[bold]{title}[/bold]")
        console.print(dump_yaml(values), markup=False)
    console.print("\n[bold]files[/bold]")
    for entry in manifest.files:
        console.print(f"{entry.sha256[:16]}  {entry.size:>12,}  {entry.path}", markup=False)
    console.print("\n[bold]lineage[/bold]")
    tree = Tree(found.reference)
    _grow(tree, store.lineage(found))
    console.print(tree)


def _console() -> Any:
    """A console that cuts nothing short where the output goes to a file or another program."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def _grow(tree: Any, node: Any) -> None:
    """Add what a node was made from, down to raw files with their hashes."""
    from tatara.progress import size

    for name, entry in node.inputs.items():
        gone = "" if entry.artifact else "  (not in the store any more)"
        _grow(tree.add(f"{name}: {entry.reference}  {entry.fingerprint[:16]}{gone}"), entry)
    sources = node.artifact.manifest.sources if node.artifact else None
    if sources is None:
        return
    raw = tree.add(f"raw files: {sources.files:,} ({size(sources.bytes)})  {sources.sha256[:16]}")
    lines = node.artifact.local("sources.jsonl").read_text(encoding="utf-8").splitlines()
    shown = 20
    for line in lines[:shown]:
        file = json.loads(line)
        raw.add(f"{file['sha256'][:16]}  {size(file['size'])}  {file['path']}")
    if len(lines) > shown:
        raw.add(f"and {len(lines) - shown:,} more in {node.artifact.file_url('sources.jsonl')}")


@click.command()
@click.argument("artifact")
@click.option("--root", default=".tatara", show_default=True, help="Artifact root, a path or URL.")
def verify(artifact: str, root: str) -> None:
    """Hash the payload of an ARTIFACT again and compare it with its manifest."""
    from tatara.artifact import Store

    found = Store(root).resolve(artifact)
    problems = found.verify()
    for problem in problems:
        click.echo(problem)
    if problems:
        raise ArtifactError(
            f"{found.reference} is damaged: {len(problems)} of {len(found.manifest.files)} files differ"
        )
    click.echo(f"{found.reference}: {len(found.manifest.files)} files have the hashes of the manifest")


@click.command()
@click.option("--root", default=".tatara", show_default=True, help="Artifact root to check for room and rights.")
def doctor(root: str) -> int:
    """Check versions, cores, memory, GPU and what is missing, and say how to mend it."""
    from rich.table import Table

    from tatara.doctor import diagnose, exit_code

    findings = diagnose(root)
    colours = {"ok": "green", "warning": "yellow", "missing": "red"}
    table = Table("", "what", "found", "fix", box=None, pad_edge=False, header_style="bold")
    for finding in findings:
        mark = f"[{colours[finding.status]}]{finding.status}[/]"
        table.add_row(mark, finding.name, finding.detail, finding.fix or "")
    _console().print(table)
    return exit_code(findings)
