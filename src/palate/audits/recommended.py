"""What an audit recommends, as a file that `palate train` takes."""

from pathlib import Path

import yaml

from palate.audits.findings import Findings
from palate.data.dataset import PreferenceDataset
from palate.files import write_text


def write_configuration(findings: Findings, dataset: PreferenceDataset, file: Path) -> None:
    """Write a complete configuration: the recommended keys, with the model that made the pairs where the dataset says
    which."""
    made_by = [entry["model"] for entry in dataset.provenance if isinstance(entry, dict) and "model" in entry]
    keys = {
        "pretrained_model_name_or_path": made_by[0] if len(set(made_by)) == 1 else "path/to/the/pipeline",
        "dataset": str(dataset.path),
        "output_dir": f"runs/{file.stem}",
        **findings.recommendation.configuration,
    }
    text = yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)
    write_text(file, f"# {findings.recommendation.sentence}\n{text}")
