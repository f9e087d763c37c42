"""Change the files of a model directory by hand, with or without their checksums."""

import hashlib
import json

from epifoundation.models._config import digest_of


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
