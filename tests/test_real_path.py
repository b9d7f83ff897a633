"""The verbs on the path of a real user: a Pick-a-Pic parquet with JPEGs of mixed sizes, a Stable Diffusion pipeline."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tiny import PROMPTS, picture_bytes

from palate.cli import compare as compare_verb
from palate.cli import import_, info
from palate.cli import report as report_verb
from palate.cli import sample as sample_verb
from palate.cli import train as train_verb


def pick_a_pic(path, rows: int = 24) -> None:
    """Rows as on the public card: darker pictures win, one in six is a tie, one in twelve has no label."""
    rng = np.random.default_rng(0)
    sizes = [(96, 64), (64, 64), (50, 80), (128, 128)]
    table = []
    for i in range(rows):
        brightness = rng.uniform(0.1, 0.9, 2)
        label = 0.5 if i % 6 == 5 else float(brightness[0] < brightness[1])
        pictures = [picture_bytes(rng, *sizes[(i + side) % 4], brightness=brightness[side]) for side in (0, 1)]
        table.append(
            {
                "caption": PROMPTS[i % 3], "jpg_0": pictures[0], "jpg_1": pictures[1], "label_0": label, "label_1": 1 - label, "has_label": i % 12 != 3,
                "are_different": True, "user_id": i % 4, "ranking_id": i, "image_0_uid": f"u{i}a", "image_1_uid": f"u{i}b", "model_0": "m", "model_1": "m",
            }
        )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(table), path)


@pytest.mark.parametrize("lora", [{"rank": 4}, None], ids=["lora", "full"])
def test_import_info_train_sample_compare_report(lora, pipeline_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pick_a_pic(tmp_path / "pickapic.parquet")
    import_.main(["pickapic", "pickapic.parquet", "--to", "prefs"])
    info.main(["prefs", "--json"])
    told = json.loads(re.search(r"\{.*\}\s*$", capsys.readouterr().out, re.S).group())
    assert told["pairs"] == 24
    config = {
        "pretrained_model_name_or_path": str(pipeline_folder), "dataset": "prefs", "output_dir": "run", "train_batch_size": 4, "max_train_steps": 3,
        "safeguard": 0.9, "adaptive": True, "lora": lora, "prompt_dropout": 0.2, "learning_rate": 1e-4,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    train_verb.main(["config.yaml"])
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    sample_verb.main(["run", "--prompts", "prompts.txt", "--base", "--steps", "2", "--repetitions", "2"])
    compare_verb.main(["run", "--scorer", "brightness"])
    assert re.search(r"wins 0\.\d\d \[", capsys.readouterr().out)
    report_verb.main(["run", "--scorer", "brightness"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "a red circle" in page and "data:image" in page and "run" in page
    labels = json.loads((tmp_path / "run" / "labels.json").read_text())
    assert labels["pairs used"] == 22  # two rows have no label; ties are votes
