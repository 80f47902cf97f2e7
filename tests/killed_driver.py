"""Script: a driver that stops at one moment of a write and waits to be killed.

Arguments: path of the table, file that is made at that moment, moment (held, created).
"""

import sys
import time
from pathlib import Path

from pipelines.commit import create_table
from pipelines.spark import session
from tests.conftest import TEST_CONF
from tests.two_drivers import NUMBERS


def main(table: str, sign: Path, moment: str) -> None:
    spark = session("killed", {**TEST_CONF, "spark.master": "local[1]", "spark.driver.memory": "1g"})
    rows = spark.createDataFrame([(n, "first") for n in range(50)], NUMBERS.schema)
    with NUMBERS.hold(rows, table):
        if moment == "created":
            create_table(
                table, NUMBERS.schema.json(), name="numbers", description="", partition_by=[], properties={}
            )
        sign.touch()
        time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
