"""Every table of the flow: columns, units, key. How they are written and pinned is in `delta`."""

from pipelines.delta import Table

DOCUMENTS = Table(
    name="documents",
    row="one source document, kept or dropped",
    key=("doc_id",),
    checks={
        "chars_and_bytes": "num_chars >= 0 AND num_bytes >= num_chars",
        "split_name": "split IN ('train', 'validation', 'test')",
    },
    ddl="""doc_id       STRING NOT NULL COMMENT 'sha256 of source and source key, first 32 hex digits',
           source       STRING NOT NULL COMMENT 'name of the source in the configuration',
           text         STRING NOT NULL COMMENT 'UTF-8, NFC, line ends LF, outer white space stripped',
           label        STRING          COMMENT 'class name; null = none given',
           parts        ARRAY<STRUCT<name: STRING, text: STRING>>
                        COMMENT 'named texts in order, such as dialogue turns by role; null = plain text',
           metadata     MAP<STRING, STRING>
                        COMMENT 'what the source maps, such as url, timestamp; null = none given',
           content_hash STRING NOT NULL COMMENT 'sha256 of text and parts, first 32 hex digits',
           num_chars    INT    NOT NULL COMMENT 'Unicode code points of text',
           num_bytes    INT    NOT NULL COMMENT 'UTF-8 bytes of text',
           duplicate_of STRING          COMMENT 'doc_id of the surviving copy; null = none or the survivor',
           drop_reason  STRING          COMMENT 'first rule failed; null = kept',
           split        STRING NOT NULL COMMENT 'train, validation or test; set for dropped rows too',
           file         STRING NOT NULL COMMENT 'file, relative to the root of the source',
           offset       BIGINT NOT NULL COMMENT 'byte of the decompressed file; Parquet: row of the file'""",
)

QUARANTINE = Table(
    name="quarantine",
    row="one record that could not become a document",
    key=("source", "file", "offset"),
    checks={"position": "offset >= 0 AND (line IS NULL OR line >= 1)"},
    ddl="""source STRING NOT NULL COMMENT 'name of the source in the configuration',
           file   STRING NOT NULL COMMENT 'file, relative to the root of the source',
           offset BIGINT NOT NULL COMMENT 'byte of the decompressed file; Parquet: row of the file',
           line   BIGINT          COMMENT 'line on which the record starts, from 1; null = no lines',
           reason STRING NOT NULL COMMENT 'why it is no document, as kind: detail',
           raw    BINARY          COMMENT 'first 64 KiB of the record; Parquet: its mapped fields as JSON'""",
)

SEQUENCES = Table(
    name="sequences",
    row="one training sequence of at most sequence_length tokens",
    key=("split", "sequence_id"),
    partition_by=("split",),
    checks={
        "tokens": "num_tokens = size(input_ids) AND num_tokens >= 1 AND num_targets >= 0",
        "dense_id": "sequence_id >= 0",
    },
    ddl="""sequence_id BIGINT NOT NULL COMMENT 'from 0, without gaps within the split',
           split       STRING NOT NULL COMMENT 'train, validation or test',
           input_ids   ARRAY<INT> NOT NULL COMMENT 'tokens, not padded',
           num_tokens  INT NOT NULL COMMENT 'length of input_ids',
           label       INT COMMENT 'class number; null = the targets are tokens',
           targets     ARRAY<STRUCT<first_token: INT, num_tokens: INT>> NOT NULL
                       COMMENT 'runs of target tokens, predicted from the tokens before in the same segment',
           num_targets INT NOT NULL COMMENT 'terms this sequence adds to the loss',
           num_bytes   INT NOT NULL COMMENT 'UTF-8 bytes of the text behind the targets',
           segments    ARRAY<STRUCT<doc_id: STRING, first_token: INT, num_tokens: INT, char_start: INT,
                       char_end: INT>> NOT NULL
                       COMMENT 'tokens and characters of each document; a run attends to itself only'""",
)

PREDICTIONS = Table(
    name="predictions",
    row="one document scored by one model version",
    # The content too: a documents table that was deleted counts its versions from 0 again.
    key=("doc_id", "content_hash", "model_name", "model_version", "run_id", "documents_version"),
    # Equal trainings have different run ids.
    volatile=("run_id", "scored_at", "latency_ms"),
    checks={"latency": "latency_ms >= 0"},
    ddl="""doc_id            STRING NOT NULL COMMENT 'document scored',
           text              STRING NOT NULL COMMENT 'text scored',
           content_hash      STRING NOT NULL COMMENT 'of the document: its text and its parts',
           label             STRING COMMENT 'expected class; null = unknown',
           prediction        STRING NOT NULL COMMENT 'class name, or text continued by a language model',
           score             DOUBLE NOT NULL COMMENT 'probability of the class, or bits per byte of the text',
           model_name        STRING NOT NULL COMMENT 'registered model',
           model_version     INT NOT NULL COMMENT 'version of the registered model',
           run_id            STRING NOT NULL COMMENT 'MLflow run that trained it',
           documents_version BIGINT NOT NULL COMMENT 'version of the documents table scored',
           scored_at         TIMESTAMP NOT NULL COMMENT 'when the job started scoring',
           latency_ms        DOUBLE NOT NULL COMMENT 'milliseconds in the model, mean over the batch'""",
)
