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
           label        STRING          COMMENT 'class name, or names as a JSON array; null = none given',
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
           offset       BIGINT NOT NULL COMMENT 'decompressed byte; WARC: stored byte; Parquet/Delta: row'""",
)

SIGNALS = Table(
    name="signals",
    row="what was measured of the text of one document; null = no rule asked for it",
    key=("doc_id",),
    ddl="""doc_id STRING NOT NULL COMMENT 'document measured',
           language STRING COMMENT 'ISO 639, for Chinese with its script: zh-Hans, zh-Hant',
           language_score DOUBLE COMMENT 'probability of the language',
           num_words DOUBLE COMMENT 'pieces between white space; ideographs by dictionary',
           mean_word_length DOUBLE COMMENT 'characters per word, marks included',
           alpha_word_fraction DOUBLE COMMENT 'words with a letter',
           hash_word_ratio DOUBLE COMMENT '# per word',
           ellipsis_word_ratio DOUBLE COMMENT '... and U+2026 per word',
           num_tokens DOUBLE COMMENT 'words without marks, and each mark',
           num_word_tokens DOUBLE COMMENT 'tokens that are not only marks',
           mean_token_length DOUBLE COMMENT 'characters per such token',
           alpha_token_fraction DOUBLE COMMENT 'tokens with a letter',
           hash_token_ratio DOUBLE COMMENT '# per token',
           ellipsis_token_ratio DOUBLE COMMENT '... and U+2026 per token',
           line_break_token_ratio DOUBLE COMMENT 'line breaks per token',
           num_stop_words DOUBLE COMMENT 'different ones of 8 English words, any case',
           num_exact_stop_words DOUBLE COMMENT 'the same, in lower case only',
           num_chinese_stop_words DOUBLE COMMENT 'different ones of 22 Chinese words',
           num_lines DOUBLE COMMENT 'lines that are not blank',
           bullet_line_fraction DOUBLE COMMENT 'lines that start with a bullet',
           bullet_all_line_fraction DOUBLE COMMENT 'U+2022 or -, of all lines, blank ones too',
           ellipsis_line_fraction DOUBLE COMMENT 'lines that end in an ellipsis',
           ellipsis_all_line_fraction DOUBLE COMMENT 'the same, of all lines',
           duplicate_line_fraction DOUBLE COMMENT 'lines that occurred before',
           duplicate_line_char_fraction DOUBLE COMMENT 'characters in them, of the text',
           duplicate_line_char_fraction_of_lines DOUBLE COMMENT 'the same, of the text without line breaks',
           stop_line_fraction DOUBLE COMMENT 'lines that end in a sentence terminal',
           short_line_fraction DOUBLE COMMENT 'lines of at most 30 characters',
           duplicate_paragraph_fraction DOUBLE COMMENT 'paragraphs that occurred before',
           duplicate_paragraph_char_fraction DOUBLE COMMENT 'characters in them, of the text',
           top_2_gram_word_fraction DOUBLE COMMENT 'characters in the most frequent 2-gram of words',
           top_3_gram_word_fraction DOUBLE COMMENT 'characters in the most frequent 3-gram of words',
           top_4_gram_word_fraction DOUBLE COMMENT 'characters in the most frequent 4-gram of words',
           duplicate_5_gram_word_fraction DOUBLE COMMENT 'characters in repeated 5-grams of words',
           duplicate_6_gram_word_fraction DOUBLE COMMENT 'characters in repeated 6-grams of words',
           duplicate_7_gram_word_fraction DOUBLE COMMENT 'characters in repeated 7-grams of words',
           duplicate_8_gram_word_fraction DOUBLE COMMENT 'characters in repeated 8-grams of words',
           duplicate_9_gram_word_fraction DOUBLE COMMENT 'characters in repeated 9-grams of words',
           duplicate_10_gram_word_fraction DOUBLE COMMENT 'characters in repeated 10-grams of words',
           top_2_gram_token_fraction DOUBLE COMMENT 'characters in the most frequent 2-gram of tokens',
           top_3_gram_token_fraction DOUBLE COMMENT 'characters in the most frequent 3-gram of tokens',
           top_4_gram_token_fraction DOUBLE COMMENT 'characters in the most frequent 4-gram of tokens',
           duplicate_5_gram_token_fraction DOUBLE COMMENT 'characters in repeated 5-grams of tokens',
           duplicate_6_gram_token_fraction DOUBLE COMMENT 'characters in repeated 6-grams of tokens',
           duplicate_7_gram_token_fraction DOUBLE COMMENT 'characters in repeated 7-grams of tokens',
           duplicate_8_gram_token_fraction DOUBLE COMMENT 'characters in repeated 8-grams of tokens',
           duplicate_9_gram_token_fraction DOUBLE COMMENT 'characters in repeated 9-grams of tokens',
           duplicate_10_gram_token_fraction DOUBLE COMMENT 'characters in repeated 10-grams of tokens',
           c4_paper_num_sentences DOUBLE COMMENT 'sentences in lines that C4 keeps',
           c4_paper_line_fraction DOUBLE COMMENT 'lines that C4 keeps',
           c4_paper_lorem_ipsum_lines DOUBLE COMMENT 'lines with lorem ipsum',
           c4_paper_brace_lines DOUBLE COMMENT 'lines with an opening brace',
           c4_datatrove_num_sentences DOUBLE COMMENT 'sentences in lines that C4 keeps',
           c4_datatrove_line_fraction DOUBLE COMMENT 'lines that C4 keeps',
           c4_datatrove_lorem_ipsum_lines DOUBLE COMMENT 'lines with lorem ipsum',
           c4_datatrove_brace_lines DOUBLE COMMENT 'lines with an opening brace',
           c4_fineweb_num_sentences DOUBLE COMMENT 'sentences in lines that C4 keeps',
           c4_fineweb_line_fraction DOUBLE COMMENT 'lines that C4 keeps',
           c4_fineweb_lorem_ipsum_lines DOUBLE COMMENT 'lines with lorem ipsum',
           c4_fineweb_brace_lines DOUBLE COMMENT 'lines with an opening brace'""",
)

QUARANTINE = Table(
    name="quarantine",
    row="one record that could not become a document",
    key=("source", "file", "offset"),
    checks={"position": "offset >= 0 AND (line IS NULL OR line >= 1)"},
    ddl="""source STRING NOT NULL COMMENT 'name of the source in the configuration',
           file   STRING NOT NULL COMMENT 'file, relative to the root of the source',
           offset BIGINT NOT NULL COMMENT 'decompressed byte; WARC: stored byte; Parquet/Delta: row',
           line   BIGINT          COMMENT 'line on which the record starts, from 1; null = no lines',
           reason STRING NOT NULL COMMENT 'why it is no document, as kind: detail',
           raw    BINARY          COMMENT 'first 64 KiB of the record; Parquet: its mapped fields as JSON'""",
)

LEDGER = Table(
    name="ledger",
    row="one file that the documents were made from",
    key=("source", "file"),
    # A file is the same whether it came with the others or alone.
    volatile=("ingested_at",),
    checks={"size": "size >= 0"},
    ddl="""source      STRING NOT NULL COMMENT 'name of the source in the configuration',
           file        STRING NOT NULL COMMENT 'file, relative to the root of the source',
           size        BIGINT NOT NULL COMMENT 'bytes as stored',
           modified_ns BIGINT NOT NULL COMMENT 'nanoseconds since 1970; 0 = the store keeps no time',
           ingested_at TIMESTAMP NOT NULL COMMENT 'when the run that read the file wrote this row'""",
)

LANDED_ROWS = Table(
    name="landed_rows",
    row="one row that was inserted into the Delta table of a source; see corpus/feed",
    key=("version", "number"),
    ddl="""version BIGINT NOT NULL COMMENT 'that inserted the row; of a snapshot: the one that was read',
           number  BIGINT NOT NULL COMMENT 'tells the rows of a version apart; has gaps',
           record  STRING NOT NULL COMMENT 'the row as a JSON object; null fields are left out'""",
)

SIGNATURES = Table(
    name="signatures",
    row="the MinHash buckets of one text; rows are only added",
    key=("content_hash", "scheme"),
    checks={"shingles": "num_shingles >= 0 AND (num_shingles = 0) = (size(buckets) = 0)"},
    ddl="""content_hash STRING NOT NULL COMMENT 'of the document: its text and its parts',
           scheme       STRING NOT NULL COMMENT 'hash functions, n-gram, bands and seed; never mixed',
           num_shingles INT NOT NULL COMMENT 'n-grams of words, with repetitions; 0 = text too short',
           buckets      ARRAY<BIGINT> NOT NULL COMMENT 'one hash per band'""",
)

SIMILARITIES = Table(
    name="similarities",
    row="the similarity of two texts that share a bucket; rows are only added",
    key=("first", "second", "shingles"),
    checks={"order": "first < second", "range": "jaccard >= 0 AND jaccard <= 1"},
    ddl="""first    STRING NOT NULL COMMENT 'the smaller content_hash',
           second   STRING NOT NULL COMMENT 'the larger content_hash',
           shingles STRING NOT NULL COMMENT 'version of the word hash and n-gram',
           jaccard  DOUBLE NOT NULL COMMENT 'of the two sets of shingles'""",
)

NEAR_DUPLICATES = Table(
    name="near_duplicates",
    row="one text of a cluster of near duplicates",
    key=("doc_id",),
    checks={
        "similarity": "(duplicate_of IS NULL) = (jaccard IS NULL)",
        "buckets": "(duplicate_of IS NULL) = (num_buckets IS NULL)",
        "other": "duplicate_of IS NULL OR duplicate_of != doc_id",
        "size": "cluster_size >= 2",
    },
    ddl="""doc_id       STRING NOT NULL COMMENT 'document; exact copies are represented by their survivor',
           source       STRING NOT NULL COMMENT 'name of the source in the configuration',
           split        STRING NOT NULL COMMENT 'train, validation or test',
           cluster_id   STRING NOT NULL COMMENT 'doc_id of the first survivor of the cluster',
           cluster_size INT    NOT NULL COMMENT 'texts connected by chains of near duplicates',
           duplicate_of STRING COMMENT 'doc_id of the survivor that removes it; null = it survives',
           jaccard      DOUBLE COMMENT 'exact, against duplicate_of; null = it survives',
           num_buckets  INT    COMMENT 'buckets shared with duplicate_of; null = it survives'""",
)

CONTAMINATION = Table(
    name="contamination",
    row="what one document has of one record of an evaluation set",
    key=("doc_id", "evaluation_set", "record"),
    checks={"ngrams": "num_ngrams >= 1"},
    ddl="""doc_id         STRING NOT NULL COMMENT 'document; also one that another rule drops',
           source         STRING NOT NULL COMMENT 'name of the source in the configuration',
           split          STRING NOT NULL COMMENT 'train or validation',
           evaluation_set STRING NOT NULL COMMENT 'name in the configuration',
           record         STRING NOT NULL COMMENT 'key, else FILE:OFFSET; the first of its set with the hits',
           num_ngrams     INT    NOT NULL COMMENT 'hits; of a record shorter than an n-gram: occurrences',
           excerpt        STRING NOT NULL COMMENT 'the first hit, NFKC without case, at most 200 characters',
           exceeds        BOOLEAN NOT NULL COMMENT 'whether the document has more hits than it may'""",
)

WORD_MATCHES = Table(
    name="word_matches",
    row="one document with a match of one word list; the words themselves are nowhere",
    key=("doc_id", "word_list"),
    checks={"matches": "num_matches >= 1", "range": "fraction > 0 AND fraction <= 1"},
    ddl="""doc_id      STRING NOT NULL COMMENT 'document; also one that another rule drops',
           word_list   STRING NOT NULL COMMENT 'name in the configuration',
           num_matches INT    NOT NULL COMMENT 'matches that do not overlap',
           fraction    DOUBLE NOT NULL COMMENT 'words in matches, of all; a Chinese character is one'""",
)

REMOVED_PARAGRAPHS = Table(
    name="removed_paragraphs",
    row="one paragraph that a document lost, because other documents have it; its text is nowhere",
    key=("doc_id", "paragraph"),
    checks={"place": "paragraph >= 0 AND start >= 0 AND num_chars >= 1"},
    ddl="""doc_id    STRING NOT NULL COMMENT 'document; also one that a rule drops',
           source    STRING NOT NULL COMMENT 'name of the source in the configuration',
           file      STRING NOT NULL COMMENT 'file, relative to the root of the source',
           offset    BIGINT NOT NULL COMMENT 'decompressed byte; WARC: stored byte; Parquet/Delta: row',
           paragraph INT    NOT NULL COMMENT 'its number in the text before, from 0',
           start     INT    NOT NULL COMMENT 'its first character in the text before',
           num_chars INT    NOT NULL COMMENT 'Unicode code points',
           hash      STRING NOT NULL COMMENT 'sha256 without extra white space, first 32 hex digits'""",
)

SEQUENCES = Table(
    name="sequences",
    row="one training sequence; of its tokens, at most sequence_length see each other",
    key=("split", "sequence_id"),
    partition_by=("split",),
    checks={
        "tokens": "num_tokens = size(input_ids) AND num_tokens >= 1 AND num_targets >= 0",
        "id": "sequence_id >= 0",
        "keys": "size(doc_keys) = size(segments)",
    },
    ddl="""sequence_id BIGINT NOT NULL COMMENT 'group * 2^32 + position in it; a row is its rank',
           split       STRING NOT NULL COMMENT 'train, validation or test',
           source      STRING NOT NULL COMMENT 'name of the source of all its documents',
           input_ids   ARRAY<INT> NOT NULL COMMENT 'tokens, not padded',
           num_tokens  INT NOT NULL COMMENT 'length of input_ids',
           label       INT COMMENT 'class number; 0 = first candidate; null = the targets are tokens',
           labels      ARRAY<INT> COMMENT 'class numbers, ascending; null = the task has no sets of classes',
           targets     ARRAY<STRUCT<first_token: INT, num_tokens: INT>> NOT NULL
                       COMMENT 'runs of target tokens, predicted from the tokens before in the same segment',
           num_targets INT NOT NULL COMMENT 'terms this sequence adds to the loss',
           num_bytes   INT NOT NULL COMMENT 'UTF-8 bytes of the text behind the targets',
           num_cut_tokens INT NOT NULL COMMENT 'tokens of its documents that are in no sequence',
           num_continued  INT NOT NULL COMMENT 'segments whose document begins in another sequence',
           segments    ARRAY<STRUCT<doc_id: STRING, first_token: INT, num_tokens: INT, char_start: INT,
                       char_end: INT>> NOT NULL
                       COMMENT 'tokens and characters of each document; a run attends to itself only',
           doc_keys    ARRAY<INT> NOT NULL
                       COMMENT 'last 8 hex digits of the doc_id of each segment, as a signed number'""",
)

MIXTURES = Table(
    name="mixtures",
    row="one source in the plan of a mixture; rows are only added",
    key=("mixture", "source"),
    checks={
        "used": "num_used >= 0 AND num_used <= num_sequences AND (num_used > 0 OR num_planned = 0)",
        "share": "share >= 0 AND share <= 1",
    },
    ddl="""mixture       STRING  NOT NULL COMMENT 'fingerprint of sequences, settings and plan',
           source        STRING  NOT NULL COMMENT 'name of the source in the configuration',
           share         DOUBLE  NOT NULL COMMENT 'of all tokens that the training reads, as planned',
           num_planned   BIGINT  NOT NULL COMMENT 'sequences that the training reads, repetitions included',
           num_used      BIGINT  NOT NULL COMMENT 'different sequences that it may read; 0 = left out',
           num_sequences BIGINT  NOT NULL COMMENT 'sequences that the train split has of the source',
           repeats       DOUBLE  NOT NULL COMMENT 'num_planned / num_used; 0 = left out',
           is_limited    BOOLEAN NOT NULL COMMENT 'max_repeats made the share smaller',
           asked_share   DOUBLE  COMMENT 'in the configuration; null = by size and temperature',
           temperature   DOUBLE  NOT NULL COMMENT 'of sources without a share: weight = tokens^(1/T)',
           max_repeats   DOUBLE  COMMENT 'most passes over the source; null = no limit',
           sequences_table_id STRING NOT NULL COMMENT 'table that was counted',
           sequences_version  BIGINT NOT NULL COMMENT 'its version'""",
)

PREDICTIONS = Table(
    name="predictions",
    row="one document scored by one model version",
    # The content too: a documents table that was deleted counts its versions from 0 again.
    key=("doc_id", "content_hash", "model_name", "model_version", "run_id", "documents_version", "adapter"),
    later=("adapter",),
    # Equal trainings have different run ids.
    volatile=("run_id", "scored_at", "latency_ms"),
    checks={"latency": "latency_ms >= 0", "bytes": "num_bytes >= 0"},
    ddl="""doc_id            STRING NOT NULL COMMENT 'document scored',
           text              STRING NOT NULL COMMENT 'its text; of a dialogue that of its turns',
           content_hash      STRING NOT NULL COMMENT 'of the document: its text and its parts',
           label             STRING COMMENT 'expected class, or classes as a JSON array; null = unknown',
           prediction        STRING NOT NULL COMMENT 'class name, names as a JSON array, or what was written',
           score             DOUBLE NOT NULL
                             COMMENT 'probability, bits per byte, lead of a chosen text, cosine of a pair',
           num_bytes         BIGINT NOT NULL
                             COMMENT 'UTF-8 bytes scored: text after its first token; turns of the assistant',
           problem           STRING COMMENT 'why it was not scored, or not in full; null = it was',
           embedding         ARRAY<FLOAT>
                             COMMENT 'of length 1; of a pair that of the positive; null = no retrieval model',
           labels            ARRAY<STRUCT<label: STRING, probability: DOUBLE>>
                             COMMENT 'of the set predicted, likeliest first; null = the task has no sets',
           reciprocal_rank   DOUBLE COMMENT 'of the positive among its candidates; null = no pair',
           model_name        STRING NOT NULL COMMENT 'registered model',
           model_version     INT NOT NULL COMMENT 'version of the registered model',
           run_id            STRING NOT NULL COMMENT 'MLflow run that trained it',
           documents_version BIGINT NOT NULL COMMENT 'version of the documents table scored',
           scored_at         TIMESTAMP NOT NULL COMMENT 'when the job started scoring',
           latency_ms        DOUBLE NOT NULL COMMENT 'milliseconds in the model, mean over the batch',
           adapter           STRING COMMENT 'of a bundle, which one was named; null = none, or no bundle'""",
)
