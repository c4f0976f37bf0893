"""The user's network variables: which of them keeps a client of HTTP from being built.

The libraries read them from this process's environment by themselves, so this module does, too.
"""

import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from autoresearch_jax.errors import UserError
from autoresearch_jax.sanitize import clean_line

BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # may be folders, which SSL_CERT_FILE may not
CERTIFICATES = ("SSL_CERT_FILE", *BUNDLES)
PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_PEM_REMEDY = "unset it, or name a file of certificates (PEM)"
_PROXY_REMEDY = "unset it, or give it a URL such as http://HOST:PORT or socks5://HOST:PORT"


class NetworkError(UserError):
    """A variable that no client of HTTP can be built with; the message names it."""


def faulty_variable() -> NetworkError | None:
    """What is wrong with the first of the network variables that is unusable; None if none is."""
    for name, remedy, try_it in _checks():
        try:
            try_it(os.environ[name])
        except Exception as error:  # of several libraries; the value may have a password
            said = getattr(error, "strerror", None) or clean_line(str(error)) or type(error).__name__
            return NetworkError(f"{name}: {said}: {remedy}")
    return None


def _checks() -> Iterator[tuple[str, str, Callable[[str], object]]]:
    """Variables that are set, with what helps, and what fails where they are unusable."""
    tries: dict[str, tuple[str, Callable[[str], object]]] = {
        "SSLKEYLOGFILE": ("unset it, or name a file that can be written to", lambda path: open(path, "ab").close()),
        "SSL_CERT_FILE": (_PEM_REMEDY, _try_certificates),
        **dict.fromkeys(BUNDLES, (_PEM_REMEDY, lambda path: None if Path(path).is_dir() else _try_certificates(path))),
    }
    for name in PROXIES:
        tries |= dict.fromkeys((name.lower(), name), (_PROXY_REMEDY, _try_proxy))
    yield from ((name, *tried) for name, tried in tries.items() if os.environ.get(name))


def _try_certificates(path: str) -> None:
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)


def _try_proxy(value: str) -> None:
    import httpx2  # takes a tenth of a second

    httpx2.Client(trust_env=False, proxy=value if "://" in value else f"http://{value}").close()
