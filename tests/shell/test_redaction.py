import pytest

from jobs.run import STAGES
from jobs.shell import redaction
from jobs.shell.redaction import HIDDEN, redact, remember
from jobs.shell.settings import load


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(redaction, "_known", set())


def test_secrets_are_not_printed(monkeypatch):
    monkeypatch.setenv("MLFLOW_DB_PASSWORD", "hunter2")
    monkeypatch.setenv("STORE_TOKEN", "hunter3")
    keys = (
        "spark.hadoop.fs.s3a.secret.key: hunter4, "
        'spark.hadoop.fs.s3a.access.key: "${oc.env:MLFLOW_DB_PASSWORD}"'
    )
    settings = load(
        overrides=[
            "tracking.uri=postgresql://me:hunter1@host/db",
            "tracking.experiment=${oc.env:STORE_TOKEN}",
            f"spark={{{keys}}}",
            "spark.redis.auth=hunter5",
        ]
    )
    assert "hunter" not in settings.printed
    assert "postgresql://[redacted]@host/db" in settings.printed
    assert (
        settings.section("finetune", STAGES["finetune"].Config).tracking.uri
        == "postgresql://me:hunter1@host/db"
    )
    assert "hunter" not in settings.section("finetune", STAGES["finetune"].Config).effective


def test_a_secret_is_hidden_wherever_it_occurs(monkeypatch):
    monkeypatch.setenv("MY_SECRET", "hunter2")
    settings = load(overrides=["root=s3://u:${oc.env:MY_SECRET}x/b"])
    assert settings.tree["corpus"]["documents"] == "s3://u:hunter2x/b/documents"
    assert "documents: s3://u:[redacted]x/b/documents" in settings.printed
    assert "hunter" not in settings.printed
    assert redact({"folder": "s3://u:hunter2x/b", "betas": (0.9, 1)}) == {
        "folder": "s3://u:[redacted]x/b",
        "betas": (0.9, 1),
    }
    assert redact("no table at s3://u:hunter2x/b") == "no table at s3://u:[redacted]x/b"


def test_a_secret_key_hides_any_variable(monkeypatch):
    monkeypatch.setenv("PLAIN", "hunter2")
    printed = load(overrides=["spark.redis.auth=${oc.env:PLAIN}", "root=/data/${oc.env:PLAIN}"]).printed
    assert "spark.redis.auth: '[redacted]'" in printed
    assert "root: /data/[redacted]" in printed


def test_a_literal_secret_is_remembered_by_its_key():
    remember(
        {
            "spark": {
                "spark.redis.auth": "hunter2",
                "spark.databricks.secret.scope": "main",
                "spark.my.password": "true",
            }
        }
    )
    assert redact("hunter2 of main is true") == "[redacted] of main is true"


@pytest.mark.parametrize(
    ("reference", "hidden"),
    [
        ("${oc.env:MY_SECRET}", True),
        ("${oc.env:MY_SECRET,spare}", True),
        ("a ${oc.decode:${oc.env:'MY_SECRET'}} b", True),
        ("${oc.env:OTHER}", False),
        ("${oc.env:MAX_TOKENS}", False),
        ("${oc.env:PWD}", False),
        ("${oc.env:AUTHOR}", False),
    ],
)
def test_variables_named_as_secrets_are_hidden(monkeypatch, reference, hidden):
    for name in ("MY_SECRET", "OTHER", "MAX_TOKENS", "PWD", "AUTHOR"):
        monkeypatch.setenv(name, "hunter2")
    remember({"any": [reference]})
    assert redact("it is hunter2") == ("it is [redacted]" if hidden else "it is hunter2")
    assert redact({"any": "x"}, {"any": reference})["any"] == (HIDDEN if hidden else "x")


def test_the_default_of_a_secret_variable_is_hidden(monkeypatch):
    monkeypatch.delenv("MY_SECRET", raising=False)
    remember("${oc.env:MY_SECRET,hunter2}")
    assert redact("hunter2") == HIDDEN


def test_a_short_secret_is_hidden_in_place_only(monkeypatch):
    monkeypatch.setenv("PIN_SECRET", "dat")
    printed = load(overrides=["registry.name=${oc.env:PIN_SECRET}", "scoring.alias=datum"]).printed
    assert "  name: '[redacted]'" in printed
    assert "alias: datum" in printed


@pytest.mark.parametrize(
    ("key", "hidden"),
    [
        ("api_key", True),
        ("db_password", True),
        ("token", True),
        ("spark.my.secret.key", True),
        ("spark.redis.auth", True),
        ("spark.hadoop.fs.azure.account.key.me", True),
        ("fs.s3a.access.key", True),
        ("fs.azure.sas.fixed.token.c.a", True),
        ("spark.authenticate.secret", True),
        ("db_pwd", True),
        ("passwd", True),
        ("trustStorePassword", True),
        ("authToken", True),
        ("tokenizer", False),
        ("tokenizers", False),
        ("max_tokens", False),
        ("tokens", False),
        ("key", False),
        ("author", False),
        ("spark.authenticate", False),
        ("fs.azure.account.auth.type", False),
        ("pad_token_id", False),
        ("eos_token", False),
        ("token_type_ids", False),
        ("num_key_value_heads", False),
    ],
)
def test_keys_named_as_secrets_are_hidden(key, hidden):
    assert redact({key: "value"})[key] == (HIDDEN if hidden else "value")


def test_everything_below_a_secret_key_is_hidden():
    assert redact({"credentials": {"user": "me", "list": ["a", 1]}, "token": True, "auth": None}) == {
        "credentials": {"user": HIDDEN, "list": [HIDDEN, HIDDEN]},
        "token": True,
        "auth": None,
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hun@ter/2@host/db", "postgresql://[redacted]@host/db"),
        ("https://hunter2@host/x", "https://[redacted]@host/x"),
        (
            "postgresql://host/db?user=me&password=hunter2&ssl=1",
            "postgresql://host/db?user=me&password=[redacted]&ssl=1",
        ),
        ("mysql://host/db?pwd=hunter2", "mysql://host/db?pwd=[redacted]"),
        ("mysql://host/db?passwd=hunter2", "mysql://host/db?passwd=[redacted]"),
        ("https://host/blob?sig=hunter2&se=2030", "https://host/blob?sig=[redacted]&se=2030"),
        (
            "-Djavax.net.ssl.trustStorePassword=hunter2 -Da=b",
            "-Djavax.net.ssl.trustStorePassword=[redacted] -Da=b",
        ),
        ("-Dmy.token='hun ter2' -Dkey=hunter2", "-Dmy.token=[redacted] -Dkey=[redacted]"),
        (
            "spark.driver.extraJavaOptions=-Dmy.secret=hunter2==",
            "spark.driver.extraJavaOptions=-Dmy.secret=[redacted]",
        ),
        (
            "jdbc:sqlserver://host;user=me;password=hun;ter2",
            "jdbc:sqlserver://host;user=me;password=[redacted]",
        ),
        (
            "abfss://container@account.dfs.core.windows.net/x",
            "abfss://container@account.dfs.core.windows.net/x",
        ),
        (
            "an override is key=value; got max_tokens=3, tokenizer=x",
            "an override is key=value; got max_tokens=3, tokenizer=x",
        ),
        ("http://host:5000/path", "http://host:5000/path"),
    ],
)
def test_secrets_inside_a_text_are_hidden(text, shown):
    assert redact(text) == redact({"any": [text]})["any"][0] == shown
