"""Does the tracking server answer? Asked before any work, because MLflow's client tries for minutes."""

import http.client
import ssl
import time
import urllib.error
import urllib.request

CONNECT_SECONDS = 5.0
TRIES, PAUSE_SECONDS = 2, 1.0
"""A server that is being restarted gets a second chance; 11 s in all."""
GATEWAY_ERRORS = (502, 503, 504)
"""A gateway answers, the server behind it does not."""


def require_server(tracking_uri: str) -> None:
    """Raise ConnectionError if `tracking_uri` is the address of a server that does not answer.

    Any answer will do, also one that asks for a password or a certificate: those are MLflow's to give. Other
    stores (SQLite, databricks) are not asked. Raises ValueError if `tracking_uri` is no address.
    """
    if not tracking_uri.startswith(("http://", "https://")):
        return
    why = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        why = _ask(f"{tracking_uri.rstrip('/')}/health")
        if not why:
            return
    raise ConnectionError(
        f"the MLflow server at {tracking_uri} does not answer ({why}); start it, or correct tracking.uri "
        "(MLFLOW_TRACKING_URI with --env cluster)"
    )


def _ask(address: str) -> str:
    """Why the server does not answer; empty if it does."""
    try:
        with urllib.request.urlopen(address, timeout=CONNECT_SECONDS):  # noqa: S310  # http or https, checked
            return ""
    except urllib.error.HTTPError as error:
        return f"status {error.code}" if error.code in GATEWAY_ERRORS else ""
    except urllib.error.URLError as error:
        return "" if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except http.client.InvalidURL as error:
        raise ValueError(
            f"tracking.uri is no address of a server: {error}; write http://HOST:PORT"
        ) from error
    except http.client.HTTPException as error:
        return f"what listens there does not speak HTTP: {type(error).__name__}"
    except OSError as error:
        return str(error)
