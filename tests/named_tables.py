"""Script: writes, appends and pins of a table that is named in a Hive metastore.

Argument: folder of warehouse and metastore. Prints one line of JSON; `test_named_tables` checks it.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from deltalake import DeltaTable

from pipelines.catalog import find_location
from pipelines.change import Change
from pipelines.delta import ContractError, Table
from pipelines.pin import open_log, pin, version_of
from pipelines.spark import session
from tests.conftest import TEST_CONF

NUMBERS = Table(
    name="numbers",
    row="one number",
    key=("number",),
    partition_by=("split",),
    checks={"positive": "number > 0"},
    ddl="number INT NOT NULL COMMENT 'counts', split STRING NOT NULL, note STRING",
)
NAME = "lake.numbers"


def hive_conf(folder):
    """Settings of a session whose catalog is a Hive metastore in `folder`."""
    metastore = f"jdbc:derby:;databaseName={folder}/metastore;create=true"
    return {
        "spark.sql.catalogImplementation": "hive",
        "spark.sql.warehouse.dir": f"file:{folder}/warehouse",
        "spark.hadoop.javax.jdo.option.ConnectionURL": metastore,
        "spark.hadoop.datanucleus.schema.autoCreateAll": "true",
        "spark.hadoop.hive.metastore.schema.verification": "false",
    }


def start(folder):
    conf = {**TEST_CONF, "spark.master": "local[2]", "spark.driver.memory": "1g", **hive_conf(folder)}
    spark = session("named", conf)
    spark.sparkContext.setLogLevel("OFF")
    spark.sql("CREATE DATABASE lake")
    return spark


def message(work, kind):
    try:
        work()
    except kind as error:
        return str(error)
    return None


def main(folder):
    spark = start(folder)

    def rows(*numbers):
        values = [(number, "train" if number % 2 else "test", "x") for number in numbers]
        return spark.createDataFrame(values, NUMBERS.schema)

    def read(version=None):
        return sorted(row.number for row in NUMBERS.read(spark, NAME, version).collect())

    append = partial(NUMBERS.append, facts={})
    overwrite = partial(NUMBERS.overwrite, facts={})
    found = {"before": [version_of(NAME), pin(NAME)]}
    found["missing"] = message(lambda: NUMBERS.read(spark, NAME), FileNotFoundError)
    first = overwrite(rows(1, 2, 3), NAME, fingerprint="a")
    found["again"] = overwrite(rows(9), NAME, fingerprint="a") == first == pin(NAME)
    twin = overwrite(rows(1, 2, 3), f"{folder}/twin", fingerprint="a")
    found["equal to a path"] = twin.digest == first.digest
    overwrite(rows(4, 5), NAME, fingerprint="b")
    found["versions"] = [read(first.version), read()]
    third = append(rows(5, 6), NAME, fingerprint="c")
    append(rows(7), NAME, fingerprint="d")
    found["appended"] = [third.num_rows, read()]
    found["repeated"] = append(rows(5, 6), NAME, fingerprint="c") == third == pin(NAME, made_from="c")
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(append, rows(*numbers), NAME, fingerprint=name)
            for name, numbers in (("e", (8, 9)), ("f", (9, 10)))
        ]
        found["at once"] = sum(each.result().num_rows for each in both)
    found["all"] = read()
    # The facts of one commit name another write, which has not happened yet.
    append(rows(11), NAME, fingerprint="h", facts={"follows": "i"})
    found["mentioned"] = append(rows(12), NAME, fingerprint="i").num_rows
    stale = open_log(NAME)
    append(rows(13), NAME, fingerprint="j")
    with NUMBERS.hold(rows(13), NAME) as held:  # the other writer was faster
        NUMBERS._commit(held, NAME, stale, Change(), made_from="k", facts={})
    found["after a faster writer"] = [read().count(13), pin(NAME, made_from="k")]
    append(rows(14), find_location(NAME), fingerprint="l")
    found["by path and by name"] = [append(rows(14, 15), NAME, fingerprint="m").num_rows, read()[-2:]]
    found["broken"] = message(lambda: append(rows(-1), NAME, fingerprint="g"), ContractError)
    detail = spark.sql(f"DESCRIBE DETAIL {NAME}").collect()[0]
    constraint = detail.properties["delta.constraints.positive"]
    found["detail"] = [constraint, detail.partitionColumns, detail.minReaderVersion]
    location = find_location(NAME)
    found["location"] = [location == f"{folder}/warehouse/lake.db/numbers"]
    found["location"].append(DeltaTable(location).version() == version_of(NAME))
    spark.sql(f"DELETE FROM {NAME} WHERE number = 1 OR number = 6")
    found["foreign"] = [pin(NAME).facts["operation"], pin(NAME, made_from="c") is None]
    found["left behind"] = [
        str(file) for file in Path(f"{folder}/warehouse/_distributary").rglob("*.parquet")
    ]
    print("RESULT " + json.dumps(found))
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1])
