"""Strengths of the models that made the images, as covariates of the corrected judge."""

import json

import numpy as np
from scipy.special import expit
from tiny import make_labelled_dataset, refusal

from palate.data.dataset import PreferenceDataset
from palate.judges.correction import correct_judge
from palate.judges.generators import generator_differences
from palate.labels.votes import prepare_rows
from palate.run.load import load_config

STRENGTHS = {"a": 1.0, "b": 0.0, "c": -1.0}


def simulated(seed: int, n: int = 1500, labelled: int = 300):
    """People follow a content that the judge sees, and the strengths, which it does not."""
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 3, (n, 2))
    strength = np.array(list(STRENGTHS.values()))
    content = rng.normal(size=n)
    truth = (rng.random(n) < expit(content + strength[made[:, 0]] - strength[made[:, 1]])).astype(float)
    columns = np.zeros((n, 3))
    np.add.at(columns, (np.arange(n), made[:, 0]), 1.0)
    np.add.at(columns, (np.arange(n), made[:, 1]), -1.0)
    return expit(content), columns, np.where(np.arange(n) < labelled, truth, np.nan), truth


def brier(probability, truth) -> float:
    return float(((probability - truth) ** 2)[300:].mean())


def test_strengths_of_models_are_bradley_terrys_beside_the_judge():
    gains = []
    for seed in range(5):
        judge, columns, human, truth = simulated(seed)
        names = tuple(STRENGTHS)
        found = correct_judge(judge, columns, human, names=names)
        without = correct_judge(judge, np.zeros((len(judge), 0)), human, names=())
        gains.append(brier(without.probability, truth) - brier(found.probability, truth))
        assert found.weights["a"] > found.weights["b"] > found.weights["c"]
        mirrored = correct_judge(1 - judge, -columns, 1 - human, names=names)
        np.testing.assert_allclose(mirrored.probability, 1 - found.probability, atol=1e-9)
        turned = human.copy()
        turned[0] = 1 - turned[0]  # a pair's own vote has no part in its probability
        assert correct_judge(judge, columns, turned, names=names).probability[0] == found.probability[0]
    assert min(gains) > 0 and np.mean(gains) > 0.02


def pairs_of_models(folder, models) -> PreferenceDataset:
    dataset = make_labelled_dataset(folder, pairs=24, labelled=24)
    columns = ["pair_id", "prompt", "image_0", "image_1"]
    rows = [row for batch in dataset.iter_pairs(columns=columns) for row in batch.to_pylist()]
    for row, (first, second) in zip(rows, models, strict=True):
        row["generator_0"], row["generator_1"] = first, second
    again = PreferenceDataset.create(folder.parent / "models", name="models")
    again.add_pairs(rows)
    again.append_votes(dataset.votes().to_pylist())
    return again


def test_columns_are_the_models_of_the_two_images(tmp_path):
    sd, flux = ({"model": "sd", "seed": 1}, {"model": "flux", "seed": 2}), ("flux", json.dumps({"model": "sd"}))
    models = [sd, flux, ({"model": "sd"}, {"model": "sd"}), (None, "flux")] + [("sd", "flux")] * 20
    dataset = pairs_of_models(tmp_path / "data", models)
    columns, names = generator_differences(dataset, [f"p{i:03}" for i in range(24)])
    assert names == ("made by flux", "made by sd")
    assert columns[:5].tolist() == [[-1, 1], [1, -1], [0, 0], [0, 0], [-1, 1]]
    config = {"pretrained_model_name_or_path": "world", "dataset": str(dataset.path), "output_dir": "o", "method": "dedpo", "judge": "bright", "generator_strengths": True}  # fmt: skip
    rows = prepare_rows(dataset, load_config(config))
    assert "strengths of 2 models" in rows.account["corrected judge"]["covariates"]


def test_it_is_refused_without_two_models_and_without_a_corrected_judge(dataset):
    assert "no pair of images that two models made" in refusal(lambda: generator_differences(dataset, ["p000"]))
    base = {"pretrained_model_name_or_path": "world", "dataset": "d", "output_dir": "o", "generator_strengths": True}
    assert "nothing uses one" in refusal(lambda: load_config(base))
    assert "use correction: covariates" in refusal(
        lambda: load_config(base | {"method": "dedpo", "judge": "j", "correction": "calibrate"})
    )
