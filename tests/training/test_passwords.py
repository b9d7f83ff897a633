"""Passwords in addresses: in no file and on no terminal; a run that was stopped goes on all the same."""

import json
import uuid
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from tiny import make_labelled_dataset, refusal

import palate
from palate.encoding.storage import Storage
from palate.run.load import load_config, read_yaml
from palate.training import launch as launching
from palate.training import worker

PASSWORD = "geheim-4711"


@pytest.fixture
def address(tmp_path, monkeypatch):
    """A cache behind an address with a password, which its file system takes as others do."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    used: list[str | None] = []

    class Guarded(MemoryFileSystem):
        protocol = "guarded"
        store: dict = {}  # noqa: RUF012
        pseudo_dirs = [""]  # noqa: RUF012

        def __init__(self, host="", username=None, password=None, **options):
            super().__init__(**options)
            used.append(password)
            if password != PASSWORD:
                raise PermissionError(f"login of {username} with {password} refused")

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + str(path).rpartition("@")[2].split("://")[-1].partition("/")[2]

        @staticmethod
        def _get_kwargs_from_urls(path):
            told = fsspec.utils.infer_storage_options(path)
            return {name: told[name] for name in ("host", "username", "password") if told.get(name)}

    name = f"guarded{uuid.uuid4().hex[:6]}"
    Guarded.protocol = name
    fsspec.register_implementation(name, Guarded, clobber=True)
    yield f"{name}://ana:{PASSWORD}@host/cache", used
    fsspec.config.conf.pop(name, None)


def everything_in(folder: Path) -> bytes:
    return b"\n".join(str(path).encode() + path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_run_keeps_its_password_out_of_every_file_and_goes_on(address, pipeline_folder, tmp_path, capfd, monkeypatch):
    address, used = address
    dataset = make_labelled_dataset(tmp_path / "prefs", pairs=4, labelled=4)
    given = {
        "pretrained_model_name_or_path": str(pipeline_folder), "dataset": str(dataset.path), "report_to": "none",
        "output_dir": str(tmp_path / "run"), "lora": {"rank": 2}, "train_batch_size": 2, "cache": address,
    }  # fmt: skip
    monkeypatch.setattr("sys.argv", ["palate", "train", "a.yaml", "--cache", address])
    palate.train(given | {"max_train_steps": 1})
    assert used and set(used) == {PASSWORD}
    told = read_yaml(tmp_path / "run" / "config.yaml")["cache"]
    assert told == address.replace(f":{PASSWORD}", "")
    palate.train(given | {"max_train_steps": 2})  # given again
    resumed = read_yaml(tmp_path / "run" / "config.yaml") | {"max_train_steps": 3}
    monkeypatch.setitem(fsspec.config.conf, address.partition(":")[0], {"password": PASSWORD})  # as FSSPEC_..._PASSWORD
    palate.train(resumed)  # as it was stored
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2]
    palate.export(tmp_path / "run", "diffusers", tmp_path / "export")  # with its card
    assert "guarded" in (tmp_path / "export" / "README.md").read_text()
    monkeypatch.setitem(fsspec.config.conf, address.partition(":")[0], {})
    line = refusal(lambda: palate.train(resumed | {"max_train_steps": 4}))
    assert f"FSSPEC_{address.partition(':')[0].upper()}_PASSWORD" in line
    assert PASSWORD not in refusal(lambda: Storage(address.replace(PASSWORD, PASSWORD + "9")))
    out = capfd.readouterr()
    assert PASSWORD not in out.out + out.err and PASSWORD.encode() not in everything_in(tmp_path)
    assert len(list((tmp_path / "home" / "palate" / "mirrors").iterdir())) == 1  # fetched into one place


def test_processes_are_given_the_password_in_no_file(tmp_path, monkeypatch):
    seen = {}

    def started(how, program):
        def run(module, name, file, command):
            import os

            seen.update(
                text=Path(file).read_text(), command=command, config=load_config(file, cache=os.environ[worker.CACHE])
            )

        return run

    monkeypatch.setattr(launching, "elastic_launch", started)
    config = load_config({
        "pretrained_model_name_or_path": "m", "dataset": "d", "output_dir": "o", "processes": 2,
        "cache": f"sftp://ana:{PASSWORD}@host/x",
    })  # fmt: skip
    launching.launch(config)
    assert PASSWORD not in seen["text"] + seen["command"] and seen["config"] == config


def test_what_is_brought_into_a_dataset_is_named_without_a_password(tmp_path):
    dataset = palate.open_dataset(make_labelled_dataset(tmp_path / "prefs", pairs=2, labelled=2).path)
    dataset.add_provenance(
        {
            "judge": "own",
            "settings": {"server": f"http://ana:{PASSWORD}@h/v1", "list": [f"https://h/?token={PASSWORD}"]},
        }
    )
    text = (dataset.path / "dataset.json").read_text()
    assert PASSWORD not in text and "http://***@h/v1" in text and "https://h/?token=***" in text
