"""Models to damage, and changes of the files of their directories with checksums that are right."""

import hashlib
import json

import torch

import epifoundation as ep
from epifoundation.models._config import digest_of
from epifoundation.nn import Network, Sizes

N_PEAKS = 30


def rewrite(directory, change):
    """Change ``config.json``, and make its digest true again if it has one."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    change(config)
    if "config_sha256" in config:
        config["config_sha256"] = digest_of(config)
    path.write_text(json.dumps(config))


def reseal(directory, file):
    """Make the checksum of a file true again, so that what comes after it is tested."""
    digest = hashlib.sha256((directory / file).read_bytes()).hexdigest()
    rewrite(directory, lambda config: config["sha256"].update({file: digest}))


def write(directory, file, content):
    """Write a file, and its checksum."""
    (directory / file).write_bytes(content)
    reseal(directory, file)


def random_transformer(**changes):
    """A transformer with all parts and random weights."""
    torch.manual_seed(0)
    names = [f"chr{1 + i % 2}:{1000 * i}-{1000 * i + 500}" for i in range(N_PEAKS)]
    config = ep.ModelConfig(
        "transformer", 8, 2, 1, objective="binary", decoder="query", values=True, max_peaks=9
    )
    sizes = Sizes(N_PEAKS, 4, 3, 2, n_chromosomes=2, n_label_layers=1)
    options = {
        "network": Network(config, sizes),
        "peaks": ep.PeakVocabulary.from_names(names, genome="hg38"),
        "genes": ep.GeneVocabulary([f"g{i}" for i in range(4)]),
        "labels": ["a", "b", "c"],
        "training": {"batches": ["x", "y"], "history": [{"train": 1.0, "validation": 2}]},
    }
    return ep.EpiFoundation(**options | changes)
