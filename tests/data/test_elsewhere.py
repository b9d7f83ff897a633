"""The library datasets reads a dataset folder by its name; what it saved, Arrow files and its hub are imported."""

import sys

import datasets
import huggingface_hub
import pyarrow as pa
import pytest

from palate.data.dataset import PreferenceDataset, open_dataset
from palate.data.importing import import_pairs
from palate.errors import PalateError

IMAGE = datasets.Features(
    {"prompt": datasets.Value("string"), "chosen": datasets.Image(), "rejected": datasets.Image()}
)


def rows(picture, first: int = 0, count: int = 3) -> datasets.Dataset:
    images = [[{"bytes": picture(first + 2 * i + k), "path": None} for i in range(count)] for k in (0, 1)]
    prompts = [f"prompt {first + i}" for i in range(count)]
    return datasets.Dataset.from_dict({"prompt": prompts, "chosen": images[0], "rejected": images[1]}, features=IMAGE)


def test_datasets_reads_a_dataset_by_the_name_of_its_folder(tmp_path, pair, monkeypatch):
    dataset = PreferenceDataset.create(tmp_path / "prefs", "x")
    dataset.add_pairs([pair("a"), pair("b")])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    place = str(tmp_path / "prefs")
    assert datasets.load_dataset(place, cache_dir=str(tmp_path / "c"))["train"]["pair_id"][:] == ["a", "b"]
    dataset.append_votes([{"pair_id": "a", "annotator_id": "ana", "source": "human", "choice": "tie"}])
    votes = datasets.load_dataset(place, "votes", cache_dir=str(tmp_path / "c"))["train"]
    assert votes["choice"][:] == ["tie"]
    (tmp_path / "prefs" / "README.md").write_text("mine")
    dataset.add_pairs([pair("c")])
    assert (tmp_path / "prefs" / "README.md").read_text() == "mine"


def expected(dataset) -> None:
    found = open_dataset(dataset)
    assert sorted(found.pairs()["prompt"].to_pylist()) == ["prompt 0", "prompt 1", "prompt 2"]
    assert found.problems() == [] and len(found.votes()) == 3


def test_a_folder_of_save_to_disk_is_imported(tmp_path, picture):
    rows(picture).save_to_disk(tmp_path / "saved", num_shards=2)
    assert import_pairs("trl", [tmp_path / "saved"], tmp_path / "prefs").pairs_added == 3
    expected(tmp_path / "prefs")
    shard = sorted((tmp_path / "saved").glob("*.arrow"))[0]
    assert import_pairs("trl", [shard], tmp_path / "prefs").pairs_known == 2


def test_of_several_splits_one_is_named(tmp_path, picture):
    both = datasets.DatasetDict({"train": rows(picture), "test": rows(picture, 100, 1)})
    both.save_to_disk(tmp_path / "saved")
    with pytest.raises(PalateError, match="it has several splits. There are: train, test. Name one with --split."):
        import_pairs("trl", [tmp_path / "saved"], tmp_path / "prefs")
    with pytest.raises(PalateError, match="no split 'dev'"):
        import_pairs("trl", [tmp_path / "saved"], tmp_path / "prefs", split="dev")
    import_pairs("trl", [tmp_path / "saved"], tmp_path / "prefs", split="train")
    expected(tmp_path / "prefs")


def test_pickapic_rows_are_read_from_arrow_with_a_footer_too(tmp_path, picture):
    table = pa.table(
        {"caption": ["a"], "jpg_0": [picture(0)], "jpg_1": [picture(1)], "label_0": [0.0], "label_1": [1.0]}
    )
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert import_pairs("pickapic", [tmp_path / "a.arrow"], tmp_path / "prefs").votes_added == 1


def test_damaged_arrow_files_are_one_line(tmp_path, picture):
    rows(picture).save_to_disk(tmp_path / "saved")
    (shard,) = (tmp_path / "saved").glob("*.arrow")
    whole = shard.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 20):
        shard.write_bytes(whole[:cut])
        try:
            assert import_pairs("trl", [tmp_path / "saved"], tmp_path / f"prefs-{cut}").pairs_added <= 3
        except PalateError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"_data_files": 5}', '{"_data_files": [{"filename": "../a"}]}'])
def test_a_damaged_folder_of_save_to_disk_is_one_line(state, tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text(state)
    with pytest.raises(PalateError) as error:
        import_pairs("trl", [tmp_path / "saved"], tmp_path / "prefs")
    assert "\n" not in str(error.value)


def test_a_dataset_by_name_is_streamed(tmp_path, picture, monkeypatch):
    """A folder in place of a name on the hub: the same call, without a network."""
    (tmp_path / "owner" / "name").mkdir(parents=True)
    rows(picture).to_parquet(str(tmp_path / "owner" / "name" / "train-00000.parquet"))
    rows(picture, 100, 1).to_parquet(str(tmp_path / "owner" / "name" / "test-00000.parquet"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PalateError, match="it has several splits"):
        import_pairs("trl", ["hf:owner/name"], tmp_path / "prefs")
    report = import_pairs("trl", ["hf:owner/name"], tmp_path / "prefs", split="train")
    assert report.pairs_added == 3
    expected(tmp_path / "prefs")
    assert open_dataset(tmp_path / "prefs").provenance == [
        {"format": "trl", "sources": ["hf:owner/name"], "split": "train"}
    ]


def test_a_dataset_that_is_not_there_and_a_missing_library_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PalateError, match="hf:nobody/nothing: cannot be read") as error:
        import_pairs("trl", ["hf:nobody/nothing"], tmp_path / "prefs", split="train")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PalateError, match="pip install 'palate\\[hub\\]'"):
        import_pairs("trl", ["hf:nobody/nothing"], tmp_path / "prefs", split="train")


def test_rows_of_a_foreign_dataset_never_name_files_of_this_machine(tmp_path, picture, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(picture(0))
    table = {"prompt": ["a"], "chosen": [str(tmp_path / "secret.jpg")], "rejected": ["../../secret.jpg"]}
    datasets.Dataset.from_dict(table).to_parquet(str(tmp_path / "owner" / "name" / "train.parquet"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PalateError, match="leaves the folder"):
        import_pairs("trl", ["hf:owner/name"], tmp_path / "prefs", allow_outside=True)
