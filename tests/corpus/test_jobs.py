"""How many Spark jobs the stage takes: each costs the driver some 0.1 s, whatever it does."""

from jobs import corpus
from tests.conftest import count_jobs
from tests.corpus.increments import make_config, write_file

MAX_JOBS = 20


def test_three_thousand_documents_take_few_jobs(spark, tmp_path):
    for source in ("a", "b"):
        for number in range(3):
            rows = [{"text": f"{source} {number} {row}", "split": "train"} for row in range(550)]
            write_file(tmp_path, source, str(number), *rows)
    config, before = make_config(tmp_path), count_jobs(spark)
    assert corpus.main(config).facts["rows in"] == "3,300"
    assert 1 < count_jobs(spark) - before <= MAX_JOBS
