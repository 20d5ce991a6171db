"""Directories with a manifest: begin, commit, open, verify, lineage.

Layout: ``<root>/<kind>/<name>@<version>/``, the payload, then ``manifest.json``. A directory without a manifest is not
a result. An attempt writes to a private directory; the commit is one step:

- on a local disk the manifest is written into the private directory, which is then renamed into place;
- on an object store, which cannot rename, the payload stays below ``<name>@<version>/<attempt>/`` and the manifest,
  which names that prefix, is put under the condition that none is there.

Either way exactly one of several concurrent attempts wins and nobody ever sees a mixture.
"""

from tatara.artifact.attempt import Attempt
from tatara.artifact.committed import Artifact, Lineage, cache_directory, open_directory
from tatara.artifact.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    Draft,
    FileEntry,
    InputEntry,
    Manifest,
    SourcesEntry,
    check_name,
    fingerprint,
)
from tatara.artifact.store import Store

__all__ = [
    "MANIFEST",
    "SCHEMA_VERSION",
    "Artifact",
    "Attempt",
    "Draft",
    "FileEntry",
    "InputEntry",
    "Lineage",
    "Manifest",
    "SourcesEntry",
    "Store",
    "cache_directory",
    "check_name",
    "fingerprint",
    "open_directory",
]
