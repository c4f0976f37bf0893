"""Which ways to a model are open. No key is ever shown, nor how long it is, nor a part of it."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from absl import flags

from autoresearch_jax.commands.checks.check import Check, refusal
from autoresearch_jax.commands.gemini_flags import KEY_VARIABLE, KEY_VARIABLES, gemini_options
from autoresearch_jax.errors import UsageError

_QUOTES = "\"'`“”‘’"
_CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
_LOGIN = "gcloud auth application-default login"


def check_key(flag_values: flags.FlagValues, environment: Mapping[str, str]) -> Iterator[Check]:
    """Keys in the environment, Vertex AI, a service of one's own, and whether --proposer has what it needs.

    Args:
      flag_values: of `autoresearch run`.
      environment: of this process.
    """
    there = [name for name in KEY_VARIABLES if environment.get(name, "").strip()]
    if there:
        unused = f"; {there[1]} is set, too, and not used" if there[1:] else ""
        yield Check("key", f"{there[0]} is set{unused}")
    else:
        remedy = f"only --proposer=gemini and hybrid have a use for one: export {KEY_VARIABLE}=..."
        yield Check("key", "none", remedy=remedy)
    for name in KEY_VARIABLES:
        if (problem := key_problem(environment.get(name))) is not None:
            remedy = f"copy the key again, whole, and nothing else: export {name}=..."
            yield Check(name.lower(), problem, is_ok=False, remedy=remedy)
    yield _vertex(flag_values.gemini_vertex_project, environment)
    given = bool(flag_values.gemini_base_url)
    yield Check("gemini_service", "the one of --gemini_base_url" if given else "Google's own")
    try:
        options = gemini_options(flag_values, environment, required=flag_values.proposer == "gemini")
    except UsageError as error:
        yield refusal("model", error)
        return
    needed = flag_values.proposer in ("gemini", "hybrid")
    use = "" if needed else f", not that --proposer={flag_values.proposer} asks any"
    yield Check("model", f"{'no way to one' if options is None else options.model + ' can be asked'}{use}")


def key_problem(value: str | None) -> str | None:
    """What is wrong with a key, without a word of it; None if nothing is to be seen, or it is not set."""
    if value is None:
        return None
    key = value.strip()
    if not key:
        return "set, and empty" if value else None
    if any(quote in key for quote in _QUOTES):
        return "set, with quotes in it"
    if key != value:
        return "set, with white space around it"
    if not (key.isascii() and key.isprintable() and " " not in key):
        return "set, with spaces or characters in it that no key has"
    return None


def _vertex(project: str | None, environment: Mapping[str, str]) -> Check:
    """Application-default credentials, as far as files tell; a machine in Google's cloud has its own."""
    if not project:
        return Check("vertex", "no --gemini_vertex_project")
    named = environment.get(_CREDENTIALS)
    if named:
        if Path(named).is_file():
            return Check("vertex", f"credentials in the file that {_CREDENTIALS} names")
        remedy = f"unset it and call {_LOGIN}, or name the file of a service account"
        return Check("vertex", f"{_CREDENTIALS} names a file that is not there", is_ok=False, remedy=remedy)
    home = environment.get("CLOUDSDK_CONFIG") or os.path.expanduser("~/.config/gcloud")
    if (Path(home) / "application_default_credentials.json").is_file():
        return Check("vertex", "credentials of gcloud")
    return Check(
        "vertex", "no file of credentials; a machine in Google's cloud needs none", remedy=f"elsewhere: {_LOGIN}"
    )
