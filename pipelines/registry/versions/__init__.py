"""Model versions: upload and register a model, find and resolve versions, move the aliases."""
