"""One request to a Gemini model through google-genai: what came back, or why nothing did and whether to ask again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import google.auth
import google.auth.exceptions
import httpx2
from google import genai
from google.genai import errors, types

from autoresearch_jax.errors import UserError
from autoresearch_jax.proposers.gemini_retries import wanted_wait
from autoresearch_jax.proposers.gemini_settings import GeminiOptions
from autoresearch_jax.proposers.gemini_transport import BodyRefused, BoundedClient, Call, Closed, GivenUp
from autoresearch_jax.proposers.prices import Usage
from autoresearch_jax.proposers.redaction import redact
from autoresearch_jax.proposers.spelt_secrets import clean_words
from autoresearch_jax.sanitize import clean_line

API_VERSION = "v1beta"  # the documented one for response schemas; google-genai's own choice has changed before
PLACEHOLDER = "none"  # google-genai wants a key, a service of one's own may not
CLOUD_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
CHECK_SECONDS = 30.0
MOST_TOKENS = (1 << 31) - 1  # that the service can name: its fields have 32 bits
_BLOCKED = ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR")

T = TypeVar("T")


class Trouble(Enum):
    """What a failed request is about."""

    DOWN = "down"  # the service or the way to it: worth asking again
    KEY = "key"  # who asks is not let in: a person can mend it
    REFUSED = "refused"  # the request itself: asking again is of no use
    CLOSED = "closed"


class RequestFailed(Exception):
    """A request without an answer; the message says why in one clean line, without a secret.

    Attributes:
      trouble: what it is about.
      retry_seconds: how long the server wants to be left alone, if it said so.
      may_cost: False if it surely cost nothing, see `Call.may_cost`.
    """

    def __init__(self, reason: str, trouble: Trouble, retry_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.trouble = trouble
        self.retry_seconds = retry_seconds
        self.may_cost = False


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
      text: of the answer, without the thinking.
      cut_off: True if the answer ended at its limit of tokens.
      blocked: why the service would not answer; None if it did.
      ended: another reason for which the answer ended early; None if it was whole.
      response: all of it, as JSON has it.
      usage: what it took; None if the service did not say, or said what makes no sense.
    """

    text: str
    cut_off: bool
    blocked: str | None
    ended: str | None
    response: Any
    usage: Usage | None


class GeminiClient:
    """The service, reached in one of three ways: a key, application-default credentials, or a base URL."""

    def __init__(self, options: GeminiOptions) -> None:
        """Makes the client; sends nothing.

        Raises:
          UserError: there are no application-default credentials.
        """
        self._options = options
        self._http = BoundedClient()
        self._credentials = _credentials() if options.vertex_project is not None else None
        http_options = types.HttpOptions(
            base_url=options.base_url,
            api_version=None if self._credentials is not None else API_VERSION,
            httpx_client=self._http,
        )
        # All is said here, so that google-genai does not look for it in the environment.
        if self._credentials is not None:
            self._genai = genai.Client(
                vertexai=True,
                credentials=self._credentials,
                project=options.vertex_project,
                location=options.vertex_location,
                http_options=http_options,
            )
        else:
            self._genai = genai.Client(vertexai=False, api_key=options.key or PLACEHOLDER, http_options=http_options)

    def secrets(self) -> Sequence[str]:
        """What must not be written anywhere, as it is now."""
        token = self._credentials.token if self._credentials is not None else None
        return [secret for secret in (self._options.key, token, *self._options.secrets) if secret]

    def ask(self, contents: Sequence[Mapping[str, Any]], config: Mapping[str, Any], seconds: float) -> Reply:
        """Sends a conversation and waits for the answer.

        Args:
          contents: turns of the conversation, as google-genai takes them.
          config: of the answer, as google-genai takes it.
          seconds: when to give up.

        Raises:
          RequestFailed: there is no answer.
        """

        def work() -> types.GenerateContentResponse:
            limit = types.HttpOptions(timeout=_milliseconds(seconds))
            return self._genai.models.generate_content(
                model=self._options.model,
                contents=[types.Content.model_validate(turn) for turn in contents],
                config=types.GenerateContentConfig.model_validate({**config, "http_options": limit}),
            )

        return self._sent(work, seconds, self._reply)

    def check_model(self) -> str | None:
        """Asks the service whether it has the model, which costs nothing.

        Returns:
          A line of warning if the service cannot be asked now; else None.

        Raises:
          UserError: it does not, or lets nobody in with this key; in the service's own words.
        """

        def work() -> types.Model:
            limit = types.HttpOptions(timeout=_milliseconds(CHECK_SECONDS))
            return self._genai.models.get(model=self._options.model, config=types.GetModelConfig(http_options=limit))

        try:
            most = self._sent(work, CHECK_SECONDS, lambda model: model.output_token_limit)
        except RequestFailed as failure:
            if failure.trouble in (Trouble.DOWN, Trouble.CLOSED):
                return f"the service of {self._options.model} cannot be asked now: {failure}"
            what = "not let in" if failure.trouble is Trouble.KEY else f"--gemini_model={self._options.model}"
            raise UserError(f"{what}: {failure}") from failure
        if most is not None and most < self._options.max_output_tokens:
            raise UserError(
                f"--max_output_tokens={self._options.max_output_tokens}: {self._options.model} gives {most} at most"
            )
        return None

    def wait(self, seconds: float) -> None:
        """Sleeps, unless it is closed meanwhile.

        Raises:
          RequestFailed: it is.
        """
        try:
            self._http.wait(seconds)
        except Closed as error:
            raise _closed() from error

    def close(self) -> None:
        """Ends what is under way, from any thread, for good."""
        self._http.shut()

    def _sent(self, work: Callable[[], T], seconds: float, read: Callable[[T], Any]) -> Any:
        """Does a request and makes something of its answer.

        Raises:
          RequestFailed: either did not succeed.
        """
        call = Call(work)
        try:
            return read(self._http.run(call, seconds))
        except Exception as error:
            failure = self._failure(error, seconds)
            failure.may_cost = call.may_cost
            raise failure from error

    def _failure(self, error: Exception, seconds: float) -> RequestFailed:
        """What it means that a request ended in an error."""
        match error:
            case Closed():
                return _closed()
            case GivenUp():
                return RequestFailed(f"no whole answer within {seconds:.3g} s", Trouble.DOWN)
            case BodyRefused():
                return RequestFailed(str(error), Trouble.DOWN)
            case errors.APIError():
                return self._refusal(error)
            case google.auth.exceptions.TransportError():
                return self._failed("the token server cannot be reached: ", error, Trouble.DOWN)
            case google.auth.exceptions.GoogleAuthError():
                trouble = Trouble.DOWN if getattr(error, "retryable", False) else Trouble.KEY
                return self._failed("application-default credentials: ", error, trouble)
            case httpx2.TransportError():
                return self._failed("the connection failed: ", error, Trouble.DOWN)
        # A body that google-genai cannot make sense of ends in errors of many kinds.
        return self._failed("the service sent what is no answer: ", error, Trouble.DOWN)

    def _refusal(self, error: errors.APIError) -> RequestFailed:
        """A status that is not 200."""
        details = error.details if isinstance(error.details, Mapping) else {}
        said = self._clean(str(error.message or error.details or "no reason given"))
        reason = f"the service says {error.code}: {said}"
        if error.code in (401, 403) or (error.code == 400 and "API_KEY_INVALID" in str(details)):
            return RequestFailed(reason, Trouble.KEY)
        if error.code in (408, 429) or error.code >= 500:
            return RequestFailed(reason, Trouble.DOWN, wanted_wait(details, getattr(error.response, "headers", {})))
        return RequestFailed(reason, Trouble.REFUSED)

    def _failed(self, head: str, error: Exception, trouble: Trouble) -> RequestFailed:
        words = self._clean(str(error)) or type(error).__name__
        return RequestFailed(head + words, trouble)

    def _clean(self, text: str) -> str:
        return clean_words(text, self.secrets())

    def _word(self, value: Any) -> str | None:
        """An enumeration's word, which a server may have made up."""
        return None if value is None else clean_words(str(getattr(value, "value", value)), self.secrets(), 40)

    def _reply(self, response: types.GenerateContentResponse) -> Reply:
        raw = response.model_dump(
            mode="json",
            exclude_none=True,
            exclude={"sdk_http_response", "parsed", "automatic_function_calling_history"},
        )
        candidate = response.candidates[0] if response.candidates else None
        parts = (candidate.content.parts if candidate is not None and candidate.content is not None else None) or []
        text = "".join(part.text for part in parts if part.text and not part.thought)
        finish = self._word(candidate.finish_reason) if candidate is not None else None
        blocked = self._word(response.prompt_feedback.block_reason) if response.prompt_feedback is not None else None
        if finish in _BLOCKED:
            blocked = finish
        return Reply(
            text=redact(text, self.secrets()),
            cut_off=finish == "MAX_TOKENS",
            blocked=blocked,
            ended=None if blocked or finish in (None, "STOP", "MAX_TOKENS") else finish,
            response=raw,
            usage=_usage(response.usage_metadata),
        )


def _credentials() -> Any:
    """Application-default credentials, which have no token yet.

    Raises:
      UserError: there are none.
    """
    try:
        credentials, _ = google.auth.default(scopes=[CLOUD_SCOPE])
    except google.auth.exceptions.GoogleAuthError as error:
        raise UserError(
            f"--gemini_vertex_project: no application-default credentials: {clean_line(str(error))}: run `gcloud auth "
            "application-default login`, or name a service account's file in GOOGLE_APPLICATION_CREDENTIALS"
        ) from error
    return credentials


def _closed() -> RequestFailed:
    return RequestFailed("closed while the model was asked", Trouble.CLOSED)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _usage(metadata: Any) -> Usage | None:
    """What the service says that it took; None if it does not say, or says what makes no sense."""
    if metadata is None or metadata.prompt_token_count is None:
        return None
    prompt, tools = metadata.prompt_token_count, metadata.tool_use_prompt_token_count or 0
    answer, thoughts = metadata.candidates_token_count or 0, metadata.thoughts_token_count or 0
    total = metadata.total_token_count or 0
    if not all(0 <= count <= MOST_TOKENS for count in (prompt, tools, answer, thoughts, total)):
        return None
    given = prompt + tools
    return Usage(given, max(answer + thoughts, total - given))
