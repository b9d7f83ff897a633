"""What guides a model belongs to the model: guided samples are compared with plain ones of the same noise."""

from dataclasses import replace

import numpy as np
from training.test_train import settings

import palate
from palate.data.samples import Sampling
from palate.evaluation.compare import compare
from palate.sampling.samples import sample

SAMPLING = Sampling(steps=2, guidance=2.0)


def test_a_run_sampled_with_a_negative_model_is_compared_with_its_plain_base(pipeline_folder, dataset, tmp_path):
    run, negative = (
        palate.train(settings(pipeline_folder, dataset, tmp_path / name, method=name, max_train_steps=2))
        for name in ("dpo", "npo")
    )
    prompts = ["a red circle", "a blue square"]

    guided = sample(str(run.path), prompts, run.path / "samples", replace(SAMPLING, negative=str(negative.path)))
    table = compare([str(run.path)], "base", prompts=None, scorer="brightness", sampling=SAMPLING)
    assert table.base.samples.settings["negative"] is None
    assert guided.settings["negative"] == str(negative.path)
    assert not np.array_equal(guided.images(), table.base.samples.images())
