"""What is built and installed elsewhere has everything that the code opens: the pipeline, the page's parts, the licence."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_the_pipeline_and_the_page(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    expected = {
        file.relative_to(source).as_posix()
        for file in (source / "palate").rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    assert expected <= names and "palate/py.typed" in names
    assert all(any(name.endswith(f"licenses/{told}") for name in names) for told in ("LICENSE", "NOTICE"))
    assert wheel.stat().st_size < 42e6
