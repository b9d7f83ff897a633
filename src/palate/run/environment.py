"""What a run ran on: versions of what matters, the machine, and the folder that relative paths are seen from."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("palate", "torch", "diffusers", "transformers", "peft", "accelerate", "numpy")


def describe_environment() -> str:
    """Versions, platform and folder as JSON text."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed as a package"
    return json.dumps(
        {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": platform.machine(),
            "folder": str(Path.cwd()),
            **versions,
        },
        indent=1,
    )
