"""Script: one of two Spark drivers that append to the same tables at the same time.

Arguments: root of the tables, folder for signs, name of this driver (a or b), number of tables, how many of
them, the last ones, exist and are to be named in the catalog of the driver. Both append 20 equal keys and 40
of their own to each table.
"""

import sys
import time
from pathlib import Path

from pipelines.delta import Table
from pipelines.spark import session
from tests.conftest import TEST_CONF

NUMBERS = Table(name="numbers", row="one number", key=("number",), ddl="number BIGINT NOT NULL, by STRING")
SHARED, OWN = range(20), {"a": range(100, 140), "b": range(200, 240)}


def main(root: str, signs: Path, me: str, num_tables: int, num_named: int) -> None:
    conf = {**TEST_CONF, "spark.master": "local[1]", "spark.driver.memory": "1g"}
    conf["spark.distributary.staging"] = str(signs / f"staging-{me}")
    spark = session(f"driver {me}", conf)
    spark.sparkContext.setLogLevel("OFF")
    places = [f"{root}/table{number}" for number in range(num_tables)]
    # Each driver has a metastore of its own, and both keep the same locations.
    for number in range(num_tables - num_named, num_tables):
        spark.sql(f"CREATE TABLE table{number} USING DELTA LOCATION '{places[number]}'")
        places[number] = f"default.table{number}"
    for number, place in enumerate(places):
        rows = spark.createDataFrame([(n, me) for n in (*SHARED, *OWN[me])], NUMBERS.schema)
        (signs / f"{me}{number}").touch()
        other = signs / f"{'b' if me == 'a' else 'a'}{number}"
        deadline = time.monotonic() + 240
        while not other.exists():
            assert time.monotonic() < deadline, f"{other.name} did not come"
            time.sleep(0.005)
        pinned = NUMBERS.append(rows, place, fingerprint=f"{me}{number}", facts={})
        print(f"ADDED {number} {pinned.num_rows} {pinned.version}", flush=True)
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
