"""What a run ran on: versions of what matters, and the machine."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("palate", "torch", "diffusers", "transformers", "peft", "accelerate", "numpy")


def describe_environment() -> str:
    """Versions and platform as JSON text."""
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
            **versions,
        },
        indent=1,
    )
