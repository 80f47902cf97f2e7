"""The shell around `pipelines`: read the configuration, call, write, tell. One job a stage, the same main from every launcher."""
