"""Records of Kafka topics as files of a corpus: which offsets to read, by whom, and where they are kept."""
