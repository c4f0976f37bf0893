"""A Gemini model proposes: asked anew for each experiment, and told what is wrong until its answer can be measured.

Imports google-genai, which takes a while: only whoever asks a model should import this module.
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoresearch_jax.proposers.base import Brief, Examine, LimitReached, Proposal, ProposalFailed, ServiceDown
from autoresearch_jax.proposers.briefing import DEFAULT_TOKENS, count_tokens, write_brief
from autoresearch_jax.proposers.exchanges import NOTHING, REPORTED, WORST_CASE, Exchange, Exchanges
from autoresearch_jax.proposers.gemini_answer import AnswerError, answer_schema, instructions, read_answer
from autoresearch_jax.proposers.gemini_client import GeminiClient, Reply, RequestFailed, Trouble
from autoresearch_jax.proposers.gemini_retries import Patience
from autoresearch_jax.proposers.gemini_settings import GeminiOptions, price_on
from autoresearch_jax.proposers.prices import Usage
from autoresearch_jax.proposers.spelt_secrets import clean_words
from autoresearch_jax.proposers.spending import check_limits, spent
from autoresearch_jax.sanitize import clean_line

RETRY_SECONDS = 60.0  # when to ask again where the service did not say
KEY_SECONDS = 600.0  # the same where it lets nobody in: a person has to mend that
MAX_ECHO_CHARACTERS = 100_000  # of an answer that is shown to the model again: three times the training file
_REPAIR = """\
That answer cannot be used, and nothing of it was applied:

{reason}

Answer again, whole and in the same form, with edits of the source as it stands in the brief."""


class GeminiProposer:
    """Asks a model for one change at a time; a fresh conversation for each experiment."""

    name = "gemini"

    def __init__(
        self,
        options: GeminiOptions,
        editable_name: str,
        examine: Examine | None,
        llm_dir: Callable[[int], Path],
        brief_tokens: int = DEFAULT_TOKENS,
    ) -> None:
        """Makes the client; sends nothing.

        Args:
          options: whom to ask, and how much of it.
          editable_name: of the training file.
          examine: tries a text before it is proposed; None proposes every text that parses.
          llm_dir: see `Exchanges`.
          brief_tokens: length of the brief, see `briefing.count_tokens`.

        Raises:
          UserError: there are no application-default credentials, and they are asked for.
        """
        self._options = options
        self._editable_name = editable_name
        self._examine = examine
        self._brief_tokens = brief_tokens
        self._client = GeminiClient(options)
        self._exchanges = Exchanges(llm_dir, self._client.secrets)

    def check_model(self) -> str | None:
        """See `GeminiClient.check_model`."""
        return self._client.check_model()

    def propose(self, brief: Brief) -> Proposal:
        """See `Proposer.propose`.

        Raises:
          ProposalFailed: no answer of the model could be used, or the service refused to answer.
          ServiceDown: the service did not answer at all.
          LimitReached: the next request could go beyond a limit.
          BriefError: what must be in the brief does not fit.
          ExchangeError: what was spent is not known.
        """
        page = write_brief(brief, instructions(brief, self._editable_name), self._brief_tokens)
        talk = _Talk(self._options, self._client, self._exchanges, brief, page)
        try:
            proposal = self._proposal(brief, talk)
        except ProposalFailed as failure:
            reason = clean_words(str(failure), self._client.secrets())
            raise ProposalFailed(reason, self._exchanges.dollars(brief.experiment)) from failure
        return replace(proposal, cost_dollars=self._exchanges.dollars(brief.experiment))

    def asks_ahead(self, brief: Brief) -> bool:
        """See `Proposer.asks_ahead`."""
        return True

    def close(self) -> None:
        """See `Proposer.close`; for good."""
        self._client.close()

    def _proposal(self, brief: Brief, talk: "_Talk") -> Proposal:
        """Asks until an answer can be measured.

        Raises:
          ProposalFailed: none could, or the proposer was closed.
          ServiceDown: the service did not answer at all.
          LimitReached: the first request could go beyond a limit, or another where no answer could be applied.
        """
        repeated = False
        text: Proposal | None = None  # the last that could be applied, whatever speaks against it
        for repairs in range(self._options.repair_rounds + 1):
            try:
                reply = talk.ask()
            except (LimitReached, ServiceDown, ProposalFailed) as end:
                if text is None or isinstance(end, _Closed):
                    raise
                return text  # there will be no other
            proposal, problem = self._read(brief, reply)
            if problem is None:
                assert proposal is not None
                return proposal
            text = proposal or text
            if repairs == self._options.repair_rounds or (repeated and problem.repeats):
                if text is not None:
                    return text  # it is written down with what becomes of it, and costs no trial
                tried = f"after {repairs} repair{'' if repairs == 1 else 's'}: " if repairs else ""
                raise ProposalFailed(clean_line(f"{tried}{problem}"))
            repeated = repeated or problem.repeats
            talk.send_back(reply, str(problem))
        raise AssertionError("the last round ends it")

    def _read(self, brief: Brief, reply: Reply) -> tuple[Proposal | None, AnswerError | None]:
        """The proposal that an answer is, if it could be applied, and what is wrong with it, if anything is."""
        if reply.cut_off:
            most = self._options.max_output_tokens
            return None, AnswerError(
                f"the answer was cut off at {most} tokens, thinking included (--max_output_tokens): give smaller edits"
            )
        if reply.ended is not None:
            return None, AnswerError(f"the answer ended early: {reply.ended}")
        try:
            answer = read_answer(reply.text, brief, self._client.secrets())
        except AnswerError as error:
            return None, error
        cost = self._exchanges.dollars(brief.experiment)
        proposal = Proposal(
            answer.hypothesis, answer.category, source=answer.source, cost_dollars=cost, proposer=self.name
        )
        objection = self._examine(brief, proposal) if self._examine is not None else None
        return proposal, None if objection is None else AnswerError(objection.text, objection.repeats)


class _Closed(ProposalFailed):
    """The proposer was closed while it asked."""


class _Talk:
    """The conversation about one experiment; every request of it is written down before and after."""

    def __init__(
        self, options: GeminiOptions, client: GeminiClient, exchanges: Exchanges, brief: Brief, page: str
    ) -> None:
        self._options = options
        self._client = client
        self._exchanges = exchanges
        self._experiment = brief.experiment
        self._patience = Patience(options, client.wait)
        self._contents = [_turn("user", page)]
        self._config: dict[str, Any] = {
            "response_mime_type": "application/json",
            "response_schema": answer_schema(brief),
            "max_output_tokens": options.max_output_tokens,
            "temperature": options.temperature,
        }
        self._problem: str | None = None  # with the last answer

    def send_back(self, reply: Reply, problem: str) -> None:
        """Puts an answer and what is wrong with it before the model; sent with the next `ask`."""
        text = reply.text.strip() or "(no text)"
        if len(text) > MAX_ECHO_CHARACTERS:
            text = f"{text[:MAX_ECHO_CHARACTERS]}\n[{len(text) - MAX_ECHO_CHARACTERS} characters cut]"
        self._contents += [_turn("model", text), _turn("user", _REPAIR.format(reason=problem))]
        self._problem = problem

    def ask(self) -> Reply:
        """The model's answer, asked for again while that makes sense.

        Raises:
          ProposalFailed: there is none, and asking later makes no sense either, or there was an unusable one; or the
            service blocked it, or the proposer was closed.
          ServiceDown: there is none, and there was none.
          LimitReached: the next request could go beyond a limit.
        """
        failures = 0
        last: RequestFailed | None = None
        while True:
            try:
                reply = self._exchange()
                if reply.blocked is not None:
                    raise ProposalFailed(f"the service blocked it: {reply.blocked}")
                return reply
            except RequestFailed as error:
                failures += 1
                failure = error
                if last is not None and error.trouble is Trouble.DOWN and self._patience.left <= 0:
                    failure = last  # that the time was over says less than what went wrong before
                last = failure
                if failure.trouble is Trouble.CLOSED:
                    raise _Closed(str(failure)) from failure
                if failure.trouble is Trouble.DOWN and self._wait(failures, failure.retry_seconds):
                    continue
                if self._problem is not None:
                    raise ProposalFailed(clean_line(f"{failure}; before that: {self._problem}")) from failure
                if failure.trouble is Trouble.DOWN:
                    raise ServiceDown(str(failure), failure.retry_seconds or RETRY_SECONDS) from failure
                if failure.trouble is Trouble.KEY:
                    raise ServiceDown(str(failure), KEY_SECONDS) from failure
                raise ProposalFailed(str(failure)) from failure

    def _wait(self, failures: int, wanted_seconds: float | None) -> bool:
        """Waits before the next try; False if there is none.

        Raises:
          _Closed: the proposer was closed.
        """
        try:
            return self._patience.wait_before_retry(failures, wanted_seconds)
        except RequestFailed as closed:
            raise _Closed(str(closed)) from closed

    def _exchange(self) -> Reply:
        """One request.

        Raises:
          RequestFailed: it was not answered.
          LimitReached: it was not sent, because it could go beyond a limit.
        """
        now = datetime.now(UTC)
        price = price_on(self._options, now.date())
        request = {"contents": self._contents, "config": self._config}
        # The schema and the marks of JSON are counted, too: rather too many than too few.
        worst = Usage(count_tokens(json.dumps(request, ensure_ascii=False)), self._options.max_output_tokens)
        check_limits(self._options.limits, spent(self._exchanges.paid(self._experiment), price), worst, price)
        sent = Exchange(
            time=now.isoformat(timespec="seconds"),
            model=self._options.model,
            request=request,
            response=None,
            error="the process ended before an answer was written down",
            seconds=0.0,
            usage=worst,
            usage_is=WORST_CASE,
            dollars=None if price is None else price.dollars(worst),
        )
        path = self._exchanges.add(self._experiment, sent)
        start = time.monotonic()
        try:
            reply = self._patience.spend(
                lambda: self._client.ask(self._contents, self._config, self._patience.request_seconds())
            )
        except RequestFailed as failure:
            failed = replace(sent, error=str(failure), seconds=_since(start))
            if not failure.may_cost:
                failed = replace(failed, usage=Usage(0, 0), usage_is=NOTHING, dollars=0.0)
            self._exchanges.write(path, self._experiment, failed)
            raise
        usage = reply.usage or worst
        answered = replace(sent, response=reply.response, error=None, usage=usage, seconds=_since(start))
        self._exchanges.write(
            path,
            self._experiment,
            replace(
                answered,
                usage_is=WORST_CASE if reply.usage is None else REPORTED,
                dollars=None if price is None else price.dollars(usage),
            ),
        )
        return reply


def _since(start: float) -> float:
    return round(time.monotonic() - start, 3)


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": text}]}
