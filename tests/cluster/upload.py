"""Copy a local folder to the cluster's storage: python -m tests.cluster.upload SOURCE TARGET."""

import sys
from pathlib import Path

from pipelines import stores
from pipelines.storage import Folder

if __name__ == "__main__":
    stores.configure(stores.Stores())  # endpoint and keys come from the environment
    source, target = Path(sys.argv[1]), Folder(sys.argv[2])
    for file in sorted(source.rglob("*")):
        if file.is_file():
            target.write(file.relative_to(source).as_posix(), file.read_bytes())
