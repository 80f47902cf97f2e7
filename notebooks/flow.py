# Databricks notebook source
# MAGIC %md
# MAGIC # The flow, stage by stage
# MAGIC ```
# MAGIC raw files -> documents -> sequences -> MLflow run -> model version -> predictions
# MAGIC          corpus       dataset     finetune      registry        scoring
# MAGIC ```
# MAGIC Each stage is one job. It runs here as it does from the command line (`distributary corpus`, ...), and then we look at what
# MAGIC it wrote. A stage whose output is up to date does nothing and says why, so this notebook can be run again at any time.
# MAGIC
# MAGIC - **Databricks:** a cluster with Distributary and its Horovod wheel installed, Spark's dynamic allocation off, `DISTRIBUTARY_ROOT`
# MAGIC   set to a volume. The widgets on top choose what runs.
# MAGIC - **A laptop:** `python notebooks/flow.py`, after `make setup`.

# COMMAND ----------

# MAGIC %md
# MAGIC ## What runs
# MAGIC `conf/base.yaml` explains every key; a recipe says what is learned, an environment where it runs, and `key=value` goes over both.

# COMMAND ----------

import json
import os
from pathlib import Path

from jobs.run import STAGES
from jobs.shell import settings as configuration
from jobs.shell.display import display_outcome, display_summary
from pipelines.pin import pin
from pipelines.registry import store
from pipelines.registry.runs.current import require_current
from pipelines.registry.runs.lineage import read_lineage
from pipelines.registry.runs.tracker import read_run_status
from pipelines.registry.versions.resolve import resolve_model
from pipelines.scoring.evaluate import count_confusion
from pipelines.spark import session
from pipelines.tables import DOCUMENTS, PREDICTIONS, QUARANTINE, SEQUENCES

import matplotlib.pyplot as plt
import mlflow
import pandas as pd
from pyspark.sql import functions as F

recipe = os.environ.get("DISTRIBUTARY_NOTEBOOK_RECIPE", "customer_service")
environment = os.environ.get("DISTRIBUTARY_NOTEBOOK_ENV", "")
overrides = os.environ.get("DISTRIBUTARY_NOTEBOOK_OVERRIDES", "[]")
if "dbutils" in globals():
    dbutils.widgets.text("recipe", recipe, "recipe (empty = none)")
    dbutils.widgets.text("env", environment or "databricks", "environment")
    dbutils.widgets.text("overrides", overrides, 'overrides, such as ["finetune.num_epochs=3"]')
    recipe, environment, overrides = (dbutils.widgets.get(name) for name in ("recipe", "env", "overrides"))
if Path.cwd().name == "notebooks":
    os.chdir("..")  # the recipes name their files from the checkout

settings = configuration.load(recipe=recipe or None, env=environment or None, overrides=json.loads(overrides))
configs = {name: settings.section(name, stage.Config) for name, stage in STAGES.items()}
if "spark" not in globals():
    spark = session("distributary notebook", settings.tree["spark"])
store.connect(configs["finetune"].tracking.uri, configs["finetune"].tracking.artifacts)
outcomes = {}
print(settings.printed)

# COMMAND ----------

# MAGIC %md
# MAGIC ## 1. corpus: raw files to documents
# MAGIC Every record of the files becomes a row of `documents` or of `quarantine`. Nothing is deleted: a document that a rule drops keeps
# MAGIC its row and the reason, so "why is it not in the training data" is a query.

# COMMAND ----------

outcomes["corpus"] = STAGES["corpus"].main(configs["corpus"])
display_outcome(outcomes["corpus"])

# COMMAND ----------

documents_pin = pin(configs["corpus"].documents)
documents = DOCUMENTS.read(spark, documents_pin.path, documents_pin.version)
quarantine = QUARANTINE.read(spark, configs["corpus"].quarantine)

counts = documents.groupBy("split", "drop_reason").count().orderBy("split", "drop_reason")
counts.show()
records_in, records_out = documents_pin.facts["records"], documents.count() + quarantine.count()
print(f"records in the files: {records_in:,}; documents + quarantine: {records_out:,}")

# COMMAND ----------

# MAGIC %md
# MAGIC What could not become a document, with its file and line, so that somebody can correct it:

# COMMAND ----------

broken = quarantine.select("file", "line", "reason", F.col("raw").cast("string").alias("raw")).orderBy("file", "offset")
broken.show(5, truncate=80)

# COMMAND ----------

# MAGIC %md
# MAGIC ## 2. dataset: documents to sequences
# MAGIC Texts become tokens, tokens are packed into sequences. Each sequence says which characters of which document it came from.

# COMMAND ----------

outcomes["dataset"] = STAGES["dataset"].main(configs["dataset"])
display_outcome(outcomes["dataset"])

# COMMAND ----------

sequences_pin = pin(configs["dataset"].sequences)
sequences = SEQUENCES.read(spark, sequences_pin.path, sequences_pin.version)

sizes = sequences.groupBy("split").agg(F.count("*").alias("sequences"), F.sum("num_tokens").alias("tokens"),
                                       F.round(F.avg("num_tokens"), 1).alias("tokens per sequence")).orderBy("split")
sizes.show()

# COMMAND ----------

# MAGIC %md
# MAGIC One training sequence, traced back: its segments, and the very characters of the documents behind them.

# COMMAND ----------

sequence = sequences.where("split = 'train'").orderBy("sequence_id").limit(1)
sequence.select("sequence_id", "num_tokens", "label", "input_ids").show(truncate=120)
traced = (sequence.selectExpr("inline(segments)").join(documents, "doc_id").orderBy("first_token")
          .selectExpr("first_token", "num_tokens", "doc_id", "file", "offset", "char_start", "char_end",
                      "substring(text, char_start + 1, char_end - char_start) AS characters"))
traced.show(5, truncate=60)

# COMMAND ----------

# MAGIC %md
# MAGIC ## 3. finetune: sequences to an MLflow run
# MAGIC Horovod ranks train inside one Spark barrier stage. Killed, the stage is run again and continues from its last checkpoint.

# COMMAND ----------

outcomes["finetune"] = STAGES["finetune"].main(configs["finetune"])
display_outcome(outcomes["finetune"])

# COMMAND ----------

run_id = require_current(configs["registry"].trainings, read_run_status).run_id
run = mlflow.MlflowClient().get_run(run_id)
metrics = pd.Series(run.data.metrics).sort_index()
print(metrics.to_string())

# COMMAND ----------

# MAGIC %md
# MAGIC The pictures that the run keeps (`make ui` shows them, too):

# COMMAND ----------

pictures = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="pictures"))
loss_curve = plt.figure(figsize=(10, 6))
plt.axis("off")
plt.imshow(plt.imread(pictures / "loss.png"))
plt.show()
plt.close(loss_curve)

# COMMAND ----------

# MAGIC %md
# MAGIC Which rows made this model: tables by version and digest. Anyone can compute the digest again from the rows.

# COMMAND ----------

made_from = read_lineage(run_id)
print(json.dumps(made_from, indent=2))
digest_again, _ = DOCUMENTS.digest(documents)
print("documents, digest computed again:", digest_again)

# COMMAND ----------

# MAGIC %md
# MAGIC ## 4. registry: the run to a model version
# MAGIC A new version is measured beside the champion on the same held-out rows. It becomes champion only if it is better, and the verdict
# MAGIC stays with the run. (`distributary undo` gives the alias back.)

# COMMAND ----------

outcomes["registry"] = STAGES["registry"].main(configs["registry"])
display_outcome(outcomes["registry"])

# COMMAND ----------

verdict = mlflow.artifacts.load_dict(f"runs:/{run_id}/verdict.json")
champion = resolve_model(configs["scoring"].name, configs["scoring"].alias)
print(json.dumps(verdict, indent=2))
print(f"{configs['scoring'].alias}: {champion.name} version {champion.version}, from run {champion.run_id}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## 5. scoring: documents to predictions
# MAGIC The champion reads the documents of one split. Each prediction names the model version and the version of the documents.

# COMMAND ----------

outcomes["scoring"] = STAGES["scoring"].main(configs["scoring"])
display_outcome(outcomes["scoring"])

# COMMAND ----------

predictions = PREDICTIONS.read(spark, configs["scoring"].predictions).where(F.col("model_version") == champion.version)
predictions.select("text", "label", "prediction", "score").orderBy("score").show(5, truncate=60)

# COMMAND ----------

# MAGIC %md
# MAGIC Which classes are taken for which? Above the model was least sure, here it was wrong.

# COMMAND ----------

confused = count_confusion(predictions).where("label != prediction").limit(12).toPandas()
names = confused["label"] + "  taken for  " + confused["prediction"]
figure, axes = plt.subplots(figsize=(10, 5), layout="constrained")
axes.barh(names, confused["num_documents"], color="#d9822b")
axes.invert_yaxis()
axes.set(xlabel="documents", title=f"Most confused classes, {champion.name} version {champion.version}")
axes.spines[["top", "right"]].set_visible(False)
plt.show()
plt.close(figure)

# COMMAND ----------

# MAGIC %md
# MAGIC ## The model in your hands
# MAGIC What was registered is an MLflow pyfunc: it loads anywhere by its name, without Spark. The shipped recipe learns from English alone:
# MAGIC any language gets an answer, but look at the probability before you believe it.

# COMMAND ----------

texts = pd.DataFrame({"text": ["I lost my card, can somebody else use it now?", "我的卡还没有到,请问什么时候能收到?"]})
answers = pd.concat([texts, mlflow.pyfunc.load_model(champion.uri).predict(texts)], axis=1)
print(answers.to_string(index=False))

# COMMAND ----------

display_summary(list(outcomes.values()))
