"""What is set for a while is put back, and never hides the error of a stage. That the number follows bytes is
in tests/corpus/test_build.py."""

import pytest

from pipelines.spark import SHUFFLE_PARTITIONS, shuffling


class DyingSession:
    """A session whose JVM dies while a stage runs: after that, every setting fails."""

    def __init__(self):
        self.conf, self.is_dead = self, False

    def get(self, *_):
        return "2"

    def set(self, *_):
        if self.is_dead:
            raise ConnectionRefusedError("the JVM has ended")


def run_stage(spark, error):
    with shuffling(spark, 99):
        if isinstance(spark, DyingSession):
            spark.is_dead = True
        else:
            assert spark.conf.get(SHUFFLE_PARTITIONS) == "99"
        if error:
            raise error


def test_the_error_of_a_stage_is_shown_although_the_jvm_died():
    with pytest.raises(MemoryError, match="of the stage"):
        run_stage(DyingSession(), MemoryError("of the stage"))
    with pytest.raises(ConnectionRefusedError):  # no other error: it is not hidden
        run_stage(DyingSession(), None)


@pytest.mark.parametrize("error", [None, MemoryError("of the stage")])
def test_the_number_of_partitions_is_put_back(spark, error):
    before = spark.conf.get(SHUFFLE_PARTITIONS)
    assert int(before) < 99
    if error:
        with pytest.raises(MemoryError, match="of the stage"):
            run_stage(spark, error)
    else:
        run_stage(spark, None)
    assert spark.conf.get(SHUFFLE_PARTITIONS) == before
