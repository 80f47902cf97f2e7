"""From raw files to scored predictions on a Spark cluster.

raw files -> documents -> sequences -> MLflow run -> model version -> predictions
         corpus       dataset     finetune      registry        scoring

Each stage reads only what the stage before it wrote. Imports go one way: scoring -> registry -> finetune ->
dataset -> corpus -> spark -> tables. Nothing here knows YAML or a command line; `jobs` does.
"""
