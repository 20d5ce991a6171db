#!/usr/bin/env bash
# Resolves pyproject.toml into the three lock files beside this script: `make lock`.
# uv must find the CPU build of torch: set UV_FIND_LINKS to a folder with the wheel, or UV_EXTRA_INDEX_URL (with
# UV_INDEX_STRATEGY=unsafe-best-match) to the index that PyTorch's installation page names for CPU builds.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
uv=${UV:-uv}
resolve() {
    "$uv" pip compile pyproject.toml --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
        --no-emit-find-links --no-emit-index-url --custom-compile-command "make lock" "$@"
}
resolve --extra cpu --overrides cluster/images/lock-overrides.txt -o cluster/images/cpu.lock
# The test tools, at versions that fit the CPU lock; only what the CPU lock does not hold already.
resolve --extra cpu --extra test --extra lock --overrides cluster/images/lock-overrides.txt \
    -c cluster/images/cpu.lock -o cluster/images/test.lock.all
python3 - <<'PY'
# Comments of entries that went away would be left hanging: keep an entry together with its own comment lines.
from pathlib import Path

folder = Path("cluster/images")
known = {line for line in (folder / "cpu.lock").read_text().splitlines() if line and not line.lstrip().startswith("#")}
kept, keep = [], True
for line in (folder / "test.lock.all").read_text().splitlines():
    if not line.startswith((" ", "#")):
        keep = line not in known
    if keep or line.startswith("#"):
        kept.append(line)
(folder / "test.lock").write_text("\n".join(kept) + "\n")
PY
rm cluster/images/test.lock.all
# For machines with a GPU: resolved and pinned, not installable without CUDA. The CPU build of torch is out of sight here.
unset UV_FIND_LINKS UV_EXTRA_INDEX_URL UV_INDEX_STRATEGY
resolve --extra gpu -o cluster/images/gpu.lock
{
    echo "# For Linux x86-64 with an NVIDIA GPU and CUDA 13. flash-attn and transformer-engine-torch compile against the torch"
    echo "# that is installed: install torch first, then the rest with --no-build-isolation --no-deps."
    cat cluster/images/gpu.lock
} >cluster/images/gpu.lock.new
mv cluster/images/gpu.lock.new cluster/images/gpu.lock
echo "wrote cluster/images/{cpu,test,gpu}.lock"
