"""The files of evaluation sets -> their records, read on the driver by the readers of sources."""

from collections.abc import Iterator

from pipelines.corpus.decontamination import Decontamination
from pipelines.corpus.manifest import Manifest
from pipelines.corpus.readers.files import read_slice
from pipelines.corpus.readers.format import MalformedError, Slice
from pipelines.corpus.readers.mapping import Mapper
from pipelines.storage import locate

_REMEDY = "repair or remove it, because what is not read is not found"


def read_records(settings: Decontamination, manifest: Manifest) -> Iterator[tuple[int, str, str]]:
    """(place of the set, name, text) of each record of the sets, in the order of the manifest. The name is
    the key, with the position behind it if the set has had this key; without a key, the position.

    Raises ValueError if a record cannot be read, OSError if a file cannot.
    """
    sources = settings.evaluation_sets
    seen = set[tuple[int, str]]()
    opened = [(locate(source.path)[0], Mapper(source)) for source in sources]
    for place, file in manifest.iterate():
        source, (files, mapper) = sources[place], opened[place]
        for record in read_slice(files, source, Slice(file.path, 0, None)):
            problem = record.reason
            if record.values is not None:
                try:
                    columns = mapper.map_values(record.values)
                except MalformedError as error:
                    problem = str(error)
                else:
                    at = f"{file.relative}:{record.offset}"
                    name = columns.key or at
                    if (place, name) in seen:  # a key that is unique in its file only
                        name = f"{name} ({at})"
                    seen.add((place, name))
                    yield place, name, columns.text
                    continue
            raise ValueError(
                f"evaluation set {source.name!r}: the record at {record.offset:,} of {file.relative} cannot "
                f"be read ({problem}); {_REMEDY}"
            )
