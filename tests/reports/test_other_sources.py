"""The report of runs that have no pairs with votes: it says what they were trained on all the same."""

import pytest
from training.test_train import settings

import palate
from palate.data.samples import Sampling
from palate.evaluation.compare import compare
from palate.reports.runs import report

SAMPLING = Sampling(steps=2, guidance=2.0)


@pytest.mark.parametrize(
    ("method", "told"),
    [("kto", "16 single images"), ("self-npo", "48 images, no votes"), ("diffusion-lpo", "8 ranked lists")],
)
def test_the_page_says_what_a_run_was_trained_on(method, told, pipeline_folder, dataset, tmp_path):
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / method, method=method, max_train_steps=2))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\n")
    compare([str(run.path)], "base", prompts=prompts, scorer="brightness", sampling=SAMPLING)
    page = report(run.path, scorer="brightness")
    assert told in page.read_text(encoding="utf-8")
