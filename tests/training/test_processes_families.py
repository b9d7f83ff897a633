"""Every family of models trains in two processes as in one: adapters and all weights, weights shared and in shards."""

from pathlib import Path

import pytest
import torch
from families import FAMILIES
from many_runs import BETA, ROUNDING, apart, run_in_two
from tiny import make_labelled_dataset

import palate
from palate.run.metrics import read_metrics

pytestmark = pytest.mark.slow
TRAINED = {"lora": {"lora": {"rank": 4}}, "full": {}}
WAYS = ("ddp", "fsdp2")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As the two processes have: sums over other pieces round otherwise, and Adam enlarges that."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Each family's run in one process, and in two both ways."""
    folder = tmp_path_factory.mktemp("families")
    make_labelled_dataset(folder / "data")
    two = []
    for family, make in FAMILIES.items():
        make(folder / family)
        for trained, options in TRAINED.items():
            # 3 rows: 2 for one process, 1 for the other
            config = options | {
                "pretrained_model_name_or_path": str(folder / family), "dataset": str(folder / "data"), "resolution": 64, "beta": BETA,
                "learning_rate": 1e-4, "train_batch_size": 3, "max_train_steps": 2, "report_to": "none", "adam_epsilon": 1e-2,
                "checkpointing_steps": 1,
            }  # fmt: skip
            palate.train(config | {"output_dir": str(folder / f"{family}-{trained}-one")})
            two += [
                (config | {"output_dir": str(folder / f"{family}-{trained}-{way}"), "parallel": way}, None)
                for way in WAYS
            ]
    run_in_two(folder, two)
    return folder


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_end_where_one_does_in_every_family(family, trained, way, folder):
    one, two = folder / f"{family}-{trained}-one", folder / f"{family}-{trained}-{way}"
    assert apart(one, two) <= ROUNDING
    assert read_metrics(two)[0]["rewards/margins"] == 0.0
    files = [sorted(path.relative_to(run) for path in (run / "model").rglob("*.safetensors")) for run in (one, two)]
    assert files[0] == files[1] != []
